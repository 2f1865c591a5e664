"""Whether Vault would let External Secrets in, asked with a token that is nobody's.

A SecretStore tells a failed login only after minutes, and an ExternalSecret after an hour. Vault
compares the claims of a token with the role before it asks the cluster whether the token is one, so
what it answers to a token without a signature tells whether the mount and the role are there, and
whether the role is bound to the account of the store (vault-plugin-auth-kubernetes 0.23,
path_login.go). Vault's audit log shows a login that was refused.
"""

import base64
import json
import re
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from components import ports
from components.vault.server import is_active
from operate.doctor import inside
from operate.doctor.findings import Environment, Problem, skip
from operate.doctor.last_update import last_update
from operate.doctor.pod_problems import Workload, pods_of, ready
from operate.view import NoAnswerError, Object, Reply, at, labels_of, mapped, place

NO_ROLE = "doctor-asks-for-no-role"

_SERVER_ERRORS = 500

_REFUSALS = {
    r"invalid role name": "Vault has no role {role}",
    r"audience": "role {role} of Vault asks for another audience",
    r"service account name not authorized": "role {role} of Vault is bound to other accounts",
    r"namespace not authorized": "role {role} of Vault is bound to other namespaces",
}
"""What Vault answers, and what that means."""


@dataclass(frozen=True)
class Login:
    """How a SecretStore logs in."""

    namespace: str
    store: str
    mount: str
    role: str
    account: str
    audiences: list[str]

    def token(self) -> str:
        """A token with the claims of the store's account and without a signature."""
        account = {"name": self.account, "uid": "00000000-0000-0000-0000-000000000000"}
        claims = {
            "aud": self.audiences,
            "iss": "doctor",
            "sub": f"system:serviceaccount:{self.namespace}:{self.account}",
            "kubernetes.io": {"namespace": self.namespace, "serviceaccount": account},
        }
        parts = ({"alg": "RS256", "typ": "JWT"}, claims)
        texts = [_encoded(json.dumps(part).encode()) for part in parts]
        return ".".join([*texts, _encoded(b"no signature")])


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def _logins(environment: Environment) -> list[Login]:
    """Those of the stores that are as the last update made them, and Vault with them."""
    logins: list[Login] = []
    update = await last_update(environment)
    for store in environment.declared.of_kind("SecretStore"):
        if not update.is_applied(store):
            continue
        auth = mapped(store, "spec", "provider", "vault", "auth", "kubernetes")
        reference, (namespace, name) = mapped(auth, "serviceAccountRef"), place(store)
        logins.append(
            Login(
                namespace=namespace,
                store=name,
                mount=str(auth["mountPath"]),
                role=str(auth["role"]),
                account=str(reference["name"]),
                audiences=list(reference.get("audiences", [])),
            )
        )
    return logins


async def problem(environment: Environment, workload: Workload) -> Problem | None:
    """What keeps the stores from logging in, as far as Vault tells without a login."""
    address = urlsplit(environment.declared.outputs.vault_address)
    pods = [pod for pod in await pods_of(environment.view, workload) if ready(pod)]
    # A standby server forwards to the active one.
    pods.sort(key=lambda pod: not is_active(labels_of(pod)))
    trusted = await inside.authority(environment)
    if not pods or not trusted or address.scheme != "https":
        return None
    try:
        context = inside.trusting(trusted)
        for login in await _logins(environment):
            refusal = await _refusal(environment, pods[0], context, login)
            if refusal:
                return refusal
    except NoAnswerError as error:
        return skip(f"Vault does not answer a login: {error}")
    except ssl.SSLError as error:
        return skip(f"Vault does not answer a login: {type(error).__name__}")
    return None


async def _refusal(
    environment: Environment, pod: Object, context: ssl.SSLContext, login: Login
) -> Problem | None:
    """What keeps this store from logging in; None: nothing that a token of nobody's can tell."""
    who, page = f"SecretStore {login.namespace}/{login.store}", "vault-login-changed"
    answer = await _posted(environment, pod, context, login, NO_ROLE)
    if answer.status >= _SERVER_ERRORS:
        text = f"Vault answers {answer.status} to a login: it can't write its storage or audit log"
        namespace, name = place(pod)
        logs = environment.kubectl_in(namespace, f"logs {name} -c vault --tail=20")
        return Problem(text, "vault-refuses-all", logs)
    if "invalid role name" not in _errors(answer):
        text = f"Vault: nothing is mounted at auth/{login.mount}, where {who} logs in"
        return Problem(text, page)
    meaning = meant(_errors(await _posted(environment, pod, context, login, login.role)))
    if meaning is None:
        return None
    return Problem(f"{meaning.format(role=login.role)}, so {who} can't log in", page)


def meant(errors: str) -> str | None:
    """What Vault's answer to a token of nobody's means; None: no more than that it is nobody's."""
    for pattern, meaning in _REFUSALS.items():
        if re.search(pattern, errors):
            return meaning
    return None


async def _posted(
    environment: Environment, pod: Object, context: ssl.SSLContext, login: Login, role: str
) -> Reply:
    address = urlsplit(environment.declared.outputs.vault_address)
    port = address.port or ports.VAULT
    async with inside.tunnel(environment.view, *place(pod), port) as connection:
        return await inside.posted(
            connection,
            context,
            address.hostname or "",
            f"/v1/auth/{login.mount}/login",
            {"role": role, "jwt": login.token()},
        )


def _errors(answer: Reply) -> str:
    return str(at(answer.fields, "errors") or "")

"""People in a real Vault: who may log in with a signed token, and what each of them may do."""

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.vault.args import People
from components.vault.policies import operator_policy, program_policy, viewer_policy
from offline.record import plain
from tests import configurations
from tests.real.vault_server import NO_VAULT, VaultServer, binary, vault_args

CLAIMS = {"sub": "p1", "aud": "vault", "iss": "https://id.example.org", "groups": ["developers"]}


def _openssl(*arguments: str, text: bytes = b"") -> bytes:
    done = subprocess.run(  # noqa: S603 - our own command line
        (str(shutil.which("openssl")), *arguments), input=text, capture_output=True, check=True
    )
    return done.stdout


class Issuer:
    """Signs tokens, as an identity provider does."""

    def __init__(self, folder: Path, name: str = "issuer") -> None:
        self._key = str(folder / f"{name}.pem")
        options = ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
        _openssl("genpkey", *options, "-out", self._key)
        self.public_key = _openssl("pkey", "-in", self._key, "-pubout").decode()

    def token(self, claims: Mapping[str, Any], *, seconds: int = 300) -> str:
        """A token with these claims that ends after so many seconds."""
        times = {"iat": int(time.time()) - 600, "exp": int(time.time()) + seconds}
        parts = [_encoded({"alg": "RS256", "typ": "JWT"}), _encoded({**claims, **times})]
        signature = _openssl("dgst", "-sha256", "-sign", self._key, text=".".join(parts).encode())
        return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])


def _encoded(values: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(values).encode()).decode().rstrip("=")


@pytest.fixture(name="issuer", scope="module")
def _issuer(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return Issuer(tmp_path_factory.mktemp("issuer"))


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[VaultServer]:
    """A Vault with a value in its store, policies and people, all written by the program's login.

    The auth method has what the program registers under `vault-people-jwt`, but this issuer's key.
    """
    if binary("vault") is None:
        pytest.skip(NO_VAULT)
    server = VaultServer(tmp_path_factory.mktemp("vault"))
    server.start()
    with_people = vault_args(People(type="jwt", viewers=["developers"]))
    (server.folder / "run/login/policy").write_text(program_policy(with_people))
    assert server.step("check").returncode == 0
    server.initialise((server.folder / "run/init/token").read_text())
    assert server.step("login").returncode == 0
    program = server.login()
    policies = {"viewer": viewer_policy(with_people), "operator": operator_policy(with_people)}
    for name, text in policies.items():
        server.must("policy", "write", name, "-", token=program, text=text)
    server.must("secrets", "enable", "-path=secret", "-version=2", "kv", token=program)
    server.must("kv", "put", "secret/shlink/a", "password=p", token=program)
    server.must("auth", "enable", "kubernetes", token=program)
    _write_people(server, issuer, program)
    yield server
    server.stop()


def _write_people(server: VaultServer, issuer: Issuer, token: str) -> None:
    recording = configurations.recording("vault-people-jwt")
    backend = plain(recording.one("AuthBackend", "vault-people").inputs)
    path, kind = backend["path"], backend["type"]
    server.must("auth", "enable", f"-path={path}", kind, token=token)
    config = {"bound_issuer": backend["boundIssuer"], "jwt_validation_pubkeys": issuer.public_key}
    server.must("write", f"auth/{path}/config", "-", token=token, text=json.dumps(config))
    for name in ("viewer", "operator"):
        inputs = plain(recording.one("AuthBackendRole", f"vault-people-{name}").inputs)
        claims = {key: text.split(",") for key, text in inputs["boundClaims"].items()}
        role = {
            "role_type": inputs["roleType"],
            "user_claim": inputs["userClaim"],
            "bound_audiences": inputs["boundAudiences"],
            "bound_claims": claims,
            "token_policies": inputs["tokenPolicies"],
            "token_ttl": inputs["tokenTtl"],
            "token_max_ttl": inputs["tokenMaxTtl"],
        }
        where = f"auth/{path}/role/{inputs['roleName']}"
        server.must("write", where, "-", token=token, text=json.dumps(role))


def log_in(server: VaultServer, role: str, token: str) -> subprocess.CompletedProcess[str]:
    return server.vault(
        "write", "-format=json", "auth/people/login", f"role={role}", f"jwt={token}"
    )


@pytest.mark.parametrize(
    ("role", "claims", "refusal"),
    [
        ("viewer", {}, ""),
        ("viewer", {"groups": ["other", "support"]}, ""),
        ("operator", {"groups": ["platform"]}, ""),
        ("operator", {}, "does not match"),
        ("viewer", {"groups": ["platform"]}, "does not match"),
        ("viewer", {"groups": ["developers,support"]}, "does not match"),
        ("viewer", {"groups": []}, "does not match"),
        ("viewer", {"aud": "other"}, "audience"),
        ("viewer", {"iss": "https://other.example.org"}, "issuer"),
        ("root", {}, "could not be found"),
    ],
    ids=str,
)
def test_who_may_log_in(
    server: VaultServer, issuer: Issuer, role: str, claims: Mapping[str, Any], refusal: str
) -> None:
    answer = log_in(server, role, issuer.token({**CLAIMS, **claims}))
    assert (answer.returncode == 0) is (not refusal), answer.stderr
    assert refusal in answer.stderr
    if not refusal:
        auth = json.loads(answer.stdout)["auth"]
        assert auth["policies"] == ["default", role]
        assert auth["lease_duration"] == 3600


def test_a_token_of_another_issuer_or_of_yesterday_is_refused(
    server: VaultServer, issuer: Issuer, tmp_path: Path
) -> None:
    other = Issuer(tmp_path, "other")
    assert "signature" in log_in(server, "viewer", other.token(CLAIMS)).stderr
    assert "expired" in log_in(server, "viewer", issuer.token(CLAIMS, seconds=-300)).stderr


def person(server: VaultServer, issuer: Issuer, role: str) -> str:
    """A person's token."""
    group = {"viewer": "developers", "operator": "platform"}[role]
    answer = log_in(server, role, issuer.token({**CLAIMS, "groups": [group]}))
    return json.loads(answer.stdout)["auth"]["client_token"]


BOTH = (
    "status",
    "kv list secret",
    "kv metadata get secret/shlink/a",
    "secrets list",
    "auth list",
    "policy list",
    "policy read shlink-none",
    "list auth/kubernetes/role",
    "list auth/people/role",
    "read auth/people/role/viewer",
    "read sys/metrics",
    "token lookup",
)
OPERATOR = (
    "audit list",
    "list sys/leases/lookup/auth/people/login",
    "lease revoke -prefix auth/nothing",
    "write -f sys/rotate",
    "kv delete -versions=1 secret/shlink/a",
    "kv undelete -versions=1 secret/shlink/a",
)
NOBODY = (
    "kv get secret/shlink/a",
    "kv put secret/shlink/a password=q",
    "kv metadata delete secret/shlink/a",
    "kv destroy -versions=1 secret/shlink/a",
    "read secret/subkeys/shlink/a",
    "policy write viewer -",
    "policy delete operator",
    "write auth/people/role/viewer token_policies=root",
    "write auth/people/config bound_issuer=x",
    "write auth/kubernetes/role/x token_policies=operator",
    "read auth/pulumi/role/pulumi/role-id",
    "write -f auth/pulumi/role/pulumi/secret-id",
    "token create -policy=root",
    "token create -policy=pulumi",
    "list auth/token/accessors",
    "secrets enable -path=other kv",
    "secrets disable secret",
    "auth enable -path=other approle",
    "audit disable stdout",
    "write -f sys/storage/raft/snapshot-force",
    "write -f sys/storage/raft/snapshot",
    "read sys/raw/core/keyring",
)


def denied(server: VaultServer, token: str, command: str) -> bool:
    """Whether Vault refuses for want of a right; every other answer means that it was allowed."""
    answer = server.vault(*command.split(), token=token, text='{"path": {}}')
    return "permission denied" in answer.stderr


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_what_people_may_and_may_not(server: VaultServer, issuer: Issuer, role: str) -> None:
    token = person(server, issuer, role)
    assert [command for command in BOTH if denied(server, token, command)] == []
    refused = [command for command in OPERATOR if denied(server, token, command)]
    assert refused == ([] if role == "operator" else list(OPERATOR))
    assert [command for command in NOBODY if not denied(server, token, command)] == []


def test_the_program_takes_the_auth_method_away_when_the_setting_goes(
    server: VaultServer, issuer: Issuer
) -> None:
    """The init Job has already taken its other rights there."""
    policy = server.folder / "run/login/policy"
    before = policy.read_text()
    policy.write_text(program_policy(vault_args()))
    assert server.step("check").returncode == 0
    assert server.step("login").returncode == 0
    token = server.login()
    assert denied(server, token, "write auth/people/config bound_issuer=x")
    assert denied(server, token, "write auth/people/role/viewer token_policies=pulumi")
    server.must("read", "auth/people/config", token=token)
    server.must("delete", "auth/people/role/viewer", token=token)
    server.must("auth", "disable", "people", token=token)
    assert denied(server, token, "auth enable -path=people jwt")
    policy.write_text(before)
    assert server.step("check").returncode == 0
    assert server.step("login").returncode == 0
    _write_people(server, issuer, server.login())


def test_an_operator_seals(server: VaultServer, issuer: Issuer) -> None:
    viewer, operator = (person(server, issuer, role) for role in ("viewer", "operator"))
    assert denied(server, viewer, "operator seal")
    server.must("operator", "seal", token=operator)
    server.unseal()

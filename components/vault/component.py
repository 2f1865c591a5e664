"""Vault: one server or a raft cluster that initialises and unseals itself, over TLS only.

Three pieces work at the same time: the chart's server; a sidecar in its pod, which unseals it after
every start; and a Job, which initialises it, gives this program its own limited login, proves that
login and revokes every root token. The server is Ready only once it is unsealed, so nobody waits
for it before the Job. Then `_unsealed` waits for all servers, before anything inside Vault.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pulumi
import pulumi_random as random
import pulumi_vault as vault
from pulumi_kubernetes import core, helm, meta, rbac

from .. import pins, ports
from ..cluster.forward import ForwardTarget
from ..cluster.waits import WaitTarget, replicas_ready, wait_hook
from ..credentials import tls
from ..credentials.passwords import password
from ..manifests.rights import account_subject, bound_role, rule
from ..network.flows import VAULT, VAULT_SERVER
from ..settings.changes import refusal_hook
from .args import Login, VaultArgs
from .init import InitJobArgs, init_job, proven_login
from .people import people_auth
from .policies import operator_policy, viewer_policy
from .server import (
    ServerTransformArgs,
    active_label,
    chart_values,
    recorded,
    seal_files,
    server_transform,
)

_UNSEAL_SECONDS = 600
"""A volume that is slow to come, and a rolling update of all servers."""


def forward_target(
    *,
    mode: Literal["standalone", "ha"],
    image: str = pins.VAULT_IMAGE,
    release: str = "vault",
    namespace: str = VAULT,
) -> ForwardTarget:
    """The pod that answers: the only one, or the active one of a raft cluster."""
    labels = {**VAULT_SERVER.labels, "app.kubernetes.io/instance": release}
    if mode == "ha":
        labels[active_label(image)] = "true"
    return ForwardTarget(
        service=f"{namespace}/{release}",
        namespace=namespace,
        pod_labels=labels,
        port=ports.VAULT,
    )


class Vault(pulumi.ComponentResource):
    """An unsealed Vault with a KV v2 store, kubernetes auth, and policies for people."""

    address: pulumi.Output[str]
    """Where pods find it."""
    ca_pem: pulumi.Output[str]
    """What a client must trust."""
    certificate_secret: pulumi.Output[str]
    """Secret beside the server whose `ca.crt` verifies it."""
    certificate_expires: pulumi.Output[str]
    """When the server's certificate ends (RFC 3339)."""
    mount: pulumi.Output[str]
    """Path of the KV v2 store; known once the store exists."""
    auth_path: pulumi.Output[str]
    """Path of the kubernetes auth method; known once it is configured."""

    def __init__(
        self, name: str, args: VaultArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:vault:Vault", name, None, opts)
        if args.mode == "ha" and args.key_service is None:
            raise ValueError(f"{name}: mode 'ha' needs a key_service: every pod unseals by itself")
        self._name, self._args = name, args
        self._release = args.release or name
        self._child = pulumi.ResourceOptions(parent=self)
        self._certificate = args.authority.certificate(
            f"{name}-tls", dns_names=self._dns_names(), opts=self._child
        )
        keys = self._keys_secret()
        rights = self._rights(keys)
        certificate = self._certificate_secret()
        self._seal = self._seal_version()
        self._chart = self._server([keys, certificate, *rights])
        # What the Job has not proven yet is not used: until then the login before serves.
        logins = {args.rotation: self._login_ids(args.rotation)}
        if args.rotation > 1:
            logins[args.rotation - 1] = self._login_ids(args.rotation - 1)
        role_id, secret_id = logins[args.rotation]
        self._initialised = init_job(
            name,
            InitJobArgs(
                vault=args,
                release=self._release,
                servers=[self._url(server) for server in self._server_names()],
                keys=keys,
                role_id=role_id,
                secret_id=secret_id,
            ),
            needs=[keys, certificate, *rights, self._chart],
            opts=self._child,
        )
        self._provider = self._make_provider(logins)
        self._ready: list[pulumi.Resource] = [self._chart, self._initialised, self._unsealed()]
        # Alone: Vault answers 500 to whatever it does while the device starts, and has done it.
        self._ready = [*self._ready, self._audit()]
        self._people()
        store = vault.Mount(
            f"{name}-kv",
            path=args.mount,
            type="kv",
            options={"version": "2"},
            opts=pulumi.ResourceOptions.merge(
                self.inside(self), pulumi.ResourceOptions(protect=args.protect)
            ),
        )
        self.certificate_secret = certificate.metadata.name.apply(str)
        self.certificate_expires = self._certificate.expires
        # In a raft cluster that of the active server: the chart's other Service also leads to
        # servers that are sealed (publishNotReadyAddresses).
        leader = f"{self._release}-active" if args.mode == "ha" else self._release
        self.address = self._url(leader)
        self.ca_pem = args.authority.ca_pem
        self.mount = store.path
        self.auth_path = self._kubernetes_auth()
        self.register_outputs(
            {"address": self.address, "mount": self.mount, "auth_path": self.auth_path}
        )

    def inside(self, parent: pulumi.Resource) -> pulumi.ResourceOptions:
        """Options for a resource inside Vault: created once it logs requests, deleted with it.

        A destroy so needs no connection to Vault.
        """
        return pulumi.ResourceOptions(
            parent=parent,
            provider=self._provider,
            depends_on=self._ready,
            deleted_with=self._chart,
        )

    def _metadata(self, name: str) -> meta.v1.ObjectMetaArgs:
        return meta.v1.ObjectMetaArgs(name=name, namespace=self._args.namespace)

    def _url(self, host: str) -> pulumi.Output[str]:
        # Without the cluster's domain, which differs between clusters: the pods' resolver knows it.
        return pulumi.Output.concat("https://", host, ".", self._args.namespace, ".svc:8200")

    def _server_names(self) -> list[str]:
        count = self._args.replicas if self._args.mode == "ha" else 1
        return [f"{self._release}-{number}.{self._release}-internal" for number in range(count)]

    def _dns_names(self) -> list[pulumi.Input[str]]:
        """Every name that a client may use, and `localhost` for what comes through a forward."""
        services = (self._release, f"{self._release}-active", f"*.{self._release}-internal")
        names: list[pulumi.Input[str]] = ["localhost", *services]
        for suffix in ("", ".svc", ".svc.cluster.local"):
            domain = pulumi.Output.concat(".", self._args.namespace, suffix)
            names += [pulumi.Output.concat(service, domain) for service in services]
        return names

    def _keys_secret(self) -> core.v1.Secret:
        """Empty at first: bank-vaults keeps the unseal keys in it.

        Since it exists already, a right to this one Secret is enough: `create` cannot be limited to
        a name. The keys are never among the inputs, and no update touches them.
        """
        return core.v1.Secret(
            f"{self._name}-unseal-keys",
            metadata=self._metadata(f"{self._release}-unseal-keys"),
            opts=pulumi.ResourceOptions.merge(
                self._child,
                pulumi.ResourceOptions(
                    ignore_changes=["data", "stringData"], protect=self._args.protect
                ),
            ),
        )

    def _rights(self, keys: core.v1.Secret) -> list[pulumi.Resource]:
        """Who may use the keys' Secret, and the server's right to ask whose a token is."""
        namespace = self._args.namespace
        job_account = core.v1.ServiceAccount(
            f"{self._name}-init", metadata=self._metadata(f"{self._release}-init"), opts=self._child
        )
        holders = {f"{self._release}-init": "get update"}
        if self._args.key_service is None:
            # With a key service a server unseals itself, and its pod has no business with the keys.
            holders[self._release] = "get"
        rights: list[pulumi.Resource] = [job_account]
        for account, verbs in holders.items():
            role = f"{account}-unseal-keys"
            rights.append(
                bound_role(
                    f"{self._name}-{role}",
                    name=role,
                    namespace=namespace,
                    rules=[rule("", "secrets", verbs, [keys.metadata.name.apply(str)])],
                    subject=account_subject(account, namespace),
                    opts=self._child,
                )
            )
        # The chart's own binding has no namespace in its name: two releases of one name collide.
        rights.append(
            rbac.v1.ClusterRoleBinding(
                f"{self._name}-token-review",
                metadata=meta.v1.ObjectMetaArgs(
                    name=pulumi.Output.concat(namespace, "-", self._release, "-token-review")
                ),
                role_ref=rbac.v1.RoleRefArgs(
                    api_group="rbac.authorization.k8s.io",
                    kind="ClusterRole",
                    name="system:auth-delegator",
                ),
                subjects=[account_subject(self._release, namespace)],
                opts=self._child,
            )
        )
        return rights

    def _certificate_secret(self) -> core.v1.Secret:
        return core.v1.Secret(
            f"{self._name}-tls",
            metadata=self._metadata(f"{self._release}-tls"),
            type="kubernetes.io/tls",
            string_data={
                "tls.crt": self._certificate.certificate_pem,
                "tls.key": self._certificate.private_key_pem,
                "ca.crt": self._certificate.ca_pem,
            },
            opts=self._child,
        )

    def _server(self, needs: Sequence[pulumi.Resource]) -> helm.v4.Chart:
        args, source = self._args, self._args.chart
        needs = [*needs]
        service = args.key_service
        if service is not None and service.token is not None:
            needs.append(
                core.v1.Secret(
                    f"{self._name}-seal",
                    metadata=self._metadata(f"{self._release}-seal"),
                    string_data={"token": service.token, **seal_files(service)},
                    opts=self._child,
                )
            )
        repository = None
        if source.repository_url:
            repository = helm.v4.RepositoryOptsArgs(repo=source.repository_url)
        return helm.v4.Chart(
            self._name,
            name=self._release,
            namespace=args.namespace,
            chart=source.chart,
            repository_opts=repository,
            version=source.version,
            values=chart_values(self._release, args),
            skip_await=False,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=needs,
                transforms=[server_transform(self._transform_args())],
            ),
        )

    def _transform_args(self) -> ServerTransformArgs:
        args = self._args
        return ServerTransformArgs(
            serial=self._certificate.serial,
            image=args.image,
            seal=self._seal,
            record={"vault.mode": args.mode, "vault.seal": args.sealed_by},
            guard=refusal_hook(f"{self._name}-guard", args.allowed_changes, recorded),
            protect=args.protect,
        )

    def _seal_version(self) -> pulumi.Output[str] | None:
        """Changes with the token for the key service, which servers read at their start only."""
        service = self._args.key_service
        if service is None or service.token is None:
            return None
        keepers = {"token": service.token, **seal_files(service)}
        version = random.RandomId(
            f"{self._name}-seal-version", byte_length=4, keepers=keepers, opts=self._child
        )
        return pulumi.Output.unsecret(version.hex)

    def _unsealed(self) -> pulumi.Resource:
        """A resource that exists once every server runs as declared and is unsealed.

        It changes with whatever changes the servers' pods, so an update waits until they are back.
        """
        args = self._args
        target = WaitTarget(
            resource="statefulsets.v1.apps",
            namespace=args.namespace,
            name=self._release,
            not_ready=replicas_ready,
            timeout=_UNSEAL_SECONDS,
        )
        wait = wait_hook(f"{self._name}-unsealed", args.access, [target])
        declared = pulumi.Output.json_dumps(chart_values(self._release, args))
        state = {
            "chart": args.chart.version,
            "values": declared.apply(_digest),
            "certificate": self._certificate.serial,
            "seal": self._seal or "",
        }
        return pulumi.Stash(
            f"{self._name}-unsealed",
            input=state,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[self._chart, self._initialised],
                hooks=pulumi.ResourceHookBinding(before_create=[wait], before_update=[wait]),
            ),
        )

    def _login_ids(self, number: int) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        """Role id and secret id of the program's AppRole, chosen here: the same in every run."""
        return (
            password(f"{self._name}-role-id", number, self._child),
            password(f"{self._name}-secret-id", number, self._child),
        )

    def _make_provider(
        self, logins: Mapping[int, tuple[pulumi.Output[str], pulumi.Output[str]]]
    ) -> vault.Provider:
        args = self._args
        file = args.ca_file or f"build/tls/{pulumi.get_stack()}-{self._name}.pem"
        number = proven_login(self._initialised)
        role_ids = {key: ids[0] for key, ids in logins.items()}
        secret_ids = {key: ids[1] for key, ids in logins.items()}
        login = args.auth_login or Login(
            path=f"auth/{args.login}/login",
            parameters={
                "role_id": chosen_login(number, role_ids),
                "secret_id": chosen_login(number, secret_ids),
            },
        )
        auth_login = None
        if args.token is None:
            parameters = {
                name: pulumi.Output.secret(value) for name, value in login.parameters.items()
            }
            auth_login = vault.ProviderAuthLoginArgs(
                path=login.path, method=login.method, parameters=parameters
            )
        return vault.Provider(
            self._name,
            # The stack's file may encrypt it, and then it stays secret.
            address=pulumi.Output.secret(args.provider_address),
            token=args.token,
            auth_login=auth_login,
            ca_cert_file=args.authority.ca_pem.apply(lambda pem: tls.ca_file(pem, Path(file))),
            # What the certificate is checked for, whatever the address is. Like the next one it is
            # set explicitly, or the provider falls back to a variable of the environment.
            tls_server_name="localhost",
            skip_tls_verify=False,
            # A child token lives 20 minutes; an update that waits for a database may take longer.
            skip_child_token=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self._chart, self._initialised]),
        )

    def _audit(self) -> vault.Audit:
        # Standard output: a file device on a full volume makes Vault refuse every request.
        return vault.Audit(
            f"{self._name}-audit",
            type="file",
            path="stdout",
            options={"file_path": "stdout"},
            opts=self.inside(self),
        )

    def _people(self) -> None:
        args = self._args
        policies = {
            args.viewer_policy: viewer_policy(args),
            args.operator_policy: operator_policy(args),
        }
        written: list[pulumi.Resource] = []
        for name, text in policies.items():
            resource_name, opts = f"{self._name}-{name}", self.inside(self)
            written.append(vault.Policy(resource_name, name=name, policy=text, opts=opts))
        if args.people is not None:
            after = pulumi.ResourceOptions(depends_on=written)
            opts = pulumi.ResourceOptions.merge(self.inside(self), after)
            people_auth(self._name, args, args.people, opts)

    def _kubernetes_auth(self) -> pulumi.Output[str]:
        auth = vault.AuthBackend(
            f"{self._name}-kubernetes",
            type="kubernetes",
            path=self._args.auth_path,
            opts=self.inside(self),
        )
        # No token_reviewer_jwt: Vault then uses its own pod's token, which the kubelet renews. A
        # pasted one expires with its pod.
        config = vault.kubernetes.AuthBackendConfig(
            f"{self._name}-kubernetes",
            backend=auth.path,
            kubernetes_host="https://kubernetes.default.svc:443",
            opts=self.inside(self),
        )
        return pulumi.Output.all(auth.path, config.id).apply(lambda known: str(known[0]))


def chosen_login(
    number: pulumi.Output[int], values: Mapping[int, pulumi.Output[str]]
) -> pulumi.Output[str]:
    """Of one value for each login that of this number, or of the newest login."""
    newest = max(values)

    def choose(known: Sequence[Any]) -> str:
        texts = dict(zip(values, known[1:], strict=True))
        return texts.get(known[0], texts[newest])

    return pulumi.Output.all(number, *values.values()).apply(choose)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Vault: one server or a raft cluster that initialises and unseals itself, over TLS only.

Three pieces work at the same time: the chart's server; a sidecar in its pod, which unseals it after
every start; and a Job, which initialises it, gives this program its own limited login, proves that
login and revokes every root token. Pulumi waits for the StatefulSet (Ready means unsealed) and for
the Job before it touches anything inside Vault.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pulumi
import pulumi_vault as vault
from pulumi_kubernetes import core, helm, meta, rbac

from . import pins, ports, scripts, tls
from .charts import ChartSource
from .credentials import password
from .forward import ForwardTarget
from .images import ImageReference
from .network import VAULT, VAULT_INIT, VAULT_SERVER
from .pods import (
    CONTAINER_SECURITY,
    JobArgs,
    job,
    pod_security,
    requirements,
    spread,
    variables,
)
from .rights import account_subject, bound_role, rule

if TYPE_CHECKING:
    from .settings import Settings

# uid 100 and gid 1000 are the image's own (hashicorp/vault's Dockerfile, the chart's defaults).
_USER, _GROUP = 100, 1000
_BANK_VAULTS_USER = 65534
_TLS_FOLDER = "/vault/tls"
_CA_FILE = f"{_TLS_FOLDER}/ca.crt"
_LOGIN_SECONDS = 7200
"""An update may wait long for a database; the program's token must outlive it."""


def _small() -> Mapping[str, Mapping[str, str]]:
    return {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}


def _server() -> Mapping[str, Mapping[str, str]]:
    return {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}


def _chart() -> ChartSource:
    return ChartSource(name="vault", repository=pins.VAULT_REPOSITORY, version=pins.VAULT_CHART)


@dataclass(frozen=True)
class KeyService:
    """What unseals Vault in place of keys in a Secret."""

    type: str
    """Name of Vault's `seal` stanza: awskms, gcpckms, azurekeyvault, transit."""
    parameters: Mapping[str, str]
    """Parameters of the stanza, none of them secret: they land in a ConfigMap.
    https://developer.hashicorp.com/vault/docs/configuration/seal"""
    token: pulumi.Input[str] | None = None
    """For transit: the token for the other Vault. It goes into a Secret."""


@dataclass(frozen=True)
class Login:
    """A login for this program that somebody set up in Vault: `auth_login` of pulumi-vault."""

    path: str
    """Where to log in: auth/jwt/login."""
    parameters: Mapping[str, pulumi.Input[str]]
    """What the login needs, for instance role and jwt. Treated as secret."""
    method: str | None = None
    """Only for methods that pulumi-vault treats specially: aws."""


@dataclass(frozen=True)
class VaultArgs:
    """What a Vault is made of. Everything but the first three has a default."""

    namespace: pulumi.Input[str]
    """Namespace of the server and of its Secrets."""
    authority: tls.Authority
    """Signs the server's certificate; whoever talks to Vault trusts it."""
    provider_address: pulumi.Input[str]
    """URL at which this program reaches Vault: `https://`, and the near end of a forward
    (https://127.0.0.1:PORT) or an address of your own. The certificate is checked either way."""
    release: str | None = None
    """Name of the Helm release, of the pods, and the beginning of all other names in Kubernetes.
    The component's name by default."""
    mode: Literal["standalone", "ha"] = "standalone"
    """One server on a file volume, or a raft cluster, which needs a key service."""
    replicas: int = 3
    """Servers of a raft cluster: 3, 5 or 7."""
    key_service: KeyService | None = None
    """Unseals every server. Without one, the unseal keys are in a Kubernetes Secret beside the data
    that they protect."""
    storage_size: str = "10Gi"
    """Size of each server's volume. It cannot be changed later."""
    storage_class: str | None = None
    """The cluster's default when None."""
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=_server)
    """Requests and limits of a server, as Kubernetes writes them."""
    service_account_annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    """Workload identity for the key service, as in eks.amazonaws.com/role-arn."""
    pod_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """More labels of the server's pods. Azure's workload identity needs one, which is added for
    the key service azurekeyvault."""
    chart: ChartSource = field(default_factory=_chart)
    """Vault's own chart. Another repository for a mirror."""
    image: str = pins.VAULT_IMAGE
    """Vault's image: the server, and the Job's own steps."""
    bank_vaults_image: str = pins.BANK_VAULTS_IMAGE
    """Initialises and unseals; its image must have a shell, as bank-vaults' own has."""
    mount: str = "secret"
    """Path of the KV v2 store."""
    auth_path: str = "kubernetes"
    """Path of the kubernetes auth method."""
    login: str = "pulumi"
    """Name of this program's login in Vault: of the AppRole's mount, role and policy."""
    rotation: int = 1
    """Raise it to replace the role id and secret id of that login."""
    token: pulumi.Input[str] | None = None
    """A token that this program uses in place of its own login. Never a root token: the Job revokes
    those."""
    auth_login: Login | None = None
    """A login that this program uses in place of its own."""
    viewer_policy: str = "viewer"
    """Name of the policy for people who look: what exists, and never a value."""
    operator_policy: str = "operator"
    """Name of the policy for people who operate: health, raft, leases, seal; no value either."""
    ca_file: str | None = None
    """File that the authority's certificates are written to for the provider, which takes a path
    only. Relative to the program's folder, so that it does not differ between machines.
    build/tls/STACK-NAME.pem by default; keep it out of version control."""
    metrics: bool = False
    """Serve metrics at /v1/sys/metrics without a token, for Prometheus. A change restarts Vault."""
    protect: bool = False
    """Refuse to delete the StatefulSet, the unseal keys and the store."""

    @classmethod
    def from_settings(
        cls,
        settings: "Settings",
        *,
        namespace: pulumi.Input[str],
        authority: tls.Authority,
        provider_address: pulumi.Input[str],
    ) -> "VaultArgs":
        """What this environment's settings say."""
        group = settings.vault
        chart, images = settings.charts.vault, settings.images
        token = None
        if group.token is not None:
            token = pulumi.Output.secret(group.token.get_secret_value())
        return cls(
            namespace=namespace,
            authority=authority,
            provider_address=provider_address,
            mode=group.mode,
            replicas=group.replicas,
            key_service=_key_service(settings),
            storage_size=group.storage.size,
            storage_class=group.storage.storage_class,
            resources=requirements(group.resources),
            service_account_annotations=group.service_account_annotations,
            chart=ChartSource(name="vault", repository=chart.repository, version=chart.version),
            image=images.vault,
            bank_vaults_image=images.bank_vaults,
            rotation=settings.rotation.vault,
            token=token,
            auth_login=_auth_login(settings),
            metrics=settings.monitoring.enabled,
            protect=settings.protect,
        )


def _key_service(settings: "Settings") -> KeyService | None:
    seal = settings.vault.seal
    if seal is None:
        return None
    token = None
    if seal.type == "transit":
        token = pulumi.Output.secret(seal.token.get_secret_value())
    parameters = seal.model_dump(exclude={"type", "token"}, exclude_none=True)
    return KeyService(type=seal.type, parameters=parameters, token=token)


def _auth_login(settings: "Settings") -> Login | None:
    login = settings.vault.auth_login
    if login is None:
        return None
    parameters = {key: value.get_secret_value() for key, value in login.parameters.items()}
    return Login(path=login.path, method=login.method, parameters=parameters)


def forward_target(
    *, mode: Literal["standalone", "ha"], release: str = "vault", namespace: str = VAULT
) -> ForwardTarget:
    """The pod that answers: the only one, or the active one of a raft cluster."""
    labels = {**VAULT_SERVER.labels, "app.kubernetes.io/instance": release}
    if mode == "ha":
        labels["vault-active"] = "true"
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
        self._chart = self._server([keys, certificate, *rights])
        role_id, secret_id = self._login_ids()
        self._initialised = self._job(keys, [keys, certificate, *rights], role_id, secret_id)
        self._provider = self._make_provider(role_id, secret_id)
        self._audit()
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
        self.address = self._url(self._release)
        self.ca_pem = args.authority.ca_pem
        self.mount = store.path
        self.auth_path = self._kubernetes_auth()
        self.register_outputs(
            {"address": self.address, "mount": self.mount, "auth_path": self.auth_path}
        )

    def inside(self, parent: pulumi.Resource) -> pulumi.ResourceOptions:
        """Options for a resource inside Vault: created after the unseal, deleted with the server.

        A destroy so needs no connection to Vault.
        """
        return pulumi.ResourceOptions(
            parent=parent,
            provider=self._provider,
            depends_on=[self._chart, self._initialised],
            deleted_with=self._chart,
        )

    def _metadata(self, name: str) -> meta.v1.ObjectMetaArgs:
        return meta.v1.ObjectMetaArgs(name=name, namespace=self._args.namespace)

    def _url(self, host: str) -> pulumi.Output[str]:
        # Without the cluster's domain: the pods' resolver knows it, and it differs between clusters.
        return pulumi.Output.concat("https://", host, ".", self._args.namespace, ".svc:8200")

    def _server_names(self) -> list[str]:
        count = self._args.replicas if self._args.mode == "ha" else 1
        return [f"{self._release}-{number}.{self._release}-internal" for number in range(count)]

    def _dns_names(self) -> list[pulumi.Input[str]]:
        """Every name that a client may use, and `localhost` for what comes through a forward."""
        services = (self._release, f"{self._release}-active", f"*.{self._release}-internal")
        names: list[pulumi.Input[str]] = ["localhost", *services]
        for suffix in ("", ".svc", ".svc.cluster.local"):
            names += [
                pulumi.Output.concat(service, ".", self._args.namespace, suffix)
                for service in services
            ]
        return names

    def _keys_secret(self) -> core.v1.Secret:
        """Empty at first: bank-vaults keeps the unseal keys in it.

        Because it exists already, the right to this one Secret is enough: `create` cannot be limited
        to a name. The keys are never among the inputs, and no update touches them.
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
        if args.key_service is not None and args.key_service.token is not None:
            needs.append(
                core.v1.Secret(
                    f"{self._name}-seal",
                    metadata=self._metadata(f"{self._release}-seal"),
                    string_data={"token": args.key_service.token},
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
                transforms=[server_transform(self._certificate.serial, protect=args.protect)],
            ),
        )

    def _login_ids(self) -> tuple[pulumi.Output[str], pulumi.Output[str]]:
        """Role id and secret id of the program's AppRole, chosen here: the same in every run."""
        rotation = self._args.rotation
        return (
            password(f"{self._name}-role-id", rotation, self._child),
            password(f"{self._name}-secret-id", rotation, self._child),
        )

    def _job(
        self,
        keys: core.v1.Secret,
        needs: Sequence[pulumi.Resource],
        role_id: pulumi.Output[str],
        secret_id: pulumi.Output[str],
    ) -> pulumi.Resource:
        args, release = self._args, self._release
        ids = core.v1.Secret(
            f"{self._name}-login",
            metadata=self._metadata(f"{release}-login"),
            string_data={
                "role-id": role_id,
                "secret-id": secret_id,
                "policy": program_policy(args),
            },
            opts=self._child,
        )
        # Not the Service, which would balance the steps of one initialisation over several pods.
        servers = [self._url(server) for server in self._server_names()]
        where = {
            "VAULT_ADDR": servers[0],
            "VAULT_CACERT": "/run/tls/ca.crt",
            "SECRET": pulumi.Output.concat(args.namespace, "/", keys.metadata.name),
        }
        impatient = {"VAULT_CLIENT_TIMEOUT": "10s", "VAULT_MAX_RETRIES": "1"}
        check = {
            **where,
            **impatient,
            "SERVERS": _joined(servers),
            "SELF_UNSEALED": str(args.key_service is not None).lower(),
        }
        init = {
            **bank_vaults(args, self._release, servers[0], "/run/tls/ca.crt"),
            "BANK_VAULTS_STORE_ROOT_TOKEN": "false",
            # One failed connection while it waits for the unseal would end bank-vaults 1.33.1.
            "VAULT_MAX_RETRIES": "20",
            "VAULT_CLIENT_TIMEOUT": "300s",
        }
        login = {
            **where,
            "LOGIN": args.login,
            "TOKEN_TTL": str(_LOGIN_SECONDS),
            "VAULT_CLIENT_TIMEOUT": "30s",
        }
        return job(
            f"{self._name}-init",
            JobArgs(
                name=f"{release}-init",
                namespace=args.namespace,
                labels=VAULT_INIT.labels,
                user=_BANK_VAULTS_USER,
                init_containers=[
                    _step("check", args.image, check, keys=True),
                    _step("init", args.bank_vaults_image, init),
                ],
                containers=[_step("login", args.image, login, keys=True, login=True)],
                volumes=[
                    _memory_volume("init"),
                    _memory_volume("tmp"),
                    _secret_volume("tls", f"{release}-tls", "ca.crt"),
                    _secret_volume("keys", keys.metadata.name),
                    _secret_volume("login", ids.metadata.name),
                ],
                service_account=f"{release}-init",
                annotations={
                    # A Secret that was lost and made again is empty: the Job runs again and says so.
                    "shlink.io/keys": keys.metadata.uid.apply(str),
                    "shlink.io/login": f"{args.login} {args.rotation} {_digest(args)}",
                },
                # The server may still be pulling its image; the delay between tries grows.
                backoff_limit=20,
            ),
            pulumi.ResourceOptions.merge(
                self._child, pulumi.ResourceOptions(depends_on=[ids, *needs])
            ),
        )

    def _make_provider(
        self, role_id: pulumi.Output[str], secret_id: pulumi.Output[str]
    ) -> vault.Provider:
        args = self._args
        file = args.ca_file or f"build/tls/{pulumi.get_stack()}-{self._name}.pem"
        login = args.auth_login or Login(
            path=f"auth/{args.login}/login",
            parameters={"role_id": role_id, "secret_id": secret_id},
        )
        auth_login = None
        if args.token is None:
            auth_login = vault.ProviderAuthLoginArgs(
                path=login.path,
                method=login.method,
                parameters={
                    key: pulumi.Output.secret(value) for key, value in login.parameters.items()
                },
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

    def _audit(self) -> None:
        # Standard output: a file device on a full volume makes Vault refuse every request.
        vault.Audit(
            f"{self._name}-audit",
            type="file",
            path="stdout",
            options={"file_path": "stdout"},
            opts=self.inside(self),
        )

    def _people(self) -> None:
        args = self._args
        for name, text in (
            (args.viewer_policy, viewer_policy(args)),
            (args.operator_policy, operator_policy(args)),
        ):
            vault.Policy(f"{self._name}-{name}", name=name, policy=text, opts=self.inside(self))

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


def _joined(texts: Sequence[pulumi.Output[str]]) -> pulumi.Output[str]:
    return pulumi.Output.all(*texts).apply(lambda known: " ".join(str(text) for text in known))


def _step(
    name: str,
    image: str,
    environment: Mapping[str, pulumi.Input[str]],
    *,
    keys: bool = False,
    login: bool = False,
) -> core.v1.ContainerArgs:
    """A container of the Job; its script is scripts/vault_NAME.sh."""
    folders = {"init": "/run/init", "tmp": "/tmp", "tls": "/run/tls"}  # noqa: S108 - of the pod
    if keys:
        folders["keys"] = "/run/keys"
    if login:
        folders["login"] = "/run/login"
    mounts = [
        core.v1.VolumeMountArgs(name=volume, mount_path=path) for volume, path in folders.items()
    ]
    return core.v1.ContainerArgs(
        name=name,
        image=image,
        command=["sh", "-c", scripts.read(f"vault_{name}.sh")],
        env=variables({"HOME": "/tmp", **environment}),  # noqa: S108 - of the pod
        security_context=CONTAINER_SECURITY,
        resources=core.v1.ResourceRequirementsArgs(
            requests={"cpu": "10m", "memory": "64Mi"},
            limits={"memory": "384Mi"},  # Vault's command is the whole of Vault's binary
        ),
        volume_mounts=mounts,
    )


def _memory_volume(name: str) -> core.v1.VolumeArgs:
    source = core.v1.EmptyDirVolumeSourceArgs(medium="Memory", size_limit="8Mi")
    return core.v1.VolumeArgs(name=name, empty_dir=source)


def _secret_volume(name: str, secret: pulumi.Input[str], *keys: str) -> core.v1.VolumeArgs:
    items = [core.v1.KeyToPathArgs(key=key, path=key) for key in keys]
    source = core.v1.SecretVolumeSourceArgs(
        secret_name=secret, items=items or None, default_mode=0o440
    )
    return core.v1.VolumeArgs(name=name, secret=source)


def _digest(args: VaultArgs) -> str:
    """Short text that changes with the policy, so that the Job runs again."""
    return hashlib.sha256(program_policy(args).encode()).hexdigest()[:12]


def server_transform(serial: pulumi.Input[str], *, protect: bool) -> pulumi.ResourceTransform:
    """Changes the chart's StatefulSet: its pods roll on a renewed certificate; it is protected.

    Not among the chart's values: a value that a preview does not know yet would make that preview
    show no object of the chart at all (pulumi-kubernetes, provider/helm/v4).
    """

    def transform(
        args: pulumi.ResourceTransformArgs,
    ) -> pulumi.ResourceTransformResult | None:
        if args.type_ != "kubernetes:apps/v1:StatefulSet":
            return None
        spec: Any = args.props["spec"]
        metadata: dict[str, Any] = spec["template"]["metadata"]
        metadata["annotations"] = {
            **metadata.get("annotations", {}),
            "shlink.io/certificate": serial,
        }
        opts = pulumi.ResourceOptions.merge(args.opts, pulumi.ResourceOptions(protect=protect))
        return pulumi.ResourceTransformResult(props=args.props, opts=opts)

    return transform


def bank_vaults(
    args: VaultArgs, release: str, address: pulumi.Input[str], ca_file: str
) -> dict[str, pulumi.Input[str]]:
    """Variables, not flags: the flags of `init` and `unseal` shadow each other in 1.33.1."""
    return {
        "VAULT_ADDR": address,
        "VAULT_CACERT": ca_file,
        "BANK_VAULTS_MODE": "k8s",
        "BANK_VAULTS_K8S_SECRET_NAMESPACE": args.namespace,
        "BANK_VAULTS_K8S_SECRET_NAME": f"{release}-unseal-keys",
    }


def chart_values(release: str, args: VaultArgs) -> dict[str, Any]:
    """The chart's values: vault-helm 0.32.0, values.yaml."""
    server: dict[str, Any] = {
        "image": ImageReference.parse(args.image).helm_values(),
        # With the chart's default, OnDelete, a changed version or configuration would change the
        # StatefulSet and no pod.
        "updateStrategyType": "RollingUpdate",
        "includeConfigAnnotation": True,  # a changed configuration changes the pod template
        "resources": args.resources,
        "serviceAccount": {"annotations": args.service_account_annotations},
        "authDelegator": {"enabled": False},  # the component has its own binding
        "extraLabels": _pod_labels(args),
        "extraEnvironmentVars": {"VAULT_CACERT": _CA_FILE},  # for a person's commands in the pod
        "dataStorage": {
            "enabled": True,
            "size": args.storage_size,
            "storageClass": args.storage_class,
        },
        # The audit device writes to standard output.
        "auditStorage": {"enabled": False},
        "readinessProbe": {"enabled": True, "path": "/v1/sys/health?standbyok=true", "port": 8200},
        # Without the codes a sealed pod would be restarted before anything could unseal it.
        "livenessProbe": {
            "enabled": True,
            "path": "/v1/sys/health?standbyok=true&sealedcode=204&uninitcode=204",
            "port": 8200,
        },
        "statefulSet": {
            "securityContext": {
                "pod": {**pod_security(_USER, _GROUP), "fsGroupChangePolicy": "OnRootMismatch"},
                "container": CONTAINER_SECURITY,
            }
        },
        # The start script copies its configuration to /tmp, and the root file system is read-only.
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "tls", "secret": {"secretName": f"{release}-tls", "defaultMode": 0o440}},
        ],
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of the pod
            {"name": "tls", "mountPath": _TLS_FOLDER, "readOnly": True},
        ],
        "affinity": "",
    }
    if args.key_service is None:
        server["extraContainers"] = [_sidecar(release, args)]
    elif args.key_service.token is not None:
        server["extraSecretEnvironmentVars"] = [
            {"envName": "VAULT_TOKEN", "secretName": f"{release}-seal", "secretKey": "token"}
        ]
    configuration = json.dumps(server_configuration(release, args))
    # Redirects and raft name a server by the host that its certificate names too. The variable is
    # the chart's, defined before the one that uses it.
    own = f"https://$(VAULT_K8S_POD_NAME).{release}-internal:8200"
    if args.mode == "standalone":
        server["standalone"] = {"enabled": True, "config": configuration}
        server["ha"] = {"apiAddr": own}
    else:
        server["topologySpreadConstraints"] = [
            spread({**VAULT_SERVER.labels, "app.kubernetes.io/instance": release})
        ]
        server["ha"] = {
            "enabled": True,
            "replicas": args.replicas,
            "apiAddr": own,
            "raft": {"enabled": True, "setNodeId": True, "config": configuration},
        }
    return {
        "fullnameOverride": release,
        "global": {"tlsDisable": False},
        "injector": {"enabled": False},
        "csi": {"enabled": False},
        "server": server,
    }


def _pod_labels(args: VaultArgs) -> dict[str, str]:
    labels = dict(args.pod_labels)
    if args.key_service is not None and args.key_service.type == "azurekeyvault":
        # https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html
        labels["azure.workload.identity/use"] = "true"
    return labels


def _sidecar(release: str, args: VaultArgs) -> dict[str, Any]:
    """Unseals the server of its own pod, after every start; it retries by itself, for ever."""
    environment = bank_vaults(args, release, "https://127.0.0.1:8200", "/run/tls/ca.crt")
    return {
        "name": "unseal",
        "image": args.bank_vaults_image,
        "args": ["unseal"],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        # Of the Secret only this: the server's key is the server's.
        "volumeMounts": [
            {"name": "tls", "mountPath": "/run/tls/ca.crt", "subPath": "ca.crt", "readOnly": True}
        ],
        "securityContext": CONTAINER_SECURITY,
        "resources": _small(),
    }


def server_configuration(release: str, args: VaultArgs) -> dict[str, Any]:
    """Vault's own configuration: https://developer.hashicorp.com/vault/docs/configuration"""
    configuration: dict[str, Any] = {
        "ui": True,
        "disable_mlock": True,  # needs a capability that Pod Security `restricted` forbids
        "listener": {
            "tcp": {
                "address": "[::]:8200",
                "cluster_address": "[::]:8201",
                "tls_cert_file": f"{_TLS_FOLDER}/tls.crt",
                "tls_key_file": f"{_TLS_FOLDER}/tls.key",
                "tls_min_version": "tls12",
            }
        },
        "storage": {"file": {"path": "/vault/data"}},
    }
    if args.metrics:
        # Otherwise sys/metrics asks for a token. The network policies let only Prometheus come.
        listener = configuration["listener"]["tcp"]
        listener["telemetry"] = {"unauthenticated_metrics_access": True}
        configuration["telemetry"] = {"prometheus_retention_time": "1h", "disable_hostname": True}
    if args.mode == "ha":
        join = [
            {
                "leader_api_addr": f"https://{release}-{number}.{release}-internal:8200",
                "leader_ca_cert_file": _CA_FILE,
            }
            for number in range(args.replicas)
        ]
        configuration["storage"] = {"raft": {"path": "/vault/data", "retry_join": join}}
        configuration["service_registration"] = {"kubernetes": {}}  # labels the active pod
    if args.key_service is not None:
        configuration["seal"] = {args.key_service.type: dict(args.key_service.parameters)}
    return configuration


_CHANGE = ("create", "read", "update", "delete")


def _policy(paths: Mapping[str, Sequence[str]]) -> str:
    rules = {path: {"capabilities": list(capabilities)} for path, capabilities in paths.items()}
    return json.dumps({"path": rules}, indent=2)


def program_policy(args: VaultArgs) -> str:
    """What this program may do: its store, its kubernetes auth, the policies of consumers.

    Not its own policy or login, no other mount, no seal, no token. Whoever writes policies can give
    a consumer more than this: docs/security.md says what follows.
    """
    mount, auth, login = args.mount, args.auth_path, args.login
    return _policy(
        {
            "sys/mounts": ["read"],
            f"sys/mounts/{mount}": _CHANGE,
            f"sys/mounts/{mount}/tune": ["read", "update"],
            "sys/auth": ["read"],
            f"sys/auth/{auth}": [*_CHANGE, "sudo"],
            f"sys/auth/{auth}/tune": ["read", "update", "sudo"],
            f"sys/mounts/auth/{auth}": ["read"],
            f"sys/mounts/auth/{auth}/tune": ["read", "update"],
            "sys/audit": ["read", "sudo"],
            "sys/audit/stdout": [*_CHANGE, "sudo"],
            "sys/policies/acl/*": [*_CHANGE, "list"],
            f"sys/policies/acl/{login}": ["read"],
            f"auth/{auth}/config": _CHANGE,
            f"auth/{auth}/role/*": [*_CHANGE, "list"],
            f"auth/{login}/role/{login}": ["read"],
            f"{mount}/config": ["read", "update"],
            f"{mount}/data/*": [*_CHANGE, "patch"],
            f"{mount}/metadata/*": [*_CHANGE, "list"],
        }
    )


def viewer_policy(args: VaultArgs) -> str:
    """For a person who looks: what exists, who may read it, how the servers are; no value."""
    return _policy(_viewer_paths(args))


def operator_policy(args: VaultArgs) -> str:
    """For a person who operates: raft, leases, step-down, seal, key rotation; no value.

    A raft snapshot holds every value, encrypted with a key that only the unseal keys open.
    """
    return _policy(
        {
            **_viewer_paths(args),
            "sys/step-down": ["update", "sudo"],
            "sys/seal": ["update", "sudo"],
            "sys/rotate": ["update", "sudo"],
            "sys/leases/*": ["read", "list", "update", "sudo"],
            "sys/storage/raft/*": ["read", "list", "create", "update"],
            "sys/audit": ["read", "sudo"],
            f"{args.mount}/delete/*": ["update"],
            f"{args.mount}/undelete/*": ["update"],
        }
    )


def _viewer_paths(args: VaultArgs) -> dict[str, Sequence[str]]:
    return {
        "sys/health": ["read"],
        "sys/mounts": ["read"],
        "sys/auth": ["read"],
        "sys/policies/acl": ["read", "list"],
        "sys/policies/acl/*": ["read"],
        "sys/metrics": ["read"],
        "sys/internal/counters/*": ["read"],
        "sys/storage/raft/configuration": ["read"],
        f"auth/{args.auth_path}/config": ["read"],
        f"auth/{args.auth_path}/role": ["list"],
        f"auth/{args.auth_path}/role/*": ["read", "list"],
        f"{args.mount}/metadata/*": ["read", "list"],
    }

"""What an environment may set: the keys of `Pulumi.<stack>.yaml`, typed, with their units, defaults and limits.

`load()` is called before the first resource is registered. Pulumi.schema.json and docs/configuration.md are made from these models
(`make schema`), so an editor, the reference and the program can't disagree. The types: setting_types.py. How values get here and
what is said of wrong ones: configuration.py.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pulumi.runtime import config as runtime_config
from pydantic import BeforeValidator, Field, SecretStr, model_validator

from . import pins
from .configuration import SettingsError, opened, validate
from .images import ImageReference
from .setting_types import Cidr, Cron, DiskSize, Host, Image, Model, Name, Port, Quantity, Rotation


class Volume(Model):
    """A persistent volume."""

    size: DiskSize = Field(
        default="1Gi", description="Requested size, with a binary unit: 500Mi, 10Gi."
    )
    storage_class: str | None = Field(
        default=None,
        min_length=1,
        description="Storage class; the cluster's default when left out.",
    )


class Resources(Model):
    """Requests and the memory limit of one container. There is no CPU limit: it throttles without protecting anyone."""

    cpu: Quantity = Field(default="50m", description="CPU request.")
    memory: Quantity = Field(default="64Mi", description="Memory request.")
    memory_limit: Quantity = Field(default="256Mi", description="Memory limit.")


class Chart(Model):
    """Where a Helm chart comes from."""

    repository: str = Field(
        pattern=r"^((https?|oci)://|\.{0,2}/)\S+$",
        description="Repository URL, the chart's own oci:// reference, or the path of a folder or "
        ".tgz that begins with ./, ../ or /.",
    )
    version: str = Field(pattern=r"^v?\d+\.\d+\.\d+\S*$", description="Chart version.")


class Charts(Model):
    """The sources of the charts, for mirrors and air gaps. What is left out stays pinned."""

    vault: Chart = Chart(repository=pins.VAULT_REPOSITORY, version=pins.VAULT_CHART)
    external_secrets: Chart = Chart(
        repository=pins.EXTERNAL_SECRETS_REPOSITORY, version=pins.EXTERNAL_SECRETS_CHART
    )
    pgo: Chart = Chart(repository=pins.PGO_REPOSITORY, version=pins.PGO_CHART)
    redis_operator: Chart = Chart(
        repository=pins.REDIS_OPERATOR_REPOSITORY, version=pins.REDIS_OPERATOR_CHART
    )

    @model_validator(mode="before")
    @classmethod
    def _keep_the_rest_pinned(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        merged = dict(cast("dict[str, Any]", value))
        for name, field in cls.model_fields.items():
            key = field.alias or name
            if isinstance(merged.get(key), dict):
                merged[key] = {
                    **cast("Chart", field.default).model_dump(by_alias=True),
                    **merged[key],
                }
        return merged


class Images(Model):
    """The images. PostgreSQL's, pgBackRest's and PGO's come with the PGO chart and need naming only to change them."""

    registry: str | None = Field(
        default=None,
        pattern=r"^[^\s/]+(/[^\s/]+)*$",
        description="A mirror that takes the place of the registry host of every image below.",
    )
    shlink: Image = pins.SHLINK_IMAGE
    vault: Image = pins.VAULT_IMAGE
    bank_vaults: Image = pins.BANK_VAULTS_IMAGE
    external_secrets: Image = pins.EXTERNAL_SECRETS_IMAGE
    redis: Image = pins.REDIS_IMAGE
    redis_exporter: Image = pins.REDIS_EXPORTER_IMAGE
    redis_operator: Image = pins.REDIS_OPERATOR_IMAGE
    pgo: Image | None = None
    postgres: Image | None = None
    pgbackrest: Image | None = None

    @model_validator(mode="before")
    @classmethod
    def _mirror(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        given = cast("dict[str, Any]", value)
        registry = given.get("registry")
        if not isinstance(registry, str):
            return given
        pinned = {
            field.alias or name: field.default
            for name, field in cls.model_fields.items()
            if isinstance(field.default, str)
        }
        return {
            **{key: str(ImageReference.parse(image).at(registry)) for key, image in pinned.items()},
            **given,
        }


class Operator(Model):
    """One operator: installed by this program, or there already."""

    install: bool = Field(
        default=True,
        description="False: the cluster has it already, and it watches this environment's namespaces.",
    )
    namespace: Name | None = Field(
        default=None,
        description="Where it runs when it is not installed here, for the NetworkPolicies.",
    )
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.install == (self.namespace is not None):
            raise ValueError(
                "`namespace` is needed when `install` is false, and is fixed when it is true"
            )
        return self


class Operators(Model):
    """The operators that the custom resources need."""

    external_secrets: Operator = Operator()
    pgo: Operator = Operator(resources=Resources(memory="128Mi", memory_limit="512Mi"))
    redis_operator: Operator = Operator()


class AwsKms(Model):
    """Auto-unseal with AWS KMS."""

    type: Literal["awskms"]
    region: str
    kms_key_id: str
    endpoint: str | None = None


class GcpCkms(Model):
    """Auto-unseal with Google Cloud KMS."""

    type: Literal["gcpckms"]
    project: str
    region: str
    key_ring: str
    crypto_key: str


class AzureKeyVault(Model):
    """Auto-unseal with Azure Key Vault."""

    type: Literal["azurekeyvault"]
    tenant_id: str
    vault_name: str
    key_name: str


class Transit(Model):
    """Auto-unseal with the transit engine of another Vault."""

    type: Literal["transit"]
    address: str = Field(pattern=r"^https?://\S+$")
    key_name: str
    mount_path: str = "transit/"
    token: SecretStr


Seal = Annotated[AwsKms | GcpCkms | AzureKeyVault | Transit, Field(discriminator="type")]


class AuthLogin(Model):
    """A login that the Vault provider makes instead of using the root token, e.g. `auth/jwt/login`."""

    path: str = Field(pattern=r"^auth/\S+$")
    method: str | None = None
    parameters: dict[str, SecretStr] = Field(default={}, description="What the login needs.")


class VaultSettings(Model):
    """Vault: one server on file storage, or a raft cluster with a key service."""

    mode: Literal["standalone", "ha"] = Field(
        default="standalone", description="One server on a file volume, or a raft cluster."
    )
    replicas: Literal[3, 5, 7] = Field(
        default=3,
        description="Raft voters in `ha`; an even number, or two, loses quorum with one pod.",
    )
    storage: Volume = Volume()
    resources: Resources = Resources(cpu="100m", memory="128Mi", memory_limit="512Mi")
    seal: Seal | None = Field(
        default=None,
        description="Key service for auto-unseal. Without one, the unseal keys are in a Kubernetes Secret.",
    )
    service_account_annotations: dict[str, str] = Field(
        default={}, description="Workload identity for the key service."
    )
    address: str | None = Field(
        default=None,
        pattern=r"^https?://\S+$",
        description="Direct address from where Pulumi runs; no forward then.",
    )
    local_port: Port | None = Field(
        default=None,
        description="Local port of the forward; derived from project and stack when left out.",
    )
    token: SecretStr | None = Field(
        default=None, description="A limited token for day-to-day runs in place of the root token."
    )
    auth_login: AuthLogin | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.mode == "ha" and self.seal is None:
            raise ValueError(
                "mode 'ha' needs `seal`: every pod must unseal by itself; allowed: awskms, gcpckms, azurekeyvault, transit"
            )
        if self.mode == "standalone" and "replicas" in self.model_fields_set:
            raise ValueError("`replicas` belongs to mode 'ha'; file storage has exactly one server")
        if self.token is not None and self.auth_login is not None:
            raise ValueError("set `token` or `authLogin`, not both")
        return self


class Backups(Model):
    """pgBackRest: full and differential backups, and how many are kept."""

    full: Cron = Field(default="0 1 * * 0", description="Schedule of full backups (cron, UTC).")
    differential: Cron = Field(
        default="0 1 * * 1-6", description="Schedule of differential backups (cron, UTC)."
    )
    retention_full: int = Field(
        default=2,
        ge=1,
        description="Full backups kept; older ones expire with their differentials and WAL.",
    )
    storage: Volume = Volume()
    s3: "S3 | None" = Field(
        default=None,
        description="An object store instead of the volume, so that backups outlive the cluster.",
    )


class S3(Model):
    """A bucket for pgBackRest."""

    bucket: str
    endpoint: str
    region: str
    key: SecretStr
    key_secret: SecretStr


class PostgresSettings(Model):
    """The PostgresCluster."""

    version: Literal[15, 16, 17, 18] = Field(default=16, description="PostgreSQL's major version.")
    instances: int = Field(
        default=1, ge=1, le=9, description="Pods: one primary, the others replicas."
    )
    storage: Volume = Volume()
    resources: Resources = Resources(cpu="100m", memory="256Mi", memory_limit="512Mi")
    max_connections: int = Field(
        default=100,
        ge=30,
        le=5000,
        description="PostgreSQL's max_connections; checked against Shlink's workers.",
    )
    backups: Backups = Backups()
    monitoring: bool = Field(default=False, description="pgMonitor's exporter on port 9187.")
    address: Host | None = Field(
        default=None,
        description="Direct address (host:port) from where Pulumi runs; no forward then.",
    )
    local_port: Port | None = Field(
        default=None,
        description="Local port of the forward; derived from project and stack when left out.",
    )


class FailoverRedis(Model):
    """Redis and Sentinel, run by redis-operator."""

    mode: Literal["failover"] = "failover"
    replicas: int = Field(default=3, ge=3, le=9, description="Redis pods.")
    sentinels: int = Field(
        default=3,
        ge=3,
        le=9,
        description="Sentinel pods, an odd number: two of three agree on a failover.",
    )
    storage: Volume = Volume()
    resources: Resources = Resources()
    sentinel_resources: Resources = Resources(memory="32Mi", memory_limit="128Mi")

    @model_validator(mode="after")
    def _odd(self) -> Self:
        if self.sentinels % 2 == 0:
            raise ValueError(
                f"sentinels: {self.sentinels} is even, so a split has no majority; allowed: 3, 5, 7, 9"
            )
        return self


class ExternalRedis(Model):
    """A managed Redis elsewhere: one server, or a Redis Cluster's nodes."""

    mode: Literal["external"]
    servers: list[Annotated[str, Field(pattern=r"^(tcp|tls|redis|rediss)://[^\s@,]+$")]] = Field(
        min_length=1,
        description="scheme://host:port of the server; several are the nodes of a Redis Cluster.",
    )
    cidr: Cidr = Field(
        default="0.0.0.0/0", description="Where the servers are, for the NetworkPolicy."
    )
    password: SecretStr | None = Field(
        default=None, description="Part of the URL that Shlink gets; never in `servers`."
    )

    @property
    def ports(self) -> list[int]:
        """The ports in `servers`; Redis' own where none is given."""
        return sorted({urlsplit(server).port or 6379 for server in self.servers})


class NoRedis(Model):
    """No Redis (the guide's "start simple"). Lost: locks and caches shared by the replicas, and the pub/sub of real-time updates."""

    mode: Literal["none"]


def _failover_unless_said(value: Any) -> Any:
    return (
        {"mode": "failover", **cast("dict[str, Any]", value)} if isinstance(value, dict) else value
    )


RedisSettings = Annotated[
    FailoverRedis | ExternalRedis | NoRedis,
    Field(discriminator="mode"),
    BeforeValidator(_failover_unless_said),
]


class Ingress(Model):
    """An Ingress for Shlink."""

    type: Literal["ingress"]
    class_name: str
    tls_secret: str | None = Field(default=None, description="TLS Secret in namespace `shlink`.")
    annotations: dict[str, str] = Field(default={}, description="Of the Ingress.")
    controller_namespace: Name = Field(
        description="Namespace of the ingress controller, for the NetworkPolicy."
    )


class GatewayRoute(Model):
    """An HTTPRoute for Shlink."""

    type: Literal["gateway"]
    name: str = Field(description="Gateway.")
    namespace: str = Field(description="Namespace of the Gateway, for the parentRef.")
    section_name: str | None = Field(default=None, description="Listener.")
    controller_namespace: Name = Field(
        description="Namespace of the gateway's proxies, for the NetworkPolicy."
    )


class ShlinkSettings(Model):
    """Shlink."""

    domain: Host = Field(default="localhost:8080", description="Default domain of short URLs.")
    https: bool = Field(default=False, description="Whether short URLs begin with https.")
    base_path: str | None = Field(
        default=None, pattern=r"^/\S*[^/\s]$", description="Path prefix, e.g. /s."
    )
    replicas: int = Field(
        default=3, ge=0, le=50, description="Pods. 0 stops Shlink, as a restore needs it."
    )
    web_workers: int = Field(
        default=4,
        ge=1,
        le=64,
        description="RoadRunner's web workers a pod; each may hold a database connection.",
    )
    task_workers: int = Field(
        default=2, ge=1, le=64, description="RoadRunner's task workers a pod; likewise."
    )
    memory_limit: str = Field(
        default="256M", pattern=r"^\d+M$", description="PHP's memory limit of one worker."
    )
    resources: Resources = Resources(cpu="100m", memory="256Mi", memory_limit="512Mi")
    timezone: str = Field(default="UTC", pattern=r"^[A-Za-z_]+(/[A-Za-z0-9_+-]+)*$")
    logs_format: Literal["console", "json"] = "json"
    verbosity: Literal[0, 1, 2, 3] = Field(
        default=0, description="The console's SHELL_VERBOSITY, for the server only."
    )
    geolite_license_key: SecretStr | None = Field(
        default=None, description="MaxMind licence for visit locations; opens egress on 443."
    )
    resolve_titles: bool = Field(
        default=False, description="Fetch the title of each long URL: opens egress on 80 and 443."
    )
    trusted_proxies: list[Cidr] = Field(
        default=[], description="Proxies whose X-Forwarded-For is believed."
    )
    environment: dict[
        Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], Annotated[str, Field(min_length=1)]
    ] = Field(
        default={},
        description="More of Shlink's variables. An empty value counts as set in Shlink, so it is refused here.",
    )
    secret_environment: dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], SecretStr] = (
        Field(
            default={},
            description="Shlink's variables whose values are secret, delivered through Vault.",
        )
    )
    pub_sub: bool = Field(
        default=False,
        description="Publish each visit to Redis, for programs of yours that subscribe there. "
        "Dear on busy links: each redirect then counts all visits of its link.",
    )
    route: Annotated[Ingress | GatewayRoute, Field(discriminator="type")] | None = Field(
        default=None, description="How it is reached from outside."
    )


class Network(Model):
    """NetworkPolicies."""

    api_server: list[Cidr] = Field(
        default=["0.0.0.0/0"], description="Where the API server answers; no label selects it."
    )
    api_server_ports: list[Annotated[int, Field(ge=1, le=65535)]] = Field(
        default=[443, 6443], description="Its ports: the Service's and the server's own."
    )
    dns_namespace: Name = Field(default="kube-system", description="Where the cluster's DNS runs.")
    monitoring_namespace: Name | None = Field(
        default=None, description="Namespace of Prometheus; its pods may reach the exporters."
    )


class RotationSettings(Model):
    """Raise a number and that password is made anew and reaches whoever uses it. See docs/operations.md."""

    database: Rotation = Field(default=1, description="The password of `shlink` in PostgreSQL.")
    api_key: Rotation = Field(
        default=1,
        description="Shlink's API key. The key before it stays valid until the next rotation.",
    )
    superuser: Rotation = Field(default=1, description="The password of `postgres` in PostgreSQL.")
    redis: Rotation = Field(default=1, description="Redis' password.")


class Settings(Model):
    """Everything under `shlink:`."""

    protect: bool = Field(
        default=False,
        description="Refuse to delete what holds data: namespaces, Vault, the PostgresCluster, the RedisFailover.",
    )
    shlink: ShlinkSettings = Field(default=ShlinkSettings(), alias="app")
    postgres: PostgresSettings = PostgresSettings()
    redis: RedisSettings = FailoverRedis()
    vault: VaultSettings = VaultSettings()
    operators: Operators = Operators()
    rotation: RotationSettings = RotationSettings()
    network: Network = Network()
    charts: Charts = Charts()
    images: Images = Images()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        version = shlink_version(self.images.shlink)
        if self.redis.mode == "failover" and version < (4, 6, 0):
            raise ValueError(
                f"images.shlink: {self.images.shlink} can't give Redis a password through Sentinel; "
                "allowed with redis.mode 'failover': 4.6.0 or newer (or redis.mode: external, none)"
            )
        # One pod more than `replicas` while a rollout is under way; the migration Job; PGO's own, replication and the superuser's reserve.
        needed = (
            (self.shlink.replicas + 1) * (self.shlink.web_workers + self.shlink.task_workers)
            + 1
            + 15
        )
        if needed > self.postgres.max_connections:
            raise ValueError(
                f"postgres.maxConnections: {self.postgres.max_connections} is less than what {self.shlink.replicas} replicas with "
                f"{self.shlink.web_workers} web and {self.shlink.task_workers} task workers can hold during a rollout; "
                f"allowed: {needed} or more (or fewer app.replicas, app.webWorkers, app.taskWorkers)"
            )
        return self

    @property
    def versions(self) -> dict[str, str]:
        """What is deployed, by product; where a chart brings the image, the chart's version."""
        images, charts, operators = self.images, self.charts, self.operators
        deployed = {
            "shlink": images.shlink,
            "vault": images.vault,
            "bank_vaults": images.bank_vaults,
            "postgresql": images.postgres or str(self.postgres.version),
        }
        if self.redis.mode == "failover":
            deployed["redis"] = images.redis
        installed = {
            "vault": charts.vault,
            "external_secrets": charts.external_secrets
            if operators.external_secrets.install
            else None,
            "pgo": charts.pgo if operators.pgo.install else None,
            "redis_operator": charts.redis_operator
            if operators.redis_operator.install and self.redis.mode == "failover"
            else None,
        }
        return deployed | {
            f"{name}_chart": chart.version for name, chart in installed.items() if chart
        }


class Cluster(Model):
    """The one cluster of this stack: `kubernetes:context` and, where needed, `kubernetes:kubeconfig`."""

    context: str = Field(
        min_length=1, description="Context in the kubeconfig. Never the ambient one."
    )
    kubeconfig: str | None = Field(
        default=None,
        min_length=1,
        description="Path or contents; $KUBECONFIG, then ~/.kube/config when left out.",
    )
    cluster_identifier: str | None = Field(
        default=None,
        min_length=1,
        description="Keep it when a context is renamed: a new identifier means a new cluster, and everything is replaced.",
    )

    @property
    def identifier(self) -> str:
        return self.cluster_identifier or self.context


def shlink_version(image: str) -> tuple[int, int, int]:
    """The version in the tag of Shlink's image; a bare digest counts as new enough."""
    match = re.search(r":v?(\d+)\.(\d+)\.(\d+)", image)
    return cast("tuple[int, int, int]", tuple(map(int, match.groups()))) if match else (4, 6, 0)


def load() -> tuple[Cluster, Settings]:
    """The configuration of the running stack.

    Raises:
        SettingsError: it can't be used. Every fault is in the one message.

    """
    values = runtime_config.CONFIG.get() or runtime_config.get_config_env()
    return parse(
        values, secret_keys=frozenset(key for key in values if runtime_config.is_config_secret(key))
    )


def parse(
    values: Mapping[str, Any], secret_keys: frozenset[str] = frozenset()
) -> tuple[Cluster, Settings]:
    """Validate configuration as Pulumi hands it over: full keys, objects as JSON text. Raises SettingsError."""
    groups: dict[str, dict[str, Any]] = {"kubernetes": {}, "shlink": {}}
    faults: list[str] = []
    for key, value in values.items():
        group, _, name = key.partition(":")
        if group in groups:
            groups[group][name] = opened(value)
        elif group in ("vault", "postgresql", "random", "tls"):
            faults.append(
                f"{key}: has no effect, its provider is configured by this program; see `shlink:{group}`"
            )
    if "context" not in groups["kubernetes"]:
        faults.append(
            "kubernetes:context: is missing; name the context of this stack's cluster (kubectl config get-contexts), "
            "so that no run can reach another one: pulumi config set kubernetes:context NAME"
        )
        groups["kubernetes"]["context"] = "missing"
    cluster = validate(Cluster, "kubernetes", groups["kubernetes"], secret_keys, faults)
    settings = validate(Settings, "shlink", groups["shlink"], secret_keys, faults)
    if faults or cluster is None or settings is None:
        raise SettingsError(
            "this stack's configuration can't be used:\n"
            + "\n".join(f"  {fault}" for fault in faults)
        )
    return cluster, settings

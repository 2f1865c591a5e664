"""The settings of an environment: keys of `Pulumi.<stack>.yaml`, units, defaults and limits.

`load()` is called before the first resource is registered. `make schema` writes Pulumi.schema.json
and docs/configuration.md from these models, so an editor, the reference and the program agree.
setting_types.py has the types. configuration.py reads the values and explains wrong ones.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from . import configuration, pins, ports
from .backup_settings import (
    VOLUME,
    Certificates,
    InPlaceRestore,
    RepositoryName,
    Restore,
    Store,
)
from .configuration import SettingsError
from .images import ImageReference
from .people_settings import People
from .placement_settings import PlacementSettings, PullCredentials
from .setting_types import (
    EXPECTED,
    AnnotationName,
    AnnotationText,
    ChartRepository,
    ChartVersion,
    Cidr,
    Cpu,
    Cron,
    DiskSize,
    Host,
    Image,
    LabelText,
    Listeners,
    Memory,
    Model,
    Name,
    Names,
    ObjectName,
    ParameterName,
    ParameterText,
    PathPrefix,
    PhpMemory,
    Port,
    RedisUrl,
    Region,
    Registry,
    RemotePort,
    RestHost,
    Rotation,
    RouteHost,
    Secret,
    Text,
    Timezone,
    Url,
    amount,
)
from .shlink_variables import EnvironmentText, ShlinkVariable

__all__ = ["Cluster", "Settings", "SettingsError", "load", "parse", "shlink_version"]


class Volume(Model):
    """A persistent volume."""

    size: DiskSize = Field(
        default="1Gi", description="Requested size, with a binary unit: 500Mi, 10Gi."
    )
    storage_class: ObjectName | None = Field(
        default=None,
        description="Storage class; the cluster's default when left out.",
    )


class Resources(Model):
    """Requests and the memory limit of one container.

    There is no CPU limit: it throttles without protecting anyone.
    """

    cpu: Cpu = Field(default="50m", description="CPU request, in processors or thousandths (m).")
    memory: Memory = Field(default="64Mi", description="Memory request.")
    memory_limit: Memory = Field(
        default="256Mi",
        description="Memory limit; not below the request. A container that needs more is killed.",
    )

    @model_validator(mode="after")
    def _limit_is_not_below(self) -> Self:
        if amount(self.memory_limit) < amount(self.memory):
            raise ValueError(
                f"memoryLimit: {self.memory_limit} is less than the request "
                f"`memory` of {self.memory}; allowed: the request or more"
            )
        return self


class Chart(Model):
    """Where a Helm chart comes from."""

    repository: ChartRepository = Field(
        description="Repository URL, the chart's own oci:// reference, or the path of a folder or "
        ".tgz that begins with ./, ../ or /.",
    )
    version: ChartVersion = Field(description="Chart version.")


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
    redis_operator_fork: Chart = Chart(
        repository=pins.REDIS_OPERATOR_FORK_REPOSITORY, version=pins.REDIS_OPERATOR_FORK_CHART
    )

    @model_validator(mode="after")
    def _installable(self) -> Self:
        chart = self.redis_operator
        if "spotahome" in chart.repository and chart.version.lstrip("v") == "3.3.0":
            raise ValueError(
                "redisOperator.version: 3.3.0 can't be installed, it has a template inside crds/; "
                f"allowed: {pins.REDIS_OPERATOR_CHART}, or the maintained fork (docs/upgrades.md)"
            )
        return self


class Images(Model):
    """The images.

    The PGO chart brings those of PostgreSQL, pgBackRest and PGO: name them only to change them.
    """

    registry: Registry | None = Field(
        default=None,
        description="A mirror that takes the place of the registry host of every image that this "
        "program, its charts and PGO name.",
    )
    pull_credentials: list[PullCredentials] = Field(
        default=[],
        description="Logins for pulling images. The program puts them into a Secret of each of its "
        "namespaces, and every pod names it.",
    )
    shlink: Image = pins.SHLINK_IMAGE
    web_client: Image = pins.WEB_CLIENT_IMAGE
    vault: Image = pins.VAULT_IMAGE
    bank_vaults: Image = pins.BANK_VAULTS_IMAGE
    external_secrets: Image = pins.EXTERNAL_SECRETS_IMAGE
    redis: Image = pins.REDIS_IMAGE
    redis_exporter: Image = pins.REDIS_EXPORTER_IMAGE
    redis_operator: Image = pins.REDIS_OPERATOR_IMAGE
    redis_operator_fork: Image = pins.REDIS_OPERATOR_FORK_IMAGE
    pgo: Image | None = None
    postgres: Image | None = None
    pgbackrest: Image | None = None
    pgbouncer: Image | None = None
    postgres_exporter: Image | None = None

    @model_validator(mode="after")
    def _one_login_each(self) -> Self:
        registries = [login.registry for login in self.pull_credentials]
        for registry in registries:
            if registries.count(registry) > 1:
                raise ValueError(
                    f"pullCredentials: {registry} is there twice; "
                    "allowed: one login for each registry"
                )
        return self

    @model_validator(mode="before")
    @classmethod
    def _mirror(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        images = cast("dict[str, Any]", value)
        registry = images.get("registry")
        if not isinstance(registry, str):
            return images
        # A wrong registry is one fault of its own, not one of each image.
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.:/_-]*", registry):
            return images
        mirrored: dict[str, Any] = {}
        for name, field in cls.model_fields.items():
            if isinstance(field.default, str):
                image = ImageReference.parse(field.default).at(registry)
                mirrored[field.alias or name] = str(image)
        return mirrored | images


class Operator(Model):
    """One operator: installed by this program, or there already."""

    install: bool = Field(
        default=True,
        description="False: the cluster has it already, and it watches this environment's "
        "namespaces.",
    )
    namespace: Name | None = Field(
        default=None,
        description="Where it runs when it is not installed here, for the NetworkPolicies.",
    )
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.install and self.namespace is not None:
            raise ValueError(
                "namespace: is fixed while `install` is true; leave it out, or set install: false"
            )
        if not self.install and self.namespace is None:
            raise ValueError(
                "namespace: is missing; with install: false it says where the operator runs"
            )
        return self


class RedisOperatorSettings(Operator):
    """redis-operator: the archived project, or its maintained fork."""

    distribution: Literal["spotahome", "freshworks"] = Field(
        default="spotahome",
        description="spotahome: archived in June 2026, the last stable release. freshworks: the "
        "maintained fork with the same API group. Changing it restarts the Redis pods one by one.",
    )
    group: Name = Field(
        default="shlink",
        description="Operator group of the fork: it looks after RedisFailovers with this label "
        "only.",
    )


class Operators(Model):
    """The operators that the custom resources need."""

    external_secrets: Operator = Operator()
    pgo: Operator = Operator(resources=Resources(memory="128Mi", memory_limit="512Mi"))
    redis_operator: RedisOperatorSettings = RedisOperatorSettings()


class AwsKms(Model):
    """Auto-unseal with AWS KMS."""

    type: Literal["awskms"]
    region: Region = Field(description="AWS region of the key.")
    kms_key_id: Text = Field(description="Id, ARN or alias of the key.")
    endpoint: Url | None = Field(
        default=None, description="Another address of KMS, such as a VPC endpoint."
    )

    @property
    def port(self) -> int:
        """The port that Vault's policy must leave open."""
        return _port(self.endpoint) if self.endpoint else ports.HTTPS


class GcpCkms(Model):
    """Auto-unseal with Google Cloud KMS."""

    type: Literal["gcpckms"]
    project: Text = Field(description="Google Cloud project of the key ring.")
    region: Region = Field(description="Location of the key ring.")
    key_ring: Text = Field(description="Name of the key ring.")
    crypto_key: Text = Field(description="Name of the key.")

    @property
    def port(self) -> int:
        """The port that Vault's policy must leave open."""
        return ports.HTTPS


class AzureKeyVault(Model):
    """Auto-unseal with Azure Key Vault."""

    type: Literal["azurekeyvault"]
    tenant_id: Text = Field(description="Entra tenant of the key vault.")
    vault_name: Text = Field(description="Name of the key vault.")
    key_name: Text = Field(description="Name of the key.")

    @property
    def port(self) -> int:
        """The port that Vault's policy must leave open."""
        return ports.HTTPS


class Transit(Model):
    """Auto-unseal with the transit engine of another Vault."""

    type: Literal["transit"]
    address: Url = Field(description="The other Vault.")
    key_name: Text = Field(description="Name of the transit key.")
    mount_path: Text = Field(default="transit/", description="Where the engine is mounted there.")
    token: Secret = Field(description="Token that may use the key.")
    ca: Certificates = Field(
        default=None,
        description="The authority of its certificate as PEM text, when it is private.",
    )

    @model_validator(mode="after")
    def _encrypted(self) -> Self:
        if not self.address.startswith("https://"):
            raise ValueError(
                f"address: {self.address!r} is not encrypted, and the token and the keys of this "
                "Vault go there; allowed: https://host:port"
            )
        return self

    @property
    def port(self) -> int:
        """The port that Vault's policy must leave open."""
        return _port(self.address)


def _port(url: str) -> int:
    parts = urlsplit(url)
    if parts.port:
        return parts.port
    return ports.HTTPS if parts.scheme == "https" else ports.HTTP


Seal = Annotated[AwsKms | GcpCkms | AzureKeyVault | Transit, Field(discriminator="type")]


class AuthLogin(Model):
    """A login of the Vault provider in place of the program's own, e.g. `auth/jwt/login`."""

    path: str = Field(
        pattern=r"^auth/[A-Za-z0-9._/-]+$",
        json_schema_extra={EXPECTED: "the login's path, such as auth/jwt/login"},
        description="The login's path in Vault.",
    )
    method: Text | None = Field(
        default=None, description="The provider's own method for it, where it has one."
    )
    parameters: dict[Text, Secret] = Field(default={}, description="What the login needs.")


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
        description="Key service for auto-unseal. Without one, the unseal keys are in a "
        "Kubernetes Secret.",
    )
    service_account_annotations: dict[AnnotationName, AnnotationText] = Field(
        default={}, description="Workload identity for the key service."
    )
    address: Url | None = Field(
        default=None,
        description="Direct https:// address from where Pulumi runs; no forward then. The "
        "certificate is checked against this environment's authority.",
    )
    local_port: Port | None = Field(
        default=None,
        description="Local port of the forward; derived from project and stack when left out.",
    )
    token: Secret | None = Field(
        default=None,
        description="A token that the program uses in place of its own login. Never a root token: "
        "every update that sets the login up revokes those.",
    )
    auth_login: AuthLogin | None = Field(
        default=None, description="A login that the program uses in place of its own."
    )
    people: People | None = Field(
        default=None,
        description="How people log in to Vault, as somebody who looks or who operates; without it "
        "nobody does.",
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.mode == "ha" and self.seal is None:
            raise ValueError(
                "seal: is missing; in mode ha every server must unseal by itself; "
                "allowed: awskms, gcpckms, azurekeyvault, transit"
            )
        if self.mode == "standalone" and "replicas" in self.model_fields_set:
            raise ValueError(
                "replicas: belongs to mode ha; file storage has exactly one server. "
                "Remove it, or set mode: ha"
            )
        if self.address is not None and not self.address.startswith("https://"):
            raise ValueError(
                f"address: {self.address!r} is not encrypted; allowed: https://host:port"
            )
        if self.token is not None and self.auth_login is not None:
            raise ValueError(
                "token: is set and so is `authLogin`; allowed: one of the two, not both"
            )
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
        le=9999,
        description="Full backups kept; older ones expire with their differentials and WAL.",
    )
    storage: Volume = Volume()
    repositories: dict[RepositoryName, Store] = Field(
        default={},
        description="Object stores beside the volume, so that backups outlive the cluster: "
        "`repo2`, `repo3`, `repo4`.",
    )
    resources: Resources = Field(
        default=Resources(cpu="25m", memory="64Mi", memory_limit="256Mi"),
        description="Of each container that runs pgBackRest: beside the instances, the "
        "repository's pod, and every backup and restore.",
    )


_RESERVED_CONNECTIONS = 1 + 15
"""The migration Job's, and those of PGO itself, of replication and of the superuser."""
_LEAST_POOL = 5
POOLER_CLIENTS = 1000
"""Connections from clients that one PgBouncer pod takes, so that one can stand in for the others.
Each needs a file, and the soft limit of 1024 on them is the least that container engines set."""


class Pooler(Model):
    """PgBouncer between Shlink and PostgreSQL, for many pods or busy links: docs/sizing.md.

    `{}` takes its defaults. To remove it costs an outage of a minute.
    """

    instances: int = Field(
        default=2,
        ge=1,
        le=4,
        description="Pods of PgBouncer. One that is replaced refuses connections for a moment.",
    )


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
    parameters: dict[ParameterName, ParameterText] = Field(
        default={},
        description="Parameters of PostgreSQL, beside and over those that follow from the memory "
        "limit. Some need a restart, which PGO does at once.",
    )
    synchronous: bool = Field(
        default=False,
        description="Acknowledge a commit only when a replica has it too, so that a failover loses "
        "none; needs 2 instances. Without it the newest commits of a lost primary are gone.",
    )
    pooler: Pooler | None = None
    backups: Backups = Backups()
    restore: Restore | None = Field(
        default=None,
        description="Start from a backup. It may stay set: what was restored is not restored "
        "again.",
    )
    service_account_annotations: dict[AnnotationName, AnnotationText] = Field(
        default={},
        description="Workload identity of the database pods, for object stores without a key: "
        "`eks.amazonaws.com/role-arn`, `iam.gke.io/gcp-service-account`.",
    )
    monitoring: bool = Field(default=False, description="pgMonitor's exporter on port 9187.")
    address: Host | None = Field(
        default=None,
        description="Direct address (host:port) from where Pulumi runs; no forward then.",
    )
    local_port: Port | None = Field(
        default=None,
        description="Local port of the forward; derived from project and stack when left out.",
    )

    @model_validator(mode="after")
    def _somebody_to_wait_for(self) -> Self:
        if self.synchronous and self.instances < 2:  # noqa: PLR2004 -- a primary and a replica
            raise ValueError(
                "synchronous: true needs somebody to wait for; allowed with instances: 2 or more"
            )
        if "max_connections" in self.parameters:
            raise ValueError("parameters.max_connections: is the setting `maxConnections`")
        return self

    @model_validator(mode="after")
    def _its_own_repository(self) -> Self:
        names = [VOLUME, *self.backups.repositories]
        restore = self.restore
        if isinstance(restore, InPlaceRestore) and restore.repository not in names:
            raise ValueError(
                f"restore.repository: {restore.repository} is no repository of this database; "
                f"allowed: {', '.join(names)}"
            )
        return self

    @property
    def pool_size(self) -> int:
        """Connections to PostgreSQL that a PgBouncer pod may hold for one login.

        There are three logins: two that take turns, and the one that looks passwords up. During a
        rollout one pod more runs.
        """
        pods = self.pooler.instances + 1 if self.pooler else 1
        return (self.max_connections - _RESERVED_CONNECTIONS) // (3 * pods)


class FailoverRedis(Model):
    """Redis and Sentinel, run by redis-operator."""

    mode: Literal["failover"] = "failover"
    replicas: int = Field(default=3, ge=3, le=9, description="Redis pods.")
    sentinels: Literal[3, 5, 7, 9] = Field(
        default=3,
        description="Sentinel pods, an odd number: two of three agree on a failover.",
    )
    storage: Volume = Volume()
    resources: Resources = Resources()
    sentinel_resources: Resources = Resources(memory="32Mi", memory_limit="128Mi")


class ExternalRedis(Model):
    """A managed Redis elsewhere: one server, or a Redis Cluster's nodes."""

    mode: Literal["external"]
    servers: list[RedisUrl] = Field(
        min_length=1,
        description="scheme://host:port of the server; several are the nodes of a Redis Cluster.",
    )
    cidr: Cidr = Field(
        default="0.0.0.0/0", description="Where the servers are, for the NetworkPolicy."
    )
    password: Secret | None = Field(
        default=None, description="Part of the URL that Shlink gets; never in `servers`."
    )

    @property
    def ports(self) -> list[int]:
        """The ports in `servers`; Redis' own where none is given."""
        return sorted({urlsplit(server).port or 6379 for server in self.servers})


class NoRedis(Model):
    """No Redis (the guide's "start simple").

    Lost: locks and caches shared by the replicas, and the pub/sub of real-time updates.
    """

    mode: Literal["none"]


def _failover_by_default(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {"mode": "failover", **cast("dict[str, Any]", value)}


RedisSettings = Annotated[
    FailoverRedis | ExternalRedis | NoRedis,
    Field(discriminator="mode"),
    BeforeValidator(_failover_by_default),
]


class Route(Model):
    """What leads to Shlink from outside, and from where its connections come."""

    controller_namespace: Names = Field(
        default=[],
        description="Namespace of the ingress controller's or gateway's pods; a list if several.",
    )
    controller_addresses: list[Cidr] = Field(
        default=[],
        description="Networks that connections come from when no pod of a namespace makes them: "
        "load balancers with target type ip, controllers on the host's network.",
    )

    domains: list[RouteHost] = Field(
        default=[],
        description="Further domains of short URLs beside `domain`. Shlink tells them apart by "
        "the Host header and needs no setting for them.",
    )
    rest: RestHost = Field(
        default="everywhere",
        description="Where /rest answers from outside: on every domain, `nowhere`, or on one of "
        "them alone. Elsewhere the way ends in an error of the controller (502 or 503). Inside "
        "the cluster it answers on Shlink's Service.",
    )

    web_client: RouteHost | None = Field(
        default=None,
        description="Host of Shlink's web client, a page on which people work with the API. It "
        "holds no API key: each person types one, and the browser keeps it.",
    )

    @property
    def controller_namespaces(self) -> list[str]:
        """The namespaces as a list."""
        return self.controller_namespace

    @property
    def asks_cert_manager(self) -> bool:
        """Whether cert-manager gets the route's certificate, perhaps by a pod beside Shlink."""
        return False

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if not self.controller_namespaces and not self.controller_addresses:
            raise ValueError(
                "controllerNamespace: is missing; without it or `controllerAddresses` "
                "nothing could reach Shlink"
            )
        twice = sorted({host for host in self.domains if self.domains.count(host) > 1})
        if twice:
            raise ValueError(f"domains: {twice[0]} is there twice; allowed: once")
        return self


class Ingress(Route):
    """An Ingress for Shlink."""

    type: Literal["ingress"]
    class_name: ObjectName = Field(description="Of the ingress controller.")
    tls_secret: ObjectName | None = Field(
        default=None,
        description="TLS Secret in namespace `shlink`, for every host that has none of its own.",
    )
    tls_secrets: dict[RouteHost, ObjectName] = Field(
        default={},
        description="TLS Secrets of single hosts, by host: a certificate each, so that a domain "
        "whose renewal fails takes no other with it.",
    )
    annotations: dict[AnnotationName, AnnotationText] = Field(
        default={}, description="Of the Ingress."
    )

    @property
    def asks_cert_manager(self) -> bool:
        """Its annotations name an issuer, so HTTP-01 may be solved in Shlink's namespace."""
        return any(name.startswith("cert-manager.io/") for name in self.annotations)


class GatewayRoute(Route):
    """An HTTPRoute for Shlink."""

    type: Literal["gateway"]
    name: ObjectName = Field(description="Gateway.")
    namespace: Name = Field(description="Namespace of the Gateway, for the parentRef.")
    section_name: Listeners = Field(
        default=[],
        description="Listener, or a list of them if the hosts have listeners with certificates "
        "of their own; every listener that takes the host when left out.",
    )


class ShlinkSettings(Model):
    """Shlink."""

    domain: Host = Field(default="localhost:8080", description="Default domain of short URLs.")
    https: bool = Field(default=False, description="Whether short URLs begin with https.")
    base_path: PathPrefix | None = Field(default=None, description="Path prefix, e.g. /s.")
    replicas: int = Field(
        default=3, ge=0, le=50, description="Pods. 0 stops Shlink, as a restore needs it."
    )
    max_replicas: int | None = Field(
        default=None,
        ge=1,
        le=50,
        description="Pods under load: a HorizontalPodAutoscaler keeps from `replicas` up to this "
        "many, so that on average they use 70 % of `resources.cpu`. Needs metrics-server.",
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
    memory_limit: PhpMemory = Field(default="256M", description="PHP's memory limit of one worker.")
    resources: Resources = Resources(cpu="100m", memory="256Mi", memory_limit="512Mi")
    timezone: Timezone = Field(default="UTC", description="Time zone, by its IANA name.")
    logs_format: Literal["console", "json"] = "json"
    verbosity: Literal[0, 1, 2, 3] = Field(
        default=0, description="The console's SHELL_VERBOSITY, for the server only."
    )
    geolite_license_key: Secret | None = Field(
        default=None,
        description="MaxMind licence for visit locations: one pod downloads the database for all, "
        "and may reach the internet on 443.",
    )
    resolve_titles: bool = Field(
        default=False, description="Fetch the title of each long URL: opens egress on 80 and 443."
    )
    trusted_proxies: list[Cidr] = Field(
        default=[], description="Proxies whose X-Forwarded-For is believed."
    )
    environment: dict[ShlinkVariable, EnvironmentText] = Field(
        default={},
        description="More of Shlink's variables, in plain text. A secret goes to "
        "`secretEnvironment`.",
    )
    secret_environment: dict[ShlinkVariable, Secret] = Field(
        default={},
        description="More of Shlink's variables whose values are secret (a password of RabbitMQ, "
        "a token of Matomo): delivered through Vault like every other password.",
    )
    pub_sub: bool = Field(
        default=False,
        description="Publish each visit to Redis, for programs of yours that subscribe there. "
        "Dear on busy links: each redirect then counts all visits of its link.",
    )
    route: Annotated[Ingress | GatewayRoute, Field(discriminator="type")] | None = Field(
        default=None, description="How it is reached from outside."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        twice = sorted(self.environment.keys() & self.secret_environment.keys())
        if twice:
            raise ValueError(
                f"environment.{twice[0]}: is in `secretEnvironment` too; allowed: one of the two"
            )
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"maxReplicas: {self.max_replicas} is less than `replicas`, {self.replicas}; "
                "allowed: that or more"
            )
        host = self.domain.partition(":")[0]
        if self.route and not re.fullmatch(r"[a-z0-9.-]*[a-z][a-z0-9.-]*", host):
            raise ValueError(
                f'domain: "{self.domain}" can\'t be routed to; '
                "allowed with `route`: a host name in small letters, no address"
            )
        if self.route:
            _route_hosts(self.route, [host, *self.route.domains])
        return self

    @property
    def autoscaled(self) -> bool:
        """Whether a HorizontalPodAutoscaler decides how many pods run. 0 replicas stop Shlink."""
        return self.max_replicas is not None and self.replicas > 0

    @property
    def autoscaled_from(self) -> int | None:
        """The least number of pods with a HorizontalPodAutoscaler; None without one."""
        return self.replicas if self.autoscaled else None

    @property
    def most_replicas(self) -> int:
        """How many pods may run, but for a rollout's additional one."""
        return self.max_replicas if self.max_replicas and self.autoscaled else self.replicas


def _route_hosts(route: Ingress | GatewayRoute, hosts: list[str]) -> None:
    """Refuse a route that names a host which it does not lead to, or one host twice."""
    if hosts[0] in route.domains:
        raise ValueError(
            f"route.domains: {hosts[0]} is `domain` already; allowed: further domains only"
        )
    allowed = ", ".join(hosts)
    if route.rest not in ("everywhere", "nowhere", *hosts):
        raise ValueError(
            f"route.rest: {route.rest} is no host of this route; allowed: everywhere, nowhere, "
            f"{allowed}; or add it to route.domains"
        )
    if route.web_client in hosts:
        raise ValueError(
            f"route.webClient: {route.web_client} is a domain of short URLs; allowed: another host"
        )
    if route.web_client and route.rest == "nowhere":
        raise ValueError(
            "route.webClient: is set, but route.rest is nowhere, and the browser calls /rest "
            f"itself; allowed with it: everywhere, {allowed}"
        )
    if route.web_client:
        hosts = [*hosts, route.web_client]
    if isinstance(route, Ingress):
        unknown = sorted(route.tls_secrets.keys() - set(hosts))
        if unknown:
            raise ValueError(
                f"route.tlsSecrets: {unknown[0]} is no host of this route; "
                f"allowed: {', '.join(hosts)}"
            )


class Network(Model):
    """NetworkPolicies."""

    api_server: list[Cidr] = Field(
        default=["0.0.0.0/0", "::/0"],
        min_length=1,
        description="Addresses of the API server, as `kubectl get endpoints kubernetes` shows "
        "them.",
    )
    api_server_ports: list[RemotePort] = Field(
        default=[443, 6443],
        min_length=1,
        description="Its ports: the Service's and the server's own.",
    )
    policies: Literal["kubernetes", "cilium"] = Field(
        default="kubernetes",
        description="On Cilium, `cilium`: no address matches its API server, only its own "
        "policies do.",
    )
    dns_namespace: Name = Field(default="kube-system", description="Where the cluster's DNS runs.")
    dns_addresses: list[Cidr] = Field(
        default=[], description="Node-local DNS, whose address is no pod's: 169.254.20.10/32."
    )
    dns_ports: list[RemotePort] = Field(
        default=[53], min_length=1, description="Ports of the DNS pods; 5353 on OpenShift."
    )
    monitoring_namespace: Name | None = Field(
        default=None, description="Namespace of Prometheus; its pods may reach the exporters."
    )


class Monitoring(Model):
    """Prometheus and Grafana that run in this cluster: what they scrape, alert on and show."""

    enabled: bool = Field(
        default=False,
        description="PodMonitors, PrometheusRules and dashboards; the cluster must know the "
        "Prometheus operator's kinds. Needs `network.monitoringNamespace`.",
    )
    labels: dict[AnnotationName, LabelText] = Field(
        default={},
        description="Labels by which your Prometheus selects monitors and rules, "
        "e.g. {release: kube-prometheus-stack}.",
    )
    dashboard_labels: dict[AnnotationName, LabelText] = Field(
        default={"grafana_dashboard": "1"},
        description="Labels by which your Grafana finds dashboards in ConfigMaps.",
    )
    backup_hours: int = Field(
        default=48,
        ge=1,
        le=8760,
        description="Hours without a new backup after which an alert fires.",
    )


class RotationSettings(Model):
    """Raise a number by one to replace that password wherever it is used: docs/operations.md."""

    database: Rotation = Field(default=1, description="The password of `shlink` in PostgreSQL.")
    api_key: Rotation = Field(
        default=1,
        description="Shlink's API key. The key before it stays valid until the next rotation.",
    )
    superuser: Rotation = Field(default=1, description="The password of `postgres` in PostgreSQL.")
    redis: Rotation = Field(default=1, description="Redis' password.")
    vault: Rotation = Field(
        default=1, description="The login of this program in Vault: role id and secret id."
    )
    certificates: Rotation = Field(
        default=1,
        description="The environment's certificate authority, and with it every server's key.",
    )


class Settings(Model):
    """Everything under `shlink:`."""

    protect: bool = Field(
        default=False,
        description="Refuse to delete what holds data: the namespaces, Vault's store and unseal "
        "keys, the PostgresCluster, the RedisFailover. Vault's StatefulSet is its chart's and not "
        "among them; its volumes outlive it.",
    )
    allowed_changes: list[Text] = Field(
        default=[],
        description="Changes that are refused otherwise, each as the refusal writes it "
        "(`postgres.version: 16 -> 17`), after they were prepared by hand: docs/upgrades.md.",
    )
    shlink: ShlinkSettings = Field(default=ShlinkSettings(), alias="app")
    postgres: PostgresSettings = PostgresSettings()
    redis: RedisSettings = FailoverRedis()
    vault: VaultSettings = VaultSettings()
    operators: Operators = Operators()
    rotation: RotationSettings = RotationSettings()
    network: Network = Network()
    monitoring: Monitoring = Monitoring()
    placement: PlacementSettings = PlacementSettings()
    charts: Charts = Charts()
    images: Images = Images()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.monitoring.enabled and self.network.monitoring_namespace is None:
            raise ValueError(
                "monitoring.enabled: true needs network.monitoringNamespace, where Prometheus "
                "runs; without it the network policies keep it out"
            )
        rules = (self._sentinel, self._connections, self._ports, self._databases)
        for rule in rules:
            rule()
        return self

    def _sentinel(self) -> None:
        image = self.images.shlink
        if self.redis.mode == "failover" and shlink_version(image) < (4, 6, 0):
            raise ValueError(
                f"images.shlink: {image} can't give Redis a password through Sentinel; "
                "allowed with redis.mode failover: 4.6.0 or newer (or redis.mode: external, none)"
            )

    def _connections(self) -> None:
        app = self.shlink
        # One pod more than usual during a rollout.
        clients = (app.most_replicas + 1) * (app.web_workers + app.task_workers)
        workers = (
            f"{app.most_replicas} replicas with {app.web_workers} web and {app.task_workers} "
            "task workers can hold during a rollout"
        )
        fewer = "fewer app.replicas, app.maxReplicas, app.webWorkers, app.taskWorkers"
        if self.postgres.pooler:
            self._pool(self.postgres.pooler)
            if clients > POOLER_CLIENTS:
                raise ValueError(
                    f"postgres.pooler: one PgBouncer pod takes {POOLER_CLIENTS} connections, which "
                    f"is less than what {workers}, {clients}; allowed: {fewer}"
                )
            return
        needed = clients + _RESERVED_CONNECTIONS
        if needed > self.postgres.max_connections:
            raise ValueError(
                f"postgres.maxConnections: {self.postgres.max_connections} is less than what "
                f"{workers}; allowed: {needed} or more (or {fewer})"
            )

    def _pool(self, pooler: Pooler) -> None:
        size = self.postgres.pool_size
        if size < _LEAST_POOL:
            needed = _LEAST_POOL * 3 * (pooler.instances + 1) + _RESERVED_CONNECTIONS
            raise ValueError(
                f"postgres.maxConnections: {self.postgres.max_connections} leaves a pool of {size} "
                f"to each login in each of {pooler.instances} PgBouncer pods; allowed: {needed} or "
                "more (or fewer postgres.pooler.instances)"
            )

    def _ports(self) -> None:
        port = self.vault.local_port
        if port is not None and port == self.postgres.local_port:
            raise ValueError(
                f"postgres.localPort: {port} is the local port of Vault too; "
                "allowed: two different ports"
            )

    def _databases(self) -> None:
        version, images = self.postgres.version, self.images
        if version == 18 and self.postgres.monitoring:  # noqa: PLR2004 -- PGO 6.0.3
            raise ValueError(
                "postgres.monitoring: exports nothing on PostgreSQL 18 (PGO 6.0.3); "
                "allowed: version 15 to 17, or monitoring: false"
            )
        if (images.postgres is None) != (images.pgbackrest is None):
            missing = "pgbackrest" if images.postgres else "postgres"
            raise ValueError(
                f"images.{missing}: is missing; pgBackRest must be of the same version in both "
                "images or archiving stops: set `postgres` and `pgbackrest` of one release together"
            )
        major = postgres_major(images.postgres) if images.postgres else None
        if major is not None and major != version:
            raise ValueError(
                f"images.postgres: {images.postgres} is PostgreSQL {major}, but postgres.version "
                f"is {version}; allowed: an image of that version"
            )
        builds = [_crunchy_build(image) for image in (images.postgres, images.pgbackrest) if image]
        if None not in builds and len(set(builds)) > 1:
            raise ValueError(
                f"images.pgbackrest: {images.pgbackrest} is of another release than "
                f"{images.postgres}; allowed: both with the same number at the end"
            )

    @property
    def versions(self) -> dict[str, str]:
        """What is deployed, by product; where a chart brings the image, the chart's version."""
        images, charts, operators = self.images, self.charts, self.operators
        failover = self.redis.mode == "failover"
        deployed = {
            "shlink": images.shlink,
            "vault": images.vault,
            "bank_vaults": images.bank_vaults,
            "postgresql": images.postgres or str(self.postgres.version),
        }
        if failover:
            deployed["redis"] = images.redis
        deployed["vault_chart"] = charts.vault.version
        if operators.external_secrets.install:
            deployed["external_secrets_chart"] = charts.external_secrets.version
        if operators.pgo.install:
            deployed["pgo_chart"] = charts.pgo.version
        if operators.redis_operator.install and failover:
            fork = operators.redis_operator.distribution == "freshworks"
            chart = charts.redis_operator_fork if fork else charts.redis_operator
            deployed["redis_operator_chart"] = chart.version
        return deployed


class Cluster(Model):
    """The cluster of this stack: `kubernetes:context` and, if needed, `kubernetes:kubeconfig`."""

    context: Text = Field(
        # A list or a map in its place would get here as JSON text.
        pattern=r"^[^\[{].*$",
        description="Context in the kubeconfig. Never the ambient one.",
    )
    kubeconfig: str | None = Field(
        default=None,
        min_length=1,
        description="Path or contents; $KUBECONFIG, then ~/.kube/config when left out.",
    )
    cluster_identifier: Text | None = Field(
        default=None,
        description="Keep it when a context is renamed: a new identifier means a new cluster, and "
        "everything is replaced.",
    )

    @property
    def identifier(self) -> str:
        return self.cluster_identifier or self.context


def shlink_version(image: str) -> tuple[int, int, int]:
    """The version in the tag of Shlink's image; a bare digest counts as new enough."""
    tag = ImageReference.parse(image).tag or ""
    match = re.search(r"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", tag)
    if match is None:
        return (4, 6, 0)
    major, minor, patch = (int(number or 0) for number in match.groups())
    return (major, minor, patch)


def postgres_major(image: str) -> int | None:
    """PostgreSQL's major version in an image's tag: 16 in `ubi9-16.11-2547` and in `16.11-1`.

    None if the tag does not tell.
    """
    match = re.search(r"(?:^|-)v?([0-9]+)\.[0-9]+", ImageReference.parse(image).tag or "")
    return int(match[1]) if match else None


def _crunchy_build(image: str) -> str | None:
    """The release in a tag of Crunchy's: 2547 in `ubi9-16.11-2547`."""
    match = re.search(r"^ubi[0-9]+-[0-9.]+-([0-9]{4})$", ImageReference.parse(image).tag or "")
    return match[1] if match else None


def load() -> tuple[Cluster, Settings]:
    """The configuration of the running stack.

    Raises:
        SettingsError: it can't be used. Every fault is in the one message.

    """
    values, secrets = configuration.of_this_run()
    return parse(values, secrets)


def parse(
    values: Mapping[str, Any], secret_keys: frozenset[str] = frozenset()
) -> tuple[Cluster, Settings]:
    """Validate configuration as Pulumi hands it over: full keys, objects as JSON text.

    `secret_keys` names what is encrypted: keys, or paths below them (`shlink:app.environment.X`).
    Raises SettingsError.
    """
    cluster, settings = configuration.validated(
        {"kubernetes": Cluster, "shlink": Settings}, values, secret_keys
    )
    return cast("Cluster", cluster), cast("Settings", settings)

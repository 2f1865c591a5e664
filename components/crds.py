"""The custom resources that this program creates, with the fields that it sets.

The types name fields exactly as the CRDs do. tests/real/test_crds.py checks each of them against
the real CRDs, so `make verify` finds a field that a newer version drops or renames.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi import Input
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs


class _Custom(CustomResource):
    def __init__(  # noqa: PLR0917 -- as many as its base class has
        self,
        name: str,
        api_version: str,
        kind: str,
        metadata: ObjectMetaArgs,
        spec: Mapping[str, Any],
        opts: pulumi.ResourceOptions,
    ) -> None:
        # The base class takes any further keyword, untyped.
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            name, api_version, kind, metadata=metadata, spec=spec, opts=opts
        )

    @property
    def generation(self) -> pulumi.Output[int]:
        """The number that the API server raises with each change of the spec.

        0 where there is no API server, as in an offline preview.
        """
        # Untyped in the SDK.
        metadata: pulumi.Output[Any] = pulumi.get(self, "metadata")  # pyright: ignore[reportUnknownMemberType]
        return metadata.apply(_generation)


def _generation(metadata: Any) -> int:
    return int(metadata.get("generation") or 0)


class ClaimResources(TypedDict):
    requests: Mapping[str, str]


class VolumeClaim(TypedDict):
    accessModes: Sequence[str]
    storageClassName: NotRequired[str]
    resources: ClaimResources


class LabelSelector(TypedDict):
    matchLabels: Mapping[str, str]
    matchExpressions: NotRequired[Sequence[Mapping[str, Any]]]


class SpreadConstraint(TypedDict):
    maxSkew: int
    topologyKey: str
    whenUnsatisfiable: str
    labelSelector: LabelSelector


Affinity = Mapping[str, Mapping[str, Any]]


class Scheduling(TypedDict, total=False):
    """What a pod and PGO have in common; nothing is required."""

    tolerations: Sequence[Mapping[str, Any]]
    priorityClassName: str


class PodPlacement(Scheduling, total=False):
    """Of a pod."""

    nodeSelector: Mapping[str, str]


class PgoPlacement(Scheduling, total=False):
    """Of pods that PGO makes."""

    affinity: Affinity


class WithResources(TypedDict):
    resources: Any


class PlacedWithResources(PgoPlacement):
    resources: Any


class InstanceSidecars(TypedDict):
    replicaCertCopy: WithResources


class BackupSidecars(TypedDict):
    pgbackrest: WithResources
    pgbackrestConfig: WithResources


class PostgresInstance(PgoPlacement):
    name: str
    replicas: int
    resources: Any
    sidecars: NotRequired[InstanceSidecars]
    dataVolumeClaimSpec: VolumeClaim


class PostgresUser(TypedDict):
    name: str
    databases: NotRequired[Sequence[str]]
    options: NotRequired[str]


class RepositoryVolume(TypedDict):
    volumeClaimSpec: VolumeClaim


class RepositorySchedules(TypedDict):
    full: str
    differential: str


class RepositoryS3(TypedDict):
    bucket: str
    endpoint: str
    region: str


class RepositoryGcs(TypedDict):
    bucket: str


class RepositoryAzure(TypedDict):
    container: str


class PostgresRepository(TypedDict):
    name: str
    schedules: NotRequired[RepositorySchedules]
    volume: NotRequired[RepositoryVolume]
    s3: NotRequired[RepositoryS3]
    gcs: NotRequired[RepositoryGcs]
    azure: NotRequired[RepositoryAzure]


class SecretProjection(TypedDict):
    name: Input[str]


class RepositoryConfiguration(TypedDict):
    secret: SecretProjection


class PgBackRestRestore(PgoPlacement):
    enabled: bool
    repoName: str
    options: Sequence[str]
    resources: Any


class PgBackRestManual(TypedDict):
    repoName: str
    options: Sequence[str]


# `global` is one of Python's words, hence the functional notation.
PgBackRest = TypedDict(
    "PgBackRest",
    {
        "image": NotRequired[str],
        "global": Mapping[str, Input[str]],
        "configuration": NotRequired[Sequence[RepositoryConfiguration]],
        "repos": Sequence[PostgresRepository],
        "repoHost": PlacedWithResources,
        "jobs": PlacedWithResources,
        "sidecars": BackupSidecars,
        "restore": NotRequired[PgBackRestRestore],
        "manual": NotRequired[PgBackRestManual],
    },
)

PgBackRestDataSource = TypedDict(
    "PgBackRestDataSource",
    {
        "stanza": str,
        "global": Mapping[str, Input[str]],
        "configuration": NotRequired[Sequence[RepositoryConfiguration]],
        "repo": PostgresRepository,
        "options": Sequence[str],
        "resources": Any,
        "affinity": NotRequired[Affinity],
        "tolerations": NotRequired[Sequence[Mapping[str, Any]]],
        "priorityClassName": NotRequired[str],
    },
)


class PostgresDataSource(TypedDict):
    pgbackrest: PgBackRestDataSource


class PostgresMetadata(TypedDict):
    annotations: Mapping[str, str]


class PostgresBackups(TypedDict):
    pgbackrest: PgBackRest


class PgMonitorExporter(TypedDict):
    image: NotRequired[str]
    resources: NotRequired[Any]


class PgMonitor(TypedDict):
    exporter: PgMonitorExporter


class PostgresMonitoring(TypedDict):
    pgmonitor: PgMonitor


class PostgresConfig(TypedDict):
    parameters: Mapping[str, str | int]


class PgBouncerSidecars(TypedDict):
    pgbouncerConfig: WithResources


PgBouncerConfig = TypedDict("PgBouncerConfig", {"global": Mapping[str, str]})


class PgBouncer(PgoPlacement):
    replicas: int
    image: NotRequired[str]
    resources: Any
    sidecars: PgBouncerSidecars
    config: PgBouncerConfig
    customTLSSecret: SecretProjection


class PostgresProxy(TypedDict):
    pgBouncer: PgBouncer


class Patroni(TypedDict):
    dynamicConfiguration: Mapping[str, Any]


class PostgresClusterSpec(TypedDict):
    postgresVersion: int
    image: NotRequired[str]
    imagePullSecrets: NotRequired[Sequence[SecretProjection]]
    instances: Sequence[PostgresInstance]
    users: Sequence[PostgresUser]
    config: PostgresConfig
    patroni: NotRequired[Patroni]
    customTLSSecret: SecretProjection
    customReplicationTLSSecret: SecretProjection
    backups: PostgresBackups
    dataSource: NotRequired[PostgresDataSource]
    metadata: NotRequired[PostgresMetadata]
    monitoring: NotRequired[PostgresMonitoring]
    proxy: NotRequired[PostgresProxy]


class PostgresCluster(_Custom):
    """PGO's cluster.

    https://access.crunchydata.com/documentation/postgres-operator/latest/references/crd
    """

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: PostgresClusterSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(
            name,
            "postgres-operator.crunchydata.com/v1beta1",
            "PostgresCluster",
            metadata,
            spec,
            opts,
        )


class NamedClaim(TypedDict):
    metadata: Mapping[str, str]
    spec: VolumeClaim


class RedisStorage(TypedDict):
    keepAfterDeletion: bool
    persistentVolumeClaim: NamedClaim


class RedisExporter(TypedDict):
    enabled: bool
    image: Input[str]
    imagePullPolicy: str
    containerSecurityContext: Any
    resources: Any


class ConfigCopy(TypedDict):
    containerSecurityContext: Any


class RedisHalf(PodPlacement):
    image: Input[str]
    imagePullPolicy: str
    imagePullSecrets: NotRequired[Sequence[Mapping[str, str]]]
    replicas: int
    resources: Any
    securityContext: Any
    containerSecurityContext: Any
    serviceAccountName: Input[str]
    topologySpreadConstraints: Sequence[SpreadConstraint]
    customConfig: Sequence[str]


class RedisServers(RedisHalf):
    command: Sequence[str]
    podAnnotations: Mapping[str, str]
    storage: RedisStorage
    exporter: RedisExporter
    terminationGracePeriod: int


class Sentinels(RedisHalf):
    configCopy: ConfigCopy


class RedisAuth(TypedDict):
    secretPath: Input[str]


class RedisFailoverSpec(TypedDict):
    redis: RedisServers
    sentinel: Sentinels
    auth: RedisAuth
    labelWhitelist: Sequence[str]


class RedisFailover(_Custom):
    """redis-operator's Redis with Sentinel.

    https://github.com/spotahome/redis-operator/tree/v1.2.4/example/redisfailover
    """

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: RedisFailoverSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "databases.spotahome.com/v1", "RedisFailover", metadata, spec, opts)


class ServiceAccountSelector(TypedDict):
    name: Input[str]
    audiences: Sequence[str]


class VaultKubernetesAuth(TypedDict):
    mountPath: Input[str]
    role: Input[str]
    serviceAccountRef: ServiceAccountSelector


class VaultAuth(TypedDict):
    kubernetes: VaultKubernetesAuth


class VaultProvider(TypedDict):
    server: Input[str]
    caBundle: Input[str]
    path: Input[str]
    version: str
    auth: VaultAuth


class SecretStoreProvider(TypedDict):
    vault: VaultProvider


class SecretStoreSpec(TypedDict):
    provider: SecretStoreProvider


class SecretStore(_Custom):
    """External Secrets' store: https://external-secrets.io/latest/provider/hashicorp-vault/"""

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: SecretStoreSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "external-secrets.io/v1", "SecretStore", metadata, spec, opts)


class StoreReference(TypedDict):
    name: Input[str]
    kind: str


class SecretTarget(TypedDict):
    name: str
    creationPolicy: str
    deletionPolicy: str


class RemoteReference(TypedDict):
    key: Input[str]
    property: str
    version: Input[str]


class SecretData(TypedDict):
    secretKey: str
    remoteRef: RemoteReference


class ExternalSecretSpec(TypedDict):
    refreshPolicy: str
    refreshInterval: str
    secretStoreRef: StoreReference
    target: SecretTarget
    data: Sequence[SecretData]


class ExternalSecret(_Custom):
    """External Secrets' copy of remote values in a Secret.

    https://external-secrets.io/latest/api/externalsecret/
    """

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: ExternalSecretSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "external-secrets.io/v1", "ExternalSecret", metadata, spec, opts)


class ParentReference(TypedDict):
    name: str
    namespace: str
    sectionName: NotRequired[str]


class BackendReference(TypedDict):
    name: str
    port: int


class HTTPPathMatch(TypedDict):
    type: str
    value: str


class HTTPRouteMatch(TypedDict):
    path: HTTPPathMatch


class HTTPRouteRule(TypedDict):
    matches: NotRequired[Sequence[HTTPRouteMatch]]
    backendRefs: Sequence[BackendReference]


class HTTPRouteSpec(TypedDict):
    parentRefs: Sequence[ParentReference]
    hostnames: Sequence[str]
    rules: Sequence[HTTPRouteRule]


class HTTPRoute(_Custom):
    """Gateway API's route: https://gateway-api.sigs.k8s.io/api-types/httproute/"""

    def __init__(
        self, name: str, metadata: ObjectMetaArgs, spec: HTTPRouteSpec, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__(name, "gateway.networking.k8s.io/v1", "HTTPRoute", metadata, spec, opts)


class CiliumPort(TypedDict):
    port: str
    protocol: str


class CiliumPorts(TypedDict):
    ports: Sequence[CiliumPort]


class CiliumEgress(TypedDict):
    toEntities: Sequence[str]
    toPorts: Sequence[CiliumPorts]


class CiliumNetworkPolicySpec(TypedDict):
    endpointSelector: LabelSelector
    egress: Sequence[CiliumEgress]


class CiliumNetworkPolicy(_Custom):
    """Cilium's own policy.

    https://docs.cilium.io/en/stable/security/policy/language/#entities-based
    """

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: CiliumNetworkPolicySpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "cilium.io/v2", "CiliumNetworkPolicy", metadata, spec, opts)


class PodMonitor(_Custom):
    """What Prometheus scrapes: https://prometheus-operator.dev/docs/api-reference/api/"""

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: Mapping[str, Any],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "monitoring.coreos.com/v1", "PodMonitor", metadata, spec, opts)


class PrometheusRule(_Custom):
    """Alerts: https://prometheus-operator.dev/docs/api-reference/api/"""

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: Mapping[str, Any],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "monitoring.coreos.com/v1", "PrometheusRule", metadata, spec, opts)

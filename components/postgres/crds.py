"""PostgresCluster, with the fields that this program sets."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi import Input
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from ..manifests.crds import (
    Affinity,
    Custom,
    PgoPlacement,
    PlacedWithResources,
    VolumeClaim,
    WithResources,
)


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


class PostgresCluster(Custom):
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

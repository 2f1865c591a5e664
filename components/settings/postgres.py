"""What an environment may set about PostgreSQL: sizes, backups, object stores, restores."""

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from .. import ports
from .images import ImageReference
from .platform import Resources, Volume
from .types import (
    EXPECTED,
    AnnotationName,
    AnnotationText,
    Bucket,
    Certificates,
    Cidr,
    Cron,
    Host,
    KeyFile,
    Model,
    ParameterName,
    ParameterText,
    Port,
    Region,
    Secret,
    Text,
)

VOLUME = "repo1"
"""Name of the repository that is a volume; the others are stores."""


def _expected(words: str) -> dict[str, Any]:
    return {EXPECTED: words}


RepositoryName = Annotated[
    str,
    Field(pattern=r"^repo[2-4]$", json_schema_extra=_expected("repo2, repo3 or repo4")),
]
"""The volume is always repo1. A name must keep its meaning, or PGO would drop what it held."""


class _Store(Model):
    """What every object store has."""

    full: Cron = Field(default="0 3 * * 0", description="Schedule of full backups (cron, UTC).")
    differential: Cron = Field(
        default="0 3 * * 1-6",
        description="Schedule of differential backups (cron, UTC); not while another repository's "
        "backup runs, pgBackRest makes one at a time.",
    )
    retention_full: int = Field(
        default=2, ge=1, le=9999, description="Full backups kept; older ones expire."
    )
    encrypted: bool = Field(
        default=True,
        description="Encrypt with AES-256 before anything leaves the pod, with a passphrase that "
        "the program makes. Decided once: pgBackRest cannot change it in a path that is in use.",
    )
    cidrs: list[Cidr] = Field(
        default=["0.0.0.0/0", "::/0"],
        min_length=1,
        description="Where the store answers, for the NetworkPolicy.",
    )

    @property
    def port(self) -> int:
        """The port that the network policies must leave open."""
        return ports.HTTPS


class S3Store(_Store):
    """A bucket of S3, or of anything that speaks S3 with TLS."""

    type: Literal["s3"]
    bucket: Bucket = Field(description="The bucket; it must exist.")
    endpoint: Host = Field(
        description="Host of the object store, with its port when that is not 443."
    )
    region: Region = Field(description="Region of the bucket; any word for stores without regions.")
    path_style: bool = Field(
        default=False,
        description="Name the bucket in the path instead of the host, as stores other than "
        "Amazon's often need it.",
    )
    ca: Certificates = Field(
        default=None,
        description="The authority of the store's certificate as PEM text, when it is private.",
    )
    key: Secret | None = Field(
        default=None,
        description="Access key's id. Without one the pods log in by their workload identity "
        "(EKS: IRSA; see `postgres.serviceAccountAnnotations`).",
    )
    key_secret: Secret | None = Field(default=None, description="Access key's secret.")

    @model_validator(mode="after")
    def _whole_key(self) -> Self:
        if (self.key is None) != (self.key_secret is None):
            raise ValueError("`key` and `keySecret` belong together: set both, or neither")
        return self

    @property
    def host(self) -> str:
        """The endpoint without its port."""
        return urlsplit(f"//{self.endpoint}").hostname or ""

    @property
    def port(self) -> int:
        """The port that the network policies must leave open."""
        return urlsplit(f"//{self.endpoint}").port or ports.HTTPS


class GcsStore(_Store):
    """A bucket of Google Cloud Storage."""

    type: Literal["gcs"]
    bucket: Bucket = Field(description="The bucket; it must exist.")
    key: KeyFile = Field(
        default=None,
        description="A service account's key file (JSON). Without one the pods log in by their "
        "workload identity (GKE; see `postgres.serviceAccountAnnotations`).",
    )


class AzureStore(_Store):
    """A container of Azure Blob Storage."""

    type: Literal["azure"]
    container: Bucket = Field(description="The container; it must exist.")
    account: Text = Field(description="Storage account.")
    key: Secret = Field(description="Shared key of the storage account.")


Store = Annotated[S3Store | GcsStore | AzureStore, Field(discriminator="type")]

_SET = r"^[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?$"

_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"[+-][0-9]{2}(:[0-9]{2})?$"
)


class _Restore(Model):
    """How far the database is restored; by default, up to the last archived WAL."""

    set: str | None = Field(
        default=None,
        pattern=_SET,
        json_schema_extra=_expected("a backup's label, such as 20261124-093000F"),
        description="A named backup, as `pgbackrest info` lists it, and nothing after it; with "
        "`time` it is where the way to that moment begins.",
    )
    time: str | None = Field(
        default=None,
        pattern=_TIME,
        json_schema_extra=_expected("a moment with its offset, such as 2026-11-24 09:30:00+00"),
        description="A moment with its time zone: 2026-11-24 09:30:00+00.",
    )


class InPlaceRestore(_Restore):
    """Replaces what the running database holds by a backup from one of its own repositories."""

    type: Literal["inPlace"]
    number: int = Field(
        ge=1,
        le=9999,
        description="Raise it by one for another restore; the same number does nothing.",
    )
    repository: Literal["repo1", "repo2", "repo3", "repo4"] = Field(
        default=VOLUME, description="From which repository; repo1 is the volume."
    )


class StoreRestore(_Restore):
    """Starts a new environment with the data that another one left in an object store."""

    type: Literal["store"]
    store: Store = Field(
        description="Where the other environment's backups are. Read only: its schedules and "
        "retention do not apply."
    )
    path: str = Field(
        pattern=r"^/[A-Za-z0-9._/-]+$",
        json_schema_extra=_expected("a path, such as /shlink-db/0a1b2c3d/repo2"),
        description="The repository's path in the store: the other environment's output "
        "`database_backups`, or look for the folder that holds `backup/db`.",
    )
    passphrase: Secret | None = Field(
        default=None, description="The other environment's passphrase, when it encrypted."
    )


Restore = Annotated[InPlaceRestore | StoreRestore, Field(discriminator="type")]


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


RESERVED_CONNECTIONS = 1 + 15
"""The migration Job's, and those of PGO itself, of replication and of the superuser."""

LEAST_POOL = 5

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
    def restore_number(self) -> int:
        """Number of the restore in place that is asked for; 0 without one."""
        return self.restore.number if isinstance(self.restore, InPlaceRestore) else 0

    @property
    def pool_size(self) -> int:
        """Connections to PostgreSQL that a PgBouncer pod may hold for one login.

        There are three logins: two that take turns, and the one that looks passwords up. During a
        rollout one pod more runs.
        """
        pods = self.pooler.instances + 1 if self.pooler else 1
        return (self.max_connections - RESERVED_CONNECTIONS) // (3 * pods)


def postgres_major(image: str) -> int | None:
    """PostgreSQL's major version in an image's tag: 16 in `ubi9-16.11-2547` and in `16.11-1`.

    None if the tag does not tell.
    """
    match = re.search(r"(?:^|-)v?([0-9]+)\.[0-9]+", ImageReference.parse(image).tag or "")
    return int(match[1]) if match else None


def crunchy_build(image: str) -> str | None:
    """The release in a tag of Crunchy's: 2547 in `ubi9-16.11-2547`."""
    match = re.search(r"^ubi[0-9]+-[0-9.]+-([0-9]{4})$", ImageReference.parse(image).tag or "")
    return match[1] if match else None

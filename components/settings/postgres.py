"""What an environment may set about PostgreSQL: sizes, backups, object stores, restores."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import combinations, islice, pairwise, takewhile
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from cronsim import CronSim
from pydantic import AfterValidator, Field, model_validator

from .. import ports
from . import parameters
from .images import ImageReference
from .platform import Resources, Volume
from .types import (
    EXPECTED,
    AnnotationName,
    AnnotationText,
    Bucket,
    Certificates,
    Container,
    Cron,
    Destination,
    DiskSize,
    GoogleBucket,
    Host,
    KeyFile,
    Model,
    ParameterName,
    ParameterText,
    Port,
    Region,
    Secret,
    StorageAccount,
    Text,
    amount,
    elsewhere,
    outside,
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


class _Store(Destination):
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

    @property
    def port(self) -> int:
        """The port that the network policies must leave open."""
        return ports.HTTPS

    def without_identity(self, annotations: Mapping[str, str]) -> str | None:
        """Why pods with these annotations could not log in; None if they can, or nobody knows."""
        del annotations
        return None


_REGIONAL = re.compile(
    r"(?:^|\.)s3(?:-fips)?[.-](?:dualstack\.)?([a-z0-9-]+)\."
    r"(?:vpce\.)?(?:amazonaws\.com(?:\.cn)?|scw\.cloud|backblazeb2\.com|wasabisys\.com)$"
)
"""Endpoints that answer for one region only."""

_ROLE = "eks.amazonaws.com/role-arn"


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
    kms_key_id: Text | None = Field(
        default=None,
        description="Key of AWS KMS with which the bucket encrypts what it stores; the bucket's "
        "own default when left out.",
    )

    @model_validator(mode="after")
    def _whole_key(self) -> Self:
        if (self.key is None) != (self.key_secret is None):
            raise ValueError("`key` and `keySecret` belong together: set both, or neither")
        return self

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        for rule in (self._encrypted_way, self._by_its_name, self._in_its_region):
            rule()
        return self

    def _encrypted_way(self) -> None:
        try:
            elsewhere(self.host)
        except ValueError as error:
            raise ValueError(f"endpoint: {error}") from None
        if self.port == ports.HTTP:
            raise ValueError(
                "endpoint: port 80 is not encrypted, and pgBackRest speaks TLS only; allowed: "
                "the store's port with TLS"
            )
        if outside(self.host, self.cidrs):
            raise ValueError(
                f"cidrs: {self.host}, the endpoint, is in none of them; allowed: networks with it"
            )

    def _by_its_name(self) -> None:
        if self.host.startswith(f"{self.bucket}."):
            raise ValueError(
                f"endpoint: {self.host} begins with the bucket, which pgBackRest adds; allowed: "
                f"{self.host.removeprefix(f'{self.bucket}.')}"
            )
        if self.path_style:
            return
        if "." in self.bucket:
            raise ValueError(
                f"pathStyle: is false, and {self.bucket}.{self.host} has a dot too many for the "
                "store's certificate; allowed: pathStyle: true, or a bucket without dots"
            )
        if re.fullmatch(r"[0-9.]+|.*:.*", self.host):
            raise ValueError(
                f"pathStyle: is false, and {self.bucket}.{self.host} is no host name; allowed: "
                "pathStyle: true, or an endpoint that is a name"
            )

    def _in_its_region(self) -> None:
        match = _REGIONAL.search(self.host)
        if match and match[1] != self.region:
            raise ValueError(
                f"region: {self.region} is not the endpoint's, {self.host}; allowed: {match[1]}"
            )

    def without_identity(self, annotations: Mapping[str, str]) -> str | None:
        """Why pods with these annotations could not log in; None if they can, or nobody knows."""
        if self.key is not None or _ROLE in annotations:
            return None
        return (
            f"is missing, and so is {_ROLE} in postgres.serviceAccountAnnotations; allowed: one of "
            "the two (EKS Pod Identity does not work with PGO)"
        )

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
    bucket: GoogleBucket = Field(description="The bucket; it must exist.")
    key: KeyFile = Field(
        default=None,
        description="A service account's key file (JSON). Without one the pods log in by their "
        "workload identity (GKE; see `postgres.serviceAccountAnnotations`).",
    )


class AzureStore(_Store):
    """A container of Azure Blob Storage."""

    type: Literal["azure"]
    container: Container = Field(description="The container; it must exist.")
    account: StorageAccount = Field(description="Storage account.")
    key: Secret | None = Field(
        default=None,
        description="Shared key of the storage account. Without one the pods log in by the managed "
        "identity of their nodes (pgBackRest 2.58 or newer).",
    )


Store = Annotated[S3Store | GcsStore | AzureStore, Field(discriminator="type")]

_SET = r"^[0-9]{8}-[0-9]{6}F(_[0-9]{8}-[0-9]{6}[DI])?$"

_TIME = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"[+-][0-9]{2}(:[0-9]{2})?$"
)


def _moment(value: str) -> str:
    """A time that a calendar has."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("is no moment that a calendar and a clock have") from None
    if abs(moment.utcoffset() or timedelta()) > timedelta(hours=15, minutes=59):
        raise ValueError("has an offset that no place has; allowed: -15:59 to +15:59")
    return value


def _moments(label: str) -> list[datetime]:
    """When the backups of a label began; ValueError: a calendar has no such moment."""
    dates = re.findall("[0-9]{8}-[0-9]{6}", label)
    return [datetime.strptime(f"{date}+0000", "%Y%m%d-%H%M%S%z") for date in dates]


def _label(value: str) -> str:
    try:
        moments = _moments(value)
    except ValueError:
        raise ValueError("is no backup's label: a calendar has no such moment") from None
    if moments != sorted(moments):
        raise ValueError("is no backup's label: the full backup comes before the other one")
    return value


class _Restore(Model):
    """How far the database is restored; by default, up to the last archived WAL."""

    set: Annotated[str, AfterValidator(_label)] | None = Field(
        default=None,
        pattern=_SET,
        json_schema_extra=_expected("a backup's label, such as 20261124-093000F"),
        description="A named backup, as `pgbackrest info` lists it, and nothing after it; with "
        "`time` it is where the way to that moment begins.",
    )
    time: Annotated[str, AfterValidator(_moment)] | None = Field(
        default=None,
        pattern=_TIME,
        json_schema_extra=_expected("a moment with its offset, such as 2026-11-24 09:30:00+00"),
        description="A moment with its time zone: 2026-11-24 09:30:00+00.",
    )

    @model_validator(mode="after")
    def _backwards(self) -> Self:
        if self.set is None or self.time is None:
            return self
        begun = _moments(self.set)[-1]
        if datetime.fromisoformat(self.time) <= begun:
            raise ValueError(
                f"time: {self.time} is before {self.set}, where the way to it would begin; "
                "allowed: a later moment, or an earlier `set`"
            )
        return self


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
        pattern=r"^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$",
        json_schema_extra=_expected("a path, such as /shlink-db/0a1b2c3d/repo2"),
        description="The repository's path in the store: the other environment's output "
        "`database_backups`, or look for the folder that holds `backup/db`.",
    )
    passphrase: Secret | None = Field(
        default=None, description="The other environment's passphrase, when it encrypted."
    )

    @model_validator(mode="after")
    def _readable(self) -> Self:
        written = "encrypted" in self.store.model_fields_set
        if written and self.store.encrypted and self.passphrase is None:
            raise ValueError(
                "passphrase: is missing; allowed: the other environment's, or store.encrypted: "
                "false if that one did not encrypt"
            )
        if not self.store.encrypted and self.passphrase is not None:
            raise ValueError(
                "passphrase: is set, but store.encrypted is false; allowed: one of the two"
            )
        return self


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
    processes: int | None = Field(
        default=None,
        ge=1,
        le=16,
        description="Processes that compress and copy at once; pgBackRest's own 1 when left out.",
    )
    compression: Literal["none", "gz", "lz4", "zst"] | None = Field(
        default=None,
        description="How backups and WAL are compressed; gz when left out. zst takes less of the "
        "processor for the same size.",
    )
    pending_wal: DiskSize | None = Field(
        default=None,
        description="WAL that waits for a repository that is away, at most. When there is more, "
        "pgBackRest drops it so that the volume does not fill and PostgreSQL does not stop; no "
        "restore then gets past that point until the next backup. Without it all WAL is kept. Less "
        "than `postgres.storage.size`.",
    )

    def at_the_same_time(self) -> list[str]:
        """Faults: repositories whose backups begin in one minute, and pgBackRest makes only one."""
        begins = {"": {*minutes(self.full), *minutes(self.differential)}}
        for name, store in self.repositories.items():
            times = {*minutes(store.full), *minutes(store.differential)}
            begins[f"repositories.{name}."] = times
        faults: list[str] = []
        for (key, times), (later_key, later_times) in combinations(begins.items(), 2):
            both = times & later_times
            if both:
                faults.append(
                    f"backups.{later_key}full: backups begin at {min(both):%H:%M on %A} as those "
                    f"of `backups.{key}full` or its `differential` do, and one of the two fails; "
                    "allowed: another time"
                )
        return faults

    @property
    def longest_gap(self) -> timedelta:
        """Between two backups of one repository."""
        gaps = [timedelta()]
        for each in (self, *self.repositories.values()):
            times = sorted({*minutes(each.full), *minutes(each.differential)})
            gaps += [later - earlier for earlier, later in pairwise(times)]
        return max(gaps)


@cache
def minutes(schedule: str) -> frozenset[datetime]:
    """When a schedule begins something within ten weeks."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    times = takewhile(
        lambda time: time < begin + timedelta(weeks=10), CronSim(schedule.upper(), begin)
    )
    return frozenset(islice(times, 20_000))


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


# Of PostgreSQL's parameters, those that somebody else decides: the rules of PGO 6.0.3's CRD about
# spec.config.parameters, which its webhook tells minutes later, and what stops PostgreSQL. A star
# ends the beginning of a name.
_DECIDED: Mapping[str, str] = {
    "config_file data_directory external_pid_file hba_file ident_file": "PGO knows the files",
    "listen_addresses": "PostgreSQL listens on every address",
    "port": "PGO and what connects use 5432",
    "ssl ssl_*": "TLS is always on, with the certificates of this environment",
    "unix_socket_*": "PGO knows the socket",
    "wal_log_hints hot_standby": "is always on",
    "archive_mode archive_command archive_library restore_command": "pgBackRest archives",
    "recovery_target recovery_target_*": "a restore is the setting `restore`",
    "synchronous_standby_names": "the setting is `synchronous`",
    "primary_conninfo primary_slot_name recovery_min_apply_delay": "Patroni replicates",
    "cluster_name": "is the PostgresCluster's name",
    "logging_collector log_file_mode": "PGO rotates and removes the logs",
    "max_connections": "is the setting `maxConnections`",
}

_OF_TLS = ("ssl_ecdh_curve", "ssl_groups")

_CHOICES: Mapping[str, Sequence[str]] = {
    "wal_level": ("logical",),  # replica is what PGO sets, and its rule refuses the word
    "huge_pages": ("off", "try"),
    "fsync": ("on", "true"),
    "full_page_writes": ("on", "true"),
    "default_transaction_read_only": ("off", "false"),
}
"""With another value PostgreSQL does not start, loses data at a crash, or Shlink can't write."""

_MEMORY = ("shared_buffers", "work_mem", "maintenance_work_mem", "temp_buffers", "wal_buffers")

_UNIT_OF_PARAMETER = {"B": 1, "kB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


def _bytes(name: str, value: str) -> int | None:
    """What a parameter of memory asks for; None if it is no amount."""
    match = re.fullmatch(r"([0-9]+)\s*([A-Za-z]*)", value)
    if match is None or (match[2] and match[2] not in _UNIT_OF_PARAMETER):
        return None
    plain = 2**10 if name.endswith("_mem") else 8 * 2**10
    return int(match[1]) * _UNIT_OF_PARAMETER.get(match[2], plain)


def _decided(name: str) -> str | None:
    """Who decides a parameter in the file's place."""
    if name in _OF_TLS:
        return None
    for names, reason in _DECIDED.items():
        for known in names.split():
            if name == known or (known.endswith("*") and name.startswith(known[:-1])):
                return reason
    return None


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
        return self

    @model_validator(mode="after")
    def _possible_parameters(self) -> Self:
        faults = [*self._decided_elsewhere(), *self._mistyped()]
        faults += [*self._too_large(), *self._too_few()]
        if faults:
            raise ValueError("\n".join(f"parameters.{fault}" for fault in faults))
        return self

    def _decided_elsewhere(self) -> Iterator[str]:
        for name, value in self.parameters.items():
            reason = _decided(name)
            if reason:
                yield f"{name}: can't be set, {reason}; remove it"
            elif value.lower() not in _CHOICES.get(name, [value.lower()]):
                yield f"{name}: {value} is not possible; allowed: {', '.join(_CHOICES[name])}"
        if "ssl_groups" in self.parameters and self.version < 18:  # noqa: PLR2004 -- PGO 6.0.3
            yield "ssl_groups: is not in this version; allowed with version: 18"
        commit = self.parameters.get("synchronous_commit", "on").lower()
        if self.synchronous and commit not in ("on", "true", "remote_write", "remote_apply"):
            yield (
                f"synchronous_commit: {commit} does not wait for the replica that `synchronous` "
                "asks for; allowed with it: on, remote_write, remote_apply"
            )

    def _mistyped(self) -> Iterator[str]:
        """What PostgreSQL would not start with."""
        for name in self.unknown_parameters:
            near = difflib.get_close_matches(name, parameters.NAMES, n=1, cutoff=0.85)
            if near:
                yield f"{name}: is no parameter of PostgreSQL; did you mean {near[0]}?"
        for name, value in self.parameters.items():
            if name in parameters.BOOLEANS and not re.fullmatch(parameters.BOOLEAN, value):
                yield f"{name}: {value} is neither on nor off; allowed: on, off"
            elif name in parameters.NUMBERS and not re.fullmatch(parameters.NUMBER, value):
                yield f"{name}: {value} is no number; allowed: a number, with its unit behind it"

    @property
    def unknown_parameters(self) -> list[str]:
        """Parameters that no version of PostgreSQL is known to have; a dot is an extension's."""
        return [
            name for name in self.parameters if "." not in name and name not in parameters.NAMES
        ]

    def _too_large(self) -> Iterator[str]:
        limit = self.resources.memory_limit
        for name in _MEMORY:
            value = self.parameters.get(name)
            size = None if value is None else _bytes(name, value)
            if size and size > amount(limit) * 3 / 4:
                yield (
                    f"{name}: {value} is too much for resources.memoryLimit, {limit}; allowed: "
                    "three quarters of it at most"
                )

    def _too_few(self) -> Iterator[str]:
        for name in ("max_wal_senders", "max_replication_slots"):
            value = self.parameters.get(name)
            if value is None or self.instances == 1:
                continue
            if not value.isdecimal() or int(value) < self.instances:
                yield (
                    f"{name}: {value} is too few for {self.instances} instances; allowed: "
                    f"{self.instances} or more"
                )

    @model_validator(mode="after")
    def _stores_and_schedules(self) -> Self:
        restore = self.restore
        stores = {
            f"backups.repositories.{name}": store
            for name, store in self.backups.repositories.items()
        }
        if isinstance(restore, StoreRestore):
            stores["restore.store"] = restore.store
        faults: list[str] = []
        for key, store in stores.items():
            reason = store.without_identity(self.service_account_annotations)
            if reason:
                faults.append(f"{key}.key: {reason}")
        pending = self.backups.pending_wal
        if pending is not None and amount(pending) >= amount(self.storage.size):
            faults.append(
                f"backups.pendingWal: {pending} is no less than the volume, {self.storage.size}; "
                "allowed: what leaves room for the database"
            )
        faults += self.backups.at_the_same_time()
        if faults:
            raise ValueError("\n".join(faults))
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

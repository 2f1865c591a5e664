"""pgBackRest as PGO runs it: repositories side by side, and restores from them.

The volume is `repo1` for ever and object stores come beside it as `repo2` to `repo4`: PGO deletes
the volume of a repository that is no longer listed, before the first backup elsewhere exists.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
import pulumi_random as random
from pulumi_kubernetes import core, meta

from ..credentials.passwords import password
from ..manifests.crds import VolumeClaim
from ..manifests.placement import Placement
from ..manifests.pods import requirements
from ..settings.platform import Resources
from ..settings.postgres import (
    VOLUME,
    AzureStore,
    GcsStore,
    InPlaceRestore,
    Restore,
    S3Store,
    Store,
    StoreRestore,
)
from ..settings.postgres import Backups as BackupSettings
from .crds import (
    PgBackRest,
    PgBackRestDataSource,
    PgBackRestManual,
    PgBackRestRestore,
    PostgresRepository,
    RepositoryS3,
    RepositorySchedules,
)

WATCHER: Any = requirements(Resources(cpu="10m", memory="16Mi", memory_limit="64Mi"))
"""Of a container that watches files and copies or reloads them."""

STANZA = "db"
"""PGO gives every stanza this name."""

RESTORE_ANNOTATION = "postgres-operator.crunchydata.com/pgbackrest-restore"

BACKUP_ANNOTATION = "postgres-operator.crunchydata.com/pgbackrest-backup"

IP_VERSION = "postgres-operator.crunchydata.com/pgbackrest-ip-version"
"""Where pgBackRest's server listens: all addresses of this family."""

_FOLDER = "/etc/pgbackrest/conf.d"
"""Where PGO puts the files of `configuration`; pgBackRest reads those that end in .conf."""


@dataclass(frozen=True)
class Schedule:
    """When backups are made, and how many are kept."""

    full: str
    """Full backups (cron, UTC)."""
    differential: str
    """Differential backups (cron, UTC)."""
    retention_full: int
    """Full backups kept; without it pgBackRest keeps all of them until the place is full."""


@dataclass(frozen=True)
class Repository:
    """An object store as pgBackRest is told of it. Option names lack their `repoN-`."""

    target: PostgresRepository
    """Its place in the custom resource, by a name that may be exchanged."""
    options: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    secrets: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """Options that only a Secret holds."""
    files: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, pulumi.Input[str]])
    """Options whose value is a file, by the file's content."""


@dataclass(frozen=True)
class BackupPlace:
    """What a restore into another environment needs to know."""

    path: pulumi.Output[str]
    """Of this database's backups in the object store."""
    passphrase: pulumi.Output[str] | None
    """Secret; None when they are not encrypted."""


@dataclass(frozen=True)
class BackupsArgs:
    """What the backups of one PostgresCluster are made of."""

    namespace: pulumi.Input[str]
    """The cluster's."""
    cluster: str
    """Name of the PostgresCluster."""
    identity: pulumi.Input[str | None]
    """Changes when the database is created anew. It is part of the path in object stores, so a new
    and empty database never expires the backups of the one before: pgBackRest counts the full
    backups of all databases in a path together."""
    volume: VolumeClaim
    """The claim of repo1."""
    schedule: Schedule
    """Of repo1."""
    resources: Resources
    """Of each container that runs pgBackRest."""
    stores: Mapping[str, Store] = field(default_factory=dict[str, Store])
    """Object stores by name, `repo2` to `repo4`."""
    placement: Placement = field(default_factory=Placement)
    """On which nodes the repository's pod, and every backup and restore, may run."""
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further options of pgBackRest, for all repositories."""
    image: str | None = None
    """pgBackRest's image; the one of PGO's chart when None. Its pgBackRest must be the version of
    the one in PostgreSQL's image, or archiving stops."""


class Backups:
    """The resources that the backups of one PostgresCluster need, and its part of the spec."""

    spec: PgBackRest
    places: Mapping[str, BackupPlace]
    """Object stores by the repository's name."""

    def __init__(self, name: str, args: BackupsArgs, opts: pulumi.ResourceOptions) -> None:
        self._name, self._args, self._opts = name, args, opts
        options: dict[str, pulumi.Input[str]] = {
            # A checkpoint at once: waiting for the next one takes minutes, and the first `up` waits
            # for the first backup.
            "start-fast": "y",
            f"{VOLUME}-retention-full": str(args.schedule.retention_full),
            f"{VOLUME}-retention-full-type": "count",
            **args.options,
        }
        repositories: list[PostgresRepository] = [
            {
                "name": VOLUME,
                "schedules": _schedules(args.schedule.full, args.schedule.differential),
                "volume": {"volumeClaimSpec": args.volume},
            }
        ]
        places: dict[str, BackupPlace] = {}
        contents: dict[str, pulumi.Input[str]] = {}
        for repository_name, store in sorted(args.stores.items()):
            place = self._place(repository_name, store)
            repository = repository_of(store)
            options |= _prefixed(repository_name, repository, place)
            options[f"{repository_name}-retention-full"] = str(store.retention_full)
            options[f"{repository_name}-retention-full-type"] = "count"
            repositories.append(
                {
                    **repository.target,
                    "name": repository_name,
                    "schedules": _schedules(store.full, store.differential),
                }
            )
            contents |= _contents(repository_name, repository, place)
            places[repository_name] = place
        resources = requirements(args.resources)
        placed = args.placement.pgo_pods()
        self.spec = {
            "global": options,
            "repos": repositories,
            "repoHost": {"resources": resources, **placed},
            "jobs": {"resources": resources, **placed},
            "sidecars": {
                "pgbackrest": {"resources": resources},
                "pgbackrestConfig": {"resources": WATCHER},
            },
        }
        self.places = places
        if contents:
            secret = self._secret("pgbackrest", contents)
            self.spec["configuration"] = [{"secret": {"name": secret}}]
        if args.image:
            self.spec["image"] = args.image

    def source(self, restore: StoreRestore) -> PgBackRestDataSource:
        """The data source of a cluster that starts with another environment's backups."""
        repository = repository_of(restore.store)
        passphrase = None
        if restore.passphrase is not None:
            passphrase = pulumi.Output.secret(restore.passphrase.get_secret_value())
        place = BackupPlace(path=pulumi.Output.from_input(restore.path), passphrase=passphrase)
        source: PgBackRestDataSource = {
            "stanza": STANZA,
            "global": _prefixed(VOLUME, repository, place),
            # The only repository of the restoring Job, so the name clashes with nothing.
            "repo": {**repository.target, "name": VOLUME},
            "options": target_options(restore),
            "resources": requirements(self._args.resources),
            **self._args.placement.pgo_pods(),
        }
        contents = _contents(VOLUME, repository, place)
        if contents:
            secret = self._secret("restore", contents)
            source["configuration"] = [{"secret": {"name": secret}}]
        return source

    def _place(self, repository: str, store: Store) -> BackupPlace:
        incarnation = random.RandomId(
            f"{self._name}-{repository}-path",
            byte_length=4,
            keepers={"database": pulumi.Output.from_input(self._args.identity).apply(_known)},
            opts=self._opts,
        )
        passphrase = None
        if store.encrypted:
            # The backups outlive the environment and this repository's place in the settings, and
            # nobody opens them without it.
            kept = pulumi.ResourceOptions.merge(self._opts, pulumi.ResourceOptions(protect=True))
            passphrase = password(f"{self._name}-{repository}-passphrase", 1, kept, length=48)
        path = pulumi.Output.concat("/", self._args.cluster, "/", incarnation.hex, "/", repository)
        return BackupPlace(path=path, passphrase=passphrase)

    def _secret(
        self, purpose: str, contents: Mapping[str, pulumi.Input[str]]
    ) -> pulumi.Output[str]:
        secret = core.v1.Secret(
            f"{self._name}-{purpose}",
            metadata=meta.v1.ObjectMetaArgs(
                # Not `<cluster>-pgbackrest`, which is PGO's own.
                name=f"{self._args.cluster}-{purpose}-stores",
                namespace=self._args.namespace,
            ),
            string_data=contents,
            opts=self._opts,
        )
        return secret.metadata.name.apply(str)


def restore_in_place(
    restore: InPlaceRestore, resources: Resources, placement: Placement
) -> PgBackRestRestore:
    """The cluster's request for a restore; the annotation's number starts it."""
    return {
        "enabled": True,
        "repoName": restore.repository,
        "options": target_options(restore),
        "resources": requirements(resources),
        **placement.pgo_pods(),
    }


def backup_after(restore: InPlaceRestore) -> PgBackRestManual:
    """A backup that PGO makes when the restored database runs, once for each number.

    A restore begins a new timeline. PgBackRest always starts from the newest backup, and while that
    one lies beyond the point that was restored, no further restore works. A differential one lets
    no older backup expire.
    """
    return {"repoName": restore.repository, "options": ["--type=diff"]}


def target_options(restore: Restore) -> Sequence[str]:
    """PgBackRest's options for the point up to which is restored. PGO hands them to a shell."""
    options: list[str] = []
    if restore.time is not None:
        options = ["--type=time", f'--target="{restore.time}"']
    elif restore.set is not None:
        options = ["--type=immediate"]
    return [*options, f"--set={restore.set}"] if restore.set is not None else options


def repository_of(store: Store) -> Repository:
    """How pgBackRest is told of an object store: https://pgbackrest.org/configuration.html"""
    if isinstance(store, S3Store):
        return _s3(store)
    if isinstance(store, GcsStore):
        return _gcs(store)
    return _azure(store)


def _s3(store: S3Store) -> Repository:
    options: dict[str, pulumi.Input[str]] = {"storage-port": str(store.port)}
    if store.path_style:
        options["s3-uri-style"] = "path"
    if store.kms_key_id is not None:
        options["s3-kms-key-id"] = store.kms_key_id
    secrets: dict[str, pulumi.Input[str]] = {}
    if store.key is not None and store.key_secret is not None:
        secrets["s3-key"] = store.key.get_secret_value()
        secrets["s3-key-secret"] = store.key_secret.get_secret_value()
    else:
        options["s3-key-type"] = "web-id"
    files: dict[str, pulumi.Input[str]] = {}
    if store.ca is not None:
        files["storage-ca-file"] = store.ca
    bucket: RepositoryS3 = {
        "bucket": store.bucket,
        "endpoint": store.host,
        "region": store.region,
    }
    return Repository(
        target={"name": "", "s3": bucket}, options=options, secrets=secrets, files=files
    )


def _gcs(store: GcsStore) -> Repository:
    target: PostgresRepository = {"name": "", "gcs": {"bucket": store.bucket}}
    if store.key is None:
        return Repository(target, {"gcs-key-type": "auto"})
    return Repository(target, files={"gcs-key": store.key.get_secret_value()})


def _azure(store: AzureStore) -> Repository:
    target: PostgresRepository = {"name": "", "azure": {"container": store.container}}
    account = {"azure-account": store.account}
    if store.key is None:
        return Repository(target, {**account, "azure-key-type": "auto"})
    return Repository(target, account, secrets={"azure-key": store.key.get_secret_value()})


def options_of(settings: BackupSettings) -> dict[str, str]:
    """PgBackRest's options for all repositories; what is left out keeps its own default."""
    options: dict[str, str] = {}
    if settings.processes is not None:
        options["process-max"] = str(settings.processes)
    if settings.compression is not None:
        options["compress-type"] = settings.compression
    if settings.pending_wal is not None:
        options["archive-push-queue-max"] = f"{settings.pending_wal}B"
    return options


def _schedules(full: str, differential: str) -> RepositorySchedules:
    return {"full": full, "differential": differential}


def _known(identity: str | None) -> str:
    return identity or ""


def _prefixed(
    name: str, repository: Repository, place: BackupPlace
) -> dict[str, pulumi.Input[str]]:
    """The repository's options that are no secrets, as pgBackRest's file has them."""
    options = {f"{name}-{option}": value for option, value in repository.options.items()}
    options[f"{name}-path"] = place.path
    if place.passphrase is not None:
        options[f"{name}-cipher-type"] = "aes-256-cbc"
    for option in repository.files:
        options[f"{name}-{option}"] = f"{_FOLDER}/{_file(name, option)}"
    return options


def _contents(
    name: str, repository: Repository, place: BackupPlace
) -> dict[str, pulumi.Input[str]]:
    """The repository's part of a Secret: one file with its secret options, and its other files."""
    secrets = dict(repository.secrets)
    if place.passphrase is not None:
        secrets["cipher-pass"] = place.passphrase
    contents: dict[str, pulumi.Input[str]] = {}
    if secrets:
        lines = [pulumi.Output.concat(name, "-", key, "=", text) for key, text in secrets.items()]
        text = pulumi.Output.all(*lines).apply(_section)
        contents[f"{name}.conf"] = pulumi.Output.secret(text)
    for option, content in repository.files.items():
        contents[_file(name, option)] = pulumi.Output.secret(content)
    return contents


def _section(lines: Sequence[str]) -> str:
    return "\n".join(["[global]", *lines, ""])


def _file(repository: str, option: str) -> str:
    return f"{repository}-{option}.pem" if option == "storage-ca-file" else f"{repository}-{option}"

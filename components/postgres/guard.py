"""Refuses changes of a PostgresCluster that would destroy it or its data, before they begin.

Most need only the table of settings/changes.py. What only the cluster can tell (the version of its
data, which backups are valid, whether a volume can grow) is asked by an update; a preview reads
nothing, and warns. A restore is such a change that is asked for: restore.py looks first whether it
can work.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

import pulumi

from ..cluster.access import ClusterAccess, answer, label_selector, objects, read
from ..cluster.execute import ExecuteError
from ..settings.changes import (
    REPOSITORIES,
    Change,
    ChangeError,
    Record,
    changed,
    listed,
    refusals,
    volume,
)
from ..settings.postgres import VOLUME, InPlaceRestore, StoreRestore
from ..settings.types import amount
from .backup_info import RepositoryContent, summary
from .backups import RESTORE_ANNOTATION
from .restore import RestoreArgs, look_into_store, prepare_in_place, repository_contents

RESOURCE = "postgresclusters.v1beta1.postgres-operator.crunchydata.com"
"""A PostgresCluster's plural name with version and group."""

_LABEL = "postgres-operator.crunchydata.com"

_VERSION = "postgres.version"

_GROWS: Mapping[str, Mapping[str, str]] = {
    "postgres.storage.size": {f"{_LABEL}/role": "pgdata"},
    "postgres.backups.storage.size": {f"{_LABEL}/pgbackrest-volume": ""},
}
"""Labels of the claims behind each setting (PGO 6.0.3, internal/naming/labels.go)."""


@dataclass(frozen=True)
class GuardedCluster:
    """A PostgresCluster, and what may change in it."""

    access: ClusterAccess
    namespace: str
    name: str
    allowed: frozenset[str] = frozenset()
    """Changes that were prepared by hand: `shlink:allowedChanges`."""


@dataclass(frozen=True)
class GuardArgs:
    """What the hooks of one PostgresCluster need to know."""

    restores: RestoreArgs
    """The cluster, and who uses it."""
    restore: InPlaceRestore | StoreRestore | None = None
    """`shlink:postgres.restore`."""
    allowed: frozenset[str] = frozenset()
    """`shlink:allowedChanges`."""


def guard_hook(name: str, args: GuardArgs) -> pulumi.ResourceHook:
    """A `before_update` hook: refuses such a change, and prepares a restore in place.

    Raises ChangeError with every reason.
    """

    async def guard(hook: pulumi.ResourceHookArgs) -> None:
        old, new = _spec(hook.old_inputs), _spec(hook.new_inputs)
        if "dataSource" in new and "dataSource" not in old:
            # PGO 6.0.3 tears a running cluster down for it (reconcileDataSource).
            raise ChangeError(
                "shlink:postgres.restore: type store is for a database that does not exist yet; "
                "here it would replace the running one. Use type inPlace, or another stack"
            )
        before, after = recorded(old), recorded(new)
        cluster = GuardedCluster(args.restores.access, *_place(hook), args.allowed)
        reasons = refusals(before, after, args.allowed) + await asked(before, after, cluster)
        if reasons:
            raise ChangeError.of(reasons)
        if isinstance(args.restore, InPlaceRestore) and _asked(hook):
            await _restore(args.restores, args.restore, hook)

    return pulumi.ResourceHook(name, guard, pulumi.ResourceHookOptions(on_dry_run=True))


def creation_hook(name: str, args: GuardArgs) -> pulumi.ResourceHook:
    """A `before_create` hook: a new database can start from a store only, and a valid backup.

    Raises pulumi.RunError.
    """

    async def guard(hook: pulumi.ResourceHookArgs) -> None:
        if isinstance(args.restore, InPlaceRestore):
            # PGO 6.0.3 would look for its backup in the new, empty repository, for ever.
            raise pulumi.RunError(
                "shlink:postgres.restore: type inPlace is for a database that runs, and here a new "
                "one would be made. Remove `restore`, or use type store to start from a backup"
            )
        if isinstance(args.restore, StoreRestore) and not pulumi.runtime.is_dry_run():
            source = cast("Mapping[str, Any]", _spec(hook.new_inputs)["dataSource"]["pgbackrest"])
            await look_into_store(args.restores, args.restore, _place(hook)[0], source)

    return pulumi.ResourceHook(name, guard, pulumi.ResourceHookOptions(on_dry_run=True))


def recorded(spec: Mapping[str, Any]) -> Record:
    """The settings that a PostgresCluster was made of."""
    instances, pgbackrest = spec["instances"][0], spec["backups"]["pgbackrest"]
    record: dict[str, Any] = {
        _VERSION: spec["postgresVersion"],
        "postgres.instances": instances["replicas"],
        **volume("postgres.storage", instances["dataVolumeClaimSpec"]),
    }
    for repository in pgbackrest["repos"]:
        name, options = repository["name"], pgbackrest["global"]
        if name == VOLUME:
            claim = repository["volume"]["volumeClaimSpec"]
            record |= volume("postgres.backups.storage", claim)
        else:
            record[f"{REPOSITORIES}{name}"] = _store(name, repository, options)
    if "image" in spec and "image" in pgbackrest:
        images = f"{spec['image']}, {pgbackrest['image']}"
        record["images.postgres, images.pgbackrest"] = images
    return record


def _store(name: str, repository: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """The same text as the record's (program/changes.py)."""
    kind = next(kind for kind in ("s3", "gcs", "azure") if kind in repository)
    parts = {"type": kind, "encrypted": f"{name}-cipher-type" in options}
    parts |= {
        key: repository[kind][key] for key in ("bucket", "container") if key in repository[kind]
    }
    if kind == "azure":
        parts["account"] = options[f"{name}-azure-account"]
    return listed(parts)


async def asked(before: Record, after: Record, cluster: GuardedCluster) -> list[str]:
    """A text for each change that must not be, as far as only the cluster can tell."""
    return [
        *await _version(before, after, cluster),
        *await _removals(before, after, cluster),
        *await _growth(before, after, cluster),
    ]


async def _version(before: Record, after: Record, cluster: GuardedCluster) -> list[str]:
    """Data of another version: a PGUpgrade comes first, and PGO tells when it has finished."""
    changes = [item for item in changed(before, after, cluster.allowed) if item.key == _VERSION]
    if not changes:
        return []
    (change,) = changes
    refusal = change.refusal(
        "the pods would start PostgreSQL on files of another version and end in "
        "`database files are incompatible with server`",
        "a finished PGUpgrade comes first: docs/upgrades.md#postgresql-major",
    )
    if change.after < change.before:
        return [refusal]
    if pulumi.runtime.is_dry_run():
        pulumi.log.warn(f"the update looks whether a PGUpgrade has finished:\n{refusal}")
        return []
    status = await _status(cluster.access, cluster.namespace, cluster.name)
    return [] if status.get("postgresVersion") == change.after else [refusal]


async def _removals(before: Record, after: Record, cluster: GuardedCluster) -> list[str]:
    """Backup repositories that must not go yet.

    A store that goes is the end of what it protects, and only the cluster can tell whether another
    repository holds a full backup.
    """
    stores = {key.removeprefix(REPOSITORIES) for key in before if key.startswith(REPOSITORIES)}
    removed: dict[str, Change] = {}
    for change in changed(before, after, cluster.allowed, removed=True):
        if change.key.startswith(REPOSITORIES):
            removed[change.key.removeprefix(REPOSITORIES)] = change
    if not removed:
        return []
    kept = sorted({VOLUME, *stores} - removed.keys())
    names, others = ", ".join(removed), ", ".join(kept)
    if pulumi.runtime.is_dry_run():
        pulumi.log.warn(
            f"shlink:{REPOSITORIES[:-1]}: {names} can go only when another repository holds a "
            f"full backup; the update asks {others} for it"
        )
        return []
    reason = await _without_full_backup(cluster, kept)
    if reason is None:
        if kept == [VOLUME]:
            pulumi.log.warn(
                f"without {names} no backup outlives the cluster: {VOLUME} is a volume in it"
            )
        return []
    consequence = f"no other repository is known to hold a full backup. {reason}"
    remedy = (
        f"wait for the next scheduled full backup in {others}, or make one: "
        "docs/operations.md#a-backup-by-hand"
    )
    return [change.refusal(consequence, remedy) for change in removed.values()]


async def _without_full_backup(cluster: GuardedCluster, names: Sequence[str]) -> str | None:
    """What these repositories hold instead of a full backup, or None when one of them has one."""
    known: dict[str, RepositoryContent] = {}
    try:
        # Not the one that goes: it may not answer, which takes minutes.
        for name in names:
            known |= await repository_contents(
                cluster.access, cluster.namespace, cluster.name, name
            )
    except ExecuteError as error:
        return f"Nobody could be asked: {error}"
    if any(known[name].has_full for name in names if name in known):
        return None
    shown = [f"{name}: {summary(content)}" for name, content in sorted(known.items())]
    return f"`pgbackrest info` shows {'; '.join(shown) or 'none'}"


async def _growth(before: Record, after: Record, cluster: GuardedCluster) -> list[str]:
    """Volumes that shall grow and can't: PGO would go on with the old ones and say nothing."""
    grown = [
        change
        for change in changed(before, after, cluster.allowed)
        if change.key in _GROWS and amount(change.after) > amount(change.before)
    ]
    if not grown or pulumi.runtime.is_dry_run():
        return []
    texts: list[str] = []
    async with cluster.access.connected() as api:
        for change in grown:
            labels = {f"{_LABEL}/cluster": cluster.name, **_GROWS[change.key]}
            fixed = await _fixed_classes(api, cluster.namespace, label_selector(labels))
            if fixed:
                texts.append(
                    change.refusal(
                        f"nothing: volumes of class {', '.join(fixed)} cannot grow, and PGO would "
                        "go on with the old ones",
                        "move the database to a class whose allowVolumeExpansion is true: "
                        "docs/upgrades.md#changes-that-are-refused",
                    )
                )
    return texts


async def _fixed_classes(api: Any, namespace: str, labels: str) -> list[str]:
    """Classes of these claims whose volumes keep their size."""
    claims = objects(api, "PersistentVolumeClaim", namespace=namespace, labels=labels)
    names = {claim.raw["spec"].get("storageClassName") async for claim in claims}
    fixed: list[str] = []
    for name in sorted(name for name in names if name):
        url = f"storageclasses/{name}"
        status, text = await answer(api, "GET", "storage.k8s.io/v1", "", url)
        # Whoever may not read it can't tell.
        if status == HTTPStatus.OK and not json.loads(text).get("allowVolumeExpansion"):
            fixed.append(name)
    return fixed


def _asked(hook: pulumi.ResourceHookArgs) -> bool:
    """Whether the update asks for a restore in place: another number, or another target."""
    old, new = _metadata(hook.old_inputs), _metadata(hook.new_inputs)
    numbers = [item.get("annotations", {}).get(RESTORE_ANNOTATION) for item in (old, new)]
    targets = [
        _spec(inputs)["backups"]["pgbackrest"].get("restore")
        for inputs in (hook.old_inputs, hook.new_inputs)
    ]
    return numbers[0] != numbers[1] or targets[0] != targets[1]


async def _restore(
    args: RestoreArgs, restore: InPlaceRestore, hook: pulumi.ResourceHookArgs
) -> None:
    if pulumi.runtime.is_dry_run():
        point = restore.time or restore.set or "the last archived WAL"
        names = ", ".join(workload.name for workload in args.workloads) or "nothing else"
        pulumi.log.warn(
            f"this update replaces what the database holds by the backup in {restore.repository}, "
            f"up to {point}, if there is a valid one. {names} stops meanwhile"
        )
        return
    namespace, cluster = _place(hook)
    status = await _status(args.access, namespace, cluster)
    await prepare_in_place(args, restore, namespace, status)


async def _status(access: ClusterAccess, namespace: str, name: str) -> Mapping[str, Any]:
    async with access.connected() as api:
        cluster = await read(api, RESOURCE, namespace, name)
    return cast("Mapping[str, Any]", (cluster or {}).get("status", {}))


def _spec(inputs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", (inputs or {}).get("spec", {}))


def _metadata(inputs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", (inputs or {}).get("metadata", {}))


def _place(hook: pulumi.ResourceHookArgs) -> tuple[str, str]:
    """Namespace and name of the cluster."""
    metadata = _metadata(hook.new_inputs)
    return str(metadata["namespace"]), str(metadata["name"])

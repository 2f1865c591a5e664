"""Refuses changes of a PostgresCluster that would destroy it or its data, before they begin.

A restore is such a change that is asked for: restores.py looks first whether it can work.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pulumi

from ..cluster.access import ClusterAccess, read
from ..settings.postgres import InPlaceRestore, StoreRestore
from ..settings.types import amount
from .backups import RESTORE_ANNOTATION
from .restore import RestoreArgs, look_into_store, prepare_in_place

RESOURCE = "postgresclusters.v1beta1.postgres-operator.crunchydata.com"
"""A PostgresCluster's plural name with version and group."""

_PAGE = "docs/upgrades.md"


@dataclass(frozen=True)
class GuardArgs:
    """What the hooks of one PostgresCluster need to know."""

    restores: RestoreArgs
    """The cluster, and who uses it."""
    restore: InPlaceRestore | StoreRestore | None = None
    """`shlink:postgres.restore`."""


def guard_hook(name: str, args: GuardArgs) -> pulumi.ResourceHook:
    """A `before_update` hook: refuses such a change, and prepares a restore in place.

    Raises pulumi.RunError with every reason. What only the cluster can tell (the version of its
    data, which backups are valid) is asked by an update; a preview reads nothing, and warns.
    """

    async def guard(hook: pulumi.ResourceHookArgs) -> None:
        old, new = _spec(hook.old_inputs), _spec(hook.new_inputs)
        reasons = refusals(old, new)
        if old.get("postgresVersion") != new.get("postgresVersion"):
            reasons += await _version(args, hook, old, new)
        if reasons:
            raise pulumi.RunError("\n".join(reasons))
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


def refusals(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why the one spec must not follow the other; empty when it may."""
    reasons: list[str] = []
    if "dataSource" in new and "dataSource" not in old:
        # PGO 6.0.3 tears a running cluster down for it (reconcileDataSource, prepareForRestore).
        reasons.append(
            "shlink:postgres.restore: type store is for a database that does not exist yet; here "
            "it would replace the running one. Use type inPlace, or another stack"
        )
    before, after = _volumes(old), _volumes(new)
    shared = sorted(before.keys() & after.keys())
    smaller = [key for key in shared if amount(after[key]) < amount(before[key])]
    reasons += [_shrunk(key, before[key], after[key]) for key in smaller]
    return reasons


def _shrunk(key: str, before: str, after: str) -> str:
    return (
        f"{key}: {after} is less than the {before} that the volume has; a volume cannot be made "
        "smaller. Restore into a new environment instead"
    )


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


async def _version(
    args: GuardArgs,
    hook: pulumi.ResourceHookArgs,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
) -> list[str]:
    version = new.get("postgresVersion")
    message = (
        f"shlink:postgres.version: the data has version {old.get('postgresVersion')}, and "
        f"PostgreSQL {version} cannot read it. Upgrade it first, then set the version: {_PAGE}, "
        '"PostgreSQL, major"'
    )
    if pulumi.runtime.is_dry_run():
        pulumi.log.warn(message)
        return []
    status = await _status(args.restores.access, *_place(hook))
    # PGUpgrade writes it when it has finished.
    upgraded = status.get("postgresVersion") == version
    return [] if upgraded else [message]


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


def _volumes(spec: Mapping[str, Any]) -> dict[str, str]:
    """The size of each volume by the setting that it comes from."""
    sizes = {
        "shlink:postgres.storage.size": spec["instances"][0]["dataVolumeClaimSpec"],
        "shlink:postgres.backups.storage.size": spec["backups"]["pgbackrest"]["repos"][0]
        .get("volume", {})
        .get("volumeClaimSpec"),
    }
    return {
        key: str(claim["resources"]["requests"]["storage"])
        for key, claim in sizes.items()
        if claim is not None
    }

"""Refuses changes of a PostgresCluster that would destroy it or its data, before they begin."""

from collections.abc import Mapping
from typing import Any, cast

import pulumi

from .cluster import ClusterAccess, disconnect
from .setting_types import amount

_RESOURCE = "postgresclusters.postgres-operator.crunchydata.com"
_PAGE = "docs/upgrades.md"


def guard_hook(name: str, access: ClusterAccess) -> pulumi.ResourceHook:
    """A `before_update` hook that refuses such a change; also in a preview, which reads nothing.

    Raises pulumi.RunError with every reason. A new major version is refused by an update only,
    which asks the cluster whether its data has that version: a preview warns.
    """

    async def refuse(args: pulumi.ResourceHookArgs) -> None:
        old, new = _spec(args.old_inputs), _spec(args.new_inputs)
        reasons = refusals(old, new)
        if old.get("postgresVersion") != new.get("postgresVersion"):
            reasons += await _version(access, args, old, new)
        if reasons:
            raise pulumi.RunError("\n".join(reasons))

    return pulumi.ResourceHook(name, refuse, pulumi.ResourceHookOptions(on_dry_run=True))


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
    left = _repositories(old) - _repositories(new)
    # A repository that goes takes its backups along when it is a volume, and ends what a store has.
    if left and not _repositories(new) - {"repo1"}:
        reasons.append(
            f"shlink:postgres.backups.repositories: without {', '.join(sorted(left))} no backup "
            "outlives the cluster. Add another store, wait until `pgbackrest info` shows a full "
            "backup there, then remove this one; or set protect: false and replace the environment"
        )
    return reasons


def _shrunk(key: str, before: str, after: str) -> str:
    return (
        f"{key}: {after} is less than the {before} that the volume has; a volume cannot be made "
        "smaller. Restore into a new environment instead"
    )


async def _version(
    access: ClusterAccess,
    args: pulumi.ResourceHookArgs,
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
    metadata = cast("Mapping[str, Any]", (args.new_inputs or {}).get("metadata", {}))
    status = await _status(access, str(metadata["namespace"]), str(metadata["name"]))
    # PGUpgrade writes it when it has finished.
    upgraded = status.get("postgresVersion") == version
    return [] if upgraded else [message]


async def _status(access: ClusterAccess, namespace: str, name: str) -> Mapping[str, Any]:
    api: Any = await access.client()
    try:
        objects = api.async_get(_RESOURCE, name, namespace=namespace)
        async for item in objects:
            return cast("Mapping[str, Any]", item.raw.get("status", {}))
    finally:
        await disconnect(api)
    return {}


def _spec(inputs: Mapping[str, Any] | None) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", (inputs or {}).get("spec", {}))


def _repositories(spec: Mapping[str, Any]) -> set[str]:
    return {str(item["name"]) for item in spec["backups"]["pgbackrest"]["repos"]}


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

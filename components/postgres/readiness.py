"""When a PostgresCluster has done what its spec asks for."""

from collections.abc import Mapping
from typing import Any

from .backups import RESTORE_ANNOTATION


def incomplete(item: Mapping[str, Any]) -> str | None:
    """What a PostgresCluster still lacks in its present generation, or None.

    PGO has no condition for that (6.0.3). `observedGeneration` follows a look at the whole spec;
    an instance is up to date when its pod fits its template; a repository can be used once its
    stanza exists; PGBackRestReplicaCreate follows the first backup, without which archiving is not
    proven and no replica starts.
    """
    status = item.get("status", {})
    if status.get("observedGeneration", 0) < item["metadata"]["generation"]:
        return "PGO has not seen the latest change"
    reasons = [
        _lacking_restore(item, status),
        _lacking_instances(item, status),
        _lacking_repositories(item, status),
        _lacking_pooler(item, status),
    ]
    reasons = [reason for reason in [*reasons, users_missing(item)] if reason]
    return "; ".join(str(reason) for reason in reasons) or None


def users_missing(item: Mapping[str, Any]) -> str | None:
    """Enough for what is done inside PostgreSQL: its users and their passwords are there."""
    if item.get("status", {}).get("usersRevision"):
        return None
    return "its users are not in the database yet"


def _lacking_restore(item: Mapping[str, Any], status: Mapping[str, Any]) -> str | None:
    number = item["metadata"].get("annotations", {}).get(RESTORE_ANNOTATION)
    if number is None:
        return None
    restore = status.get("pgbackrest", {}).get("restore", {})
    if restore.get("id") != number:
        return f"restore {number} has not begun"
    if restore.get("failed"):
        return f"restore {number} has failed {restore['failed']} times; see its Job's log"
    if not (restore.get("finished") and restore.get("succeeded")):
        return f"restore {number} is running"
    return None


def _lacking_instances(item: Mapping[str, Any], status: Mapping[str, Any]) -> str | None:
    known = {instances["name"]: instances for instances in status.get("instances", [])}
    for instances in item["spec"]["instances"]:
        replicas = instances.get("replicas", 1)
        current = known.get(instances["name"], {})
        counts = [current.get(key, 0) for key in ("replicas", "updatedReplicas", "readyReplicas")]
        if counts != [replicas] * len(counts):
            return (
                f"{instances['name']}: {counts[0]} of {replicas} instances exist, "
                f"{counts[1]} are up to date, {counts[2]} are Ready"
            )
    return None


def _lacking_repositories(item: Mapping[str, Any], status: Mapping[str, Any]) -> str | None:
    known = {
        repository["name"]: repository
        for repository in status.get("pgbackrest", {}).get("repos", [])
    }
    for repository in item["spec"]["backups"]["pgbackrest"]["repos"]:
        if not known.get(repository["name"], {}).get("stanzaCreated"):
            # A wrong bucket, key or endpoint is told by an Event only (UnableToCreateStanzas).
            return (
                f"repository {repository['name']} cannot be used: pgBackRest's stanza is not "
                "created there; if that lasts, look at the Events for the bucket, key or endpoint"
            )
    conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
    if conditions.get("PGBackRestReplicaCreate", {}).get("status") != "True":
        return "the first backup is not complete"
    return None


def _lacking_pooler(item: Mapping[str, Any], status: Mapping[str, Any]) -> str | None:
    pooler = item["spec"].get("proxy", {}).get("pgBouncer")
    if pooler is None:
        return None
    current = status.get("proxy", {}).get("pgBouncer", {})
    if not current.get("postgresRevision"):
        return "PgBouncer has no login in the database yet"
    ready = current.get("readyReplicas", 0)
    if ready != pooler["replicas"]:
        return f"{ready} of {pooler['replicas']} pods of PgBouncer are Ready"
    return None

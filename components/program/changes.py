"""Refuses changes of settings that would destroy something, before anything is touched.

The state keeps a record of the settings that matter: a `pulumi.Stash`, which the engine provides
without a plugin or a cluster. The rest of the program waits for it. When a setting in the record
changes, a hook before the record's update compares the two and fails, in a preview too. If nothing
in the record changes, the hook does not run.

One change is refused only if the cluster says so: a backup repository may go when another one holds
a full backup. To allow a change that was prepared by hand, write it into `shlink:allowedChanges`
exactly as the message does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pulumi

from ..cluster.access import ClusterAccess, access
from ..cluster.execute import ExecuteError
from ..network.flows import POSTGRES
from ..postgres.backup_info import RepositoryContent, summary
from ..postgres.component import CLUSTER
from ..postgres.restore import repository_contents
from ..settings.environment import Cluster, Settings
from ..settings.postgres import VOLUME
from ..settings.redis import FailoverRedis
from ..settings.types import amount
from .identity import CLUSTER_UID, RECORD, Sight, exported

Record = Mapping[str, Any]
"""Settings by their keys, nothing of it secret."""

_IDENTITY = {"token", "address", "endpoint", "ca"}
"""Of a key service: what may change while the key stays the same."""


class ChangeError(pulumi.RunError):
    """A change would destroy something; the message says what, and how it is done by hand."""


@dataclass(frozen=True)
class _Rule:
    """What may not simply change."""

    refused: Callable[[Any, Any], bool]
    """Takes the value before and after."""
    consequence: str
    """What would happen."""
    remedy: str
    """How it is done by hand; ends with a page of docs/ and its anchor."""


def _differs(before: Any, after: Any) -> bool:
    return bool(before != after)


def _less(before: Any, after: Any) -> bool:
    return bool(after < before)


def _skips(before: Any, after: Any) -> bool:
    """Whether a number rises by more than one."""
    return bool(after > before + 1)


def _smaller(before: Any, after: Any) -> bool:
    return amount(after) < amount(before)


def _switched_off(before: Any, after: Any) -> bool:
    return before is True and after is False


def _back_from_the_fork(before: Any, after: Any) -> bool:
    return (before, after) == ("freshworks", "spotahome")


def _one_of_two(before: Any, after: Any) -> bool:
    """Whether only one part of a pair differs."""
    parts = zip(str(before).split(", "), str(after).split(", "), strict=True)
    return [old == new for old, new in parts].count(False) == 1


_DOCS = "docs/upgrades.md#changes-that-are-refused"

_BY_DUMP = f"a new environment beside this one, and the data moved over: {_DOCS}"

_REDIS_VOLUMES = (
    "redis-operator can't change the volumes of a StatefulSet, so it would stop looking after Redis"
)

_RULES: Mapping[str, _Rule] = {
    "kubernetes.cluster": _Rule(
        _differs,
        "it means another cluster, so every object would be created there and given up here, "
        "with all data",
        "if it is the same cluster under a new name, set kubernetes:clusterIdentifier to the value "
        "before; for another cluster, make another stack (docs/takeover.md)",
    ),
    CLUSTER_UID: _Rule(
        _differs,
        "another cluster has the same name, by another kubeconfig; what is there would be "
        "overwritten, whosever it is",
        "set KUBECONFIG or kubernetes:kubeconfig to the file of the cluster before; if that one is "
        f"gone for good: {_DOCS}",
    ),
    "vault.mode": _Rule(
        _differs,
        "Vault would start with empty storage of the other kind, still believe that it is "
        "initialised, and stay sealed",
        f"move Vault's data by `vault operator migrate`: {_DOCS}",
    ),
    "vault.seal": _Rule(
        _differs,
        "Vault would wait for a seal migration that nobody starts, and stay sealed after its next "
        "restart",
        f"run `vault operator unseal -migrate` with the keys before: {_DOCS}",
    ),
    "vault.storage.size": _Rule(
        _differs,
        "a StatefulSet can't change its volumes: it would be replaced, with Vault down meanwhile",
        f"grow the claims themselves, then replace the StatefulSet without its pods: {_DOCS}",
    ),
    "vault.storage.storageClass": _Rule(
        _differs,
        "a StatefulSet can't change its volumes, and a claim never its class",
        f"restore a snapshot of Vault into new volumes: {_DOCS}",
    ),
    "vault.replicas": _Rule(
        _less,
        "the servers that go stay voters of raft, which may lose its quorum",
        f"remove each with `vault operator raft remove-peer` first: {_DOCS}",
    ),
    "postgres.version": _Rule(
        _differs,
        "the pods would start PostgreSQL on files of another version and end in "
        "`database files are incompatible with server`",
        "a finished PGUpgrade comes first: docs/upgrades.md#postgresql-major",
    ),
    "postgres.instances": _Rule(
        _less,
        "PGO deletes the surplus instances with their volumes, perhaps the primary's among them",
        f"make sure that a full backup exists and that the replicas stream: {_DOCS}",
    ),
    "postgres.storage.size": _Rule(_smaller, "a volume can't shrink", _BY_DUMP),
    "postgres.storage.storageClass": _Rule(_differs, "a claim can't change its class", _BY_DUMP),
    "postgres.backups.storage.size": _Rule(_smaller, "a volume can't shrink", _BY_DUMP),
    "postgres.backups.storage.storageClass": _Rule(
        _differs, "a claim can't change its class", _BY_DUMP
    ),
    "images.postgres, images.pgbackrest": _Rule(
        _one_of_two,
        "pgBackRest may be of another version in one image than in the other, and then archiving "
        "and backups stop",
        "set both images of one release; if both hold the same pgBackRest already, allow it: "
        "docs/upgrades.md#postgresql-minor",
    ),
    "redis.storage.size": _Rule(
        _differs,
        _REDIS_VOLUMES,
        f"replace the StatefulSet without its pods, one claim after the other: {_DOCS}",
    ),
    "redis.storage.storageClass": _Rule(
        _differs,
        _REDIS_VOLUMES,
        f"replace the StatefulSet without its pods, one claim after the other: {_DOCS}",
    ),
    "operators.redisOperator.distribution": _Rule(
        _back_from_the_fork,
        "the archived operator would start while the fork still runs, and each would restart "
        "Redis' pods to fit its own templates",
        "stop the fork first: docs/upgrades.md#redis-operator",
    ),
    "operators.externalSecrets.install": _Rule(
        _switched_off,
        "the release takes its CRDs along, and with them every ExternalSecret of the whole cluster "
        "and the Secrets made from them",
        f"let another release of the chart adopt the CRDs first: {_DOCS}",
    ),
}

_LOWER = _Rule(
    _less,
    "a lower number is an old password, which the product does not know any more",
    "raise the number instead: docs/operations.md",
)

_SKIPPED = _Rule(
    _skips,
    "what runs is prepared for the next number only: requests would be refused, and Redis' "
    "rotation would not be let in",
    "raise the number by one, `make up`, and again: docs/operations.md#rotation",
)

_REPOSITORIES = "postgres.backups.repositories."

_REPOSITORY = _Rule(
    _differs,
    "pgBackRest would find another database's backups there, or none, and archiving would stop",
    f"use a name that is still free (repo3, repo4) for another store: {_DOCS}",
)

_REFUSED = "these changes would destroy something, so nothing was touched:"

_ALLOW = (
    "A change that is prepared by hand is allowed by its line above: shlink:allowedChanges: [...]"
)


_WHERE = ("kubernetes.cluster", CLUSTER_UID)
"""Of the record: what counts only once something is in a cluster."""


def recorded(cluster: Cluster, settings: Settings, uid: str | None = None) -> dict[str, Any]:
    """What of the settings is compared with the next run; `uid` is the cluster's own."""
    vault, postgres, redis = settings.vault, settings.postgres, settings.redis
    record: dict[str, Any] = {
        "kubernetes.cluster": cluster.identifier,
        "vault.mode": vault.mode,
        "vault.seal": "none",
        "vault.replicas": vault.replicas if vault.mode == "ha" else 1,
        "vault.storage.size": vault.storage.size,
        "vault.storage.storageClass": vault.storage.storage_class,
        "postgres.version": postgres.version,
        "postgres.instances": postgres.instances,
        "postgres.storage.size": postgres.storage.size,
        "postgres.storage.storageClass": postgres.storage.storage_class,
        "postgres.backups.storage.size": postgres.backups.storage.size,
        "postgres.backups.storage.storageClass": postgres.backups.storage.storage_class,
        "operators.externalSecrets.install": settings.operators.external_secrets.install,
    }
    if vault.seal:
        parts = vault.seal.model_dump(by_alias=True, exclude=_IDENTITY, exclude_none=True)
        record["vault.seal"] = _listed(parts)
    if isinstance(redis, FailoverRedis):
        record["redis.storage.size"] = redis.storage.size
        record["redis.storage.storageClass"] = redis.storage.storage_class
        operator = settings.operators.redis_operator
        if operator.install:
            record["operators.redisOperator.distribution"] = operator.distribution
    for name, store in postgres.backups.repositories.items():
        names = {"type", "bucket", "container", "account", "encrypted"}
        record[f"{_REPOSITORIES}{name}"] = _listed(store.model_dump(by_alias=True, include=names))
    images = settings.images
    if images.postgres and images.pgbackrest:
        record["images.postgres, images.pgbackrest"] = f"{images.postgres}, {images.pgbackrest}"
    rotations = settings.rotation.model_dump(by_alias=True)
    for name, number in rotations.items():
        record[f"rotation.{name}"] = number
    for key, value in record.items():
        if value is None:
            record[key] = "default"
    if uid is not None:
        record[CLUSTER_UID] = uid
    return record


def _listed(parts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(parts.items()))


def refusals(before: Record, after: Record, allowed: frozenset[str] = frozenset()) -> list[str]:
    """A text for each change that would destroy something and is not allowed.

    A setting that only one of the two has is no change: another version of this program wrote it,
    or its group is not in use.
    """
    texts: list[str] = []
    for key in sorted(before.keys() & after.keys()):
        change = f"{key}: {_shown(before[key])} -> {_shown(after[key])}"
        if before[key] == after[key] or change in allowed:
            continue
        broken = [rule for rule in _rules(key) if rule.refused(before[key], after[key])]
        texts += [_text(change, rule) for rule in broken]
    return texts


def _rules(key: str) -> Sequence[_Rule]:
    if key.startswith("rotation."):
        return [_LOWER, _SKIPPED]
    if key.startswith(_REPOSITORIES):
        return [_REPOSITORY]
    return [_RULES[key]] if key in _RULES else []


def _text(change: str, rule: _Rule) -> str:
    return f"  {change}\n    What would happen: {rule.consequence}.\n    By hand: {rule.remedy}"


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


async def removals(
    before: Record, after: Record, allowed: frozenset[str], cluster: ClusterAccess
) -> list[str]:
    """A text for each backup repository that must not go yet.

    A store that goes is the end of what it protects, and only the cluster can tell whether another
    repository holds a full backup. A preview reads nothing, and warns.
    """
    stores = [key.removeprefix(_REPOSITORIES) for key in before if key.startswith(_REPOSITORIES)]
    removed: dict[str, str] = {}
    for name in sorted(stores):
        key = f"{_REPOSITORIES}{name}"
        change = f"{key}: {_shown(before[key])} -> removed"
        if key not in after and change not in allowed:
            removed[name] = change
    if not removed:
        return []
    kept = sorted({VOLUME, *stores} - removed.keys())
    names, others = ", ".join(removed), ", ".join(kept)
    if pulumi.runtime.is_dry_run():
        pulumi.log.warn(
            f"shlink:{_REPOSITORIES[:-1]}: {names} can go only when another repository holds a "
            f"full backup; the update asks {others} for it"
        )
        return []
    answer = await _without_full_backup(cluster, kept)
    if answer is None:
        if kept == [VOLUME]:
            pulumi.log.warn(
                f"without {names} no backup outlives the cluster: {VOLUME} is a volume in it"
            )
        return []
    rule = _Rule(
        _differs,
        f"no other repository is known to hold a full backup. {answer}",
        f"wait for the next scheduled full backup in {others}, or make one: "
        "docs/operations.md#a-backup-by-hand",
    )
    return [_text(change, rule) for change in removed.values()]


async def _without_full_backup(cluster: ClusterAccess, names: Sequence[str]) -> str | None:
    """What these repositories hold instead of a full backup, or None when one of them has one."""
    known: dict[str, RepositoryContent] = {}
    try:
        # Not the one that goes: it may not answer, which takes minutes.
        for name in names:
            known |= await repository_contents(cluster, POSTGRES, CLUSTER, name)
    except ExecuteError as error:
        return f"Nobody could be asked: {error}"
    if any(known[name].has_full for name in names if name in known):
        return None
    shown = [f"{name}: {summary(content)}" for name, content in sorted(known.items())]
    return f"`pgbackrest info` shows {'; '.join(shown) or 'none'}"


def comparison(
    allowed: frozenset[str], cluster: ClusterAccess
) -> Callable[[pulumi.ResourceHookArgs], Awaitable[None]]:
    """A hook before the record's update. It raises ChangeError if a change would destroy data."""

    async def compare(args: pulumi.ResourceHookArgs) -> None:
        before, after = _input(args.old_inputs), _input(args.new_inputs)
        if any(refusals(_where(before), _where(after), allowed)):
            # A first update with the wrong context may have ended before it made anything.
            state = await asyncio.to_thread(exported, pulumi.get_stack())
            if state is not None and state.empty:
                before = {key: value for key, value in before.items() if key not in _WHERE}
        texts = refusals(before, after, allowed)
        texts += await removals(before, after, allowed, cluster)
        if texts:
            raise ChangeError("\n".join([_REFUSED, *texts, _ALLOW]))

    return compare


def _where(record: Record) -> Record:
    return {key: value for key, value in record.items() if key in _WHERE}


def guard(cluster: Cluster, settings: Settings, sight: Sight | None) -> pulumi.Stash:
    """The record in the state. Whatever is to be protected depends on it.

    `sight`: what the cluster shows; None in a preview that does not see it.
    """
    hook = pulumi.ResourceHook(
        "refuse-destructive-changes",
        comparison(frozenset(settings.allowed_changes), access(cluster)),
        opts=pulumi.ResourceHookOptions(on_dry_run=True),
    )
    uid, unseen = None, [f'input["{CLUSTER_UID}"]']
    if sight is not None:
        uid, unseen = sight.cluster, list[str]()
    return pulumi.Stash(
        RECORD,
        input=recorded(cluster, settings, uid),
        opts=pulumi.ResourceOptions(
            hooks=pulumi.ResourceHookBinding(before_update=[hook]),
            # What was not seen has not changed.
            ignore_changes=unseen,
        ),
    )


def _input(inputs: Mapping[str, Any] | None) -> Record:
    value = (inputs or {}).get("input")
    if not isinstance(value, Mapping):
        return {}
    # The engine hands numbers over as floats.
    record = dict(cast("Record", value))
    for key, item in record.items():
        if isinstance(item, float):
            record[key] = int(item)
    return record

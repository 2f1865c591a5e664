"""Which changes of settings would destroy something, why, and how each is done by hand.

The table is asked twice. The state keeps a record of the settings, which is compared before
anything is touched (program/changes.py). And the resource that would suffer compares its own inputs
before its update: `pulumi up --target` leaves out the record, never the resource itself.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pulumi

from .images import ImageReference
from .types import amount
from .vault import Seal

Record = Mapping[str, Any]
"""Settings by their keys, nothing of it secret."""

CLUSTER_UID = "kubernetes.uid"
"""The key of the cluster's own uid in the record."""

API_SERVER = "kubernetes.apiServer"
"""The key of the API server's addresses in the record. They may change."""

SECRETS_NAMESPACE = "operators.externalSecrets.namespace"
"""The key of where External Secrets runs in the record."""

OWN = "this environment's own"
"""A namespace that the program makes, as every version before 0.2.0 did."""

REPOSITORIES = "postgres.backups.repositories."
"""Beginning of the keys of backup repositories."""

DEFAULT = "default"
"""A storage class that is not set."""

_IDENTITY = {"token", "address", "endpoint", "ca"}
"""Of a key service: what may change while the key stays the same."""


class ChangeError(pulumi.RunError):
    """A change would destroy something; the message says what, and how it is done by hand."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """With a text for each change."""
        return cls("\n".join([_REFUSED, *texts, _ALLOW]))


@dataclass(frozen=True)
class Rule:
    """What may not simply change."""

    refused: Callable[[Any, Any], bool]
    """Takes the value before and after."""
    consequence: str
    """What would happen."""
    remedy: str
    """How it is done by hand; ends with a page of docs/ and its anchor."""


@dataclass(frozen=True)
class Change:
    """A setting that differs from the last update's."""

    key: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.key}: {_shown(self.before)} -> {_shown(self.after)}"

    def refusal(self, consequence: str, remedy: str) -> str:
        """What a person is told."""
        return f"  {self}\n    What would happen: {consequence}.\n    By hand: {remedy}"


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


def _older(before: Any, after: Any) -> bool:
    """Whether an image or a chart is of an older version; without versions nobody can tell."""
    old, new = version(str(before)), version(str(after))
    return old is not None and new is not None and new < old


def _unreadable(before: Any, after: Any) -> bool:
    """Whether a server might not read the storage of before: an older one, or another product."""
    products = {ImageReference.parse(str(image)).is_openbao for image in (before, after)}
    return len(products) > 1 or _older(before, after)


def _older_line(before: Any, after: Any) -> bool:
    """The same for a product whose patches change no format: 7.2.14 and 7.2.11 are one line."""
    old, new = version(str(before)), version(str(after))
    return old is not None and new is not None and new[:2] < old[:2]


def _one_of_two(before: Any, after: Any) -> bool:
    """Whether only one part of a pair differs."""
    parts = zip(str(before).split(", "), str(after).split(", "), strict=True)
    return [old == new for old, new in parts].count(False) == 1


_DOCS = "docs/upgrades.md#changes-that-are-refused"

_BY_DUMP = f"a new environment beside this one, and the data moved over: {_DOCS}"

_REDIS_VOLUMES = (
    "redis-operator can't change the volumes of a StatefulSet, so it would stop looking after Redis"
)

_RULES: Mapping[str, Rule] = {
    "kubernetes.cluster": Rule(
        _differs,
        "it means another cluster, so every object would be created there and given up here, "
        "with all data",
        "if it is the same cluster under a new name, set kubernetes:clusterIdentifier to the value "
        "before; for another cluster, make another stack (docs/takeover.md)",
    ),
    CLUSTER_UID: Rule(
        _differs,
        "another cluster has the same name, by another kubeconfig; what is there would be "
        "overwritten, whosever it is",
        "set KUBECONFIG or kubernetes:kubeconfig to the file of the cluster before; if that one is "
        f"gone for good: {_DOCS}",
    ),
    "vault.mode": Rule(
        _differs,
        "Vault would start with empty storage of the other kind, still believe that it is "
        "initialised, and stay sealed",
        f"move Vault's data by `vault operator migrate`: {_DOCS}",
    ),
    "vault.seal": Rule(
        _differs,
        "Vault would wait for a seal migration that nobody starts, and stay sealed after its next "
        "restart",
        f"run `vault operator unseal -migrate` with the keys before: {_DOCS}",
    ),
    "vault.storage.size": Rule(
        _differs,
        "a StatefulSet can't change its volumes: it would be replaced, with Vault down meanwhile",
        f"grow the claims themselves, then replace the StatefulSet without its pods: {_DOCS}",
    ),
    "vault.storage.storageClass": Rule(
        _differs,
        "a StatefulSet can't change its volumes, and a claim never its class",
        f"restore a snapshot of Vault into new volumes: {_DOCS}",
    ),
    "vault.replicas": Rule(
        _less,
        "the servers that go stay voters of raft, which may lose its quorum",
        f"remove each with `vault operator raft remove-peer` first: {_DOCS}",
    ),
    "postgres.instances": Rule(
        _less,
        "PGO deletes the surplus instances with their volumes, perhaps the primary's among them",
        f"make sure that a full backup exists and that the replicas stream: {_DOCS}",
    ),
    "postgres.storage.size": Rule(_smaller, "a volume can't shrink", _BY_DUMP),
    "postgres.storage.storageClass": Rule(_differs, "a claim can't change its class", _BY_DUMP),
    "postgres.backups.storage.size": Rule(_smaller, "a volume can't shrink", _BY_DUMP),
    "postgres.backups.storage.storageClass": Rule(
        _differs, "a claim can't change its class", _BY_DUMP
    ),
    "images.postgres, images.pgbackrest": Rule(
        _one_of_two,
        "pgBackRest may be of another version in one image than in the other, and then archiving "
        "and backups stop",
        "set both images of one release; if both hold the same pgBackRest already, allow it: "
        "docs/upgrades.md#postgresql-minor",
    ),
    "redis.storage.size": Rule(
        _differs,
        _REDIS_VOLUMES,
        f"replace the StatefulSet without its pods, one claim after the other: {_DOCS}",
    ),
    "redis.storage.storageClass": Rule(
        _differs,
        _REDIS_VOLUMES,
        f"replace the StatefulSet without its pods, one claim after the other: {_DOCS}",
    ),
    "operators.redisOperator.distribution": Rule(
        _back_from_the_fork,
        "the archived operator would start while the fork still runs, and each would restart "
        "Redis' pods to fit its own templates",
        "stop the fork first: docs/upgrades.md#redis-operator",
    ),
    "operators.pgo.install": Rule(
        _switched_off,
        "nothing would look after the database, and no pod of it that is lost would come back",
        f"install the other PGO first, in a namespace of its own: {_DOCS}",
    ),
    "operators.redisOperator.install": Rule(
        _switched_off,
        "nothing would look after Redis, and a lost master's place might stay empty",
        f"install the other redis-operator first, in a namespace of its own: {_DOCS}",
    ),
    "charts.pgo.version": Rule(
        _older,
        "the older PGO does not know what the newer one has written, and would restart every "
        "instance to fit its own templates",
        f"restore the backups into a new environment with that version: {_DOCS}",
    ),
    "images.vault": Rule(
        _unreadable,
        "no server reads the storage of the other product, Vault or OpenBao, and none promises to "
        "read that of a newer version",
        f"restore a snapshot from before, or `make vault-renew`: {_DOCS}",
    ),
    "images.redis": Rule(
        _older_line,
        "the older Redis cannot read the snapshot of the newer one and would not start",
        f"start with empty volumes: redis.mode none, then back: {_DOCS}",
    ),
    "app.timezone": Rule(
        _differs,
        "Shlink stores times without a zone, so every visit and every validity would shift, for "
        "ever",
        f"keep it; or shift what is stored first: {_DOCS}",
    ),
    "operators.externalSecrets.install": Rule(
        _switched_off,
        "a release of 0.1 takes its CRDs along, and with them every ExternalSecret of the whole "
        "cluster and the Secrets made from them; without a controller none is synced",
        f"mark the CRDs to stay, and install another release of the chart: {_DOCS}",
    ),
    SECRETS_NAMESPACE: Rule(
        lambda before, after: (before, after) == (OWN, "external-secrets"),
        "the state holds that namespace as this environment's own, so the update would delete it "
        "with everything in it, the operator that was there already too",
        f"let the state forget it first: {_DOCS}",
    ),
}

_LOWER = Rule(
    _less,
    "a lower number is an old password, which the product does not know any more",
    "raise the number instead: docs/operations.md",
)

_SKIPPED = Rule(
    _skips,
    "what runs is prepared for the next number only: requests would be refused, and Redis' "
    "rotation would not be let in",
    "raise the number by one, `make up`, and again: docs/operations.md#rotation",
)

_REPOSITORY = Rule(
    _differs,
    "pgBackRest would find another database's backups there, or none, and archiving would stop",
    f"use a name that is still free (repo3, repo4) for another store: {_DOCS}",
)

_REFUSED = "these changes would destroy something, so nothing was touched:"

_ALLOW = (
    "A change that is prepared by hand is allowed by its line above, in quotes: "
    'shlink:allowedChanges: ["..."]'
)

_SHLINK_BACK = (
    "what the older version stores lacks the columns that the newer one fills, and a migration "
    "runs only once. At the next upgrade fill them by hand: docs/upgrades.md#shlink"
)


def changed(
    before: Record, after: Record, allowed: frozenset[str], *, removed: bool = False
) -> list[Change]:
    """What differs and is not allowed; with `removed`, what is no longer there instead.

    A setting that only one of the two has is no change: another version of this program wrote it,
    or its group is not in use.
    """
    old, new = whole_numbers(before), whole_numbers(after)
    changes: list[Change] = []
    if removed:
        changes += [Change(key, old[key], "removed") for key in sorted(old.keys() - new.keys())]
    else:
        shared = sorted(old.keys() & new.keys())
        changes += [Change(key, old[key], new[key]) for key in shared if old[key] != new[key]]
    return [change for change in changes if str(change) not in allowed]


def refusals(before: Record, after: Record, allowed: frozenset[str] = frozenset()) -> list[str]:
    """A text for each change that would destroy something and is not allowed."""
    texts: list[str] = []
    for change in changed(before, after, allowed):
        rules = [rule for rule in _rules(change.key) if rule.refused(change.before, change.after)]
        texts += [change.refusal(rule.consequence, rule.remedy) for rule in rules]
    return texts


def warnings(before: Record, after: Record) -> list[str]:
    """What a change brings later, though nothing is lost by it."""
    images = [item for item in changed(before, after, frozenset()) if item.key == "images.shlink"]
    back = [image for image in images if _older_line(image.before, image.after)]
    return [f"{image}: {_SHLINK_BACK}" for image in back]


def refusal_hook(
    name: str, allowed: frozenset[str], recorded: Callable[[Mapping[str, Any]], Record]
) -> pulumi.ResourceHook:
    """A hook before the update of a resource. `recorded` reads its inputs."""

    async def refuse(args: pulumi.ResourceHookArgs) -> None:
        before, after = recorded(args.old_inputs or {}), recorded(args.new_inputs or {})
        if texts := refusals(before, after, allowed):
            raise ChangeError.of(texts)

    return pulumi.ResourceHook(name, refuse, pulumi.ResourceHookOptions(on_dry_run=True))


def volume(key: str, claim: Mapping[str, Any]) -> Record:
    """The settings that a claim's spec was made of."""
    return {
        f"{key}.size": claim["resources"]["requests"]["storage"],
        f"{key}.storageClass": claim.get("storageClassName") or DEFAULT,
    }


def sealed_by(seal: Seal | None) -> str:
    """Which key unseals Vault."""
    if seal is None:
        return "none"
    return listed(seal.model_dump(by_alias=True, exclude=_IDENTITY, exclude_none=True))


def listed(parts: Mapping[str, Any]) -> str:
    """Several settings as one value."""
    return ", ".join(f"{key} {value}" for key, value in sorted(parts.items()))


def version(text: str) -> tuple[int, ...] | None:
    """The numbers of a version, or of an image's tag."""
    tag = ImageReference.parse(text).tag or "" if "/" in text else text
    match = re.search(r"[0-9]+(?:\.[0-9]+)+", tag)
    return tuple(int(number) for number in match[0].split(".")) if match else None


def whole_numbers(record: Record) -> dict[str, Any]:
    """The engine hands numbers over as floats."""
    numbers = {key: int(value) for key, value in record.items() if isinstance(value, float)}
    return {**record, **numbers}


def _rules(key: str) -> Sequence[Rule]:
    if key.startswith("rotation."):
        return [_LOWER, _SKIPPED]
    if key.startswith(REPOSITORIES):
        return [_REPOSITORY]
    return [_RULES[key]] if key in _RULES else []


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)

"""Whether an object still is as the program declares it, and who changed it, field by field.

The API server records who wrote each field of an object (`metadata.managedFields`). So a change by
hand is told from a setting that was changed and not applied yet, and from what a controller writes.
https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from components.setting_types import amount

from .findings import Check, Environment, Problem, Severity
from .view import Object, listed, mapped

_AUTOMATA = (
    "pulumi",
    "kr8s",
    "helm",
    "kube-",
    "controller",
    "operator",
    "manager",
    "external-secrets",
)
"""Parts of the names of programs that write objects as their work. This program itself patches by
kr8s: it stops and starts Shlink around a restore."""
_NOT_COMPARED = frozenset({"apiVersion", "kind", "metadata", "status", "data", "stringData"})
_ONLY_WHEN_APPLIED = frozenset(
    {"annotations", "caBundle", "version", "repo2-path", "repo3-path", "repo4-path"}
)
"""Fields that may hold what only an update knows: hashes, certificates, versions of values, and
where a database's backups are in an object store."""
_NEVER_TOLD = frozenset({"env", "args", "command", "data"})
"""Fields beneath which somebody may have typed a secret."""
_LEADS_USERS = frozenset({"Service", "Ingress", "HTTPRoute"})
"""Kinds whose every field decides where requests go; nothing behind them notices a change."""
_SHOWN = 3
"""Differences that one finding lists."""
Path = tuple[str, ...]
"""Keys down to a field; an item of a list by its name, or by its number."""
_Missing = object()


@dataclass(frozen=True)
class Change:
    """A field that is not as declared."""

    path: Path
    declared: Any
    """None: not declared, or not known here."""
    actual: Any
    """None: the field is gone."""
    added: bool = False
    """Whether it is not declared, so that an update leaves it as it is."""
    manager: str = ""
    """The program by which somebody wrote it; empty where the record names none."""
    time: str = ""

    def __str__(self) -> str:
        who = f" ({self.manager}, {self.time})" if self.manager else ""
        return f"{_shown_path(self.path)} {self._what()}{who}"

    def _what(self) -> str:
        if self.actual is None:
            return "is gone"
        if self.declared is None:
            return "was set by hand"
        scalars = all(
            isinstance(value, str | int | float) for value in (self.actual, self.declared)
        )
        if not scalars or _NEVER_TOLD & set(self.path):
            return "was changed"
        return f"is {str(self.actual)[:80]}, not {str(self.declared)[:80]}"


def changes(declared: Object, actual: Object) -> list[Change]:
    """The differences between an object and its declaration; what the API server adds is none."""
    records = list(_records(actual))
    found: list[Change] = []
    for key in declared:
        if key not in _NOT_COMPARED:
            found += _differences((key,), declared[key], actual.get(key))
    found += _differences(("metadata", "labels"), _labels(declared), _labels(actual))
    owned = [_owned(change, records) for change in found]
    return [*owned, *_added(declared, actual, records, {change.path for change in found})]


def by_hand(actual: Object) -> list[Change]:
    """What somebody wrote into an object that the program does not declare: a chart's."""
    nothing: Object = {}
    return _added(nothing, actual, list(_records(actual)), set())


def unchanged(name: str, kinds: Mapping[str, str]) -> Check:
    """A check that objects of these kinds are as declared; one that does not exist is another's.

    `kinds`: each kind with what its list is called, such as `apps/v1/deployments`.
    """

    async def look(environment: Environment) -> list[Problem]:
        problems: list[Problem] = []
        for kind, resource in kinds.items():
            for manifest in environment.declared.of_kind(kind):
                metadata = manifest["metadata"]
                actual = await environment.view.named(
                    resource, metadata["namespace"], metadata["name"]
                )
                if actual is not None:
                    problems += told(environment, kind, actual, changes(manifest, actual))
        return problems

    return Check(
        name=name,
        description="nobody has changed what the program declares",
        depends_on=("cluster.reachable", "cluster.namespaces"),
        look=look,
    )


def told(
    environment: Environment,
    kind: str,
    actual: Object,
    differences: Sequence[Change],
    *,
    hidden: bool = False,
) -> list[Problem]:
    """One warning for an object that is not as declared, which may explain what fails behind it.

    `hidden`: told only then, because what it should be is not known.
    """
    if not differences:
        return []
    namespace, name = actual["metadata"].get("namespace", ""), actual["metadata"]["name"]
    told = "; ".join(str(change) for change in differences[:_SHOWN])
    if len(differences) > _SHOWN:
        told = f"{told}; and {len(differences) - _SHOWN} more"
    # The program writes the fields that it declares, and leaves alone what others added.
    remedy = environment.make("refresh")
    if all(change.added for change in differences):
        remedy = f"{environment.kubectl} edit {kind.lower()} {name}"
        if namespace:
            remedy = environment.kubectl_in(namespace, f"edit {kind.lower()} {name}")
    place = f"{namespace}/{name}" if namespace else name
    text = f"{kind} {place} is not as declared: {told}"
    edited = not hidden and any(change.manager for change in differences)
    severity = Severity.ERROR if edited and kind in _LEADS_USERS else Severity.WARNING
    return [
        Problem(
            text,
            "not-as-declared",
            remedy,
            severity=severity,
            may_explain=True,
            hidden=hidden,
        )
    ]


def _labels(item: Object) -> Mapping[str, str]:
    return mapped(item, "metadata", "labels")


# Values


def _differences(path: Path, declared: Any, actual: Any) -> Iterator[Change]:
    if declared is None or path[-1] in _ONLY_WHEN_APPLIED:
        return
    if isinstance(declared, Mapping) and isinstance(actual, Mapping | None):
        fields = cast("Mapping[str, Any]", declared)
        there = cast("Mapping[str, Any]", actual or {})
        for key, value in fields.items():
            yield from _differences((*path, key), value, there.get(key))
    elif isinstance(declared, list) and isinstance(actual, list | None):
        yield from _of_list(path, cast("list[Any]", declared), cast("list[Any]", actual or []))
    elif not _same(declared, actual):
        yield Change(path, declared, actual)


def _of_list(path: Path, declared: list[Any], actual: list[Any]) -> Iterator[Change]:
    if _named(declared) and _named(actual):
        there = {item["name"]: item for item in actual}
        for item in declared:
            name = str(item["name"])
            if name in there:
                yield from _differences((*path, name), item, there[name])
            else:
                yield Change((*path, name), item, None)
    elif len(declared) != len(actual):
        yield Change(path, declared, actual)
    else:
        for number, (left, right) in enumerate(zip(declared, actual, strict=True)):
            yield from _differences((*path, str(number)), left, right)


def _named(items: list[Any]) -> bool:
    """Whether the items are objects that are told apart by their names."""
    names = [
        cast("Object", item).get("name") if isinstance(item, Mapping) else None for item in items
    ]
    return None not in names and len(set(names)) == len(names)


def _same(declared: Any, actual: Any) -> bool:
    """Whether a value holds: the API server drops empty ones and rewrites amounts."""
    if not declared and not actual:
        return True
    if type(declared) is type(actual) and declared == actual:
        return True
    try:
        return amount(str(declared)) == amount(str(actual))
    except ValueError:
        return False


# Who wrote it


@dataclass(frozen=True)
class _Record:
    """The fields that somebody wrote by hand."""

    manager: str
    time: str
    paths: tuple[Path, ...]


def _records(actual: Object) -> Iterator[_Record]:
    for entry in listed(actual, "metadata", "managedFields"):
        manager = str(entry.get("manager", ""))
        automatic = any(part in manager.lower() for part in _AUTOMATA)
        if not automatic and entry.get("subresource", "") in ("", "scale"):
            paths = [_named_path(actual, path) for path in _leaves(mapped(entry, "fieldsV1"), ())]
            yield _Record(manager, str(entry.get("time", "")), tuple(paths))


def _owned(change: Change, records: Sequence[_Record]) -> Change:
    """The change with the one who made it, where the record tells."""
    for record in records:
        if any(change.path[: len(path)] == path for path in record.paths):
            return dataclasses.replace(change, manager=record.manager, time=record.time)
    return change


def _added(
    declared: Object, actual: Object, records: Sequence[_Record], known: set[Path]
) -> list[Change]:
    """Fields that somebody wrote and that are not declared, or whose declared value is unknown."""
    added: dict[Path, Change] = {}
    for record in records:
        for path in record.paths:
            if path[0] in _NOT_COMPARED or "annotations" in path:
                continue
            value, here = _at(actual, path), _at(declared, path)
            if value is _Missing or not value or _covers(known, path):
                continue
            missing = here is _Missing
            if missing or _unknown(path[-1], here) or _keys(value) - _keys(here):
                added[path] = Change(path, None, value, missing, record.manager, record.time)
    return list(added.values())


def _keys(value: Any) -> set[str]:
    """The keys of a map that is recorded as a whole, such as a selector; empty for other values."""
    return set(cast("Object", value)) if isinstance(value, Mapping) else set()


def _unknown(key: str, declared: Any) -> bool:
    """Whether a declared value holds something that only an update knows."""
    if declared is None or key in _ONLY_WHEN_APPLIED:
        return True
    if isinstance(declared, Mapping):
        fields = cast("Mapping[str, Any]", declared)
        return any(_unknown(name, value) for name, value in fields.items())
    if isinstance(declared, list):
        return any(_unknown("", item) for item in cast("list[Any]", declared))
    return False


def _covers(known: set[Path], path: Path) -> bool:
    """Whether a difference that is known already is at this field, above it or beneath it."""
    return any(path[: len(other)] == other or other[: len(path)] == path for other in known)


def _leaves(fields: Object, path: Path) -> Iterator[Path]:
    """The fields of a record; items of lists by their keys."""
    for key, below in fields.items():
        if key == ".":
            continue
        kind, _, text = key.partition(":")
        here = (*path, _item(text) if kind == "k" else text)
        if kind == "v":
            yield path
        elif set(below) - {"."}:
            yield from _leaves(cast("Object", below), here)
        else:
            yield here


def _named_path(actual: Object, path: Path) -> Path:
    """A recorded path with each item of a list by its name, if it has one.

    A Service's ports are recorded by their numbers.
    """
    names: list[str] = []
    for number, key in enumerate(path):
        item = _at(actual, path[: number + 1]) if key.startswith("{") else None
        name = cast("Object", item).get("name") if isinstance(item, Mapping) else None
        names.append(str(name or key))
    return tuple(names)


def _item(keys: str) -> str:
    """An item's name; for one without a name, its keys: `{"containerPort":8080}`."""
    fields = cast("Object", json.loads(keys))
    return str(fields["name"]) if "name" in fields else keys


def _at(item: Any, path: Path) -> Any:
    value = item
    for key in path:
        if isinstance(value, Mapping):
            value = cast("Object", value).get(key, _Missing)
        elif isinstance(value, list):
            value = _in_list(cast("list[Any]", value), key)
        else:
            return _Missing
        if value is _Missing:
            return _Missing
    return value


def _in_list(items: list[Any], key: str) -> Any:
    for number, item in enumerate(items):
        if not isinstance(item, Mapping):
            continue
        fields = cast("Object", item)
        if key in (str(number), fields.get("name")):
            return fields
        if key.startswith("{"):
            wanted = cast("Object", json.loads(key))
            # A declaration leaves out what has a default, such as a port's protocol.
            if all(fields.get(name, value) == value for name, value in wanted.items()):
                return fields
    return _Missing


def _shown_path(path: Path) -> str:
    return ".".join(path)

"""Whether an object still is as the program declares it, and who changed it, field by field.

The API server records who wrote each field of an object (`metadata.managedFields`). So a change by
hand is told from a setting that was changed and not applied yet, and from what a controller writes.
A field that is gone has no record: then it counts whether the file has changed since the last
completed update (last_update.py).
https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management
"""

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from components.settings.types import amount
from operate.view import Object, View, age, labels_of, listed, mapped

COMMANDS = "kr8s"
"""The name under which this program's own commands and hooks write: a restore stops Shlink."""

_AUTOMATA = (
    "pulumi",
    COMMANDS,
    "helm",
    "kube-",
    "controller",
    "operator",
    "manager",
    "external-secrets",
)
"""Parts of the names of programs that write objects as their work."""

_NOT_COMPARED = frozenset({"apiVersion", "kind", "metadata", "status", "data", "stringData"})

_ONLY_WHEN_APPLIED = frozenset(
    {"annotations", "caBundle", "version", "repo2-path", "repo3-path", "repo4-path"}
)
"""Fields that may hold what only an update knows: hashes, certificates, versions of values, and
where a database's backups are in an object store."""

_NEVER_TOLD = frozenset({"env", "args", "command", "data"})
"""Fields beneath which somebody may have typed a secret."""

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
    pending: bool = False
    """Whether the next update writes it: the program wrote it last, or nobody since the stack's
    file asks for it."""

    def __str__(self) -> str:
        # A record of the subresource `scale` may have no time.
        who = f" ({', '.join(filter(None, (self.manager, self.time)))})" if self.manager else ""
        return f"{'.'.join(self.path)} {self._what()}{who}"

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


def changes(declared: Object, actual: Object, *, applied: bool = True) -> list[Change]:
    """The differences between an object and its declaration; what the API server adds is none.

    `applied`: whether the last completed update applied this declaration.
    """
    writers = list(_writers(actual))
    people = [writer for writer in writers if writer.is_person]
    differences: list[Change] = []
    for key in declared:
        if key not in _NOT_COMPARED:
            differences += _differences((key,), declared[key], actual.get(key))
    differences += _differences(("metadata", "labels"), labels_of(declared), labels_of(actual))
    judged: list[Change] = []
    for difference in differences:
        change = _owned(difference, people)
        is_pending = _pending(change, writers, applied=applied)
        judged.append(dataclasses.replace(change, pending=is_pending))
    return [*judged, *_added(declared, actual, people, {change.path for change in differences})]


def by_hand(actual: Object) -> list[Change]:
    """What somebody wrote into an object that the program does not declare: a chart's."""
    nothing: Object = {}
    return _added(nothing, actual, _people(actual), set())


def edited(actual: Object, path: Path) -> bool:
    """Whether somebody wrote a field by hand."""
    return any(path in person.paths for person in _people(actual))


def commanded(view: View, actual: Object, path: Path) -> float:
    """Seconds since a command or a hook of this program wrote a field; infinite if none did."""
    times = [
        age(view, writer.time)
        for writer in _writers(actual)
        if writer.manager == COMMANDS and path in writer.paths
    ]
    return min(times, default=math.inf)


def listing(differences: Sequence[Change]) -> str:
    """The first of some differences, and how many more there are."""
    shown = "; ".join(str(change) for change in differences[:_SHOWN])
    more = len(differences) - _SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


# Values


def _differences(path: Path, declared: Any, actual: Any) -> Iterator[Change]:
    if declared is None or path[-1] in _ONLY_WHEN_APPLIED:
        return
    if isinstance(declared, Mapping) and isinstance(actual, Mapping | None):
        fields = cast("Mapping[str, Any]", declared)
        actual_fields = cast("Mapping[str, Any]", actual or {})
        for key, value in fields.items():
            yield from _differences((*path, key), value, actual_fields.get(key))
    elif isinstance(declared, list) and isinstance(actual, list | None):
        yield from _of_list(path, cast("list[Any]", declared), cast("list[Any]", actual or []))
    elif not _same(declared, actual):
        yield Change(path, declared, actual)


def _of_list(path: Path, declared: list[Any], actual: list[Any]) -> Iterator[Change]:
    if _named(declared) and _named(actual):
        by_name = {item["name"]: item for item in actual}
        for item in declared:
            name = str(item["name"])
            if name in by_name:
                yield from _differences((*path, name), item, by_name[name])
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
class _Writer:
    """The fields that one program has written last."""

    manager: str
    subresource: str
    time: str
    paths: tuple[Path, ...]

    @property
    def is_person(self) -> bool:
        """Whether somebody wrote them by hand."""
        automatic = any(part in self.manager.lower() for part in _AUTOMATA)
        return not automatic and self.subresource in ("", "scale")

    @property
    def is_program(self) -> bool:
        """Whether it is this program. Each of its updates writes under a name of its own."""
        by_program = self.manager.startswith("pulumi-") or self.manager == COMMANDS
        return by_program and not self.subresource

    def wrote(self, path: Path) -> bool:
        """Whether it wrote this field, one above it or one beneath it."""
        return _covers(self.paths, path)


def _writers(actual: Object) -> Iterator[_Writer]:
    for entry in listed(actual, "metadata", "managedFields"):
        paths = [_named_path(actual, path) for path in _leaves(mapped(entry, "fieldsV1"), ())]
        yield _Writer(
            manager=str(entry.get("manager", "")),
            subresource=str(entry.get("subresource", "")),
            time=str(entry.get("time", "")),
            paths=tuple(paths),
        )


def _people(actual: Object) -> list[_Writer]:
    return [writer for writer in _writers(actual) if writer.is_person]


def _owned(change: Change, people: Sequence[_Writer]) -> Change:
    """The change with the one who made it, where the record tells."""
    for person in people:
        if any(change.path[: len(path)] == path for path in person.paths):
            return dataclasses.replace(change, manager=person.manager, time=person.time)
    return change


def _pending(change: Change, writers: Sequence[_Writer], *, applied: bool) -> bool:
    """Whether the next update writes this field.

    A file that is as the last update applied it may still differ from what an update wrote that has
    not come to its end. But a field that is gone, or an item of a list, may have been deleted.
    """
    if change.manager:
        return False
    authors = [writer for writer in writers if writer.wrote(change.path)]
    others = [writer for writer in authors if not writer.is_program]
    if applied:
        return bool(authors) and not others and not isinstance(change.actual, list | None)
    # An autoscaler's number of pods is the file's again when it is switched off.
    return all(writer.subresource == "scale" for writer in others)


def _added(
    declared: Object, actual: Object, people: Sequence[_Writer], differing: set[Path]
) -> list[Change]:
    """Fields that somebody wrote and that are not declared, or whose declared value is unknown."""
    added: dict[Path, Change] = {}
    for person in people:
        for path in person.paths:
            if path[0] in _NOT_COMPARED or "annotations" in path:
                continue
            value, wanted = _at(actual, path), _at(declared, path)
            if value is _Missing or not value or _covers(differing, path):
                continue
            missing = wanted is _Missing
            if missing or _unknown(path[-1], wanted) or _keys(value) - _keys(wanted):
                added[path] = Change(path, None, value, missing, person.manager, person.time)
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


def _covers(paths: Iterable[Path], path: Path) -> bool:
    """Whether one of the paths is this field, one above it or one beneath it."""
    return any(path[: len(other)] == other or other[: len(path)] == path for other in paths)


def _leaves(fields: Object, path: Path) -> Iterator[Path]:
    """The fields of a record; items of lists by their keys."""
    for key, below in fields.items():
        if key == ".":
            continue
        kind, _, text = key.partition(":")
        item = (*path, _item(text) if kind == "k" else text)
        if kind == "v":
            yield path
        elif set(below) - {"."}:
            yield from _leaves(cast("Object", below), item)
        else:
            yield item


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

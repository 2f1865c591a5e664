"""Reads `Pulumi.<stack>.yaml` as the engine does, and reports what the engine silently ignores.

The engine (pulumi 3.259, sdk/go/common/workspace/loaders.go) reads with Go's yaml.v3: words such as
`yes` and `1:30` are text, `0123` is octal, a date becomes a time, a key twice is refused. It also
accepts what nobody can mean, which is a fault here: unknown keys at the top, a second document,
numbers that are not read as they are written.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pulumi
import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

PROJECT = "shlink"

PLACEHOLDER = "encrypted"
"""Stands for the value of what is encrypted."""

_TOP = ("config", "encryptedkey", "encryptionsalt", "environment", "secretsprovider")

_LARGEST = 1_000_000
"""Bytes; no stack's file is that long."""

_MOST_NODES = 20_000

_DIGITS_OF_64_BITS = 20

_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}

_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)")

_OTHER_INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*)")

_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")

_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")

_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")


class StackFileError(pulumi.RunError):
    """The file can't be read at all; the message says what to do."""


@dataclass
class StackFile:
    """What a stack's file says."""

    values: dict[str, str] = field(default_factory=dict[str, str])
    """Configuration as the program gets it: full keys, and objects as JSON text.

    A placeholder stands for each encrypted value.
    """
    encrypted: frozenset[str] = frozenset()
    """Where something encrypted is: `shlink:redis.password`."""
    faults: list[str] = field(default_factory=list[str])
    """What is wrong with the file itself, one line each."""
    environments: tuple[str, ...] = ()
    """Pulumi ESC's, from which the engine takes further values."""


def read(path: Path) -> StackFile:
    """Read a stack's file. Raises StackFileError."""
    document = _document(path)
    try:
        return _Reader(path.name).read(document)
    except RecursionError:
        raise StackFileError(f"{path.name} is nested too deeply") from None


def _document(path: Path) -> Node | None:
    """The one document in the file, as YAML's nodes; None for an empty file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StackFileError(f"{path.name} can't be read: {error.strerror}") from error
    if len(content) > _LARGEST:
        raise StackFileError(f"{path.name} has {len(content)} bytes; allowed: {_LARGEST}")
    try:
        documents = list(_compose(content))
    except yaml.reader.ReaderError:
        raise StackFileError(
            f"{path.name} is not text in UTF-8; save it in that encoding"
        ) from None
    except yaml.MarkedYAMLError as error:
        # Without the excerpt that the parser would show: a password may be in it.
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        problem = _in_our_words(error.problem or "unreadable")
        raise StackFileError(f"{path.name} is not valid YAML: {line}{problem}") from None
    except (yaml.YAMLError, RecursionError):
        raise StackFileError(f"{path.name} is nested too deeply") from None
    if len(documents) > 1:
        raise StackFileError(
            f"{path.name} holds {len(documents)} documents, and Pulumi reads only the first: "
            "remove the line `---` between them"
        )
    return documents[0] if documents else None


_PLAIN = "plain"


class _Loader(yaml.SafeLoader):
    """Composes nodes without YAML 1.1's readings: `_plain` decides what a plain word means."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode:
            return _PLAIN if implicit[0] else "tag:yaml.org,2002:str"
        return cast("Any", super()).resolve(kind, value, implicit)


def _compose(content: bytes) -> Iterator[Node]:
    loader = _Loader(content)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node
    finally:
        loader.dispose()


_CAUSES = {
    "mapping values are not allowed": "a colon too many; put a value with `: ` in it in quotes",
    "cannot start any token": "it holds a character that can't begin a value (a tab, @, ` or %); "
    "indent with spaces and put such a value in quotes",
    "expected '<document start>'": "it goes on where the file should end; check the indentation",
    "expected ','": "a bracket or a quote is not closed, or a value with `: ` in it needs quotes",
    "end of stream": "a bracket or a quote is not closed",
    "undefined alias": "it begins with *, which names an alias; put such a value in quotes",
    "expected <block end>": "the indentation or a colon is wrong here or just before",
    "could not find expected ':'": "the indentation or a colon is wrong here or just before",
}
"""What a person did, by a piece of the parser's message."""


def _in_our_words(problem: str) -> str:
    for piece, cause in _CAUSES.items():
        if piece in problem:
            return cause
    return problem


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: list[str] = []
        self.encrypted: set[str] = set()
        self.open: set[int] = set()
        self.nodes = 0

    def fault(self, node: Node, text: str) -> None:
        self.faults.append(f"{self.name} line {node.start_mark.line + 1}: {text}")

    def read(self, document: Node | None) -> StackFile:
        if document is None or self._is_null(document):
            return StackFile()
        if not isinstance(document, MappingNode):
            raise StackFileError(
                f"{self.name} must be a map with the key `config`, and holds {_what(document)}"
            )
        values: dict[str, str] = {}
        environments: list[str] = []
        for key, (name_node, node) in self._entries(document).items():
            if key == "config":
                values = self._config(node)
            elif key == "environment":
                environments = list(_environments(node))
            elif key not in _TOP:
                self.fault(name_node, _not_at_the_top(key))
        return StackFile(values, frozenset(self.encrypted), self.faults, tuple(environments))

    def _config(self, node: Node) -> dict[str, str]:
        if self._is_null(node):
            return {}
        if not isinstance(node, MappingNode):
            self.fault(
                node,
                "`config` must be a map of keys, as in `shlink:app: {domain: example.org}`, "
                f"and is {_what(node)}",
            )
            return {}
        values: dict[str, str] = {}
        for written, (name_node, item) in self._entries(node).items():
            key = _full(written)
            if key is None:
                self.fault(
                    name_node, f"the key {_short(written)} has too many colons; allowed: group:name"
                )
                continue
            if key in values:
                self.fault(
                    name_node,
                    f"{_short(key)} is there twice, once with and once without its prefix",
                )
            ours = key.partition(":")[0] in (PROJECT, "kubernetes")
            values[key] = _as_text(self._value(item, key, strict=ours))
        return values

    def _entries(self, node: MappingNode) -> dict[str, tuple[Node, Node]]:
        """The pairs of a map by key; they override what `<<` merges. A key twice is a fault."""
        entries: dict[str, tuple[Node, Node]] = {}
        merged: dict[str, tuple[Node, Node]] = {}
        for name_node, item in node.value:
            if not isinstance(name_node, ScalarNode):
                self.fault(name_node, "a key must be text, and is a group")
                continue
            key = str(name_node.value)
            if name_node.tag == _PLAIN and key == "<<":
                sources = item.value if isinstance(item, SequenceNode) else [item]
                for source in sources:
                    if isinstance(source, MappingNode):
                        merged = self._entries(source) | merged
                continue
            if name_node.tag == _PLAIN and not isinstance(_plain(key), str):
                self.fault(name_node, f"the key {_short(key)} is not text: put it in quotes")
            if key in entries:
                first = entries[key][0].start_mark.line + 1
                self.fault(
                    name_node,
                    f"{_short(key)} is there twice, first on line {first}; Pulumi refuses the file",
                )
            entries[key] = (name_node, item)
        return {**merged, **entries}

    def _value(self, node: Node, path: str, *, strict: bool) -> Any:
        self.nodes += 1
        if id(node) in self.open:
            raise StackFileError(
                f"{self.name} line {node.start_mark.line + 1}: a value contains itself"
            )
        if self.nodes > _MOST_NODES:
            raise StackFileError(f"{self.name} has more than {_MOST_NODES} values")
        if isinstance(node, ScalarNode):
            return self._scalar(node, path, strict=strict)
        self.open.add(id(node))
        try:
            if isinstance(node, MappingNode):
                return self._map(node, path, strict=strict)
            items = cast("list[Node]", node.value)
            return [
                self._value(item, f"{path}.{position}", strict=strict)
                for position, item in enumerate(items)
            ]
        finally:
            self.open.discard(id(node))

    def _map(self, node: MappingNode, path: str, *, strict: bool) -> Any:
        if node.tag != "tag:yaml.org,2002:map":
            self.fault(node, f"{path}: has the YAML tag {_short(node.tag)}; write it without")
        entries = self._entries(node)
        if set(entries) == {"secure"} and isinstance(entries["secure"][1], ScalarNode):
            self.encrypted.add(path)
            return PLACEHOLDER
        return {
            key: self._value(item, f"{path}.{key}", strict=strict)
            for key, (_, item) in entries.items()
        }

    def _scalar(self, node: ScalarNode, path: str, *, strict: bool) -> Any:
        text = str(node.value)
        if node.tag == "tag:yaml.org,2002:str":
            return text
        if node.tag != _PLAIN:
            self.fault(
                node, f"{path}: has the YAML tag {_short(node.tag)}; put the value in quotes"
            )
            return text
        value = _plain(text)
        if strict and isinstance(value, _Misread):
            self.fault(
                node, f"{path}: {_short(text)} {value.reading}: put it in quotes if it is text"
            )
        return text if isinstance(value, _Misread) else value

    @staticmethod
    def _is_null(node: Node) -> bool:
        return (
            isinstance(node, ScalarNode)
            and node.tag == _PLAIN
            and _WORDS.get(str(node.value), 0) is None
        )


def _environments(node: Node) -> Iterator[str]:
    """The names of Pulumi ESC's environments: a list, or what is written in place imports."""
    if isinstance(node, ScalarNode) and node.value:
        yield str(node.value)
    elif isinstance(node, SequenceNode):
        for item in cast("list[Node]", node.value):
            yield from _environments(item)
    elif isinstance(node, MappingNode):
        for name, item in cast("list[tuple[Node, Node]]", node.value):
            if name.value == "imports":
                yield from _environments(item)
            elif name.value == "values":
                yield "the one in the file itself"
            elif isinstance(name, ScalarNode):  # with options of its own
                yield str(name.value)


@dataclass(frozen=True)
class _Misread:
    reading: str


def _plain(text: str) -> Any:
    """What a word without quotes means to the engine: text, a number, a boolean or null.

    A `_Misread` if nobody can mean what the engine makes of it.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _DECIMAL.fullmatch(text):
        number = int(text) if len(text) <= _DIGITS_OF_64_BITS else 2**64
        return number if -(2**63) <= number < 2**64 else _Misread("is too large for a number")
    misread = _misread(text)
    if misread is None and _FLOAT.fullmatch(text):
        return float(text)
    return misread or text


def _misread(text: str) -> _Misread | None:
    if _DATE.fullmatch(text):
        return _Misread("is read as a date by Pulumi")
    if _NO_NUMBER.fullmatch(text):
        return _Misread("is no number that can be used")
    if _OTHER_INTEGER.fullmatch(text):
        return _Misread(_reading(text.replace("_", "")))
    if "_" in text and _FLOAT.fullmatch(text.replace("_", "")):
        return _Misread("is read as a number by Pulumi, without the underscore")
    return None


def _reading(digits: str) -> str:
    """How Go reads an integer that is not in plain decimal digits (strconv.ParseInt, base 0)."""
    sign = "-" if digits[0] == "-" else ""
    digits = digits.lstrip("+-").lower()
    base = {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2])
    if base is None:
        base = 8 if re.fullmatch("0[0-7]+", digits) else 10
    digits = re.sub("^0[xob]", "", digits)
    return f"is read as the number {sign}{int(digits[:40], base)} by Pulumi"


def _full(key: str) -> str | None:
    """The key with its prefix, as config.ParseKey has it; None if the engine would refuse it."""
    parts = key.split(":")
    if len(parts) == 1:
        return f"{PROJECT}:{key}"
    if len(parts) == 3 and parts[1] == "config":  # noqa: PLR2004 -- an old form
        return f"{parts[0]}:{parts[2]}"
    return key if len(parts) == 2 else None  # noqa: PLR2004 -- group and name


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def _not_at_the_top(key: str) -> str:
    if ":" in key:
        return f"{_short(key)} must be indented below `config:`; here Pulumi ignores it"
    return (
        f"{_short(key)} is no key of a stack's file, and Pulumi ignores it; "
        f"settings are indented below `config:`, others: {', '.join(_TOP)}"
    )


def _short(text: str) -> str:
    limit = 60
    if len(text) > limit:
        text = f"{text[:limit]}..."
    return json.dumps(text)


def _what(node: Node) -> str:
    if isinstance(node, SequenceNode):
        return "a list"
    return "a map" if isinstance(node, MappingNode) else "a single value"


def paths_below(key: str, paths: Mapping[str, Any] | frozenset[str]) -> bool:
    """Whether a path in the set is this key or below it."""
    return any(path == key or path.startswith(f"{key}.") for path in paths)

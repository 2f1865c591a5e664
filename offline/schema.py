"""Writes Pulumi.schema.json and docs/configuration.md from the settings' models.

With the schema, an editor checks Pulumi.*.yaml.
"""

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, cast

from components.settings.environment import Cluster, Settings
from components.settings.types import EXPECTED
from components.settings.variables import KNOWN
from offline.record import ROOT

SECURE = {
    "type": "object",
    "description": "Encrypted by `pulumi config set --secret`.",
    "properties": {"secure": {"type": "string"}},
    "required": ["secure"],
    "additionalProperties": False,
}
_LINE = r"^[^\s\u0000-\u001f\u007f]([^\u0000-\u001f\u007f]*[^\s\u0000-\u001f\u007f])?$"
"""One line of text, without a space at either end."""

_LARGEST = 10**9
"""Of a number without a limit of its own."""

_WIDTH = 100
"""Columns of the reference, its tables aside."""

_OPENING = """\
# Configuration

`make schema` writes this page from `components/settings/`; don't edit it. The keys go under
`config:` in `Pulumi.<stack>.yaml`; with `Pulumi.schema.json` an editor checks them while you type.
To set a secret: `pulumi config set --secret --path KEY VALUE`. A group that is set in part keeps
the rest of its defaults, as they stand here.
"""


def json_schema() -> dict[str, Any]:
    """JSON Schema of a stack's file. A secret may be written encrypted."""
    properties: dict[str, Any] = {}
    for group, model in (("kubernetes", Cluster), ("shlink", Settings)):
        schema = expanded(model.model_json_schema())
        for name, field in schema["properties"].items():
            key = f"{group}:{name}"
            properties[key] = as_written(field, key)
            if group == "shlink":  # Pulumi reads a key without a prefix as the project's own
                properties[name] = {"$ref": f"#/properties/config/properties/{key}"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A stack of this program: Pulumi.<stack>.yaml",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "properties": properties,
                "required": ["kubernetes:context"],
                # Keys of other packages are theirs.
                "patternProperties": {
                    "^(?!shlink:|kubernetes:|vault:|postgresql:|random:|tls:)[^:]+:[^:]+$": True
                },
                "additionalProperties": False,
                **_of_pinned_shlink(),
            },
            "secretsprovider": {"type": "string"},
            "encryptedkey": {"type": "string"},
            "encryptionsalt": {"type": "string"},
            "environment": True,
        },
        "required": ["config"],
        "additionalProperties": False,
    }


def _of_pinned_shlink() -> dict[str, Any]:
    """Shlink's variables are those that are known, unless the file names another image of it."""
    named = [
        {"properties": {key: {"required": ["shlink"]}}, "required": [key]}
        for key in ("shlink:images", "images")
    ]
    names = {"environment": {"propertyNames": {"enum": list(KNOWN)}}}
    names["secretEnvironment"] = names["environment"]
    app = {"properties": names}
    return {"if": {"anyOf": named}, "else": {"properties": {"shlink:app": app, "app": app}}}


def expanded(schema: dict[str, Any]) -> dict[str, Any]:
    """A model's schema without references, each group with the defaults of its own place.

    A group that is set in part keeps the rest of its own default, so a key that has a default there
    is not required.
    """

    def expand(node: Any, default: Any = None) -> Any:
        if isinstance(node, list):
            return [expand(item) for item in cast("list[Any]", node)]
        if not isinstance(node, dict):
            return node
        known = cast("dict[str, Any]", node)
        if "$ref" in known:
            target = schema["$defs"][known["$ref"].rpartition("/")[2]]
            rest = {key: value for key, value in known.items() if key not in ("$ref", "default")}
            return {**expand(target, known.get("default", default)), **rest}
        result = {key: expand(value) for key, value in known.items() if key != "properties"}
        if isinstance(result.get("description"), str):
            result["description"] = " ".join(result["description"].split())
        if "properties" in known:
            own = cast("dict[str, Any]", default) if isinstance(default, dict) else {}
            fields: dict[str, Any] = {}
            for name, field in known["properties"].items():
                fields[name] = _with_default(field, own, name, expand)
            result["properties"] = fields
            required = [name for name in known.get("required", []) if own.get(name) is None]
            result.pop("required", None)
            if required:
                result["required"] = required
        return result

    return expand({key: value for key, value in schema.items() if key != "$defs"})


def _with_default(field: dict[str, Any], own: dict[str, Any], name: str, expand: Any) -> Any:
    if name not in own:
        return expand(field, field.get("default"))
    result = expand({**field, "default": own[name]}, own[name])
    if isinstance(own[name], dict):
        result.pop("default", None)
    return result


def as_written(node: Any, key: str) -> Any:
    """What the file may hold.

    Numbers and booleans also as `pulumi config set` writes them; secrets encrypted.
    """
    if isinstance(node, list):
        return [as_written(item, key) for item in cast("list[Any]", node)]
    if not isinstance(node, dict):
        return node
    known = cast("dict[str, Any]", node)
    result: dict[str, Any] = {}
    for name, value in known.items():
        if name == "properties":
            children: dict[str, Any] = {}
            for child, field in value.items():
                children[child] = as_written(field, f"{key}.{child}")
            result[name] = children
        elif name == "additionalProperties" and isinstance(value, dict):
            result[name] = as_written(value, f"{key}.*")
        elif name == "patternProperties":
            result[name] = {names: as_written(field, f"{key}.*") for names, field in value.items()}
            result["additionalProperties"] = False
        elif name in ("items", "anyOf", "oneOf"):
            result[name] = as_written(_not_empty(value), key)
        elif name not in ("discriminator", "title"):
            result[name] = value
    return _or_encrypted(_or_text(result, key), key)


def _not_empty(value: Any) -> Any:
    """The branches of an optional value; a group can't be there and empty."""
    if not isinstance(value, list):
        return value
    branches = cast("list[dict[str, Any]]", value)
    if any("properties" in branch or "oneOf" in branch for branch in branches):
        return [branch for branch in branches if branch.get("type") != "null"]
    return branches


def _or_text(node: dict[str, Any], key: str) -> dict[str, Any]:
    """The same value as text or, for text, as the number that Pulumi's CLI makes of it."""
    kind, rest = node.get("type"), _about(node)
    if kind == "boolean":
        numbers = [0, 1, "0", "1"] if ".environment." in key else []
        return {"enum": [True, False, "true", "false", *numbers], **rest}
    if kind == "integer" and "enum" in node:
        return {"enum": [*node["enum"], *map(str, node["enum"])], **rest}
    if kind == "integer":
        limits = between(node["minimum"], node.get("maximum", _LARGEST))
        return {"anyOf": [_bare(node), {"type": "string", "pattern": f"^{limits}$"}], **rest}
    if kind == "string" and "enum" not in node and "const" not in node:
        return _text_or_number(node, key)
    return node


def _text_or_number(node: dict[str, Any], key: str) -> dict[str, Any]:
    if key == "kubernetes:kubeconfig":
        return {**node, "minLength": 1}
    node = {"pattern": _LINE, **node}
    if node.get("writeOnly"):
        return node
    if key == "shlink:postgres.parameters.*":
        return {**node, "type": ["string", "number", "boolean"]}
    if key.endswith(".cpu"):
        return {**node, "type": ["string", "number"], "minimum": 0.001, "maximum": 999}
    numbers = (-1, 0, 1, 10, 100, 1000)
    lowest = [number for number in numbers if re.search(node["pattern"], str(number))]
    if not lowest or not re.search(node["pattern"], "1234567"):
        return node
    extra = ["boolean"] if ".environment" in key else []
    node = {**node, "type": ["string", "integer", *extra]}
    # Where a minus is allowed, any number is.
    return node if lowest[0] < 0 else {**node, "minimum": lowest[0]}


def _about(node: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name in ("default", "description")}


def _bare(node: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name not in ("default", "description")}


def _or_encrypted(node: dict[str, Any], key: str) -> dict[str, Any]:
    plain = key.startswith("kubernetes:") or key in (
        "shlink:vault.address",
        "shlink:postgres.address",
    )
    if node.get("writeOnly") or (plain and "type" in node):
        return {"anyOf": [_bare(node), SECURE], **_about(node)}
    return node


def between(low: int, high: int) -> str:
    """A pattern of the decimal numbers from `low` to `high`, both at least 0."""
    if low > high:
        return "(?!)"
    parts: list[str] = []
    while low <= high:
        # The largest block 'low, low+1, ... up to 99..9 at the end' that still fits.
        nines = 0
        while low % 10 ** (nines + 1) == 0 and low + 10 ** (nines + 1) - 1 <= high and low:
            nines += 1
        step = 10**nines
        head, last = low // step, low // step % 10
        # As many of these blocks as share all digits but one.
        blocks = min(9 - last, (high + 1 - low) // step - 1)
        prefix = str(head)[:-1]
        digit = str(last) if blocks == 0 else f"[{last}-{last + blocks}]"
        parts.append(f"{prefix}{digit}" + "[0-9]" * nines)
        low += step * (blocks + 1)
    return f"({'|'.join(parts)})"


def reference() -> str:
    """The configuration reference: contents, and a table for each group of settings."""
    sections: list[str] = []
    recurring: dict[str, dict[str, Any]] = {}
    for group, model in (("kubernetes", Cluster), ("shlink", Settings)):
        sections += _section(f"{group}:", expanded(model.model_json_schema()), recurring)
    sections += ["## Groups that recur", "", "Their defaults stand where they are used.", ""]
    for title, node in sorted(recurring.items()):
        sections += _table(f"### {title}", node, "")
    headings = [line for line in sections if line.startswith("#")]
    contents = [f"{'  ' * (line.index(' ') - 2)}- {_link(line)}" for line in headings]
    return "\n".join([_OPENING, *contents, "", *sections])


def _link(heading: str) -> str:
    name = heading.lstrip("# ")
    anchor = re.sub(r"[^a-z0-9 _-]", "", name.lower()).replace(" ", "-")
    return f"[{name}](#{anchor})"


_RECUR = ("Resources", "Volume", "Chart")
"""Titles of groups whose table stands once."""


def _section(
    prefix: str, node: dict[str, Any], recurring: dict[str, dict[str, Any]], *, level: int = 2
) -> Iterator[str]:
    yield from _table(_heading(prefix, node, level), node, prefix)
    for name, field in node.get("properties", {}).items():
        for branch in _branches(field):
            entry = branch.get("items", {})
            deeper = min(level + 1, 4)
            if branch.get("title") in _RECUR:
                recurring.setdefault(branch["title"], branch)
            elif "properties" in branch:
                yield from _section(f"{prefix}{name}.", branch, recurring, level=deeper)
            elif "properties" in entry:
                yield from _section(f"{prefix}{name}[].", entry, recurring, level=deeper)


def _heading(prefix: str, node: dict[str, Any], level: int) -> str:
    heading = [f"{'#' * level} `{prefix.rstrip('.')}`"]
    for name, field in node.get("properties", {}).items():
        if "const" in field:
            heading.append(f"with `{name}: {field['const']}`")
    return " ".join(heading)


def _table(heading: str, node: dict[str, Any], prefix: str) -> Iterator[str]:
    yield heading
    yield ""
    if "description" in node:
        yield from textwrap.wrap(node["description"], _WIDTH, break_on_hyphens=False)
        yield ""
    yield "| key | type | default | |"
    yield "| --- | --- | --- | --- |"
    for name, field in node.get("properties", {}).items():
        groups = [branch for branch in _branches(field) if "properties" in branch]
        default = _default(field, groups=bool(groups))
        purpose = _purpose(field, groups=bool(groups))
        if groups and groups[0].get("title") in _RECUR:
            default = _defaults(groups[0])
            purpose = f"{purpose} {_link(groups[0]['title'])}.".lstrip()
        elif groups:
            links = [_link(_heading(f"{prefix}{name}.", branch, 1)) for branch in groups]
            purpose = f"{purpose} Keys: {', '.join(links)}.".lstrip()
        if name in node.get("required", []):
            default = "required"
        yield f"| `{name}` | {_type(field)} | {default} | {purpose.replace('<', '&lt;')} |"
    yield ""


def _defaults(group: dict[str, Any]) -> str:
    """The defaults of a group that recurs, where it is used."""
    fields = group["properties"].items()
    pairs = [f"{name}: {field['default']}" for name, field in fields if field.get("default")]
    return f"`{', '.join(pairs)}`"


def _purpose(field: Mapping[str, Any], *, groups: bool) -> str:
    """What a key is for; what a text may be, where a pattern says it."""
    sentence = str(field.get("description", ""))
    if groups:
        return re.split(r"(?<=\.) ", str(_branches(field)[0].get("description", sentence)))[0]
    for branch in _branches(field):
        expected = branch.get(EXPECTED) or branch.get("items", {}).get(EXPECTED)
        if expected:
            return f"{sentence} Allowed: {expected}.".lstrip()
    return sentence


def _branches(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = node.get("anyOf") or node.get("oneOf")
    if not choices:
        return [dict(node)]
    branches: list[dict[str, Any]] = []
    for choice in choices:
        branches += _branches(choice)
    return branches


_TYPES = {"string": "text", "array": "list"}


def _type(field: dict[str, Any]) -> str:
    names: list[str] = []
    few = 12
    for branch in _branches(field):
        if "const" in branch:
            names.append(f"`{branch['const']}`")
        elif len(branch.get("enum", [])) > few:
            names.append("name")
        elif "enum" in branch:
            names.append(", ".join(f"`{value}`" for value in branch["enum"]))
        elif branch.get("writeOnly"):
            names.append("secret")
        elif "minimum" in branch:
            names.append(f"{branch['minimum']} to {branch['maximum']}")
        elif branch.get("type") == "object":
            kind = "group" if "properties" in branch else "map"
            names.append(kind)
        elif branch.get("type") not in (None, "null"):
            names.append(_TYPES.get(str(branch["type"]), str(branch["type"])))
    return " or ".join(dict.fromkeys(names))


def _default(field: dict[str, Any], *, groups: bool) -> str:
    if groups or field.get("default") in (None, {}, []):
        return ""
    return f"`{json.dumps(field['default'])}`"


FILES = {
    ROOT / "Pulumi.schema.json": lambda: json.dumps(json_schema(), indent=2) + "\n",
    ROOT / "docs" / "configuration.md": reference,
}

if __name__ == "__main__":
    for path, make in FILES.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(make())
        sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")

"""Writes Pulumi.schema.json (for an editor's check of Pulumi.*.yaml) and docs/configuration.md, both from the settings' models."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, cast

from components.settings import Cluster, Settings
from offline.record import ROOT

SECURE = {
    "type": "object",
    "description": "Encrypted by `pulumi config set --secret`.",
    "properties": {"secure": {"type": "string"}},
    "required": ["secure"],
    "additionalProperties": False,
}


def json_schema() -> dict[str, Any]:
    """JSON Schema of a stack's file. A secret may be written encrypted."""
    groups = {"kubernetes": Cluster.model_json_schema(), "shlink": Settings.model_json_schema()}
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    for group, schema in groups.items():
        definitions |= schema.get("$defs", {})
        properties |= {f"{group}:{name}": field for name, field in schema["properties"].items()}
    body = {
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
                    "^(?!shlink:|kubernetes:|vault:|postgresql:|random:|tls:)[^:]+:": True
                },
                "additionalProperties": False,
            },
            "secretsprovider": {"type": "string"},
            "encryptedkey": {"type": "string"},
            "encryptionsalt": {"type": "string"},
            "environment": True,
        },
        "additionalProperties": False,
        "$defs": definitions,
    }
    return _or_secure(body)


def _or_secure(node: Any) -> Any:
    if isinstance(node, Mapping):
        found = cast("Mapping[str, Any]", node)
        if found.get("writeOnly"):
            return {"anyOf": [dict(found), SECURE]}
        return {key: _or_secure(item) for key, item in found.items() if key != "discriminator"}
    return (
        [_or_secure(item) for item in cast("list[Any]", node)] if isinstance(node, list) else node
    )


def reference() -> str:
    """The configuration reference: a table for each group of settings."""
    lines = [
        "# Configuration",
        "",
        "Made from `components/settings.py` by `make schema`; don't edit. Keys stand under `config:` of `Pulumi.<stack>.yaml`,",
        "`Pulumi.schema.json` lets an editor check them while you type. A secret: `pulumi config set --secret --path KEY VALUE`.",
        "",
    ]
    for group, model in (("kubernetes", Cluster), ("shlink", Settings)):
        schema = model.model_json_schema()
        lines += _section(schema, f"{group}:", schema)
    return "\n".join(lines)


def _section(
    root: dict[str, Any], prefix: str, node: dict[str, Any], *, level: int = 2
) -> Iterator[str]:
    chosen = [
        f"{name}: {field['const']}"
        for name, field in node.get("properties", {}).items()
        if "const" in field
    ]
    yield " ".join(
        [f"{'#' * level} `{prefix.rstrip('.')}`", *(f"with `{choice}`" for choice in chosen)]
    )
    yield ""
    if "description" in node:
        yield node["description"].replace("\n", " ")
        yield ""
    yield "| key | type | default | |"
    yield "| --- | --- | --- | --- |"
    deeper: list[tuple[str, dict[str, Any]]] = []
    for name, field in node.get("properties", {}).items():
        groups = [branch for branch in _branches(root, field) if "properties" in branch]
        deeper += [(f"{prefix}{name}.", branch) for branch in groups]
        default = (
            "required" if name in node.get("required", []) else _default(field, groups=bool(groups))
        )
        yield f"| `{name}` | {_type(root, field)} | {default} | {field.get('description', '')} |"
    yield ""
    for key, branch in deeper:
        yield from _section(root, key, branch, level=min(level + 1, 4))


def _branches(root: dict[str, Any], node: dict[str, Any]) -> list[dict[str, Any]]:
    if "$ref" in node:
        return _branches(root, root["$defs"][node["$ref"].rpartition("/")[2]])
    choices = node.get("anyOf") or node.get("oneOf")
    return [found for choice in choices for found in _branches(root, choice)] if choices else [node]


def _type(root: dict[str, Any], field: dict[str, Any]) -> str:
    names: list[str] = []
    for branch in _branches(root, field):
        if "const" in branch:
            names.append(f"`{branch['const']}`")
        elif "enum" in branch:
            names.append(", ".join(f"`{one}`" for one in branch["enum"]))
        elif branch.get("writeOnly"):
            names.append("secret")
        elif "minimum" in branch:
            names.append(
                f"{branch['minimum']} to {branch['maximum']}"
                if "maximum" in branch
                else f"{branch['minimum']} or more"
            )
        elif branch.get("type") not in (None, "null"):
            names.append(
                ("group" if "properties" in branch else "map")
                if branch["type"] == "object"
                else str(branch["type"])
            )
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

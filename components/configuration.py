"""From configuration to models: how Pulumi hands values over, and what a person reads when they can't be used."""

import contextlib
import difflib
import json
from typing import Any, TypeVar, cast

import pulumi
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .setting_types import Model

ModelT = TypeVar("ModelT", bound=Model)


class SettingsError(pulumi.RunError):
    """A stack's configuration can't be used; the message names each key, its value and what is allowed.

    A `RunError`, so that Pulumi prints the message without a traceback.
    """


def opened(value: Any) -> Any:
    """Pulumi hands over objects and lists as JSON text."""
    if isinstance(value, str) and value.startswith(("{", "[")):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(value)
    return value


def validate(
    model: type[ModelT],
    group: str,
    values: dict[str, Any],
    secret_keys: frozenset[str],
    faults: list[str],
) -> ModelT | None:
    try:
        return model.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as error:
        schema = model.model_json_schema()
        faults.extend(
            _explain(schema, group, fault, secret_keys) for fault in error.errors(include_url=False)
        )
        return None


def _explain(
    schema: dict[str, Any], group: str, fault: ErrorDetails, secret_keys: frozenset[str]
) -> str:
    """One line for a person: the key as written in the file, its value, what is wrong and what is allowed."""
    node, path = _resolve(schema, schema), list[str]()
    for part in fault["loc"]:
        branches = node.get("discriminator", {}).get("mapping", {})
        if (
            part in branches
        ):  # pydantic names the chosen branch of a union; the file has no such level
            node = _resolve(schema, {"$ref": branches[part]})
            continue
        if fault["type"] == "extra_forbidden" and part == fault["loc"][-1]:
            known = sorted(node.get("properties", {}))
            near = difflib.get_close_matches(str(part), known, n=1)
            hint = f"did you mean `{near[0]}`? " if near else ""
            return f"{group}:{'.'.join([*path, str(part)])}: is not a setting; {hint}allowed: {', '.join(known)}"
        path.append(str(part))
        child = (
            node.get("items", {})
            if isinstance(part, int)
            else node.get("properties", {}).get(part, node.get("additionalProperties", {}))
        )
        node = _resolve(schema, child)
    key = f"{group}:{'.'.join(path)}".rstrip(":")
    if fault["type"] == "missing":
        return f"{key}: is missing; {_allowed(node)}"
    # The limits follow anyway.
    problem = {
        "string_pattern_mismatch": "is not of that form",
        "literal_error": "is not possible",
        "model_type": "is not a group of keys",
    }.get(
        fault["type"],
        fault["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("String "),
    )
    if fault["loc"] == ():  # a rule between groups, which names its keys itself
        return f"{group}:{problem}"
    if isinstance(fault["input"], dict | list | Model):
        return f"{key}: {problem}"
    secret = node.get("writeOnly") or any(
        key == name or key.startswith(f"{name}.") for name in secret_keys
    )
    value = "[secret]" if secret else json.dumps(fault["input"])
    return "; ".join(filter(None, (f"{key}: {value} {problem}", _allowed(node))))


def _resolve(schema: dict[str, Any], node: Any) -> dict[str, Any]:
    """Follow references, and the one branch of an optional value that is not null."""
    if not isinstance(node, dict):
        return {}
    found = cast("dict[str, Any]", node)
    if "$ref" in found:
        return _resolve(schema, schema["$defs"][found["$ref"].rpartition("/")[2]])
    for branch in found.get("anyOf", []):
        if branch.get("type") != "null":
            return {
                **_resolve(schema, branch),
                **{key: found[key] for key in ("description",) if key in found},
            }
    return found


def _allowed(node: dict[str, Any]) -> str:
    if "enum" in node:
        limits = ", ".join(map(str, node["enum"]))
    elif "minimum" in node:
        limits = (
            f"{node['minimum']} to {node['maximum']}"
            if "maximum" in node
            else f"{node['minimum']} or more"
        )
    elif "pattern" in node:
        limits = f"text like {node['pattern']}"
    elif "discriminator" in node:
        limits = ", ".join(
            f"{node['discriminator']['propertyName']}: {tag}"
            for tag in node["discriminator"]["mapping"]
        )
    else:
        limits = node.get("type", "")
    return "; ".join(
        filter(None, (f"allowed: {limits}" if limits else "", node.get("description", "")))
    )

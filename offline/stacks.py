"""Reads a stack's file as the engine would, without its passphrase: what is encrypted becomes a placeholder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import yaml

PLACEHOLDER = "encrypted"


class StackError(Exception):
    """A stack's file is missing or can't be read; the message says what to do."""


def names(root: Path) -> list[str]:
    """The stacks that have a file."""
    return sorted(
        path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        for path in root.glob("Pulumi.*.yaml")
    )


def configuration(root: Path, stack: str) -> tuple[dict[str, str], frozenset[str]]:
    """Configuration as the program gets it (full keys, objects as JSON text), and the keys that hold something encrypted.

    Raises StackError.
    """
    path = root / f"Pulumi.{stack}.yaml"
    if not path.exists():
        raise StackError(
            f"there is no stack {stack!r}: {path.name} does not exist; stacks: {', '.join(names(root)) or 'none'}"
        )
    try:
        document = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise StackError(f"{path.name} is not valid YAML: {error}") from error
    values: Any = cast("dict[str, Any]", document or {}).get("config") or {}
    if not isinstance(values, dict):
        raise StackError(
            f"{path.name}: `config` must be a map of keys, as in `shlink:app: {{domain: example.org}}`"
        )
    read: dict[str, str] = {}
    encrypted: set[str] = set()
    for key, value in cast("dict[str, Any]", values).items():
        opened = _open(value)
        if opened != value:
            encrypted.add(key)
        read[key if ":" in key else f"shlink:{key}"] = (
            opened if isinstance(opened, str) else json.dumps(opened)
        )
    return read, frozenset(encrypted)


def _open(value: Any) -> Any:
    if isinstance(value, Mapping):
        found = cast("Mapping[str, Any]", value)
        return (
            PLACEHOLDER
            if set(found) == {"secure"}
            else {key: _open(item) for key, item in found.items()}
        )
    return [_open(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value

"""The outputs contract: what another stack may read of an environment. No value here is secret.

A consumer reads it through `read(stack_reference)` (examples/consumer) and so writes no key itself.
Names and types are a promise, which tests/test_outputs.py keeps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pulumi
from pydantic import TypeAdapter


@dataclass(frozen=True)
class SecretKey:
    """Where a secret value is, not the value: a key of a Kubernetes Secret."""

    namespace: str
    secret: str
    key: str


@dataclass(frozen=True)
class Outputs:
    """What an environment tells other stacks."""

    internal_url: str
    """Where Shlink answers inside the cluster."""
    external_url: str
    """What short URLs begin with."""
    api_key: SecretKey
    """Where the first API key is."""
    vault_address: str
    """Vault, inside the cluster."""
    vault_mount: str
    """The KV v2 store."""
    vault_auth_path: str
    """The kubernetes auth."""
    database_host: str
    database_port: int
    database_name: str
    database_backups: dict[str, str]
    """Path of the database's backups in each object store (`repo2`), for a restore elsewhere."""
    versions: dict[str, str]
    """What is deployed, by product."""
    # Pulumi leaves an output out when it is None.
    redis_host: str | None = None
    """What a Redis client connects to first: a Sentinel, or the managed Redis. None: no Redis."""
    redis_port: int | None = None
    redis_sentinel_service: str | None = None
    """The name of the monitored master; None without Sentinel."""


_CONTRACT = TypeAdapter(Outputs)


def export(values: Mapping[str, pulumi.Input[Any]]) -> None:
    """Export the contract. Raises ValueError: an output is missing or unknown."""
    names = {field.name for field in fields(Outputs)}
    if names != set(values):
        raise ValueError(
            f"outputs differ from the contract: {', '.join(sorted(names ^ set(values)))}"
        )
    for name, value in values.items():
        pulumi.export(name, value)


def read(stack: pulumi.StackReference) -> "pulumi.Output[Outputs]":
    """The outputs of another stack; fails with the name of each missing or mistyped output."""
    return stack.outputs.apply(parse)


def parse(found: Mapping[str, Any]) -> Outputs:
    """Read the contract from a stack's raw outputs; its other outputs are ignored.

    Raises ValueError (pydantic's).
    """
    names = [field.name for field in fields(Outputs)]
    return _CONTRACT.validate_python({name: found[name] for name in names if name in found})

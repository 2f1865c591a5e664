"""The outputs contract: what another stack may read of an environment. No value here is secret.

A consumer reads it through `Outputs.of(stack_reference)` (examples/consumer), so neither side writes a key twice. Names and types
are a promise: tests/test_outputs.py holds them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import pulumi


@dataclass(frozen=True)
class SecretKey:
    """Where a secret value is, not the value: a key of a Kubernetes Secret."""

    namespace: str
    secret: str
    key: str


@dataclass(frozen=True)
class Outputs:
    """What this environment tells other stacks."""

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
    redis_host: str | None
    """What a Redis client connects to first: a Sentinel, or the managed Redis; None without Redis."""
    redis_port: int | None
    redis_sentinel_service: str | None
    """The name of the monitored master; None without Sentinel."""
    versions: Mapping[str, str]
    """What is deployed: each product's image, or its chart's version where the chart brings the image."""

    @classmethod
    def of(cls, stack: pulumi.StackReference) -> "pulumi.Output[Outputs]":
        """The outputs of another stack. Fails, naming it, when one is missing or not of its type."""
        return stack.outputs.apply(lambda found: cls.parse(found))

    @classmethod
    def parse(cls, found: Mapping[str, Any]) -> Self:
        """The contract out of a stack's raw outputs. Raises ValueError naming what is missing or of another type."""
        expected = {field.name: field for field in fields(cls)}
        missing = sorted(set(expected) - set(found))
        if missing:
            raise ValueError(f"the stack has no output {', '.join(missing)}; it must be deployed with a program that exports it")
        values = {name: found[name] for name in expected}
        values["api_key"] = SecretKey(**values["api_key"])
        # A stack's numbers come back as floats.
        for name in ("database_port", "redis_port"):
            values[name] = None if values[name] is None else int(values[name])
        for name, field in expected.items():
            if not _is(values[name], field.type):
                raise ValueError(f"the stack's output {name} is {type(values[name]).__name__}, and {field.type} is expected")
        return cls(**values)

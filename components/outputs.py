"""The outputs contract: what another stack may read of an environment. No value here is secret.

A consumer reads it through `read(stack_reference)` (examples/consumer) and so writes no key itself.
Names and types are a promise, which tests/test_outputs.py keeps.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pulumi
from pydantic import TypeAdapter, ValidationError


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
        differing = ", ".join(sorted(names ^ set(values)))
        raise ValueError(f"outputs differ from the contract: {differing}")
    for name, value in values.items():
        pulumi.export(name, value)


def read(stack: pulumi.StackReference) -> "pulumi.Output[Outputs]":
    """The outputs of another stack; fails with the stack and each missing or mistyped output."""
    values = pulumi.Output.all(stack.name, stack.outputs)
    return values.apply(lambda known: parse(known[1], f"stack {known[0]}"))


class OutputsError(pulumi.RunError):
    """A stack's outputs are not what the contract promises.

    The message names the stack and each wrong output.
    """


def parse(raw: Mapping[str, Any], stack: str = "the stack") -> Outputs:
    """Read the contract from a stack's raw outputs; its other outputs are ignored.

    `stack`: its name, for messages. Raises OutputsError.
    """
    promised = {field.name for field in fields(Outputs)}
    faults = _mistyped(promised, raw)
    known = {name: raw[name] for name in promised & raw.keys()}
    try:
        outputs = _CONTRACT.validate_python(known)
    except ValidationError as error:
        faults += [_fault(fault) for fault in error.errors(include_url=False, include_input=False)]
    else:
        if not faults:
            return outputs
    lines = [f"  {fault}" for fault in faults]
    raise OutputsError(
        "\n".join([f"{stack} does not have the outputs of a Shlink environment:", *lines, _REMEDY])
    )


_REMEDY = "Is it the right stack, and has its last `up` finished?"


def _mistyped(promised: set[str], raw: Mapping[str, Any]) -> list[str]:
    """Outputs that are optional and missing, where another looks like them."""
    faults: list[str] = []
    for name in sorted(promised - raw.keys()):
        near = difflib.get_close_matches(name, raw.keys() - promised, n=1, cutoff=0.8)
        if near:
            faults.append(f"{name}: is missing, and there is `{near[0]}`: is that a mistype?")
    return faults


def _fault(fault: Mapping[str, Any]) -> str:
    name = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"{name}: is missing"
    return f"{name}: is of another type than promised"

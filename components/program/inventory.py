"""A list of what the last completed update applied, kept in the cluster.

Whoever compares the stack's file with what runs can't tell from these two what somebody deleted and
what the file asks for since the last update. The list tells: it is the last object that an update
writes, so it names every object of an update that has come to its end.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pulumi
from pulumi_kubernetes import core, meta

NAME = "shlink-inventory"
"""Of the ConfigMap."""

KEY = "objects"
"""Under it a line for each object: kind, namespace and name, digest of what is asked for."""

_RELEASE = "kubernetes:helm.sh/v3:Release"

_CHART = "kubernetes:helm.sh/v4:Chart"

_DIGITS = 12


class Inventory:
    """Collects every Kubernetes object that the program declares from now on.

    Secrets are left out, and what a chart makes of its values is not known here.
    """

    def __init__(self) -> None:
        self._lines: list[pulumi.Output[str]] = []
        self._resources: list[pulumi.Resource] = []
        pulumi.runtime.register_stack_transformation(self._collect)

    def write(self, namespace: pulumi.Input[str], opts: pulumi.ResourceOptions) -> None:
        """Declare the list. It waits for every resource that was declared before it."""
        lines, resources = list(self._lines), list(self._resources)
        core.v1.ConfigMap(
            "inventory",
            metadata=meta.v1.ObjectMetaArgs(name=NAME, namespace=namespace),
            data={KEY: pulumi.Output.all(*lines).apply(_text)},
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=resources)),
        )

    def _collect(self, args: pulumi.ResourceTransformationArgs) -> None:
        if args.opts.urn is not None:
            # No registration: the engine's answer refers to an object that a chart made.
            return
        if isinstance(args.resource, pulumi.CustomResource):
            self._resources.append(args.resource)
        type_, props = args.type_, cast("Mapping[str, Any]", args.props)
        if not type_.startswith("kubernetes:") or type_ == _CHART:
            return
        kind = type_.rpartition(":")[2]
        if kind == "Secret":
            return
        metadata = props if type_ == _RELEASE else _fields(props["metadata"])
        digest = _digest([props, args.opts.ignore_changes])
        self._lines.append(
            pulumi.Output.concat(
                f"{kind} ", metadata.get("namespace") or "", "/", metadata["name"], f" {digest}"
            )
        )


def parse(text: str) -> dict[tuple[str, str, str], str]:
    """The digest of each object by kind, namespace and name. Raises ValueError."""
    digests: dict[tuple[str, str, str], str] = {}
    for line in text.splitlines():
        kind, place, digest = line.split()
        namespace, name = place.split("/")
        digests[kind, namespace, name] = digest
    return digests


def _text(lines: Sequence[str]) -> str:
    return "\n".join(sorted(lines)) + "\n"


def _digest(value: Any) -> str:
    """What is asked for, as far as it is known before the update: an output may hold a secret."""
    text = json.dumps(_known(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _known(value: Any) -> Any:
    """Inputs as plain data without what is an output of another resource."""
    if value is None or isinstance(value, pulumi.Output):
        return None
    if isinstance(value, str | int | float):
        return value
    if isinstance(value, Sequence):
        return [_known(item) for item in cast("Sequence[Any]", value)]
    return {key: _known(item) for key, item in _fields(value).items() if item is not None}


def _fields(value: Any) -> Mapping[str, Any]:
    """The fields of a map, or of one of the SDK's classes of inputs."""
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    return cast("Mapping[str, Any]", vars(value))

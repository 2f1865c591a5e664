"""The typed custom resources of components/crds.py against the CRDs that the cluster has: run it after raising a pin.

Each field that a type names must exist with a fitting type, and what a CRD requires must be in the type. All differences come at once.
"""

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, is_typeddict

import pulumi
import pytest
from pulumi_kubernetes.apiextensions import CustomResource

from components import crds
from tests import configurations
from tests.real.cluster import Cluster

_SCALARS: dict[Any, str] = {str: "string", int: "integer", bool: "boolean"}
_CONTAINERS: dict[Any, str] = {Mapping: "a map", Sequence: "a list"}
_SHAPES = {"an object": "object", "a map": "object", "a list": "array"}


def _resources() -> dict[str, tuple[str, Any]]:
    """Kind -> (apiVersion, type of its spec), of every class in components/crds.py that is a custom resource."""
    found: dict[str, tuple[str, Any]] = {}
    for kind, one in inspect.getmembers(crds, inspect.isclass):
        if (
            issubclass(one, CustomResource)
            and one is not CustomResource
            and not kind.startswith("_")
        ):
            versions = {
                str(resource.inputs["apiVersion"])
                for name in configurations.NAMES
                for resource in configurations.recording(name).resources.values()
                if resource.is_kubernetes_object and resource.kind == kind
            }
            assert len(versions) == 1, (
                f"{kind}: declared by no configuration, or in several versions: {versions}"
            )
            found[kind] = (versions.pop(), _hints(vars(one)["__init__"])["spec"])
    return found


def _hints(of: Any) -> dict[str, Any]:
    # `pulumi.Input` names these two by strings.
    return typing.get_type_hints(of, localns={"Output": pulumi.Output, "T": Any})


def _choices(hint: Any) -> list[Any]:
    """What a value may be: the parts of a union, without what `pulumi.Input` adds."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return [hint]
    parts = [choice for part in typing.get_args(hint) for choice in _choices(part)]
    return [
        part
        for part in parts
        if typing.get_origin(part) not in (collections.abc.Awaitable, pulumi.Output)
    ]


def differences(hint: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """Where a type and an OpenAPI schema do not fit."""
    if schema.get("x-kubernetes-preserve-unknown-fields") and "properties" not in schema:
        return
    given = (
        {"integer", "string"}
        if schema.get("x-kubernetes-int-or-string")
        else {str(schema.get("type", ""))}
    )
    choices = _choices(hint)
    if len(choices) > 1 and given & {_SCALARS.get(choice, "") for choice in choices}:
        return
    for choice in choices:
        wanted = (
            "an object"
            if is_typeddict(choice)
            else _SCALARS.get(choice) or _CONTAINERS.get(typing.get_origin(choice), "")
        )
        shape = _SHAPES.get(wanted, wanted)
        if choice is Any:
            continue
        if shape not in given:
            yield f"{path}: is {' or '.join(sorted(given))} in the CRD, {wanted or choice} in the type"
        elif wanted == "an object":
            yield from _fields(choice, schema, path)
        elif wanted == "a list":
            yield from differences(typing.get_args(choice)[0], schema["items"], f"{path}[]")
        elif wanted == "a map" and "additionalProperties" in schema:
            yield from differences(
                typing.get_args(choice)[1], schema["additionalProperties"], f"{path}.*"
            )


def _fields(hint: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    known: Mapping[str, Any] = schema.get("properties", {})
    named = _hints(hint)
    for name, kind in named.items():
        if name in known:
            yield from differences(kind, known[name], f"{path}.{name}")
        elif not schema.get("x-kubernetes-preserve-unknown-fields"):
            yield f"{path}.{name}: is no field in the CRD"
    yield from (
        f"{path}.{name}: is required in the CRD and missing in the type"
        for name in schema.get("required", ())
        if name not in named
    )


def _schema(cluster: Cluster, api_version: str, kind: str) -> Mapping[str, Any] | None:
    """The schema of a kind's spec; None where the cluster has no such CRD."""
    group, _, version = api_version.partition("/")
    found = cluster.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions").body[
        "items"
    ]
    for one in found:
        if one["spec"]["group"] == group and one["spec"]["names"]["kind"] == kind:
            served = {each["name"]: each for each in one["spec"]["versions"] if each["served"]}
            assert version in served, (
                f"{kind}: {version} is not served; there are {', '.join(served)}"
            )
            return served[version]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return None


@pytest.fixture(scope="module")
def resources() -> dict[str, tuple[str, Any]]:
    found = _resources()
    assert {
        "PostgresCluster",
        "RedisFailover",
        "SecretStore",
        "ExternalSecret",
        "HTTPRoute",
    } <= set(found)
    return found


def test_types_fit_the_crds(
    cluster: Cluster,
    resources: dict[str, tuple[str, Any]],
    record_property: Callable[[str, object], None],
) -> None:
    found: list[str] = []
    checked: list[str] = []
    for kind, (api_version, spec) in resources.items():
        schema = _schema(cluster, api_version, kind)
        if schema is None:
            assert kind in configurations.OPTIONAL_KINDS, (
                f"this cluster has no CRD of {kind}"
            )  # a cluster's own choice
            continue
        found += differences(spec, schema, f"{kind}.spec")
        checked += _names(spec)
    assert not found, "components/crds.py and the CRDs differ:\n" + "\n".join(found)
    record_property("checks", len(checked))


def _names(hint: Any) -> list[str]:
    """Every field of a type, at any depth."""
    if is_typeddict(hint):
        return [name for field, kind in _hints(hint).items() for name in (field, *_names(kind))]
    return [name for part in typing.get_args(hint) for name in _names(part)]


class _Inner(TypedDict):
    names: Sequence[str]


class _Outer(TypedDict):
    size: int
    inner: _Inner
    gone: str


def test_each_kind_of_difference_is_found() -> None:
    inner = {
        "type": "object",
        "required": ["more"],
        "properties": {"names": {"type": "array", "items": {"type": "integer"}}},
    }
    schema = {"type": "object", "properties": {"size": {"type": "string"}, "inner": inner}}
    assert list(differences(_Outer, schema, "spec")) == [
        "spec.size: is string in the CRD, integer in the type",
        "spec.inner.names[]: is integer in the CRD, string in the type",
        "spec.inner.more: is required in the CRD and missing in the type",
        "spec.gone: is no field in the CRD",
    ]

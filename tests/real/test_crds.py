"""The types of custom resources (components/*/crds.py) against the cluster's CRDs.

Run it after raising a pin.

Each field of a type must exist in the CRD with a fitting type, and each field that a CRD requires
must be in the type. A failure lists all differences.
"""

import collections.abc
import importlib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, is_typeddict

import pulumi
import pytest

from components.manifests.crds import Custom
from components.settings.environment import parse
from components.settings.reading import SettingsError
from offline.record import ROOT
from tests import configurations
from tests.conftest import configuration
from tests.real.cluster import Cluster
from tests.real.pods import POD_SECTIONS

_SCALARS: dict[Any, str] = {str: "string", int: "integer", bool: "boolean"}
_CONTAINERS: dict[Any, str] = {Mapping: "a map", Sequence: "a list"}
_SHAPES = {"an object": "object", "a map": "object", "a list": "array"}


def _resources() -> dict[str, tuple[str, Any]]:
    """The apiVersion and the spec's type of each custom resource."""
    specs: dict[str, tuple[str, Any]] = {}
    for path in sorted((ROOT / "components").glob("*/crds.py")):
        importlib.import_module(f"components.{path.parent.name}.crds")
    for resource_type in Custom.__subclasses__():
        kind = resource_type.__name__
        spec = _hints(vars(resource_type)["__init__"])["spec"]
        specs[kind] = (_declared_version(kind), spec)
    return specs


def _declared_version(kind: str) -> str:
    manifests = [manifest for _, manifest in configurations.objects() if manifest["kind"] == kind]
    versions = {str(manifest["apiVersion"]) for manifest in manifests}
    assert versions, f"{kind}: no configuration declares it"
    assert len(versions) == 1, f"{kind}: declared in several versions: {versions}"
    return versions.pop()


def _hints(annotated: Any) -> dict[str, Any]:
    # `pulumi.Input` names these two by strings.
    return typing.get_type_hints(annotated, localns={"Output": pulumi.Output, "T": Any})


def _choices(hint: Any) -> list[Any]:
    """What a value may be: the parts of a union, without what `pulumi.Input` adds."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return [hint]
    choices: list[Any] = []
    for part in typing.get_args(hint):
        choices += _choices(part)
    added = (collections.abc.Awaitable, pulumi.Output)
    return [choice for choice in choices if typing.get_origin(choice) not in added]


def differences(hint: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """Where a type and an OpenAPI schema do not fit."""
    if schema.get("x-kubernetes-preserve-unknown-fields") and "properties" not in schema:
        return
    shapes = {str(schema.get("type", ""))}
    if schema.get("x-kubernetes-int-or-string"):
        shapes = {"integer", "string"}
    choices = _choices(hint)
    if len(choices) > 1 and shapes & {_SCALARS.get(choice, "") for choice in choices}:
        return
    for choice in choices:
        if choice is Any:
            continue
        typed = _typed(choice)
        if _SHAPES.get(typed, typed) not in shapes:
            stored = " or ".join(sorted(shapes))
            yield f"{path}: is {stored} in the CRD, {typed or choice} in the type"
        elif typed == "an object":
            yield from _fields(choice, schema, path)
        elif typed == "a list":
            yield from differences(typing.get_args(choice)[0], schema["items"], f"{path}[]")
        elif typed == "a map" and "additionalProperties" in schema:
            values = schema["additionalProperties"]
            yield from differences(typing.get_args(choice)[1], values, f"{path}.*")


def _typed(choice: Any) -> str:
    """What a type is called in a message. Empty for a type that no CRD has."""
    if is_typeddict(choice):
        return "an object"
    return _SCALARS.get(choice) or _CONTAINERS.get(typing.get_origin(choice), "")


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
    """The schema of a kind's spec. None if the cluster has no such CRD."""
    group, _, version = api_version.partition("/")
    answer = cluster.call("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
    for definition in answer.body["items"]:
        spec = definition["spec"]
        if (spec["group"], spec["names"]["kind"]) != (group, kind):
            continue
        served = {each["name"]: each for each in spec["versions"] if each["served"]}
        assert version in served, f"{kind}: {version} is not served; served: {', '.join(served)}"
        return served[version]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return None


@pytest.fixture(scope="module")
def resources() -> dict[str, tuple[str, Any]]:
    specs = _resources()
    expected = {"PostgresCluster", "RedisFailover", "SecretStore", "ExternalSecret", "HTTPRoute"}
    assert expected <= set(specs)
    return specs


_OF_THE_FORK = {"RedisFailover.spec.engine: is no field in the CRD"}
"""The tests' cluster has the archived operator's CRD, with which the setting is refused."""


def test_types_fit_the_crds(
    cluster: Cluster,
    resources: dict[str, tuple[str, Any]],
    record_property: Callable[[str, object], None],
) -> None:
    """A cluster may lack the CRDs of optional kinds only."""
    faults: list[str] = []
    checked = 0
    for kind, (api_version, spec) in resources.items():
        schema = _schema(cluster, api_version, kind)
        if schema is None:
            assert kind in configurations.OPTIONAL_KINDS, f"this cluster has no CRD of {kind}"
            continue
        differing = differences(spec, schema, f"{kind}.spec")
        faults += [fault for fault in differing if fault not in _OF_THE_FORK]
        checked += _count(spec)
    assert not faults, "the types and the CRDs differ:\n" + "\n".join(faults)
    record_property("checks", checked)


def _parameters(schema: Mapping[str, Any]) -> Iterator[str]:
    """The names of PostgreSQL's parameters that PGO's rules forbid, whatever their value."""
    node = schema["properties"]["config"]["properties"]["parameters"]
    for rule in node["x-kubernetes-validations"]:
        for part in rule["rule"].split("&&"):
            if re.fullmatch(r"\s*!has\(self\.\w+\)\s*", part):
                yield part.strip()[len("!has(self.") : -1]
            prefix = re.search(r'!self\.exists\(k, k\.startsWith\("(\w+)"\)', part)
            if prefix:
                yield f"{prefix[1]}x"


def test_a_parameter_that_pgo_refuses_is_refused_in_the_file(cluster: Cluster) -> None:
    """By the webhook it would be minutes later."""
    schema = _schema(cluster, *_resources()["PostgresCluster"][:1], "PostgresCluster")
    assert schema is not None
    names = list(_parameters(schema))
    assert len(names) > 20
    for name in names:
        settings = {"postgres": {"parameters": {name: "x"}}}
        with pytest.raises(SettingsError, match=rf"postgres\.parameters\.{name}: can't be set"):
            parse(configuration(settings))


def _count(hint: Any) -> int:
    """How many fields a type has, at any depth."""
    if is_typeddict(hint):
        return sum(1 + _count(field) for field in _hints(hint).values())
    return sum(_count(part) for part in typing.get_args(hint))


class _Inner(TypedDict):
    names: Sequence[str]


class _Outer(TypedDict):
    size: int
    inner: _Inner
    gone: str


def _placed(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """Each section that takes tolerations, so each that places pods; lists as `[]`."""
    properties: Mapping[str, Any] = schema.get("properties", {})
    if "tolerations" in properties:
        yield path
    for key, inner in properties.items():
        yield from _placed(inner, f"{path}.{key}")
        if "items" in inner:
            yield from _placed(inner["items"], f"{path}.{key}.[]")


@pytest.mark.parametrize("kind", sorted(POD_SECTIONS))
def test_every_section_that_places_pods_is_known(
    cluster: Cluster, resources: dict[str, tuple[str, Any]], kind: str
) -> None:
    """A new version of an operator may start pods that no setting of `placement` reaches."""
    schema = _schema(cluster, resources[kind][0], kind)
    assert schema is not None, f"this cluster has no CRD of {kind}"
    assert set(_placed(schema, "spec")) == POD_SECTIONS[kind]


def test_each_kind_of_difference_is_reported() -> None:
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

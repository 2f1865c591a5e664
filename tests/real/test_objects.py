"""Every Kubernetes object of every configuration, in a server-side dry run with strict field validation."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from offline.record import plain
from tests import configurations
from tests.real.cluster import Cluster

# Gateway API's CRDs are no part of the lab, and no part of a cluster that has no gateway.
_OPTIONAL = configurations.OPTIONAL_KINDS


def _objects() -> dict[str, tuple[str, Any]]:
    """Each differing object once, with the first configuration that declares it."""
    found: dict[str, tuple[str, Any]] = {}
    for name in configurations.NAMES:
        for one in configurations.recording(name).resources.values():
            if one.is_kubernetes_object:
                manifest = plain(one.inputs)
                found.setdefault(json.dumps(manifest, sort_keys=True), (name, manifest))
    return found


@pytest.mark.usefixtures("environment")
def test_every_object_passes_a_strict_dry_run(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    tried = [
        (name, manifest)
        for name, manifest in _objects().values()
        if manifest["kind"] not in _OPTIONAL
    ]
    answers = cluster.apply((manifest for _, manifest in tried), dry_run=True)
    refused = [
        f"{name}: {manifest['kind']} {manifest['metadata']['name']}: {answer.message}"
        for (name, manifest), answer in zip(tried, answers, strict=True)
        if not answer.ok
    ]
    assert not refused, "the API server refuses:\n" + "\n".join(refused)
    kinds = {manifest["kind"] for _, manifest in tried}
    assert {
        "PostgresCluster",
        "RedisFailover",
        "SecretStore",
        "ExternalSecret",
        "Ingress",
        "Job",
        "Deployment",
    } <= kinds
    record_property("checks", len(tried))


@pytest.mark.usefixtures("environment")
def test_route_passes_a_strict_dry_run(cluster: Cluster) -> None:
    routes = [manifest for _, manifest in _objects().values() if manifest["kind"] == "HTTPRoute"]
    assert routes, "no configuration declares one"
    if not cluster.serves(routes[0]):
        pytest.skip(
            "this cluster has no Gateway API (HTTPRoute), so its fields are not checked here"
        )
    assert all(answer.ok for answer in cluster.apply(routes, dry_run=True))


def _default(kind: str) -> Any:
    """A deep copy of the first object of a kind with the default configuration."""
    one = configurations.recording("defaults").of_kind(kind)[0]
    return json.loads(json.dumps(plain(one.inputs)))


def _misspelt(kind: str, *path: str | int) -> Mapping[str, Any]:
    manifest = _default(kind)
    holder = manifest
    for part in path[:-1]:
        holder = holder[part]
    last = str(path[-1])
    holder[f"{last}x"] = holder.pop(last)
    return manifest


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec", "securityContext", "runAsNonRoot")),
        ("NetworkPolicy", ("spec", "egress")),
        ("PostgresCluster", ("spec", "instances", 0, "dataVolumeClaimSpec")),
        (
            "PostgresCluster",
            ("spec", "backups", "pgbackrest", "repos", 0, "schedules", "differential"),
        ),
        ("RedisFailover", ("spec", "redis", "exporter", "enabled")),
        (
            "SecretStore",
            ("spec", "provider", "vault", "auth", "kubernetes", "serviceAccountRef", "audiences"),
        ),
        ("ExternalSecret", ("spec", "data", 0, "remoteRef", "version")),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_a_misspelt_field_is_refused(
    cluster: Cluster, kind: str, path: tuple[str | int, ...]
) -> None:
    answer = cluster.apply([_misspelt(kind, *path)], dry_run=True)[0]
    assert answer.status in (400, 422, 500), answer.message
    assert f"{path[-1]}x" in answer.message or "field not declared in schema" in answer.message

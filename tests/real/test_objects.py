"""A real API server accepts every object of every configuration, with strict field validation."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from offline.record import plain
from tests import configurations
from tests.real.cluster import Cluster


@pytest.mark.usefixtures("environment")
def test_every_object_passes_a_strict_dry_run(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    """Objects of optional kinds are left out: a cluster may lack their CRDs."""
    objects = [
        (name, manifest)
        for name, manifest in configurations.objects()
        if manifest["kind"] not in configurations.OPTIONAL_KINDS
    ]
    answers = cluster.apply((manifest for _, manifest in objects), dry_run=True)
    refused = [
        f"{name}: {manifest['kind']} {manifest['metadata']['name']}: {answer.message}"
        for (name, manifest), answer in zip(objects, answers, strict=True)
        if not answer.ok
    ]
    assert not refused, "the API server refuses:\n" + "\n".join(refused)
    kinds = {manifest["kind"] for _, manifest in objects}
    assert {"PostgresCluster", "RedisFailover", "SecretStore", "ExternalSecret"} <= kinds
    assert {"Ingress", "Job", "Deployment"} <= kinds
    record_property("checks", len(objects))


@pytest.mark.usefixtures("environment")
def test_route_passes_a_strict_dry_run(cluster: Cluster) -> None:
    """Skipped where the cluster has no Gateway API."""
    routes = [
        manifest for _, manifest in configurations.objects() if manifest["kind"] == "HTTPRoute"
    ]
    assert routes, "no configuration declares an HTTPRoute"
    if not cluster.serves(routes[0]):
        pytest.skip(
            "this cluster has no Gateway API (HTTPRoute), so its fields are not checked here"
        )
    assert all(answer.ok for answer in cluster.apply(routes, dry_run=True))


def _default(kind: str) -> Any:
    """A deep copy of the first object of a kind in the default configuration."""
    resource = configurations.recording("defaults").of_kind(kind)[0]
    return json.loads(json.dumps(plain(resource.inputs)))


def _misspelt(kind: str, *path: str | int) -> Mapping[str, Any]:
    """The same object with an x at the end of a field's name."""
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
    ids=["Deployment", "NetworkPolicy", "instances", "repos", "Redis", "store", "ExternalSecret"],
)
def test_a_misspelt_field_is_refused(
    cluster: Cluster, kind: str, path: tuple[str | int, ...]
) -> None:
    """So the dry run of all objects would find one."""
    answer = cluster.apply([_misspelt(kind, *path)], dry_run=True)[0]
    assert answer.status in (400, 422, 500), answer.message
    assert f"{path[-1]}x" in answer.message or "field not declared in schema" in answer.message

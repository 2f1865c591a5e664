"""Whose a cluster and its namespaces are, as a real API server shows it."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cluster.access import ClusterAccess
from components.program import identity
from components.program.identity import MARK, Identity, IdentityError, State
from components.settings.environment import Settings
from operate import ownership
from operate.declared import declared
from operate.repair import finalizers
from operate.repair.pulumi_cli import Pulumi
from tests.real.cluster import Cluster

Stored = Mapping[str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def access(cluster: Cluster) -> ClusterAccess:
    del cluster  # which skips the test where there is none
    path = os.environ["SHLINK_TEST_KUBECONFIG"]
    context = yaml.safe_load(Path(path).read_text())["current-context"]
    return ClusterAccess(context, path)


@pytest.fixture
def own(environment: Stored) -> Identity:
    """Whose the namespaces are by their marks."""
    return Identity.parse(environment["vault"]["metadata"]["annotations"][MARK])


def state(own: Identity, cluster: str, environment: Stored | None = None) -> State:
    """A state that holds these namespaces."""
    stored = environment or {}
    objects = {("Namespace", name): str(item["metadata"]["uid"]) for name, item in stored.items()}
    return State(own, cluster, objects, empty=not objects)


def test_the_cluster_and_every_namespace_are_known(
    access: ClusterAccess, cluster: Cluster, environment: Stored, own: Identity
) -> None:
    sight = asyncio.run(identity.look(access))
    shown = cluster.call("GET", "/api/v1/namespaces/kube-system").body
    assert sight.cluster == shown["metadata"]["uid"]
    for name, item in environment.items():
        assert sight.namespaces[name].uid == item["metadata"]["uid"]
    ownership.check(access, state(own, sight.cluster, environment))


def test_another_cluster_of_the_same_name_is_refused(
    access: ClusterAccess, environment: Stored, own: Identity
) -> None:
    with pytest.raises(IdentityError, match="recorded is another"):
        ownership.check(access, state(own, "another", environment))


Adopt = Callable[[Identity], None]


@pytest.fixture
def adopt(access: ClusterAccess, environment: Stored) -> Adopt:
    """A recovery of a stack whose state holds nothing yet; it only looks."""
    del environment
    uid = asyncio.run(identity.look(access)).cluster
    dev = declared("dev")
    return lambda own: ownership.check_adoption(access, state(own, uid), dev)


def test_a_second_stack_adopts_nothing(adopt: Adopt, own: Identity) -> None:
    with pytest.raises(IdentityError, match=f"belongs to stack {own.stack} "):
        adopt(Identity("shlink", "second", "ffff"))
    # The first one may: an interrupted update made them, and its state does not know.
    adopt(own)


@pytest.fixture
def role(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """A ClusterRole of somebody, under a name of this program's."""
    manifest: dict[str, Any] = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "shlink-redis-operator", "annotations": {}},
        "rules": [],
    }
    cluster.must([manifest])
    yield manifest
    cluster.delete([manifest])


def test_a_cluster_role_without_its_mark_is_not_adopted(
    adopt: Adopt, cluster: Cluster, own: Identity, role: dict[str, Any]
) -> None:
    with pytest.raises(IdentityError, match="ClusterRole shlink-redis-operator: exists"):
        adopt(own)
    role["metadata"]["annotations"][MARK] = own.mark
    cluster.must([role])
    adopt(own)


def test_a_finalizer_of_a_dead_operator_is_removed(
    access: ClusterAccess,
    cluster: Cluster,
    environment: Stored,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No operator runs on this API server."""
    store: dict[str, Any] = {
        "apiVersion": "external-secrets.io/v1",
        "kind": "SecretStore",
        "metadata": {"name": "dead", "namespace": "shlink", "finalizers": ["example.org/x"]},
        "spec": {"provider": {"fake": {"data": []}}},
    }
    if not cluster.serves(store):
        pytest.skip("this API server does not know External Secrets")
    cluster.must([store])
    cluster.delete([store])
    command = Pulumi("dev", confirm=lambda _: True)
    try:
        finalizers.clear(command, access, Settings(), list(environment))
    finally:
        # Whatever happened, the namespace must be able to go.
        path = cluster.path(store)
        if cluster.call("GET", path).ok:
            cluster.must([{**store, "metadata": {**store["metadata"], "finalizers": []}}])
    assert "secretstores shlink/dead waits for example.org/x" in capsys.readouterr().err
    cluster.gone(store)

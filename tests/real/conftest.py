"""The real parts: a scratch Kubernetes API named by SHLINK_TEST_KUBECONFIG, and Debian's PostgreSQL and Redis on loopback."""

import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from offline.record import plain
from tests import configurations
from tests.real.cluster import Cluster

_VARIABLE = "SHLINK_TEST_KUBECONFIG"
_NO_CLUSTER = (
    f"no cluster to try it on: {_VARIABLE} names no kubeconfig. Start a scratch cluster with `make scratch-cluster` "
    f"and set {_VARIABLE} to the path that it prints; never a cluster that is in use"
)
_API_SERVER, _POSTGRES, _REDIS, _FORWARDS, _NODE = (
    "the API server",
    "PostgreSQL",
    "Redis and Sentinel",
    "forwards",
    "pods on a node",
)
# What a test is held against, by the fixture that it asks for. It counts as one check unless it says record_property("checks", n).
_PARTS = {
    "fresh": "Vault",
    "servers": _REDIS,
    "shared": _REDIS,
    "server": _POSTGRES,
    "cluster": _API_SERVER,
    "node": _NODE,
}


@pytest.fixture(autouse=True)
def _part(request: pytest.FixtureRequest) -> None:  # pyright: ignore[reportUnusedFunction] -- pytest finds it
    part = next((part for fixture, part in _PARTS.items() if fixture in request.fixturenames), None)
    if part:
        request.node.user_properties.append(
            ("part", _FORWARDS if request.path.stem == "test_forward" else part)
        )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A scratch cluster; where none is given the test is skipped, and the summary says why."""
    kubeconfig = os.environ.get(_VARIABLE)
    if not kubeconfig:
        pytest.skip(_NO_CLUSTER)
    path = Path(kubeconfig)
    if not path.is_file():
        pytest.fail(f"{_VARIABLE}={kubeconfig}: there is no such file")
    found = Cluster(path)
    yield found
    found.close()


@pytest.fixture(scope="session")
def environment(cluster: Cluster) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """The namespaces of an environment for real, with the ServiceAccounts that its pods run as; by name, as the API server has them."""
    recorded = configurations.recording("defaults").resources.values()
    objects = [
        plain(one.inputs)
        for one in recorded
        if one.is_kubernetes_object and one.kind in ("Namespace", "ServiceAccount")
    ]
    namespaces = [one for one in objects if one["kind"] == "Namespace"]
    for one in namespaces:
        found = cluster.call("GET", cluster.path(one))
        if found.ok and "deletionTimestamp" in found.body["metadata"]:
            cluster.gone(one)
    there = {one["metadata"]["name"]: one for one in cluster.must(namespaces)}
    cluster.must(one for one in objects if one["kind"] == "ServiceAccount")
    for name in there:  # pods are refused until a namespace has its default account
        cluster.there(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": name},
            }
        )
    yield there
    cluster.delete(namespaces)
    for one in namespaces:
        cluster.gone(one)


@pytest.fixture(scope="session", autouse=True)
def living_nodes() -> Iterator[None]:
    """Renews the leases of nodes without a kubelet: else they count as lost after a minute, and no port-forward finds its way."""
    kubeconfig = os.environ.get(_VARIABLE)
    if not kubeconfig:
        yield
        return
    found, stop = Cluster(Path(kubeconfig)), threading.Event()
    names = [
        node["metadata"]["name"]
        for node in found.call("GET", "/api/v1/nodes").body["items"]
        if "kwok.x-k8s.io/node" in node["metadata"].get("annotations", {})
    ]

    def renew() -> None:
        while True:
            now = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            spec = {"holderIdentity": "tests", "leaseDurationSeconds": 40, "renewTime": now}
            metadata = {"namespace": "kube-node-lease"}
            found.apply(
                {
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {**metadata, "name": name},
                    "spec": spec,
                }
                for name in names
            )
            if stop.wait(10):
                return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join()
    found.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line: how much was tried on real parts, so that a run without them can't look like one with them."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        properties = {str(key): str(value) for key, value in report.user_properties}
        if report.when == "call" and "part" in properties:
            counts[properties["part"]] += int(properties.get("checks", "1"))
    said = ", ".join(
        f"{counts[part]} against {part}"
        for part in (_API_SERVER, _POSTGRES, _REDIS, _FORWARDS, _NODE)
        if counts[part]
    )
    terminalreporter.write_line(f"checks on real parts: {said or 'none'}")

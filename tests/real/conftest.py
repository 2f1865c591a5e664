"""Fixtures for real servers: a scratch Kubernetes API, and Debian's PostgreSQL and Redis.

SHLINK_TEST_KUBECONFIG names the kubeconfig of the API server; the others run on loopback.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from offline.record import plain
from tests import configurations
from tests.real.cluster import Cluster

_VARIABLE = "SHLINK_TEST_KUBECONFIG"
_NO_CLUSTER = (
    f"no cluster to try it on: {_VARIABLE} names no kubeconfig. "
    f"Start a scratch cluster with `make scratch-cluster` and set {_VARIABLE} "
    "to the path that it prints; never a cluster that is in use"
)
_API_SERVER, _POSTGRES, _REDIS, _FORWARDS, _NODE = (
    "the API server",
    "PostgreSQL",
    "Redis and Sentinel",
    "forwards",
    "pods on a node",
)
# Each real part by the fixture that a test takes for it. The first match counts.
# A test is counted as one check unless it calls record_property("checks", n).
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
    if part and request.path.stem == "test_forward":
        part = _FORWARDS
    if part:
        request.node.user_properties.append(("part", part))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A scratch cluster. Without one the test is skipped, and the summary tells why."""
    kubeconfig = os.environ.get(_VARIABLE)
    if not kubeconfig:
        pytest.skip(_NO_CLUSTER)
    path = Path(kubeconfig)
    if not path.is_file():
        pytest.fail(f"{_VARIABLE}={kubeconfig}: there is no such file")
    connected = Cluster(path)
    yield connected
    connected.close()


@pytest.fixture(scope="session")
def environment(cluster: Cluster) -> Iterator[Mapping[str, Mapping[str, Any]]]:
    """The namespaces of an environment, by name, with the ServiceAccounts that its pods run as.

    They exist on the API server; the values are its answers.
    """
    namespaces, accounts = _declared("Namespace"), _declared("ServiceAccount")
    for namespace in namespaces:
        answer = cluster.call("GET", cluster.path(namespace))
        if answer.ok and "deletionTimestamp" in answer.body["metadata"]:
            cluster.gone(namespace)
    stored = {namespace["metadata"]["name"]: namespace for namespace in cluster.must(namespaces)}
    cluster.must([_PRIORITY, *accounts])
    for name in stored:  # pods are refused until a namespace has its default account
        metadata = {"name": "default", "namespace": name}
        cluster.appears({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
    yield stored
    cluster.delete([*namespaces, _PRIORITY])
    for namespace in namespaces:
        cluster.gone(namespace)


# A pod that names a PriorityClass is refused without it.
_PRIORITY = {
    "apiVersion": "scheduling.k8s.io/v1",
    "kind": "PriorityClass",
    "metadata": {"name": configurations.PLACEMENT["priorityClassName"]},
    "value": 1000,
}


def _declared(kind: str) -> list[Any]:
    resources = configurations.recording("defaults").of_kind(kind)
    return [plain(resource.inputs) for resource in resources if resource.is_kubernetes_object]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that counts the checks on real parts, so that a run without them shows."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        properties = {str(key): str(value) for key, value in report.user_properties}
        if report.when == "call" and "part" in properties:
            counts[properties["part"]] += int(properties.get("checks", "1"))
    summary = ", ".join(
        f"{counts[part]} against {part}"
        for part in (_API_SERVER, _POSTGRES, _REDIS, _FORWARDS, _NODE)
        if counts[part]
    )
    terminalreporter.write_line(f"checks on real parts: {summary or 'none'}")

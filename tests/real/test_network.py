"""The flow table (tests/flow_table.py) against the NetworkPolicies as the API server stores them.

Namespaces are real, and pods have the labels that they have after admission.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from offline.record import plain
from tests import configurations
from tests.flow_table import OUTSIDE, SWITCHES, all_ends, expected, possible, role_of_pod
from tests.netpol import End, Labels, allowed
from tests.real.cluster import Call, Cluster
from tests.real.pods import templates


@pytest.fixture
def policies(
    request: pytest.FixtureRequest, cluster: Cluster, environment: Mapping[str, Any]
) -> Iterator[list[Mapping[str, Any]]]:
    """The NetworkPolicies of a configuration: applied, then listed."""
    recorded = configurations.recording(request.param).of_kind("NetworkPolicy")
    applied = [plain(policy.inputs) for policy in recorded]
    cluster.must(applied)
    stored: list[Mapping[str, Any]] = []
    for name in environment:
        folder = cluster.folder("networking.k8s.io/v1", "NetworkPolicy", name)
        stored += cluster.call("GET", folder).body["items"]
    yield stored
    cluster.delete(applied)


@pytest.fixture(scope="module")
def namespaces(cluster: Cluster, environment: Mapping[str, Any]) -> Iterator[Mapping[str, Labels]]:
    """The labels of all namespaces, by name, including those of the pods outside."""
    outside = {namespace for namespace, _ in OUTSIDE.values()}
    names = outside - set(environment) - {"default", "kube-system"}
    created = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names
    ]
    cluster.must(created)
    answer = cluster.call("GET", "/api/v1/namespaces")
    stored = [namespace["metadata"] for namespace in answer.body["items"]]
    yield {metadata["name"]: metadata["labels"] for metadata in stored}
    cluster.delete(created)
    for namespace in created:
        cluster.gone(namespace)


def _pods(cluster: Cluster, configuration: str) -> dict[str, End]:
    """The pods of a configuration, with the labels that the API server would give them."""
    manifests = {role_of_pod(each.name): each.pods()[0] for each in templates(configuration)}
    plain_spec = {
        "containers": [{"name": "one", "image": "one", "securityContext": _SECURITY}],
        "automountServiceAccountToken": False,
    }
    calls: list[Call] = []
    for pod in manifests.values():
        # test_pods tests the real specs, which would need accounts here.
        pod["spec"] = plain_spec
        folder = cluster.folder("v1", "Pod", pod["metadata"]["namespace"])
        calls.append(Call("POST", folder, pod, params={"dryRun": "All"}))
    answers = cluster.calls(calls)
    assert all(answer.ok for answer in answers), [answer.message for answer in answers]
    return {
        name: (answer.body["metadata"]["namespace"], answer.body["metadata"]["labels"])
        for name, answer in zip(manifests, answers, strict=True)
    }


_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.mark.parametrize(
    ("policies", "configuration"),
    [(name, name) for name in SWITCHES],
    indirect=["policies"],
    ids=list(SWITCHES),
)
def test_exactly_the_flows_of_the_table_are_possible(
    cluster: Cluster,
    policies: list[Mapping[str, Any]],
    namespaces: Mapping[str, Labels],
    configuration: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Each row of the table is possible, and no connection beside them."""
    ends = all_ends(_pods(cluster, configuration))
    connections = possible(policies, namespaces, ends)
    table = expected(configuration, ends)
    assert sorted(connections - table) == [], "possible, and in no row"
    assert sorted(table - connections) == [], "in the table, and not possible"
    record_property("checks", len(table))


@pytest.mark.parametrize("policies", ["defaults"], indirect=True)
def test_every_pod_reaches_dns_by_udp(
    cluster: Cluster, policies: list[Mapping[str, Any]], namespaces: Mapping[str, Labels]
) -> None:
    """DNS pods can be reached by UDP, pods that only bear their labels elsewhere cannot."""
    for name, end in _pods(cluster, "defaults").items():
        assert allowed(policies, namespaces, end, OUTSIDE["dns"], 53, protocol="UDP"), name
        assert not allowed(policies, namespaces, end, OUTSIDE["impostor"], 53, protocol="UDP"), name

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
    applied = [plain(one.inputs) for one in recorded]
    cluster.must(applied)
    folders = [
        cluster.folder("networking.k8s.io/v1", "NetworkPolicy", name) for name in environment
    ]
    yield [one for folder in folders for one in cluster.call("GET", folder).body["items"]]
    cluster.delete(applied)


@pytest.fixture(scope="module")
def namespaces(cluster: Cluster, environment: Mapping[str, Any]) -> Iterator[Mapping[str, Labels]]:
    """All of the cluster's, with those of the other pods."""
    others = (
        {namespace for namespace, _ in OUTSIDE.values()}
        - set(environment)
        - {"default", "kube-system"}
    )
    made = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in others
    ]
    cluster.must(made)
    yield {
        one["metadata"]["name"]: one["metadata"]["labels"]
        for one in cluster.call("GET", "/api/v1/namespaces").body["items"]
    }
    cluster.delete(made)
    for one in made:
        cluster.gone(one)


def _pods(cluster: Cluster, configuration: str) -> dict[str, End]:
    """The pods of a configuration, with the labels that the API server would give them."""
    manifests = {role_of_pod(each.name): each.pods()[0] for each in templates(configuration)}
    plain_spec = {
        "containers": [{"name": "one", "image": "one", "securityContext": _SECURITY}],
        "automountServiceAccountToken": False,
    }
    for pod in manifests.values():  # its spec is test_pods' business; here it would need accounts
        pod["spec"] = plain_spec
    answers = cluster.calls(
        Call(
            "POST",
            cluster.folder("v1", "Pod", pod["metadata"]["namespace"]),
            pod,
            params={"dryRun": "All"},
        )
        for pod in manifests.values()
    )
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
    for name, end in _pods(cluster, "defaults").items():
        assert allowed(policies, namespaces, end, OUTSIDE["dns"], 53, protocol="UDP"), name
        assert not allowed(policies, namespaces, end, OUTSIDE["impostor"], 53, protocol="UDP"), name

"""Every pod of every configuration is created for real where Pod Security `restricted` is enforced, and scheduled."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from offline.record import plain
from tests import configurations
from tests.real.cluster import Call, Cluster
from tests.real.pods import Template, distinct

# Accounts that the charts make; the others are the program's.
_CHART_ACCOUNTS = {"vault": "vault", "postgres": "pgo", "external-secrets": "external-secrets"}


@pytest.fixture(scope="module")
def accounts(cluster: Cluster, environment: Mapping[str, Mapping[str, Any]]) -> None:
    assert set(_CHART_ACCOUNTS) <= set(environment)
    # Another module may have deleted those of the session.
    recording = configurations.recording("defaults")
    cluster.must(plain(account.inputs) for account in recording.of_kind("ServiceAccount"))
    cluster.must(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
        }
        for namespace, name in _CHART_ACCOUNTS.items()
    )


def _nodes(cluster: Cluster) -> int:
    nodes = cluster.call("GET", "/api/v1/nodes").body["items"]
    return sum(not one["spec"].get("unschedulable", False) for one in nodes)


def _place(cluster: Cluster, template: Template) -> tuple[list[str], Counter[str]]:
    """Create the pods, and say which were refused and on which nodes the others are."""
    pods = template.pods()
    folder = cluster.folder("v1", "Pod", template.namespace)
    params = {"fieldValidation": "Strict"}
    try:
        answers = cluster.calls(Call("POST", folder, pod, params=params) for pod in pods)
        refused = [answer.message for answer in answers if not answer.ok]
        if refused:
            return refused, Counter()
        nodes: Counter[str] = Counter()

        def scheduled() -> bool:
            nodes.clear()
            nodes.update(
                cluster.call("GET", cluster.path(pod)).body["spec"].get("nodeName", "")
                for pod in pods
            )
            return "" not in nodes

        cluster.until(scheduled, f"pods of {template.name} are not scheduled")
        return [], nodes
    finally:
        cluster.delete(pods)
        for pod in pods:
            cluster.gone(pod)


@pytest.mark.usefixtures("accounts")
def test_every_pod_is_admitted_and_spread(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    nodes = _nodes(cluster)
    faults: list[str] = []
    placed = 0
    for name, template in distinct():
        refused, where = _place(cluster, template)
        faults += [f"{name}: {template.name}: {message}" for message in refused]
        placed += template.replicas - len(refused)
        if "topologySpreadConstraints" in template.spec and nodes > 1 and not refused:
            counts = [*where.values(), *[0] * (nodes - len(where))]
            if max(counts) - min(counts) > 1:
                faults.append(
                    f"{name}: {template.name}: {template.replicas} pods over {nodes} nodes as {dict(where)}"
                )
    assert not faults, "\n".join(faults)
    assert placed > 50
    record_property("checks", placed)


_SPREAD_OVER = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")


def test_replicas_ask_for_a_spread() -> None:
    """Whatever has more than one pod says how they are spread, by labels that its pods bear."""
    for name, template in distinct():
        constraints = template.spec.get("topologySpreadConstraints", [])
        assert constraints or template.replicas == 1, (
            f"{name}: {template.name} has {template.replicas} pods and no spread"
        )
        for one in constraints:
            assert one["topologyKey"] in _SPREAD_OVER
            assert one["labelSelector"]["matchLabels"].items() <= template.labels.items(), (
                f"{name}: {template.name} spreads other pods"
            )


_SECURITY = ["allowPrivilegeEscalation", "capabilities", "runAsNonRoot", "seccompProfile"]


@pytest.mark.usefixtures("accounts")
def test_admission_is_in_force(cluster: Cluster) -> None:
    """Without its security contexts a pod is refused: the admissions above are worth something."""
    template = next(one for _, one in distinct() if one.name == "shlink")
    container = {
        key: value
        for key, value in template.spec["containers"][0].items()
        if key != "securityContext"
    }
    spec = {**template.spec, "containers": [container], "initContainers": []}
    bare = Template("bare", template.namespace, template.labels, {**spec, "securityContext": {}})
    refused, _ = _place(cluster, bare)
    assert len(refused) == 1
    assert all(what in refused[0] for what in ("restricted", *_SECURITY)), refused


def test_every_namespace_enforces_restricted(environment: Mapping[str, Mapping[str, Any]]) -> None:
    """As the API server returns them, all five."""
    assert set(environment) == {"vault", "external-secrets", "postgres", "redis", "shlink"}
    for one in environment.values():
        assert one["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_changed_secret_changes_the_pods() -> None:
    """Shlink reads its connections at the start: each Secret that it takes a variable from is in its template by version."""
    recording = configurations.recording("app")
    for kind, name in (("Deployment", "shlink"), ("Job", "shlink-migration")):
        template = plain(recording.one(kind, name).inputs)["spec"]["template"]
        variables = [
            one["valueFrom"]["secretKeyRef"]
            for one in template["spec"]["containers"][0]["env"]
            if "valueFrom" in one
        ]
        used = {one["name"] for one in variables}
        assert "shlink-db-pguser-shlink" in used
        assert {f"shlink.io/secret-version.{one}" for one in used} <= set(
            template["metadata"]["annotations"]
        )

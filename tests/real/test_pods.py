"""A real API server admits every pod where Pod Security `restricted` is enforced, and places it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from offline.record import plain
from tests import configurations, pod_security
from tests.conftest import manifest
from tests.real.cluster import Call, Cluster
from tests.real.pods import Template, distinct

# ServiceAccounts that the charts create. The program creates the others.
_CHART_ACCOUNTS = {"vault": "vault", "postgres": "pgo", "external-secrets": "external-secrets"}


@pytest.fixture(scope="module")
def accounts(cluster: Cluster, environment: Mapping[str, Mapping[str, Any]]) -> None:
    """Every ServiceAccount that a pod names."""
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
    return sum(not node["spec"].get("unschedulable", False) for node in nodes)


def _place(cluster: Cluster, template: Template) -> tuple[list[str], Counter[str]]:
    """Create the pods. Returns the messages that refuse them, or how many run on each node."""
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
            for pod in pods:
                stored = cluster.call("GET", cluster.path(pod))
                # A busy API server may have no answer yet.
                nodes[stored.body["spec"].get("nodeName", "") if stored.ok else ""] += 1
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
    """Pods with a spread constraint differ by at most one from node to node."""
    nodes = _nodes(cluster)
    faults: list[str] = []
    placed = 0
    for name, template in distinct():
        refused, pods_by_node = _place(cluster, template)
        faults += [f"{name}: {template.name}: {message}" for message in refused]
        placed += template.replicas - len(refused)
        if "topologySpreadConstraints" in template.spec and nodes > 1 and not refused:
            counts = [*pods_by_node.values(), *[0] * (nodes - len(pods_by_node))]
            if max(counts) - min(counts) > 1:
                faults.append(
                    f"{name}: {template.name}: {template.replicas} pods "
                    f"over {nodes} nodes as {dict(pods_by_node)}"
                )
    assert not faults, "\n".join(faults)
    assert placed > 50
    record_property("checks", placed)


_SPREAD_OVER = ("kubernetes.io/hostname", "topology.kubernetes.io/zone")


def test_replicas_ask_for_a_spread() -> None:
    """More than one pod needs a spread constraint, and it selects the pods' own labels."""
    for name, template in distinct():
        constraints = template.spec.get("topologySpreadConstraints", [])
        assert constraints or template.replicas == 1, (
            f"{name}: {template.name} has {template.replicas} pods and no spread"
        )
        for constraint in constraints:
            assert constraint["topologyKey"] in _SPREAD_OVER
            selected = constraint["labelSelector"]["matchLabels"].items()
            assert selected <= template.labels.items(), (
                f"{name}: {template.name} spreads other pods"
            )


_SECURITY = ["allowPrivilegeEscalation", "capabilities", "runAsNonRoot", "seccompProfile"]


@pytest.mark.usefixtures("accounts")
def test_admission_is_in_force(cluster: Cluster) -> None:
    """Without its security contexts a pod is refused, so the admissions above mean something."""
    template = next(template for _, template in distinct() if template.name == "shlink")
    container = dict(template.spec["containers"][0])
    del container["securityContext"]
    changes: dict[str, Any] = {
        "containers": [container],
        "initContainers": [],
        "securityContext": {},
    }
    bare = replace(template, name="bare", spec={**template.spec, **changes}, replicas=1)
    refused, _ = _place(cluster, bare)
    assert len(refused) == 1
    for word in ("restricted", *_SECURITY):
        assert word in refused[0]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(("change", "expected"), pod_security.CASES, ids=str)
def test_admission_and_the_policy_rule_agree(
    cluster: Cluster, change: dict[str, Any], expected: list[str]
) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "judged", "namespace": "shlink"},
        "spec": {**pod_security.GOOD, **change},
    }
    answer = cluster.call("POST", cluster.folder("v1", "Pod", "shlink"), pod, dryRun="All")
    assert answer.ok == (not expected), answer.message
    assert answer.ok or "PodSecurity" in answer.message


def test_every_namespace_enforces_restricted(environment: Mapping[str, Mapping[str, Any]]) -> None:
    """All five, as the API server returns them."""
    assert set(environment) == {"vault", "external-secrets", "postgres", "redis", "shlink"}
    for namespace in environment.values():
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_changed_secret_changes_the_pods() -> None:
    """The version of each Secret that a variable comes from is an annotation of the template.

    Shlink reads its connections only when it starts.
    """
    recording = configurations.recording("app")
    for kind, name in (("Deployment", "shlink"), ("Job", "shlink-migration")):
        template = manifest(recording, kind, name)["spec"]["template"]
        variables = template["spec"]["containers"][0]["env"]
        sources = [variable["valueFrom"] for variable in variables if "valueFrom" in variable]
        used = {source["secretKeyRef"]["name"] for source in sources}
        assert "shlink-db-pguser-shlink" in used
        annotations = template["metadata"]["annotations"]
        for secret in used:
            assert f"shlink.io/secret-version.{secret}" in annotations

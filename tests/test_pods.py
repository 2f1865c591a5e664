"""Every pod of every configuration passes Pod Security `restricted`, and more that holds for all.

tests/real/pods.py assembles the pods that charts and operators create.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from components.manifests.placement import PULL_SECRET
from components.manifests.pods import volume_claim
from components.settings.platform import Volume
from offline.record import Secret, plain
from policy.rules import containers, violations
from tests import configurations, pod_security
from tests.real.pods import BY_KIND, POD_SECTIONS, Template, distinct, templates

_DECLARED = ("shlink", "shlink-migration", "vault-init", "shlink-redis-rotation-2")


@pytest.mark.parametrize("name", configurations.NAMES)
def test_every_pod_is_restricted(name: str) -> None:
    """Those that charts and operators create, too."""
    pods = list(templates(name))
    assert {"vault", "vault-init", "shlink", "shlink-migration"} <= {pod.name for pod in pods}
    for pod in pods:
        assert list(violations(pod.spec)) == [], pod.name


@pytest.mark.parametrize(("change", "expected"), pod_security.CASES, ids=str)
def test_the_check_itself_finds_what_restricted_refuses(change: Any, expected: list[str]) -> None:
    """tests/real/test_pods.py lets an API server judge the same pods."""
    assert list(violations({**pod_security.GOOD, **change})) == expected


def test_what_an_api_server_judges_otherwise_by_its_kind_of_pod() -> None:
    """A debug container joins a running pod, and a host process runs on Windows only."""
    debug = {"ephemeralContainers": [{"name": "debug"}]}
    found = list(violations({**pod_security.GOOD, **debug}))
    assert found == ["debug: allowPrivilegeEscalation", "debug: capabilities.drop"]
    windows = {"windowsOptions": {"hostProcess": True}, **pod_security.GOOD["securityContext"]}
    assert list(violations({**pod_security.GOOD, "securityContext": windows})) == ["hostProcess"]


def declared() -> list[Template]:
    """The pods that this program declares itself."""
    return [template for _, template in distinct() if template.name in _DECLARED]


def test_every_declared_container_is_bounded_and_cannot_write_its_image() -> None:
    """Memory has a limit, processors have none."""
    pods = declared()
    assert {pod.name for pod in pods} == set(_DECLARED)
    for pod in pods:
        volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
        for container in containers(pod.spec):
            place = (pod.name, container["name"])
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, place
            assert container["resources"]["limits"].keys() == {"memory"}, place
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, place
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= volumes, place


def test_only_who_needs_it_gets_a_token_for_the_api_server() -> None:
    with_token = {
        pod.name for pod in declared() if pod.spec.get("automountServiceAccountToken") is not False
    }
    assert with_token == {"vault-init"}


def test_no_variable_of_a_service_can_pass_for_one_of_shlinks() -> None:
    """Kubernetes would set SHLINK_PORT for a Service called `shlink` in its namespace's pods."""
    for pod in declared():
        assert pod.spec["enableServiceLinks"] is False, pod.name


@pytest.mark.parametrize("name", configurations.NAMES)
def test_no_variable_is_empty_or_set_twice(name: str) -> None:
    """Shlink treats an empty variable as set."""
    for pod in templates(name):
        for container in containers(pod.spec):
            environment = container.get("env", [])
            names = [variable["name"] for variable in environment]
            assert len(names) == len(set(names)), (pod.name, container["name"])
            for variable in environment:
                assert variable.get("value") or variable.get("valueFrom"), (
                    pod.name,
                    variable["name"],
                )


def test_pods_are_spread_by_labels_that_they_bear() -> None:
    """With another value than ScheduleAnyway, pods would stay Pending on a laptop's single node."""
    spread: set[str] = set()
    for _, pods in distinct():
        for constraint in pods.spec.get("topologySpreadConstraints", []):
            spread.add(pods.name)
            labels = constraint["labelSelector"]["matchLabels"]
            assert labels, pods.name
            assert labels.items() <= pods.labels.items(), pods.name
            assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", pods.name
    assert {"shlink", "vault", "shlink-db-instance1"} <= spread
    assert {"rfr-shlink-redis", "rfs-shlink-redis"} <= spread


def test_no_constraint_repeats_one_that_an_operator_appends() -> None:
    """The API server refuses the pod otherwise, and PGO tells nobody."""
    for configuration, template in distinct():
        constraints = template.spec.get("topologySpreadConstraints", [])
        keys = [(item["topologyKey"], item["whenUnsatisfiable"]) for item in constraints]
        assert len(keys) == len(set(keys)), (configuration, template.name)


@pytest.mark.parametrize("name", configurations.NAMES)
def test_jobs_are_awaited_repeated_after_a_failure_and_stay(name: str) -> None:
    """A Job that its time to live has removed would run again after the next refresh."""
    jobs = configurations.recording(name).of_kind("Job")
    assert jobs
    for job in jobs:
        annotations = job.inputs["metadata"]["annotations"]
        # The migration's own wait runs it again, and never in the middle of its work.
        own_wait = job.name == "shlink-migration"
        assert ("pulumi.com/replaceUnready" in annotations) is not own_wait
        assert "pulumi.com/skipAwait" not in annotations
        assert "ttlSecondsAfterFinished" not in job.inputs["spec"]


@pytest.mark.parametrize("storage_class", [None, "fast"])
def test_a_volume_without_a_class_leaves_it_to_the_cluster(storage_class: str | None) -> None:
    claim = volume_claim(Volume(size="2Gi", storage_class=storage_class))
    assert claim.get("storageClassName") == storage_class
    assert ("storageClassName" in claim) is (storage_class is not None)
    assert claim["accessModes"] == ["ReadWriteOnce"]


def test_a_registry_takes_the_place_of_every_host() -> None:
    images: list[str] = []
    for pod in templates("mirror"):
        if pod.name in _DECLARED:
            images += [container["image"] for container in containers(pod.spec)]
    assert images
    assert all(image.startswith("registry.example.org/mirror/") for image in images)


_WITHOUT_PODS = frozenset(
    {
        "BackendConfig",
        "CiliumNetworkPolicy",
        "HealthCheckPolicy",
        "RedisFailoverPatch",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "ExternalSecret",
        "HTTPRoute",
        "HorizontalPodAutoscaler",
        "Ingress",
        "Namespace",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "PodMonitor",
        "PrometheusRule",
        "Role",
        "RoleBinding",
        "Secret",
        "SecretStore",
        "Service",
        "ServiceAccount",
    }
)
"""Kinds that lead to no pod, whatever is in them."""
_TOLERATION = {**configurations.PLACEMENT["tolerations"][0], "operator": "Equal"}
_AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [
                {
                    "matchExpressions": [
                        {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
                    ]
                }
            ]
        }
    }
}


def misplaced(spec: Any) -> Iterator[str]:
    """What a pod, or a section that becomes one, lacks of the settings' placement."""
    labels = configurations.PLACEMENT["nodeSelector"]
    if spec.get("nodeSelector") != labels and spec.get("affinity") != _AFFINITY:
        yield "nodeSelector"
    if spec.get("tolerations") != [_TOLERATION]:
        yield "tolerations"
    if spec.get("priorityClassName") != configurations.PLACEMENT["priorityClassName"]:
        yield "priorityClassName"


def test_every_kind_that_makes_pods_is_known() -> None:
    """A new kind has a pod in tests/real/pods.py, or it creates no pods."""
    kinds = {
        resource.kind
        for name in configurations.NAMES
        for resource in configurations.recording(name).resources.values()
        if resource.type.startswith("kubernetes:")
    }
    assert kinds <= {"Deployment", "Job", *BY_KIND} | _WITHOUT_PODS


def test_every_pod_runs_where_the_settings_say_and_can_pull() -> None:
    """A new pod, of the program or of an operator, fails here until it takes the placement."""
    pods = [*templates("placed"), *templates("placed-fork")]
    assert {pod.name for pod in pods} == {pod.name for _, pod in distinct()}
    faults = [f"{pod.name}: {fault}" for pod in pods for fault in misplaced(pod.spec)]
    # PGO's chart has no value for it; the setting says so.
    assert set(faults) == {"operator-pgo: priorityClassName"}
    for pod in pods:
        assert pod.spec.get("imagePullSecrets") == [{"name": PULL_SECRET}], pod.name


@pytest.mark.parametrize("name", ["placed", "placed-fork"])
def test_every_section_of_a_custom_resource_that_makes_pods_is_placed(name: str) -> None:
    """Also those of operators' pods that tests/real/pods.py does not put together."""
    seen: set[str] = set()
    for kind, sections in POD_SECTIONS.items():
        for resource in configurations.recording(name).of_kind(kind):
            for section in sections:
                for fields in _at(plain(resource.inputs), section.split(".")):
                    assert list(misplaced(fields)) == [], section
                    seen.add(section)
    assert {"spec.redis", "spec.instances.[]", "spec.backups.pgbackrest.jobs"} <= seen


def _at(value: Any, path: list[str]) -> list[Any]:
    """What is at a path of a manifest; `[]` stands for every entry of a list."""
    if not path:
        return [value]
    first, *rest = path
    if first == "[]":
        return [item for entry in value for item in _at(entry, rest)]
    return _at(value[first], rest) if first in value else []


def test_replicas_prefer_other_zones_where_that_is_asked_for() -> None:
    spread = {
        pod.name: {item["topologyKey"] for item in pod.spec["topologySpreadConstraints"]}
        for pod in templates("placed")
        if pod.replicas > 1
    }
    assert {"shlink", "vault", "rfr-shlink-redis", "rfs-shlink-redis"} <= spread.keys()
    for name, keys in spread.items():
        assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}, name


def test_nothing_set_leaves_placement_to_the_cluster() -> None:
    for pod in templates("defaults"):
        for field in ("nodeSelector", "tolerations", "priorityClassName", "imagePullSecrets"):
            assert not pod.spec.get(field), pod.name


def test_the_logins_are_a_secret_of_each_namespace_before_its_pods() -> None:
    recording = configurations.recording("placed")
    secrets = [
        secret
        for secret in recording.of_kind("Secret")
        if secret.inputs["metadata"]["name"] == PULL_SECRET
    ]
    namespaces = {secret.inputs["metadata"]["namespace"] for secret in secrets}
    assert namespaces == {pod.namespace for pod in templates("placed")}
    for secret in secrets:
        assert secret.inputs["type"] == "kubernetes.io/dockerconfigjson"
        assert isinstance(secret.inputs["stringData"], Secret), "the state must encrypt it"
        content = plain(secret.inputs["stringData"])[".dockerconfigjson"]
        assert json.loads(content)["auths"] == {
            "registry.example.org/mirror": {
                "username": "puller",
                "password": "pull-password",
                "auth": "cHVsbGVyOnB1bGwtcGFzc3dvcmQ=",
            }
        }
    for kind, name in (("Deployment", "shlink"), ("Job", "vault-init"), ("Release", "pgo")):
        resource = recording.one(kind, name)
        namespace = resource.inputs.get("metadata", resource.inputs)["namespace"]
        own = [item.urn for item in secrets if item.inputs["metadata"]["namespace"] == namespace]
        assert set(own) <= recording.waits_for(resource), name

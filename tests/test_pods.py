"""Every pod of every configuration passes Pod Security `restricted`, and more that holds for all.

tests/real/pods.py assembles the pods that charts and operators create.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from components.pods import volume_claim
from components.settings import Volume
from tests import configurations
from tests.real.pods import Template, distinct, templates

_DECLARED = ("shlink", "shlink-migration", "vault-init", "shlink-redis-rotation-2")
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(spec: Any) -> Iterator[str]:
    """What `restricted` refuses in a pod's spec.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
    for volume in spec.get("volumes", []):
        if not set(volume) - {"name"} <= _VOLUMES:
            yield f"volume {volume['name']}"
    for container in containers(spec):
        own = container.get("securityContext", {})
        both = {**spec.get("securityContext", {}), **own}
        capabilities = own.get("capabilities", {})
        violated = {
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "capabilities.drop": "ALL" not in capabilities.get("drop", []),
            "capabilities.add": not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "privileged": bool(own.get("privileged")),
            "procMount": own.get("procMount", "Default") != "Default",
            "runAsNonRoot": both.get("runAsNonRoot") is not True,
            "runAsUser": both.get("runAsUser") == 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type")
            not in ("RuntimeDefault", "Localhost"),
            "hostPort": any(port.get("hostPort") for port in container.get("ports", [])),
        }
        yield from (f"{container['name']}: {field}" for field in violated if violated[field])


def containers(spec: Any) -> list[Any]:
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("name", configurations.NAMES)
def test_every_pod_is_restricted(name: str) -> None:
    """Those that charts and operators create, too."""
    pods = list(templates(name))
    assert {"vault", "vault-init", "shlink", "shlink-migration"} <= {pod.name for pod in pods}
    for pod in pods:
        assert list(violations(pod.spec)) == [], pod.name


_GOOD: Any = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "c",
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            },
        }
    ],
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"hostNetwork": True}, ["hostNetwork"]),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, ["volume v"]),
        ({"securityContext": {}}, ["c: runAsNonRoot", "c: seccompProfile"]),
        (
            {"initContainers": [{"name": "i"}]},
            ["i: allowPrivilegeEscalation", "i: capabilities.drop"],
        ),
        ({"securityContext": {**_GOOD["securityContext"], "runAsUser": 0}}, ["c: runAsUser"]),
    ],
    ids=str,
)
def test_the_check_itself_finds_what_restricted_refuses(change: Any, expected: list[str]) -> None:
    """A pod that passes is changed so that it no longer does."""
    assert list(violations({**_GOOD, **change})) == expected


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
        assert annotations["pulumi.com/replaceUnready"] == "true"
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

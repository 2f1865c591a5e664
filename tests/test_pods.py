"""Every pod of every configuration against Pod Security `restricted`, and what else all pods must have.

The pods that charts and operators make are put together by tests/real/pods.py, with what they leave to the program.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from components.pods import volume_claim
from components.settings import Volume
from tests import configurations
from tests.real.pods import Template, distinct, templates

_OURS = ("shlink", "shlink-migration", "vault-init", "shlink-redis-rotation-2")
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
    """What https://kubernetes.io/docs/concepts/security/pod-security-standards/ refuses under `restricted`."""
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if spec.get(field))
    yield from (
        f"volume {one['name']}"
        for one in spec.get("volumes", [])
        if not set(one) - {"name"} <= _VOLUMES
    )
    whole = spec.get("securityContext", {})
    for one in containers(spec):
        own = one.get("securityContext", {})
        both = {**whole, **own}
        capabilities = own.get("capabilities", {})
        wrong = {
            "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
            "capabilities.drop": "ALL" not in capabilities.get("drop", []),
            "capabilities.add": not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"},
            "privileged": bool(own.get("privileged")),
            "procMount": own.get("procMount", "Default") != "Default",
            "runAsNonRoot": both.get("runAsNonRoot") is not True,
            "runAsUser": both.get("runAsUser") == 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type")
            not in ("RuntimeDefault", "Localhost"),
            "hostPort": any(port.get("hostPort") for port in one.get("ports", [])),
        }
        yield from (f"{one['name']}: {what}" for what, found in wrong.items() if found)


def containers(spec: Any) -> list[Any]:
    return [*spec.get("initContainers", []), *spec["containers"]]


@pytest.mark.parametrize("name", configurations.NAMES)
def test_every_pod_is_restricted(name: str) -> None:
    pods = list(templates(name))
    assert {"vault", "vault-init", "shlink", "shlink-migration"} <= {one.name for one in pods}
    assert [f"{one.name}: {what}" for one in pods for what in violations(one.spec)] == []


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
    assert list(violations({**_GOOD, **change})) == expected


def ours() -> list[Template]:
    """The pods that this program declares word for word."""
    return [one for _, one in distinct() if one.name in _OURS]


def test_every_declared_container_is_bounded_and_cannot_write_its_image() -> None:
    pods = ours()
    assert {one.name for one in pods} == set(_OURS)
    for one in pods:
        for container in containers(one.spec):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, (
                one.name,
                container["name"],
            )
            assert container["resources"]["limits"].keys() == {"memory"}, (
                one.name,
                container["name"],
            )
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, (
                one.name,
                container["name"],
            )
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= {volume["name"] for volume in one.spec.get("volumes", [])}


def test_only_who_needs_it_gets_a_token_for_the_api_server() -> None:
    given = {
        one.name for one in ours() if one.spec.get("automountServiceAccountToken") is not False
    }
    assert given == {"vault-init"}


def test_no_variable_of_a_service_can_pass_for_one_of_shlinks() -> None:
    # A Service called `shlink` would make SHLINK_PORT and others in every pod of its namespace.
    assert all(one.spec["enableServiceLinks"] is False for one in ours())


@pytest.mark.parametrize("name", configurations.NAMES)
def test_no_variable_is_empty_or_set_twice(name: str) -> None:
    for one in templates(name):
        for container in containers(one.spec):
            names = [variable["name"] for variable in container.get("env", [])]
            assert len(names) == len(set(names)), (one.name, container["name"])
            empty = [
                variable["name"]
                for variable in container.get("env", [])
                if not (variable.get("value") or variable.get("valueFrom"))
            ]
            assert empty == [], (one.name, container["name"])


def test_pods_are_spread_by_labels_that_they_bear() -> None:
    spread = [
        (one, constraint)
        for _, one in distinct()
        for constraint in one.spec.get("topologySpreadConstraints", [])
    ]
    assert {one.name for one, _ in spread} >= {
        "shlink",
        "vault",
        "rfr-shlink-redis",
        "rfs-shlink-redis",
        "shlink-db-instance1",
    }
    for one, constraint in spread:
        wanted = constraint["labelSelector"]["matchLabels"]
        assert wanted, one.name
        assert wanted.items() <= one.labels.items(), one.name
        # Another value would leave pods Pending on a laptop's single node.
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway", one.name


def test_no_constraint_repeats_one_that_an_operator_appends() -> None:
    """The API server refuses the pod otherwise, and PGO tells nobody."""
    for configuration, template in distinct():
        constraints = template.spec.get("topologySpreadConstraints", [])
        keys = [(item["topologyKey"], item["whenUnsatisfiable"]) for item in constraints]
        assert len(keys) == len(set(keys)), (configuration, template.name)


@pytest.mark.parametrize("name", configurations.NAMES)
def test_jobs_are_awaited_repeated_after_a_failure_and_stay(name: str) -> None:
    jobs = configurations.recording(name).of_kind("Job")
    assert jobs
    for one in jobs:
        annotations = one.inputs["metadata"]["annotations"]
        assert annotations["pulumi.com/replaceUnready"] == "true"
        assert "pulumi.com/skipAwait" not in annotations
        # Gone by its time to live, it would be run again by the next refresh.
        assert "ttlSecondsAfterFinished" not in one.inputs["spec"]


@pytest.mark.parametrize("storage_class", [None, "fast"])
def test_a_volume_without_a_class_leaves_it_to_the_cluster(storage_class: str | None) -> None:
    claim = volume_claim(Volume(size="2Gi", storage_class=storage_class))
    assert claim.get("storageClassName") == storage_class
    assert ("storageClassName" in claim) is (storage_class is not None)
    assert claim["accessModes"] == ["ReadWriteOnce"]


def test_a_registry_takes_the_place_of_every_host() -> None:
    images = {
        container["image"]
        for one in templates("mirror")
        if one.name in _OURS
        for container in containers(one.spec)
    }
    assert images
    assert all(image.startswith("registry.example.org/mirror/") for image in images)

"""Redis: what Shlink must be told for each mode, a failover that can be waited for, and the rotation."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from components.waits import replicas_ready
from offline.record import Recording
from tests import configurations
from tests.conftest import Later, Program, before, manifest, pod, server, variables

SENTINEL = "rfs-shlink-redis.redis.svc.cluster.local"
CONNECTIONS = [server]


def failover(recording: Recording) -> Any:
    return manifest(recording, "RedisFailover", "shlink-redis")["spec"]


def redis_variables(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name.startswith("REDIS_")}


@pytest.mark.parametrize("container", CONNECTIONS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "defaults",
            {
                # Twice: with a single server Shlink ignores the sentinel setting and speaks Redis to the sentinel.
                "REDIS_SERVERS": f"tcp://{SENTINEL}:26379,tcp://{SENTINEL}:26379",
                "REDIS_SENTINEL_SERVICE": "mymaster",
                # A password in the URL would go to the sentinels, which have none.
                "REDIS_SERVERS_PASSWORD": ("shlink-redis", "password"),
            },
        ),
        (
            "redis-external",
            {"REDIS_SERVERS": ("shlink-redis", "servers")},
        ),
        (
            "redis-external-open",
            {"REDIS_SERVERS": "tcp://10.1.2.3:6379"},
        ),
        (
            "redis-cluster",
            {
                "REDIS_SERVERS": ",".join(
                    f"tcp://redis-{number}.example.org:6379" for number in range(3)
                ),
            },
        ),
        ("redis-none", {}),
    ],
)
def test_what_shlink_is_told(container: Any, name: str, expected: dict[str, Any]) -> None:
    assert redis_variables(container(configurations.recording(name))) == expected


@pytest.mark.parametrize(
    ("settings", "first", "urls"),
    [
        # Outside Sentinel Shlink takes a password only in the URL.
        (
            configurations.SWITCHES["redis-external"]["redis"],
            ("redis.example.org", 6380),
            "tls://:p%40ss%2Fword@redis.example.org:6380",
        ),
        (
            {"mode": "external", "servers": ["tcp://a", "tcp://b:2"], "password": "x"},
            ("a", 6379),
            "tcp://:x@a,tcp://:x@b:2",
        ),
    ],
    ids=["one", "several"],
)
def test_a_managed_redis_with_a_password(
    program: Program, settings: Any, first: tuple[str, int], urls: str
) -> None:
    recording = program(redis=settings)
    assert (recording.outputs["redis_host"], recording.outputs["redis_port"]) == first
    assert json.loads(
        manifest(recording, "SecretV2", "vault-backend-redis-credentials")["dataJson"]
    ) == {"servers": urls}


@pytest.mark.parametrize("name", ["redis-external-open", "redis-cluster"])
def test_without_a_password_nothing_is_delivered(name: str) -> None:
    assert [
        one.name
        for one in configurations.recording(name).of_kind("ExternalSecret")
        if "redis" in one.name
    ] == []


@pytest.mark.parametrize("name", ["redis-none", "redis-external", "redis-cluster"])
def test_no_redis_of_our_own_leaves_nothing_behind(name: str) -> None:
    recording = configurations.recording(name)
    assert recording.of_kind("RedisFailover") == []
    assert [
        one.name
        for one in recording.resources.values()
        if one.custom and one.name.startswith("shlink-redis-")
    ] == []


def test_without_redis_the_outputs_name_none() -> None:
    found = configurations.recording("redis-none").outputs
    assert found
    assert not {"redis_host", "redis_port", "redis_sentinel_service"} & found.keys()


def test_the_operator_the_pods_and_shlink_have_one_password(dev: Recording) -> None:
    secret = manifest(dev, "Secret", "shlink-redis-auth")
    assert failover(dev)["auth"]["secretPath"] == secret["metadata"]["name"]
    assert secret["stringData"].keys() == {"password"}
    assert (
        secret["stringData"]["password"]
        in manifest(dev, "SecretV2", "vault-backend-redis-credentials")["dataJson"]
    )
    assert ("Secret", "shlink-redis-auth") in before(dev, "RedisFailover", "shlink-redis")


@pytest.mark.parametrize("name", ["defaults", "redis-sized", "redis-rotated"])
def test_the_exporter_is_on_for_the_headless_service(name: str) -> None:
    # Without it the operator deletes Service rfr-shlink-redis on every reconcile, and with it each pod's DNS name.
    assert failover(configurations.recording(name))["redis"]["exporter"]["enabled"] is True
    services = [one.name for one in configurations.recording(name).of_kind("Service")]
    assert services == ["shlink"], "the operator makes that Service itself"


def test_the_volume_claim_is_valid() -> None:
    found = failover(configurations.recording("redis-sized"))
    claim = found["redis"]["storage"]["persistentVolumeClaim"]
    assert claim["metadata"]["name"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "kwok-volume",
        "resources": {"requests": {"storage": "4Gi"}},
    }
    assert (found["redis"]["replicas"], found["sentinel"]["replicas"]) == (5, 5)


def test_the_pods_may_stop_in_peace_and_have_no_rights(dev: Recording) -> None:
    assert (
        failover(dev)["redis"]["terminationGracePeriod"] > 31
    )  # a master asks for a failover and sleeps so long
    account = manifest(dev, "ServiceAccount", "shlink-redis")
    assert account["automountServiceAccountToken"] is False
    assert (
        failover(dev)["redis"]["serviceAccountName"]
        == failover(dev)["sentinel"]["serviceAccountName"]
        == "shlink-redis"
    )


def test_ready_is_what_the_operator_makes_of_it(dev: Recording, later: Later) -> None:
    bound = dev.one("RedisFailover", "shlink-redis").hooks
    assert bound["after_create"] == bound["after_update"] == ("shlink-redis-ready",)
    awaited = later.hooks["shlink-redis-ready"]
    assert {(one.resource, one.namespace, one.name) for one in awaited} == {
        ("statefulsets.apps", "redis", "rfr-shlink-redis"),
        ("deployments.apps", "redis", "rfs-shlink-redis"),
    }
    assert all(one.not_ready is replicas_ready for one in awaited)


# Rotation


def jobs(recording: Recording) -> list[str]:
    return [one.name for one in recording.of_kind("Job") if "rotation" in one.name]


def passwords(recording: Recording) -> dict[str, str]:
    return manifest(recording, "Secret", "shlink-redis-auth")["stringData"]


@pytest.fixture
def rotations(program: Program) -> list[Recording]:
    """The first password, the second and the third."""
    third = program(rotation={"redis": 3}, redis={"replicas": 5})
    return [configurations.recording("defaults"), configurations.recording("redis-rotated"), third]


def test_a_rotation_makes_another_password_and_keeps_the_one_before(
    rotations: list[Recording],
) -> None:
    first, second, third = map(passwords, rotations)
    assert "previous" not in first
    assert second["previous"] == first["password"] != second["password"]
    assert third["previous"] == second["password"] != third["password"]
    assert first["password"] != third["password"]


def test_a_rotation_restarts_the_pods_and_reaches_vault(rotations: list[Recording]) -> None:
    assert len({str(failover(one)["redis"]["podAnnotations"]) for one in rotations}) == 3
    for one in rotations:
        written = manifest(one, "SecretV2", "vault-backend-redis-credentials")["dataJson"]
        assert json.loads(written) == {"password": passwords(one)["password"]}


def test_the_rotation_job_exists_only_then_and_shlink_waits_for_it(dev: Recording) -> None:
    assert jobs(dev) == []
    rotated = configurations.recording("redis-rotated")
    (name,) = jobs(rotated)
    # After the failover, whose hook has seen the operator act; before anything presents the new password.
    assert ("RedisFailover", "shlink-redis") in before(rotated, "Job", name)
    assert ("Job", name) in before(rotated, "Deployment", "shlink")


def test_each_rotation_is_a_job_of_its_own(rotations: list[Recording]) -> None:
    _, second, third = rotations
    assert jobs(second) != jobs(third)
    assert (
        len({manifest(one, "Job", jobs(one)[0])["metadata"]["name"] for one in (second, third)})
        == 2
    )


def test_the_rotation_reaches_every_pod_with_both_passwords(rotations: list[Recording]) -> None:
    container = pod(rotations[2], "Job", jobs(rotations[2])[0])["spec"]["containers"][0]
    given = variables(container)
    assert given["SERVERS"].split() == [
        f"rfr-shlink-redis-{n}.rfr-shlink-redis.redis.svc.cluster.local:6379" for n in range(5)
    ]
    assert given["SENTINEL"] == f"{SENTINEL}:26379"
    assert (given["NEW"], given["OLD"]) == (
        ("shlink-redis-auth", "password"),
        ("shlink-redis-auth", "previous"),
    )
    assert all(name in container["command"][2] for name in given)

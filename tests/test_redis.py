"""Redis: what Shlink must be told for each mode, a failover that can be waited for, and the rotation."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from components.waits import Awaited, replicas_ready
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import Program, before, manifest, migration, pod, server, variables

SENTINEL = "rfs-shlink-redis.redis.svc.cluster.local"
CONNECTIONS = [server, migration]


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
                "REDIS_PUB_SUB_ENABLED": "true",
            },
        ),
        ("redis-external", {"REDIS_SERVERS": ("shlink-redis", "servers"), "REDIS_PUB_SUB_ENABLED": "true"}),
        ("redis-external-open", {"REDIS_SERVERS": "tcp://10.1.2.3:6379", "REDIS_PUB_SUB_ENABLED": "true"}),
        (
            "redis-cluster",
            {
                "REDIS_SERVERS": ",".join(f"tcp://redis-{number}.example.org:6379" for number in range(3)),
                "REDIS_PUB_SUB_ENABLED": "true",
            },
        ),
        ("redis-none", {}),
    ],
)
def test_what_shlink_is_told(container: Any, name: str, expected: dict[str, Any]) -> None:
    assert redis_variables(container(configurations.recording(name))) == expected


@pytest.mark.parametrize(
    ("servers", "password", "first", "urls"),
    [
        # Outside Sentinel Shlink takes a password only in the URL.
        (["tls://r.example.org:6380"], "p@ss/w:rd", ("r.example.org", 6380), "tls://:p%40ss%2Fw%3Ard@r.example.org:6380"),
        (["tcp://a:1", "tcp://b:2"], "x", ("a", 1), "tcp://:x@a:1,tcp://:x@b:2"),
        (["tcp://a", "tcp://b:2"], None, ("a", 6379), "tcp://a,tcp://b:2"),
    ],
)
def test_a_managed_redis(program: Program, servers: list[str], password: str | None, first: tuple[str, int], urls: str) -> None:
    recording = program(redis={"mode": "external", "servers": servers, **({"password": password} if password else {})})
    assert (recording.outputs["redis_host"], recording.outputs["redis_port"]) == first
    delivered = [plain(one.inputs)["dataJson"] for one in recording.of_kind("SecretV2") if one.name.endswith("redis-credentials")]
    assert [json.loads(one) for one in delivered] == ([{"servers": urls}] if password else [])
    assert server(recording)["REDIS_SERVERS"] == (("shlink-redis", "servers") if password else urls)


@pytest.mark.parametrize("name", ["redis-none", "redis-external", "redis-cluster"])
def test_no_redis_of_our_own_leaves_nothing_behind(name: str) -> None:
    recording = configurations.recording(name)
    assert recording.of_kind("RedisFailover") == []
    assert [one.name for one in recording.resources.values() if one.custom and one.name.startswith("shlink-redis-")] == []


def test_without_redis_the_outputs_name_none() -> None:
    found = configurations.recording("redis-none").outputs
    assert found
    assert not {"redis_host", "redis_port", "redis_sentinel_service"} & found.keys()


def test_the_operator_the_pods_and_shlink_have_one_password(dev: Recording) -> None:
    secret = manifest(dev, "Secret", "shlink-redis-auth")
    assert failover(dev)["auth"]["secretPath"] == secret["metadata"]["name"]
    assert secret["stringData"].keys() == {"password"}
    assert secret["stringData"]["password"] in manifest(dev, "SecretV2", "vault-backend-redis-credentials")["dataJson"]
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
    assert failover(dev)["redis"]["terminationGracePeriod"] > 31  # a master asks for a failover and sleeps so long
    account = manifest(dev, "ServiceAccount", "shlink-redis")
    assert account["automountServiceAccountToken"] is False
    assert failover(dev)["redis"]["serviceAccountName"] == failover(dev)["sentinel"]["serviceAccountName"] == "shlink-redis"


def test_ready_is_what_the_operator_makes_of_it(dev: Recording, hooks: Mapping[str, Sequence[Awaited]]) -> None:
    bound = dev.one("RedisFailover", "shlink-redis").hooks
    assert bound["after_create"] == bound["after_update"] == ("shlink-redis-ready",)
    awaited = hooks["shlink-redis-ready"]
    assert {(one.resource, one.namespace, one.name) for one in awaited} == {
        ("statefulsets.apps", "redis", "rfr-shlink-redis"),
        ("deployments.apps", "redis", "rfs-shlink-redis"),
    }
    assert all(one.missing is replicas_ready for one in awaited)


# Rotation


def jobs(recording: Recording) -> list[str]:
    return [one.name for one in recording.of_kind("Job") if "rotation" in one.name]


def passwords(recording: Recording) -> dict[str, str]:
    return manifest(recording, "Secret", "shlink-redis-auth")["stringData"]


def test_a_rotation_makes_another_password_and_keeps_the_one_before(program: Program) -> None:
    first, second, third = (passwords(program(rotation={"redis": number})) for number in (1, 2, 3))
    assert "previous" not in first
    assert second["previous"] == first["password"] != second["password"]
    assert third["previous"] == second["password"] != third["password"]
    assert first["password"] != third["password"]


def test_a_rotation_restarts_the_pods_and_reaches_vault(program: Program) -> None:
    first, second = program(rotation={"redis": 1}), program(rotation={"redis": 2})
    annotations = [failover(one)["redis"]["podAnnotations"] for one in (first, second)]
    assert annotations[0].keys() == annotations[1].keys()
    assert annotations[0] != annotations[1]
    assert passwords(second)["password"] in manifest(second, "SecretV2", "vault-backend-redis-credentials")["dataJson"]
    assert passwords(second)["previous"] not in manifest(second, "SecretV2", "vault-backend-redis-credentials")["dataJson"]


def test_the_rotation_job_exists_only_then_and_shlink_waits_for_it(dev: Recording) -> None:
    assert jobs(dev) == []
    rotated = configurations.recording("redis-rotated")
    (name,) = jobs(rotated)
    # After the failover, whose hook has seen the operator act; before anything presents the new password.
    assert ("RedisFailover", "shlink-redis") in before(rotated, "Job", name)
    assert ("Job", name) in before(rotated, "Job", "shlink-migration")
    assert ("Job", name) in before(rotated, "Deployment", "shlink")


def test_each_rotation_is_a_job_of_its_own(program: Program) -> None:
    second, third = program(rotation={"redis": 2}), program(rotation={"redis": 3})
    assert jobs(second) != jobs(third)
    names = {manifest(one, "Job", jobs(one)[0])["metadata"]["name"] for one in (second, third)}
    assert len(names) == 2


def test_the_rotation_reaches_every_pod_with_both_passwords(program: Program) -> None:
    recording = program(rotation={"redis": 2}, redis={"replicas": 5})
    container = pod(recording, "Job", jobs(recording)[0])["spec"]["containers"][0]
    given = variables(container)
    assert given["SERVERS"].split() == [f"rfr-shlink-redis-{n}.rfr-shlink-redis.redis.svc.cluster.local:6379" for n in range(5)]
    assert given["SENTINEL"] == f"{SENTINEL}:26379"
    assert (given["NEW"], given["OLD"]) == (("shlink-redis-auth", "password"), ("shlink-redis-auth", "previous"))
    assert all(name in container["command"][2] for name in given)

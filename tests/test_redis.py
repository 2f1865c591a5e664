"""Redis: Shlink's variables in each mode, a failover that can be waited for, and the rotation."""

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from components.cluster.waits import ReadinessCheck, replicas_ready
from components.redis.component import REVISION_ANNOTATION, external, servers_ready
from components.settings.redis import ExternalRedis
from offline.record import Recording
from tests import configurations
from tests.conftest import Later, Program, before, manifest, pod, server, variables

SENTINEL = "rfs-shlink-redis.redis.svc"
CONNECTIONS = [server]
RESTART = "RedisFailoverPatch"


def failover(recording: Recording) -> Any:
    return manifest(recording, "RedisFailover", "shlink-redis")["spec"]


def redis_variables(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name.startswith("REDIS_")}


@pytest.mark.parametrize("container", CONNECTIONS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "defaults",
            {
                # Twice: with a single server Shlink takes the sentinel for a Redis server.
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
        (
            "redis-sentinels",
            {
                # Twice, as above. A login in the URL would go to the sentinels.
                "REDIS_SERVERS": "tls://sentinel.example.org:26379,tls://sentinel.example.org:26379",
                "REDIS_SENTINEL_SERVICE": "mymaster",
                "REDIS_SERVERS_USER": ("shlink-redis", "user"),
                "REDIS_SERVERS_PASSWORD": ("shlink-redis", "password"),
            },
        ),
        ("redis-database", {"REDIS_SERVERS": "tcp://redis.example.org:6379?database=3"}),
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
        (
            {"mode": "external", "servers": ["tcp://a/3"], "user": "u/v", "password": "x"},
            ("a", 6379),
            "tcp://u%2Fv:x@a/3",
        ),
    ],
    ids=["one", "several", "a user and a database"],
)
def test_a_managed_redis_with_a_password(
    program: Program, settings: Any, first: tuple[str, int], urls: str
) -> None:
    recording = program(redis=settings)
    assert (recording.outputs["redis_host"], recording.outputs["redis_port"]) == first
    assert json.loads(
        manifest(recording, "SecretV2", "vault-backend-redis-credentials")["dataJson"]
    ) == {"servers": urls}


@pytest.mark.parametrize(
    ("version", "written"),
    [((4, 6, 0), "tcp://[2001:db8::1]:6379/3"), ((5, 0, 0), "tcp://[2001:db8::1]:6379?database=3")],
)
@pytest.mark.parametrize("number", ["/3", "?database=3", "/?database=3"])
def test_a_database_is_written_as_shlinks_version_reads_it(
    version: tuple[int, ...], written: str, number: str
) -> None:
    settings = ExternalRedis.model_validate(
        {"mode": "external", "servers": [f"tcp://[2001:db8::1]:6379{number}"], "cidr": "::/0"}
    )
    assert external(settings, version).servers == written


def test_a_private_authority_stands_beside_the_public_ones() -> None:
    recording = configurations.recording("redis-sentinels")
    path = server(recording)["SSL_CERT_FILE"]
    (container,) = pod(recording, "Deployment", "shlink")["spec"]["containers"]
    (mount,) = [each for each in container["volumeMounts"] if each["name"] == "redis-ca"]
    certificate = manifest(recording, "ConfigMap", "shlink-redis-ca")["data"]
    assert f"{mount['mountPath']}/{next(iter(certificate))}" == path
    assert certificate["ca.crt"] == configurations.CERTIFICATE


@pytest.mark.parametrize("name", ["redis-external-open", "redis-cluster"])
def test_without_a_password_nothing_is_delivered(name: str) -> None:
    deliveries = configurations.recording(name).of_kind("ExternalSecret")
    assert not any("redis" in delivery.name for delivery in deliveries)


@pytest.mark.parametrize("name", ["redis-none", "redis-external", "redis-cluster"])
def test_no_redis_of_our_own_leaves_nothing_behind(name: str) -> None:
    recording = configurations.recording(name)
    assert recording.of_kind("RedisFailover") == []
    for resource in recording.resources.values():
        assert not (resource.custom and resource.name.startswith("shlink-redis-")), resource.name


def test_without_redis_the_outputs_name_none() -> None:
    outputs = configurations.recording("redis-none").outputs
    assert outputs
    assert not {"redis_host", "redis_port", "redis_sentinel_service"} & outputs.keys()


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
    """Without it the operator deletes Service rfr-shlink-redis, and so the pods' DNS names."""
    recording = configurations.recording(name)
    assert failover(recording)["redis"]["exporter"]["enabled"] is True
    services = [service.name for service in recording.of_kind("Service")]
    assert services == ["shlink"], "the operator creates that Service itself"


def test_the_volume_claim_is_valid() -> None:
    spec = failover(configurations.recording("redis-sized"))
    claim = spec["redis"]["storage"]["persistentVolumeClaim"]
    assert claim["metadata"]["name"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "kwok-volume",
        "resources": {"requests": {"storage": "4Gi"}},
    }
    assert (spec["redis"]["replicas"], spec["sentinel"]["replicas"]) == (5, 5)


def test_the_pods_have_time_to_stop_and_no_rights(dev: Recording) -> None:
    """A master that stops asks for a failover and sleeps 31 s."""
    redis, sentinel = failover(dev)["redis"], failover(dev)["sentinel"]
    assert redis["terminationGracePeriod"] > 31
    account = manifest(dev, "ServiceAccount", "shlink-redis")
    assert account["automountServiceAccountToken"] is False
    assert redis["serviceAccountName"] == sentinel["serviceAccountName"] == "shlink-redis"


# The wait


def statefulset(revision: str | None, *, ready: int, replicas: int = 3) -> dict[str, Any]:
    """As redis-operator leaves it: its annotations are the RedisFailover's."""
    return {
        "metadata": {"annotations": {REVISION_ANNOTATION: revision} if revision else {}},
        "spec": {"replicas": replicas},
        "status": {"readyReplicas": ready} if ready else {},
    }


def revision(recording: Recording) -> str:
    """What the operator copies to the StatefulSet once it has acted."""
    metadata = manifest(recording, "RedisFailover", "shlink-redis")["metadata"]
    return metadata["annotations"][REVISION_ANNOTATION]


@pytest.mark.parametrize(
    ("object_in_cluster", "complaint"),
    [
        (statefulset("now", ready=3), None),
        # One pod at a time is restarted, and clients must not wait for that.
        (statefulset("now", ready=2), None),
        (statefulset("now", ready=1), "1 of 3 Redis pods are Ready, at least 2 must be"),
        (statefulset("now", ready=0), "0 of 3 Redis pods are Ready, at least 2 must be"),
        (statefulset("now", ready=3, replicas=5), "3 of 5 Redis pods are Ready"),
        # The state from before the change: all well, and of no meaning.
        (statefulset("before", ready=3), "redis-operator has not acted on the latest change yet"),
        (statefulset(None, ready=3), "redis-operator has not acted on the latest change yet"),
    ],
)
def test_ready_means_that_the_operator_acted_on_this_revision(
    object_in_cluster: Mapping[str, Any], complaint: str | None
) -> None:
    reason = servers_ready("now", object_in_cluster)
    if complaint is None:
        assert reason is None
    else:
        assert complaint in str(reason)


def test_nothing_waits_after_the_failover(dev: Recording) -> None:
    """An after-hook holds up every other resource, and the record of those that are finished."""
    hooks = dev.one("RedisFailover", "shlink-redis").hooks
    assert hooks.keys() == {"before_update"}


@pytest.mark.parametrize("moment", ["before_create", "before_update"])
def test_shlink_waits_for_redis_at_each_change(dev: Recording, moment: str) -> None:
    assert "shlink-redis-ready" in dev.one("Deployment", "shlink").hooks[moment]


def test_the_rotation_waits_until_the_operator_has_acted() -> None:
    rotated = configurations.recording("redis-rotated")
    (name,) = jobs(rotated)
    assert rotated.one("Job", name).hooks["before_create"] == ("shlink-redis-ready",)


def test_the_wait_looks_at_what_the_operator_makes(later: Later) -> None:
    servers, sentinels = later.hooks["shlink-redis-ready"]
    places = [(target.resource, target.namespace, target.name) for target in (servers, sentinels)]
    assert places == [
        ("statefulsets.v1.apps", "redis", "rfr-shlink-redis"),
        ("deployments.v1.apps", "redis", "rfs-shlink-redis"),
    ]
    assert sentinels.not_ready is replicas_ready
    check = cast("ReadinessCheck", servers.not_ready)
    assert check(statefulset(revision(later.recording), ready=3)) is None
    assert check(statefulset("before", ready=3)) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"redis": {"replicas": 5}},
        {"redis": {"resources": {"memoryLimit": "512Mi"}}},
        {"images": {"redis": "docker.io/library/redis:7.4.7-alpine"}},
    ],
    ids=["replicas", "memory", "image"],
)
def test_every_change_is_another_revision(
    program: Program, dev: Recording, change: Mapping[str, Any]
) -> None:
    """Or the wait would take the servers of before for those of now."""
    assert revision(program(**change)) != revision(program()) == revision(program())
    assert revision(dev)


def test_valkey_is_named_to_the_fork_alone(program: Program, dev: Recording) -> None:
    """The archived operator's CRD does not have the field."""
    valkey = program(
        redis={"engine": "Valkey"},
        images={"redis": "docker.io/valkey/valkey:9.1.1-alpine"},
        operators={"redisOperator": {"distribution": "freshworks"}},
    )
    assert failover(valkey)["engine"] == "Valkey"
    assert "engine" not in failover(dev)


# Memory and persistence


@pytest.mark.parametrize(
    ("limit", "maxmemory"), [("256Mi", 161061273), ("1Gi", 644245094), ("0.5G", 300000000)]
)
def test_the_data_is_bounded_by_the_memory_limit(
    program: Program, limit: str, maxmemory: int
) -> None:
    """Without a bound Redis grows until the kernel kills it; a snapshot needs the rest."""
    spec = failover(program(redis={"resources": {"memoryLimit": limit}}))["redis"]
    assert option(spec, "maxmemory") == str(maxmemory)
    assert spec["resources"]["limits"]["memory"] == limit


def option(servers: Mapping[str, Any], name: str) -> str:
    """The value of an option of redis-server's command line."""
    command = servers["command"]
    return command[command.index(f"--{name}") + 1]


def test_what_is_evicted_is_not_the_locks(dev: Recording) -> None:
    """Only Shlink's locks expire: `volatile-*` would evict only locks, and `noeviction` nothing."""
    assert option(failover(dev)["redis"], "maxmemory-policy") == "allkeys-lru"


def test_what_is_configured_outlives_a_restart(dev: Recording) -> None:
    """The operator applies `customConfig` to a running Redis; a restarted server lacks it."""
    servers = failover(dev)["redis"]
    assert servers["customConfig"] == []
    assert servers["command"][:2] == ["redis-server", "/redis/redis.conf"]


# Rotation


def jobs(recording: Recording) -> list[str]:
    return [job.name for job in recording.of_kind("Job") if "rotation" in job.name]


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


def test_a_rotation_reaches_vault(rotations: list[Recording]) -> None:
    for recording in rotations:
        written = manifest(recording, "SecretV2", "vault-backend-redis-credentials")["dataJson"]
        assert json.loads(written) == {"password": passwords(recording)["password"]}


def test_servers_restart_once_their_clients_use_the_new_password(
    rotations: list[Recording],
) -> None:
    """A client that rolls at the same time waits for a pod that has just gone."""
    first, second, third = rotations
    assert first.of_kind(RESTART) == []
    numbers: list[str] = []
    for recording in (second, third):
        assert "podAnnotations" not in failover(recording)["redis"]
        earlier = before(recording, RESTART, "shlink-redis-restart")
        assert {("Deployment", "shlink"), ("RedisFailover", "shlink-redis")} <= earlier
        spec = manifest(recording, RESTART, "shlink-redis-restart")["spec"]
        (number,) = spec["redis"]["podAnnotations"].values()
        numbers.append(number)
    assert numbers == ["2", "3"]


def test_the_rotation_job_exists_only_then_and_shlink_waits_for_it(dev: Recording) -> None:
    assert jobs(dev) == []
    rotated = configurations.recording("redis-rotated")
    (name,) = jobs(rotated)
    # After the operator acted on the failover, and before a client uses the new password.
    assert ("RedisFailover", "shlink-redis") in before(rotated, "Job", name)
    assert ("Job", name) in before(rotated, "Deployment", "shlink")


def test_each_rotation_is_a_job_of_its_own(rotations: list[Recording]) -> None:
    """With another name in Pulumi and in Kubernetes, as a Job can't be changed."""
    _, second, third = rotations
    (second_job,), (third_job,) = jobs(second), jobs(third)
    assert second_job != third_job
    names = (
        manifest(second, "Job", second_job)["metadata"]["name"],
        manifest(third, "Job", third_job)["metadata"]["name"],
    )
    assert names[0] != names[1]


def test_the_rotation_reaches_every_pod_with_both_passwords(rotations: list[Recording]) -> None:
    third = rotations[2]
    (job,) = jobs(third)
    (container,) = pod(third, "Job", job)["spec"]["containers"]
    environment = variables(container)
    assert environment["SERVERS"].split() == [
        f"rfr-shlink-redis-{number}.rfr-shlink-redis.redis.svc:6379" for number in range(5)
    ]
    assert environment["SENTINEL"] == f"{SENTINEL}:26379"
    assert environment["NEW"] == ("shlink-redis-auth", "password")
    assert environment["OLD"] == ("shlink-redis-auth", "previous")
    assert environment["MASTER"] == "mymaster"
    assert all(f"${name}" in container["command"][2] for name in environment)

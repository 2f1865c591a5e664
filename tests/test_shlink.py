"""Shlink's pods: its variables, probes, order, and what leads to it."""

from typing import Any

import pytest

from components import scripts
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import (
    REPRESENTATIVE,
    Fault,
    Later,
    Program,
    before,
    manifest,
    migration,
    pod,
    server,
    variables,
)

BOTH = [server, migration]


def geolite(recording: Recording) -> dict[str, Any]:
    """The variables of the pod that downloads GeoLite."""
    return variables(pod(recording, "Deployment", "shlink-geolite")["spec"]["containers"][0])


def template(name: str, kind: str = "Deployment", job: str = "shlink") -> Any:
    return pod(configurations.recording(name), kind, job)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_workers_are_numbered(name: str) -> None:
    """RoadRunner would size its pools by the node's processors and break the memory limit."""
    environment = server(configurations.recording(name))
    assert int(environment["WEB_WORKER_NUM"]) >= 1
    assert int(environment["TASK_WORKER_NUM"]) >= 1
    assert environment["MEMORY_LIMIT"].endswith("M")


@pytest.mark.parametrize("script", ["geolite_serve.sh", "shlink_with_metrics.sh", "web_client.sh"])
def test_whatever_listens_does_so_on_both_families(script: str, dev: Recording) -> None:
    """A pod of an IPv6-only cluster has no other address."""
    assert server(dev)["ADDRESS"] == "[::]"
    assert "[::]" in scripts.read(script)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_only_the_migration_job_gets_the_api_key(name: str) -> None:
    recording = configurations.recording(name)
    assert migration(recording)["API_KEY"] == ("shlink-api-key", "api-key")
    # Shlink would put INITIAL_API_KEY into a command line and store the key as its own name.
    assert "INITIAL_API_KEY" not in migration(recording)
    spec = template(name)["spec"]
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert ("shlink-api-key", "api-key") not in variables(container).values()


def test_the_migration_job_knows_the_number_of_the_api_key_however_high(program: Program) -> None:
    """It names the key after it. A list of all older keys would outgrow a manifest's size."""
    assert migration(program(rotation={"apiKey": 954964}))["API_KEY_ROTATION"] == "954964"


def test_the_replicas_wait_for_the_migration_by_its_own_wait(dev: Recording) -> None:
    gate = dev.one("Stash", "shlink-migrated")
    assert gate.hooks == dict.fromkeys(("before_create", "before_update"), ("shlink-migrated",))
    assert dev.one("Job", "shlink-migration").urn in gate.depends_on
    assert gate.urn in dev.one("Deployment", "shlink").depends_on


def test_a_rotated_api_key_is_another_one_and_runs_the_migration_job_again(
    program: Program,
) -> None:
    keys = set[str]()
    for rotation in (1, 2):
        recording = program(rotation={"apiKey": rotation})
        keys.add(manifest(recording, "SecretV2", "vault-backend-shlink-api-key")["dataJson"])
        annotations = pod(recording, "Job", "shlink-migration")["metadata"]["annotations"]
        assert "shlink.io/secret-version.shlink-api-key" in annotations
    assert len(keys) == 2


def test_a_secret_variable_reaches_the_server_through_vault_and_stands_nowhere_else() -> None:
    recording = configurations.recording("app")
    assert server(recording)["RABBITMQ_PASSWORD"] == ("shlink-environment", "RABBITMQ_PASSWORD")
    assert "RABBITMQ_PASSWORD" not in migration(recording)
    for resource in recording.resources.values():
        if resource.kind != "SecretV2":
            assert "rabbit" not in str(plain(resource.inputs).values())


@pytest.mark.parametrize(("name", "expected"), [("defaults", False), ("app", True)])
def test_visits_are_published_only_where_that_is_set(name: str, *, expected: bool) -> None:
    """Each redirect would count all visits of its link four times; by default nobody listens."""
    assert ("REDIS_PUB_SUB_ENABLED" in server(configurations.recording(name))) is expected


def test_a_pod_has_the_time_that_roadrunner_needs_to_stop(dev: Recording) -> None:
    """RoadRunner takes up to 30 s; a pod that is killed before loses its jobs and requests."""
    spec = pod(dev, "Deployment", "shlink")["spec"]
    drain = int(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert spec["terminationGracePeriodSeconds"] >= drain + 30


def test_a_hung_redis_master_is_asked_for_seconds_not_minutes(dev: Recording) -> None:
    """Predis waits as long as PHP says, 60 s by default, and Shlink's URLs carry no timeout."""
    container = pod(dev, "Deployment", "shlink")["spec"]["containers"][0]
    folder = server(dev)["PHP_INI_SCAN_DIR"].removeprefix(":")
    volume = next(item["name"] for item in container["volumeMounts"] if item["mountPath"] == folder)
    volumes = {item["name"]: item for item in pod(dev, "Deployment", "shlink")["spec"]["volumes"]}
    settings = manifest(dev, "ConfigMap", volumes[volume]["configMap"]["name"])["data"]
    assert settings == {"timeouts.ini": "default_socket_timeout = 3\n"}


@pytest.mark.parametrize("container", BOTH)
def test_the_database_is_reached_over_tls_with_what_was_delivered(
    dev: Recording, container: Any
) -> None:
    """The password by reference, the server's certificate verified."""
    environment = container(dev)
    names = [name for name in environment if name.startswith(("DB_", "PG"))]
    assert {name: environment[name] for name in names} == {
        "DB_DRIVER": "postgres",
        "DB_HOST": "shlink-db-primary.postgres.svc",
        "DB_PORT": "5432",
        "DB_NAME": "shlink",
        "DB_USER": ("shlink-db-pguser-shlink", "user"),
        "DB_PASSWORD": ("shlink-db-pguser-shlink", "password"),
        "DB_USE_ENCRYPTION": "true",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/etc/shlink-database-ca/ca.crt",
        "PGOPTIONS": "-c role=shlink",
    }


@pytest.mark.parametrize("name", ["defaults", "app", "redis-external", "redis-none"])
def test_every_secret_that_a_pod_names_is_delivered_with_that_key(name: str) -> None:
    """And nothing is delivered that no pod names."""
    recording = configurations.recording(name)
    delivered: set[tuple[str, str]] = set()
    for external in recording.of_kind("ExternalSecret"):
        spec = external.inputs["spec"]
        delivered |= {(spec["target"]["name"], entry["secretKey"]) for entry in spec["data"]}
    values = [*server(recording).values(), *migration(recording).values()]
    if name == "app":
        values += geolite(recording).values()
    assert {value for value in values if not isinstance(value, str)} == delivered


def test_the_licence_of_geolite_stays_with_the_pod_that_downloads() -> None:
    """Shlink with a key would download in each pod; without one it reads the file beside it."""
    recording = configurations.recording("app")
    assert "GEOLITE_LICENSE_KEY" not in server(recording)
    assert geolite(recording)["GEOLITE_LICENSE_KEY"] == ("shlink-geolite", "geolite-license-key")
    follower, *_ = pod(recording, "Deployment", "shlink")["spec"]["initContainers"]
    assert (follower["name"], follower["restartPolicy"]) == ("geolite", "Always")
    port = manifest(recording, "Service", "shlink-geolite")["spec"]["ports"][0]["port"]
    environment = {item["name"]: item["value"] for item in follower["env"]}
    assert environment["URL"] == f"http://shlink-geolite:{port}"
    folder = {mount["name"]: mount["mountPath"] for mount in follower["volumeMounts"]}["data"]
    assert environment["FILE"] == f"{folder}/GeoLite2-City.mmdb"
    mounts = pod(recording, "Deployment", "shlink")["spec"]["containers"][0]["volumeMounts"]
    assert {"name": "data", "mountPath": "/etc/shlink/data"} in mounts


def test_shlink_does_not_wait_for_geolite() -> None:
    recording = configurations.recording("app")
    served = recording.one("Deployment", "shlink-geolite").urn
    assert served not in recording.waits_for(recording.one("Deployment", "shlink"))
    probe = pod(recording, "Deployment", "shlink-geolite")["spec"]["containers"][0][
        "readinessProbe"
    ]
    assert "tcpSocket" in probe  # it answers before there is a database


def test_no_message_of_the_download_holds_the_licence() -> None:
    """The key is part of the URL, which PHP's own messages quote."""
    script = scripts.read("geolite_download.php")
    assert "@copy(" in script
    assert "error_get_last" not in script
    assert script.count("fwrite(STDERR") == 1


def test_migrating_starts_no_server_and_downloads_nothing(dev: Recording) -> None:
    """It prepares the database, runs the image's entrypoint and then sets the API key."""
    environment = migration(dev)
    assert environment["SHLINK_RUNTIME"] != "rr"
    assert environment["SKIP_INITIAL_GEOLITE_DOWNLOAD"] == "true"
    command = pod(dev, "Job", "shlink-migration")["spec"]["containers"][0]["command"]
    assert command[:2] == ["sh", "-ec"]
    # The shell script names the two programs by their position.
    script, prepare, api_key = command[2], command[4], command[5]
    steps = [script.index(text) for text in ('php -r "$1"', "docker-entrypoint.sh", 'php -r "$2"')]
    assert steps == sorted(steps)
    assert "DROP TABLE" in prepare
    assert "ApiKeyService" in api_key
    # The image's own entrypoint otherwise.
    assert "command" not in pod(dev, "Deployment", "shlink")["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "defaults",
            {
                "DEFAULT_DOMAIN": "localhost:8080",
                "IS_HTTPS_ENABLED": "false",
                "AUTO_RESOLVE_TITLES": "false",
                "LOGS_FORMAT": "json",
            },
        ),
        (
            "ingress",
            {"DEFAULT_DOMAIN": "s.example.org", "IS_HTTPS_ENABLED": "true", "BASE_PATH": "/s"},
        ),
        (
            "app",
            {
                "AUTO_RESOLVE_TITLES": "true",
                "SHELL_VERBOSITY": "3",
                "TRUSTED_PROXIES": "10.1.2.0/24",
                "ANONYMIZE_REMOTE_ADDR": "false",
            },
        ),
    ],
)
def test_the_settings_are_shlinks_variables(name: str, expected: dict[str, Any]) -> None:
    assert expected.items() <= server(configurations.recording(name)).items()


@pytest.mark.parametrize(
    "absent", ["BASE_PATH", "SHELL_VERBOSITY", "TRUSTED_PROXIES", "GEOLITE_LICENSE_KEY"]
)
def test_what_is_not_set_is_left_out(dev: Recording, absent: str) -> None:
    assert absent not in server(dev)  # an empty value counts as set


@pytest.mark.parametrize(
    ("name", "path"), [("defaults", "/rest/health"), ("ingress", "/s/rest/health")]
)
def test_an_outage_of_the_database_takes_replicas_out_and_restarts_none(
    name: str, path: str
) -> None:
    container = template(name)["spec"]["containers"][0]
    assert (
        container["readinessProbe"]["httpGet"]
        == container["startupProbe"]["httpGet"]
        == {"path": path, "port": "http"}
    )
    assert container["livenessProbe"].keys() & {"httpGet", "exec", "grpc"} == set()
    assert container["livenessProbe"]["tcpSocket"] == {"port": "http"}
    assert container["ports"] == [{"name": "http", "containerPort": 8080}]


DATABASE = "shlink-db-primary.postgres.svc 5432"
SENTINEL = "rfs-shlink-redis.redis.svc 26379"


@pytest.mark.parametrize(
    ("name", "kind", "workload", "targets"),
    [
        ("defaults", "Deployment", "shlink", [DATABASE, SENTINEL]),
        ("redis-external-open", "Deployment", "shlink", [DATABASE, "10.1.2.3 6379"]),
        ("redis-none", "Deployment", "shlink", [DATABASE]),
        # It does not use Redis, so that a killed one leaves no lock there.
        ("defaults", "Job", "shlink-migration", [DATABASE]),
    ],
)
def test_a_pod_waits_for_its_servers_instead_of_crashing(
    name: str, kind: str, workload: str, targets: list[str]
) -> None:
    spec = template(name, kind, workload)["spec"]
    waits: list[str] = []
    for container in spec["initContainers"]:
        assert 'until nc -z -w 2 "$HOST" "$PORT"; do' in container["command"][-1]
        target = variables(container)
        waits.append(f"{target['HOST']} {target['PORT']}")
        assert container["image"] == spec["containers"][0]["image"]
    assert waits == targets


def test_what_comes_before_the_replicas(dev: Recording) -> None:
    waited = before(dev, "Deployment", "shlink")
    assert {
        ("Job", "shlink-migration"),
        ("PostgresCluster", "shlink-db"),
        ("Grant", "shlink-db-public-schema"),
        ("RedisFailover", "shlink-redis"),
        ("SecretStore", "vault-backend"),
        ("Chart", "vault"),
        ("Job", "vault-init"),
    } <= waited
    assert ("Deployment", "shlink") in before(dev, "Service", "shlink")


def test_a_rollout_never_takes_a_replica_away(dev: Recording) -> None:
    spec = manifest(dev, "Deployment", "shlink")["spec"]
    assert spec["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("kind", "path"),
    [("Service", ("selector",)), ("PodDisruptionBudget", ("selector", "matchLabels"))],
)
def test_what_selects_the_replicas_selects_nothing_else(
    dev: Recording, kind: str, path: tuple[str, ...]
) -> None:
    selector = manifest(dev, kind, "shlink")["spec"]
    for key in path:
        selector = selector[key]
    replicas = pod(dev, "Deployment", "shlink")["metadata"]["labels"]
    assert selector.items() <= replicas.items()
    job = pod(dev, "Job", "shlink-migration")["metadata"]["labels"]
    assert not selector.items() <= job.items()


@pytest.mark.parametrize(
    ("kind", "job", "expected"),
    [
        (
            "Deployment",
            "shlink",
            {
                "shlink-db-pguser-shlink": "7",
                "shlink-redis": "3",
                "shlink-environment": "4",
            },
        ),
        ("Deployment", "shlink-geolite", {"shlink-geolite": "5"}),
        ("Job", "shlink-migration", {"shlink-db-pguser-shlink": "7", "shlink-api-key": "2"}),
    ],
)
def test_the_version_of_each_secret_is_in_the_pods_template(
    later: Later, kind: str, job: str, expected: dict[str, str]
) -> None:
    annotations = pod(later.recording, kind, job)["metadata"]["annotations"]
    assert annotations == {
        f"shlink.io/secret-version.{name}": version for name, version in expected.items()
    }


def test_no_other_rotation_changes_the_api_key() -> None:
    keys: set[str] = set()
    for name in ("defaults", "redis-rotated", "database-rotated"):
        recording = configurations.recording(name)
        keys.add(manifest(recording, "SecretV2", "vault-backend-shlink-api-key")["dataJson"])
    assert len(keys) == 1


# Autoscaling


def test_an_autoscaler_keeps_between_the_two_numbers() -> None:
    spec = manifest(configurations.recording("autoscaled"), "HorizontalPodAutoscaler", "shlink")[
        "spec"
    ]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 8)
    assert spec["scaleTargetRef"] == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": "shlink",
    }
    container = template("autoscaled")["spec"]["containers"][0]
    # Utilization is a share of the request; without one the autoscaler stands still.
    assert spec["metrics"][0]["resource"]["target"]["type"] == "Utilization"
    assert container["resources"]["requests"]["cpu"]


def deployment(name: str) -> Any:
    recording = configurations.recording(name)
    return next(item for item in recording.of_kind("Deployment") if item.name == "shlink")


def test_the_number_of_pods_belongs_to_the_autoscaler() -> None:
    """Left out, Kubernetes would set 1 until the autoscaler looks, as it was the program's."""
    scaled = deployment("autoscaled")
    assert list(scaled.ignore_changes) == ["spec.replicas"]
    assert plain(scaled.inputs)["spec"]["replicas"] == 3
    assert list(deployment("defaults").ignore_changes) == []


def test_an_update_without_the_autoscaler_differs_and_so_sets_the_number() -> None:
    def annotations(name: str) -> Any:
        return plain(deployment(name).inputs)["metadata"].get("annotations")

    assert annotations("autoscaled") == {"shlink.io/scaled-by": "autoscaler"}
    assert annotations("defaults") is None


@pytest.mark.parametrize("name", ["defaults", "autoscaled-stopped"])
def test_there_is_no_autoscaler_unless_set_or_while_shlink_is_stopped(name: str) -> None:
    """0 stops Shlink for a restore; an autoscaler knows no 0."""
    recording = configurations.recording(name)
    assert recording.of_kind("HorizontalPodAutoscaler") == []
    assert list(deployment(name).ignore_changes) == []


def test_the_database_has_connections_for_the_most_pods(fault: Fault) -> None:
    message = fault(app={"maxReplicas": 20})
    assert "postgres.maxConnections: 100 is less than what 20 replicas" in message
    assert "allowed: 142 or more" in message


def test_an_autoscaler_never_takes_pods_away_from_the_setting(fault: Fault) -> None:
    message = fault(app={"replicas": 4, "maxReplicas": 3})
    assert "maxReplicas: 3 is less than `replicas`, 4" in message

"""PostgreSQL: users with generated passwords, when it is ready, and the guide's manual grant."""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from components.postgres.component import PRIMARY, parameters, scram_verifier
from components.postgres.readiness import incomplete, users_missing
from components.settings.platform import Resources
from components.settings.postgres import PostgresSettings
from offline.record import Recording, plain, record
from tests import configurations
from tests.conftest import (
    REPRESENTATIVE,
    Fault,
    Program,
    before,
    manifest,
    pod,
    reached,
    server,
    variables,
)

_LABEL = "postgres-operator.crunchydata.com"
USERS = ["shlink", "postgres"]


def cluster(name: str) -> Any:
    return manifest(configurations.recording(name), "PostgresCluster", "shlink-db")


def user(recording: Recording, name: str) -> Any:
    return manifest(recording, "Secret", f"shlink-db-pguser-{name}")


def test_a_verifier_accepts_the_proof_of_the_rfc() -> None:
    """RFC 7677, section 3: user `user`, password `pencil`."""
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    salt = "W22ZaJ0SNY7soEsUEjb6gQ=="
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s={salt},i=4096,c=biws,r={nonce}".encode()
    scheme, iterations, hashes = scram_verifier("pencil", base64.b64decode(salt)).split("$", 2)
    assert (scheme, iterations) == ("SCRAM-SHA-256", f"4096:{salt}")
    stored, server = (base64.b64decode(part) for part in hashes.split(":"))
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client = bytes(
        a ^ b for a, b in zip(proof, hmac.digest(stored, message, "sha256"), strict=True)
    )
    assert hashlib.sha256(client).digest() == stored
    assert (
        base64.b64encode(hmac.digest(server, message, "sha256"))
        == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )


@pytest.mark.parametrize("role", USERS)
def test_pgo_adopts_the_users_secrets(dev: Recording, role: str) -> None:
    secret = user(dev, role)
    assert secret["metadata"]["labels"] == {
        f"{_LABEL}/cluster": "shlink-db",
        f"{_LABEL}/role": "pguser",
        f"{_LABEL}/pguser": role,
    }
    assert secret["metadata"]["namespace"] == cluster("stack dev")["metadata"]["namespace"]
    # It exists before the cluster, or PGO would generate a password. A rotation takes it back.
    assert ("Secret", f"shlink-db-{role}-pguser") in before(dev, "PostgresCluster", "shlink-db")
    assert secret["metadata"]["annotations"]["pulumi.com/patchForce"] == "true"


@pytest.mark.parametrize("name", ["defaults", "database-rotated"])
@pytest.mark.parametrize("role", USERS)
def test_password_and_verifier_belong_together(name: str, role: str) -> None:
    # PGO never compares them: with another's verifier the password would not open the database.
    secret = user(configurations.recording(name), role)["stringData"]
    salt = secret["verifier"].split("$")[1].partition(":")[2]
    assert secret["verifier"] == scram_verifier(secret["password"], base64.b64decode(salt))
    assert len(base64.b64decode(salt)) == 16


def test_a_raised_number_is_another_password_and_another_salt_of_the_superuser() -> None:
    old, new = (
        user(configurations.recording(name), "postgres")["stringData"]
        for name in ("defaults", "database-rotated")
    )
    assert old["password"] != new["password"]
    assert old["verifier"].split("$")[1] != new["verifier"].split("$")[1]


def delivered(recording: Recording) -> Any:
    return json.loads(
        manifest(recording, "SecretV2", "vault-backend-postgres-credentials")["dataJson"]
    )


@pytest.mark.parametrize("rotation", [2, 3, 4])
def test_a_rotation_takes_the_other_login_and_leaves_the_one_before_valid(
    program: Program, rotation: int
) -> None:
    """What Shlink's pods logged in with until now still opens the database while they roll."""
    before_rotation = program(rotation={"database": rotation - 1})
    after_rotation = program(rotation={"database": rotation})
    old, new = delivered(before_rotation), delivered(after_rotation)
    assert old["user"] != new["user"]
    assert old["password"] != new["password"]
    for login in (old, new):
        secret = user(after_rotation, login["user"])["stringData"]
        assert secret["password"] == login["password"]


def test_the_login_before_the_last_is_no_longer_valid(program: Program) -> None:
    first, third = (delivered(program(rotation={"database": number})) for number in (1, 3))
    assert first["user"] == third["user"]
    assert first["password"] != third["password"]


def test_both_logins_work_as_the_role_that_owns_the_tables() -> None:
    recording = configurations.recording("database-rotated")
    membership = manifest(recording, "GrantRole", "shlink-db-shlink-b")
    assert (membership["role"], membership["grantRole"]) == ("shlink-b", "shlink")
    for kind, name in (("Deployment", "shlink"), ("Job", "shlink-migration")):
        container = pod(recording, kind, name)["spec"]["containers"][0]
        assert variables(container)["PGOPTIONS"] == "-c role=shlink"
    assert ("GrantRole", "shlink-db-shlink-b") in before(recording, "Job", "shlink-migration")


def test_one_users_rotation_leaves_the_other_alone(program: Program) -> None:
    rotated, unchanged = program(rotation={"database": 2}), configurations.recording("defaults")
    assert delivered(rotated) != delivered(unchanged)
    assert user(rotated, "postgres") == user(unchanged, "postgres")


_TWO_USERS = """
from components.cluster.access import ClusterAccess
from components.postgres.component import DatabaseUser, Postgres, PostgresArgs
from components.settings.platform import Images
from components.settings.postgres import PostgresSettings
from components.credentials.tls import Authority

Postgres(
    "db",
    PostgresArgs(
        namespace="postgres",
        access=ClusterAccess(context="lab"),
        authority=Authority("authority"),
        users=[
            DatabaseUser(name="shlink", databases=["shlink"]),
            DatabaseUser(name="stats", databases=["shlink"], privileges=["USAGE"]),
        ],
        settings=PostgresSettings(),
        images=Images(),
        provider_host="127.0.0.1",
        provider_port=5432,
    ),
)
"""


def test_a_second_user_has_a_password_and_a_grant_of_its_own(tmp_path: Path) -> None:
    """A second consumer is one more DatabaseUser: nothing in the layer knows Shlink's."""
    (tmp_path / "program.py").write_text(_TWO_USERS)
    recording = record("test", {}, program=tmp_path / "program.py")
    users = {
        item["name"]: item for item in manifest(recording, "PostgresCluster", "db")["spec"]["users"]
    }
    assert users["stats"]["databases"] == ["shlink"]
    grants = {plain(item.inputs)["role"]: item for item in recording.of_kind("Grant")}
    assert plain(grants["stats"].inputs)["privileges"] == ["USAGE"]
    # Parallel grants on one schema fail: "tuple concurrently updated".
    assert grants["shlink"].urn in grants["stats"].depends_on
    secrets = [manifest(recording, "Secret", f"db-{name}-pguser")["stringData"] for name in users]
    assert len({secret["password"] for secret in secrets}) == len(users) == 3


def test_both_users_are_listed_and_the_application_is_no_superuser() -> None:
    users = {item["name"]: item for item in cluster("defaults")["spec"]["users"]}
    assert set(users) == set(USERS)  # `postgres` gets a password only when it is listed
    assert users["shlink"]["databases"] == ["shlink"]
    assert "NOSUPERUSER" in users["shlink"]["options"].split()


@pytest.mark.parametrize(("name", "instances"), [("defaults", 1), ("database-sized", 3)])
def test_the_grant_waits_for_the_users_only(name: str, instances: int) -> None:
    """The first backup may take its time meanwhile: Shlink waits for it, the grant need not."""
    assert cluster(name)["spec"]["instances"][0]["replicas"] == instances
    grant = configurations.recording(name).one("Grant", "shlink-db-public-schema")
    assert grant.hooks["before_create"] == ("shlink-db-users",)
    begun = complete_cluster()
    begun["status"]["conditions"] = []
    assert users_missing(begun) is None
    del begun["status"]["usersRevision"]
    assert users_missing(begun) == "its users are not in the database yet"


def complete_cluster() -> dict[str, Any]:
    """A PostgresCluster as PGO 6.0.3 leaves it when everything is done."""
    return {
        "metadata": {"generation": 3},
        "spec": {
            "instances": [{"name": "instance1", "replicas": 2}],
            "backups": {"pgbackrest": {"repos": [{"name": "repo1"}, {"name": "repo2"}]}},
        },
        "status": {
            "observedGeneration": 3,
            "usersRevision": "5d6bd4c8d",
            "instances": [
                {"name": "instance1", "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}
            ],
            "pgbackrest": {
                "repos": [
                    {"name": "repo1", "stanzaCreated": True},
                    {"name": "repo2", "stanzaCreated": True},
                ]
            },
            "conditions": [{"type": "PGBackRestReplicaCreate", "status": "True"}],
        },
    }


def test_a_complete_cluster_lacks_nothing() -> None:
    assert incomplete(complete_cluster()) is None


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["metadata", "generation"], 4, "has not seen the latest change"),
        (["spec", "instances", 0, "replicas"], 3, "2 of 3 instances exist"),
        (["status", "instances", 0, "updatedReplicas"], 1, "1 are up to date"),
        (["status", "instances", 0, "readyReplicas"], 1, "1 are Ready"),
        (["status", "instances"], [], "0 of 2 instances exist"),
        (["status", "pgbackrest", "repos", 1, "stanzaCreated"], False, "repo2 cannot be used"),
        (["status", "pgbackrest", "repos"], [], "repo1 cannot be used"),
        (["status", "conditions", 0, "status"], "False", "first backup is not complete"),
        (["status", "conditions"], [], "first backup is not complete"),
        (["status", "usersRevision"], "", "users are not in the database"),
        (["status"], {}, "has not seen the latest change"),
    ],
)
def test_what_a_cluster_lacks_is_said(path: list[str | int], value: Any, words: str) -> None:
    item: Any = complete_cluster()
    holder = item
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    assert words in str(incomplete(item))


def test_shlink_waits_for_the_complete_cluster_of_this_generation(dev: Recording) -> None:
    """On an update too: the gate changes with the cluster's generation, and waits before that."""
    gate = dev.one("Stash", "shlink-db-complete")
    assert gate.hooks["before_create"] == gate.hooks["before_update"] == ("shlink-db-complete",)
    assert dev.one("PostgresCluster", "shlink-db").urn in gate.depends_on
    # No API server here that would number it.
    assert plain(gate.inputs)["input"] == {"generation": 0, "restore": 0}
    assert ("Stash", "shlink-db-complete") in before(dev, "Job", "shlink-migration")
    assert ("Stash", "shlink-db-complete") not in before(dev, "Grant", "shlink-db-public-schema")


def test_what_is_done_inside_postgresql_is_repeated_for_a_while(dev: Recording) -> None:
    """PGO sets a changed password some seconds later than its Secret."""
    assert dev.one("Grant", "shlink-db-public-schema").hooks["on_error"] == ("shlink-db-retry",)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_shlink_may_create_its_tables_before_it_starts_and_the_grant_goes_with_the_cluster(
    name: str,
) -> None:
    recording = configurations.recording(name)
    grant = recording.one("Grant", "shlink-db-public-schema")
    inputs = plain(grant.inputs)
    assert (inputs["objectType"], inputs["schema"], inputs["database"], inputs["role"]) == (
        "schema",
        "public",
        "shlink",
        "shlink",
    )
    assert set(inputs["privileges"]) == {"CREATE", "USAGE"}
    assert recording.one("PostgresCluster", "shlink-db").urn in grant.depends_on
    assert grant.deleted_with == recording.one("PostgresCluster", "shlink-db").urn
    assert ("Grant", "shlink-db-public-schema") in before(recording, "Job", "shlink-migration")


def test_the_provider_is_the_superuser_over_tls_and_waits_for_the_cluster(dev: Recording) -> None:
    provider = dev.one("postgresql", "shlink-db")
    inputs = plain(provider.inputs)
    assert (inputs["username"], inputs["password"]) == (
        "postgres",
        user(dev, "postgres")["stringData"]["password"],
    )
    assert inputs["sslmode"] == "verify-full"
    assert inputs["sslrootcert"] == "build/tls/dev-shlink-db.pem"
    assert inputs["host"] == "127.0.0.1"
    assert dev.one("PostgresCluster", "shlink-db").urn in provider.depends_on
    # Saves a connection, so that a preview makes none.
    assert inputs["expectedVersion"].startswith(
        f"{cluster('stack dev')['spec']['postgresVersion']}."
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.0.0.8:5433", ("10.0.0.8", 5433)), ("db.example.org", ("db.example.org", 5432))],
)
def test_a_direct_address_needs_no_forward(address: str, expected: tuple[str, int]) -> None:
    servers, forwards = reached({"postgres": {"address": address}})
    assert (servers.postgres_host, servers.postgres_port) == expected
    assert forwards == ["vault/vault"]


@pytest.mark.parametrize(
    ("name", "addresses"), [("defaults", ["127.0.0.1"]), ("direct", ["10.0.0.8", "127.0.0.1"])]
)
def test_the_certificate_names_every_way_to_the_primary(name: str, addresses: list[str]) -> None:
    recording = configurations.recording(name)
    request = manifest(recording, "CertRequest", "shlink-db-server-request")
    assert request["ipAddresses"] == addresses
    provider = plain(recording.one("postgresql", "shlink-db").inputs)
    assert provider["host"] in [*request["ipAddresses"], *request["dnsNames"]]
    assert server(recording)["DB_HOST"] in request["dnsNames"]


def test_replicas_log_in_with_a_certificate_of_the_same_authority(dev: Recording) -> None:
    """PGO would give them one of its own authority, which the server does not trust then."""
    spec = cluster("stack dev")["spec"]
    request = manifest(dev, "CertRequest", "shlink-db-replication-request")
    assert request["subject"]["commonName"] == "_crunchyrepl"
    authorities: set[str] = set()
    for field, purpose in (
        ("customTLSSecret", "server"),
        ("customReplicationTLSSecret", "replication"),
    ):
        secret = manifest(dev, "Secret", f"shlink-db-{purpose}-tls")
        assert spec[field] == {"name": secret["metadata"]["name"]}
        assert set(secret["stringData"]) == {"tls.crt", "tls.key", "ca.crt"}
        assert ("Secret", f"shlink-db-{purpose}-tls") in before(dev, "PostgresCluster", "shlink-db")
        authorities.add(secret["stringData"]["ca.crt"])
    shlink = manifest(dev, "ConfigMap", "shlink-database-ca")["data"]["ca.crt"]
    assert authorities == {shlink}


def test_the_forward_ends_in_the_primary_of_the_moment() -> None:
    assert PRIMARY.pod_labels == {f"{_LABEL}/cluster": "shlink-db", f"{_LABEL}/role": "master"}
    assert (PRIMARY.namespace, PRIMARY.port) == ("postgres", 5432)


@pytest.mark.parametrize(("name", "monitored"), [("defaults", False), ("monitoring", True)])
def test_monitoring_is_asked_for(name: str, *, monitored: bool) -> None:
    assert ("monitoring" in cluster(name)["spec"]) is monitored


def test_sizes_are_the_settings() -> None:
    spec = cluster("database-sized")["spec"]
    assert spec["postgresVersion"] == 17
    assert spec["config"]["parameters"]["max_connections"] == 400
    assert spec["config"]["parameters"]["shared_buffers"] == "128MB"
    assert spec["instances"][0]["dataVolumeClaimSpec"]["resources"]["requests"]["storage"] == "20Gi"
    assert "image" not in spec  # PGO's own for that version


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        ("512Mi", {"shared_buffers": "128MB", "effective_cache_size": "256MB", "work_mem": "4MB"}),
        (
            "16Gi",
            {"shared_buffers": "4096MB", "maintenance_work_mem": "1024MB", "work_mem": "20MB"},
        ),
    ],
)
def test_parameters_follow_the_memory_limit(limit: str, expected: dict[str, str]) -> None:
    resources = Resources(cpu="1", memory=limit, memory_limit=limit)
    sized = parameters(PostgresSettings(resources=resources))
    assert sized.items() >= expected.items()


def test_any_parameter_can_be_set(program: Program) -> None:
    recording = program(
        postgres={"parameters": {"work_mem": "64MB", "log_min_duration_statement": "500"}}
    )
    config = manifest(recording, "PostgresCluster", "shlink-db")["spec"]["config"]["parameters"]
    assert (config["work_mem"], config["log_min_duration_statement"]) == ("64MB", "500")


def test_a_synchronous_commit_needs_a_replica(program: Program, fault: Fault) -> None:
    recording = program(postgres={"instances": 2, "synchronous": True})
    spec = manifest(recording, "PostgresCluster", "shlink-db")["spec"]
    assert spec["patroni"]["dynamicConfiguration"] == {"synchronous_mode": True}
    assert "patroni" not in cluster("defaults")["spec"]
    assert "2 or more" in fault(postgres={"synchronous": True})


@pytest.mark.parametrize("name", ["monitoring", "restore-in-place", "restore-store"])
def test_every_container_that_pgo_starts_is_bounded(name: str) -> None:
    """PGO gives `instances[].resources` to the database's own containers only."""
    spec = cluster(name)["spec"]
    backups = spec["backups"]["pgbackrest"]
    holders = [
        spec["instances"][0],
        spec["instances"][0]["sidecars"]["replicaCertCopy"],
        backups["repoHost"],
        backups["jobs"],
        *backups["sidecars"].values(),
    ]
    holders += [backups["restore"]] if "restore" in backups else []
    holders += [spec["dataSource"]["pgbackrest"]] if "dataSource" in spec else []
    holders += [spec["monitoring"]["pgmonitor"]["exporter"]] if "monitoring" in spec else []
    for holder in holders:
        assert holder["resources"]["limits"]["memory"]
        assert holder["resources"]["requests"]["cpu"]


def test_changes_are_judged_before_the_cluster_is_touched(dev: Recording) -> None:
    hooks = dev.one("PostgresCluster", "shlink-db").hooks
    assert hooks["before_create"] == ("shlink-db-new",)
    assert hooks["before_update"] == ("shlink-db-guard",)


# PgBouncer


def pooler() -> Any:
    return cluster("pooler")["spec"]["proxy"]["pgBouncer"]


def test_there_is_no_pooler_unless_it_is_asked_for() -> None:
    assert "proxy" not in cluster("defaults")["spec"]
    assert "shlink-db-pgbouncer" not in str(configurations.recording("defaults").resources)


def test_shlink_verifies_the_pooler_by_the_same_authority() -> None:
    recording = configurations.recording("pooler")
    request = manifest(recording, "CertRequest", "shlink-db-pgbouncer-request")
    assert server(recording)["DB_HOST"] in request["dnsNames"]
    assert server(recording)["PGSSLMODE"] == "verify-full"
    secret = manifest(recording, "Secret", "shlink-db-pgbouncer-tls")
    assert pooler()["customTLSSecret"] == {"name": secret["metadata"]["name"]}
    authority = manifest(recording, "ConfigMap", "shlink-database-ca")["data"]["ca.crt"]
    assert secret["stringData"]["ca.crt"] == authority
    assert ("Secret", "shlink-db-pgbouncer-tls") in before(
        recording, "PostgresCluster", "shlink-db"
    )


def test_the_pooler_finds_the_primary_by_a_name_in_its_certificate() -> None:
    """PGO tells it the Service's short name, and to verify it."""
    request = manifest(
        configurations.recording("pooler"), "CertRequest", "shlink-db-server-request"
    )
    assert "shlink-db-primary" in request["dnsNames"]


def test_replicas_go_through_the_pooler_and_the_migration_past_it() -> None:
    """What creates tables works as their owner, which PgBouncer can't be told (`options`)."""
    recording = configurations.recording("pooler")
    replica = server(recording)
    assert replica["DB_HOST"] == "shlink-db-pgbouncer.postgres.svc"
    assert "PGOPTIONS" not in replica
    spec = pod(recording, "Deployment", "shlink")["spec"]
    assert variables(spec["initContainers"][0])["HOST"] == replica["DB_HOST"]
    migration = pod(recording, "Job", "shlink-migration")["spec"]
    for container in (*migration["initContainers"], *migration["containers"]):
        names = variables(container)
        assert names.get("DB_HOST", names.get("HOST")) == "shlink-db-primary.postgres.svc"
    assert variables(migration["containers"][0])["PGOPTIONS"] == "-c role=shlink"
    provider = plain(recording.one("postgresql", "shlink-db").inputs)
    assert provider["host"] == "127.0.0.1", "the grant goes to the primary too"


def test_a_session_keeps_its_connection_and_a_failover_is_no_longer_for_it() -> None:
    options = pooler()["config"]["global"]
    assert options["pool_mode"] == "session"
    assert int(options["server_login_retry"]) <= 2


def test_every_container_of_the_pooler_is_bounded() -> None:
    for holder in (pooler(), pooler()["sidecars"]["pgbouncerConfig"]):
        assert holder["resources"]["limits"]["memory"]
        assert holder["resources"]["requests"]["cpu"]


@pytest.mark.parametrize(
    ("connections", "instances"), [(61, 2), (100, 2), (400, 4), (46, 1)], ids=str
)
def test_the_pools_leave_the_database_its_reserve(
    program: Program, connections: int, instances: int
) -> None:
    """Two logins take turns, a third looks passwords up, and a rollout runs one pod more."""
    settings = {"maxConnections": connections, "pooler": {"instances": instances}}
    spec = manifest(program(postgres=settings), "PostgresCluster", "shlink-db")["spec"]
    fields = spec["proxy"]["pgBouncer"]
    size = int(fields["config"]["global"]["default_pool_size"])
    assert fields["replicas"] == instances
    assert size >= 5
    assert size * 3 * (instances + 1) + 16 <= connections


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"postgres": {"maxConnections": 60, "pooler": {}}},
            "leaves a pool of 4 to each login in each of 2 PgBouncer pods; allowed: 61 or more",
        ),
        (
            {
                "app": {"replicas": 20, "webWorkers": 40, "taskWorkers": 10},
                "postgres": {"pooler": {}},
            },
            "one PgBouncer pod takes 1000 connections",
        ),
        ({"postgres": {"pooler": {"instances": 0}}}, "postgres.pooler.instances"),
    ],
)
def test_a_pooler_that_could_not_work_is_refused(fault: Fault, settings: Any, words: str) -> None:
    assert words in fault(**settings)


def test_more_workers_than_connections_are_what_a_pooler_is_for(
    program: Program, fault: Fault
) -> None:
    many = {"replicas": 10, "webWorkers": 16}
    assert "maxConnections: 100 is less than" in fault(app=many)
    recording = program(app=many, postgres={"pooler": {}})
    assert server(recording)["DB_HOST"] == "shlink-db-pgbouncer.postgres.svc"


def test_the_pooler_takes_its_own_image(program: Program) -> None:
    image = "registry.example.org/pgbouncer:ubi9-1.25-2550@sha256:" + "a" * 64
    recording = program(images={"pgbouncer": image}, postgres={"pooler": {}})
    spec = manifest(recording, "PostgresCluster", "shlink-db")["spec"]
    assert spec["proxy"]["pgBouncer"]["image"] == image


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({}, "PgBouncer has no login in the database yet"),
        ({"postgresRevision": "7c", "readyReplicas": 1}, "1 of 2 pods of PgBouncer are Ready"),
        ({"postgresRevision": "7c", "readyReplicas": 2}, None),
    ],
)
def test_clients_wait_for_the_pooler_too(status: Any, reason: str | None) -> None:
    instances = {"name": "instance1", "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    item = {
        "metadata": {"generation": 1},
        "spec": cluster("pooler")["spec"],
        "status": {
            "observedGeneration": 1,
            "usersRevision": "7c",
            "instances": [instances],
            "pgbackrest": {"repos": [{"name": "repo1", "stanzaCreated": True}]},
            "conditions": [{"type": "PGBackRestReplicaCreate", "status": "True"}],
            "proxy": {"pgBouncer": status},
        },
    }
    assert incomplete(item) == reason

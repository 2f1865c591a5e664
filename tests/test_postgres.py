"""PostgreSQL: users with passwords of our making, ready means usable, and the grant that the guide gave by hand."""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest

from components.postgres import PRIMARY, scram_verifier
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import REPRESENTATIVE, Program, before, manifest, reached

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
    scheme, iterations, rest = scram_verifier("pencil", base64.b64decode(salt)).split("$", 2)
    assert (scheme, iterations) == ("SCRAM-SHA-256", f"4096:{salt}")
    stored, server = (base64.b64decode(part) for part in rest.split(":"))
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
    # There before the cluster, else PGO makes a password of its own; and taken back from PGO when it is rotated.
    assert ("Secret", f"shlink-db-{role}-pguser") in before(dev, "PostgresCluster", "shlink-db")
    assert secret["metadata"]["annotations"]["pulumi.com/patchForce"] == "true"


@pytest.mark.parametrize("name", ["defaults", "database-rotated"])
@pytest.mark.parametrize("role", USERS)
def test_password_and_verifier_belong_together(name: str, role: str) -> None:
    # PGO never compares them: with another's verifier the password would not open the database.
    found = user(configurations.recording(name), role)["stringData"]
    salt = found["verifier"].split("$")[1].partition(":")[2]
    assert found["verifier"] == scram_verifier(found["password"], base64.b64decode(salt))
    assert len(base64.b64decode(salt)) == 16


@pytest.mark.parametrize("role", USERS)
def test_a_raised_number_is_another_password_and_another_salt(role: str) -> None:
    old, new = (
        user(configurations.recording(name), role)["stringData"]
        for name in ("defaults", "database-rotated")
    )
    assert old["password"] != new["password"]
    assert old["verifier"].split("$")[1] != new["verifier"].split("$")[1]


def test_one_users_rotation_leaves_the_other_alone(program: Program) -> None:
    rotated = program(rotation={"database": 2})
    assert user(rotated, "shlink") != user(configurations.recording("defaults"), "shlink")
    assert user(rotated, "postgres") == user(configurations.recording("defaults"), "postgres")


def test_both_users_are_listed_and_the_application_is_no_superuser() -> None:
    users = {one["name"]: one for one in cluster("defaults")["spec"]["users"]}
    assert set(users) == set(USERS)  # `postgres` gets a password only when it is listed
    assert users["shlink"]["databases"] == ["shlink"]
    assert "NOSUPERUSER" in users["shlink"]["options"].split()


@pytest.mark.parametrize(("name", "instances"), [("defaults", 1), ("database-sized", 3)])
def test_ready_means_that_users_can_log_in_and_every_pod_answers(name: str, instances: int) -> None:
    found = cluster(name)
    assert found["spec"]["instances"][0]["replicas"] == instances
    assert json.loads(found["metadata"]["annotations"]["pulumi.com/waitFor"]) == [
        "jsonpath={.status.usersRevision}",
        f'jsonpath={{.status.instances[?(@.name=="{found["spec"]["instances"][0]["name"]}")].readyReplicas}}={instances}',
    ]
    assert "pulumi.com/skipAwait" not in found["metadata"]["annotations"]
    assert int(found["metadata"]["annotations"]["pulumi.com/timeoutSeconds"]) >= 600


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_shlink_may_create_its_tables_before_it_starts_and_the_grant_goes_with_the_cluster(
    name: str,
) -> None:
    recording = configurations.recording(name)
    grant = recording.one("Grant", "shlink-db-public-schema")
    found = plain(grant.inputs)
    assert (found["objectType"], found["schema"], found["database"], found["role"]) == (
        "schema",
        "public",
        "shlink",
        "shlink",
    )
    assert set(found["privileges"]) == {"CREATE", "USAGE"}
    assert recording.one("PostgresCluster", "shlink-db").urn in grant.depends_on
    assert grant.deleted_with == recording.one("PostgresCluster", "shlink-db").urn
    assert ("Grant", "shlink-db-public-schema") in before(recording, "Job", "shlink-migration")


def test_the_provider_is_the_superuser_over_tls_and_waits_for_the_cluster(dev: Recording) -> None:
    provider = dev.one("postgresql", "shlink-db")
    found = plain(provider.inputs)
    assert (found["username"], found["password"]) == (
        "postgres",
        user(dev, "postgres")["stringData"]["password"],
    )
    assert found["sslmode"] == "require"  # PGO refuses what is not encrypted
    assert found["host"] == "127.0.0.1"
    assert dev.one("PostgresCluster", "shlink-db").urn in provider.depends_on
    # Saves a connection, so that a preview makes none.
    assert found["expectedVersion"].startswith(
        f"{cluster('stack dev')['spec']['postgresVersion']}."
    )


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.0.0.8:5433", ("10.0.0.8", 5433)), ("db.example.org", ("db.example.org", 5432))],
)
def test_a_direct_address_needs_no_forward(address: str, expected: tuple[str, int]) -> None:
    found, forwards = reached({"postgres": {"address": address}})
    assert (found.postgres_host, found.postgres_port) == expected
    assert forwards == ["vault/vault"]


def test_the_forward_ends_in_the_primary_of_the_moment() -> None:
    assert PRIMARY.pod_labels == {f"{_LABEL}/cluster": "shlink-db", f"{_LABEL}/role": "master"}
    assert (PRIMARY.namespace, PRIMARY.port) == ("postgres", 5432)


@pytest.mark.parametrize("name", ["defaults", "backups-s3"])
def test_backups_run_and_old_ones_expire(name: str) -> None:
    backups = cluster(name)["spec"]["backups"]["pgbackrest"]
    # Left alone, pgBackRest keeps every full backup until the volume is full.
    assert (
        backups["global"]["repo1-retention-full"],
        backups["global"]["repo1-retention-full-type"],
    ) == ("2", "count")
    assert [one["name"] for one in backups["repos"]] == ["repo1"]
    assert backups["repos"][0]["schedules"] == {"full": "0 1 * * 0", "differential": "0 1 * * 1-6"}


def test_backups_go_to_a_bucket_whose_key_is_in_a_secret() -> None:
    recording = configurations.recording("backups-s3")
    backups = cluster("backups-s3")["spec"]["backups"]["pgbackrest"]
    assert "volume" not in backups["repos"][0]
    assert backups["repos"][0]["s3"] == {
        "bucket": "b",
        "endpoint": "s3.example.org",
        "region": "eu-central-1",
    }
    assert backups["configuration"] == [{"secret": {"name": "shlink-db-pgbackrest-s3"}}]
    secret = manifest(recording, "Secret", "shlink-db-pgbackrest-s3")["stringData"]["s3.conf"]
    assert secret.splitlines() == ["[global]", "repo1-s3-key=k", "repo1-s3-key-secret=s"]


@pytest.mark.parametrize(("name", "monitored"), [("defaults", False), ("monitoring", True)])
def test_monitoring_is_asked_for(name: str, *, monitored: bool) -> None:
    assert ("monitoring" in cluster(name)["spec"]) is monitored


def test_sizes_are_the_settings() -> None:
    spec = cluster("database-sized")["spec"]
    assert spec["postgresVersion"] == 17
    assert spec["config"]["parameters"]["max_connections"] == 400
    assert spec["instances"][0]["dataVolumeClaimSpec"]["resources"]["requests"]["storage"] == "20Gi"
    assert "image" not in spec  # PGO's own for that version

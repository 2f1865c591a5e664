"""Backups: repositories side by side, their secrets, and restores from them."""

from typing import Any

import pytest

from components.postgres.backups import target_options
from components.postgres.component import DATABASE, DatabaseUser
from components.program.identity import Sight
from components.settings.environment import parse
from components.settings.types import Model
from offline.record import plain, record
from tests import configurations
from tests.conftest import Fault, Program, before, configuration, manifest, pod

_STORE = {"type": "gcs", "bucket": "backups"}
_S3 = {"type": "s3", "bucket": "backups", "endpoint": "s3.example.org", "region": "eu"}


def pgbackrest(name: str) -> Any:
    cluster = manifest(configurations.recording(name), "PostgresCluster", "shlink-db")
    return cluster["spec"]["backups"]["pgbackrest"]


def stores(name: str) -> Any:
    """The files of the Secret with what only pgBackRest may read."""
    return manifest(configurations.recording(name), "Secret", "shlink-db-pgbackrest")["stringData"]


@pytest.mark.parametrize("name", ["defaults", "backups-s3", "backups-everywhere"])
def test_the_volume_is_repo1_for_ever(name: str) -> None:
    """PGO deletes the volume of a repository that is no longer listed, with every backup on it."""
    first = pgbackrest(name)["repos"][0]
    assert first["name"] == "repo1"
    assert "volume" in first
    assert first["schedules"] == {"full": "0 1 * * 0", "differential": "0 1 * * 1-6"}


def test_a_backup_waits_for_no_checkpoint() -> None:
    """The first `up` waits for the first backup: 2 min 17 s without, on a real PostgreSQL."""
    assert pgbackrest("defaults")["global"]["start-fast"] == "y"


@pytest.mark.parametrize("name", ["defaults", "backups-s3", "backups-everywhere"])
def test_old_backups_expire_in_every_repository(name: str) -> None:
    """Left alone, pgBackRest keeps every full backup until the place is full."""
    options = pgbackrest(name)["global"]
    for repository in pgbackrest(name)["repos"]:
        assert int(options[f"{repository['name']}-retention-full"]) >= 1
        assert options[f"{repository['name']}-retention-full-type"] == "count"


def test_object_stores_come_beside_the_volume() -> None:
    repositories = {item["name"]: item for item in pgbackrest("backups-everywhere")["repos"]}
    assert list(repositories) == ["repo1", "repo2", "repo3", "repo4"]
    assert repositories["repo2"]["s3"] == {
        "bucket": "backups",
        "endpoint": "minio.example.org",
        "region": "any-1",
    }
    assert repositories["repo2"]["schedules"]["full"] == "0 4 * * 6"
    assert repositories["repo3"]["gcs"] == {"bucket": "google"}
    assert repositories["repo4"]["azure"] == {"container": "container"}


def test_a_store_that_is_not_amazons_is_found_and_trusted() -> None:
    options = pgbackrest("backups-everywhere")["global"]
    assert options["repo2-storage-port"] == "9000"
    assert options["repo2-s3-uri-style"] == "path"
    folder, _, file = options["repo2-storage-ca-file"].rpartition("/")
    assert folder == "/etc/pgbackrest/conf.d"
    assert stores("backups-everywhere")[file].startswith("-----BEGIN CERTIFICATE-----")
    # pgBackRest reads every file there that ends so as its own configuration.
    assert not file.endswith(".conf")


def test_without_a_key_the_pods_log_in_by_their_workload_identity() -> None:
    options = pgbackrest("backups-everywhere")["global"]
    assert options["repo2-s3-key-type"] == "web-id"
    assert options["repo3-gcs-key-type"] == "auto"
    cluster = manifest(
        configurations.recording("backups-everywhere"), "PostgresCluster", "shlink-db"
    )
    assert cluster["spec"]["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn"}


def test_pgbackrest_is_tuned_as_the_file_says() -> None:
    options = pgbackrest("backups-tuned")["global"]
    assert options["process-max"] == "4"
    assert options["compress-type"] == "zst"
    assert options["archive-push-queue-max"] == "8GiB"
    assert options["repo2-s3-kms-key-id"] == "alias/backups"
    assert options["repo3-azure-key-type"] == "auto"
    assert not {"process-max", "compress-type"} & pgbackrest("backups-s3")["global"].keys()


def test_azures_nodes_can_be_asked_for_their_identity() -> None:
    flows = configurations.recording("backups-tuned").of_kind("NetworkPolicy")
    assert "169.254.169.254/32" in str([policy.inputs for policy in flows])
    others = configurations.recording("backups-s3").of_kind("NetworkPolicy")
    assert "169.254.169.254/32" not in str([policy.inputs for policy in others])


def test_keys_and_passphrases_are_in_a_secret_only() -> None:
    lines = stores("backups-s3")["repo2.conf"].splitlines()
    assert lines[:3] == ["[global]", "repo2-s3-key=k", "repo2-s3-key-secret=s"]
    assert lines[3].startswith("repo2-cipher-pass=p")
    backups = pgbackrest("backups-s3")
    (projection,) = backups["configuration"]
    secret = manifest(configurations.recording("backups-s3"), "Secret", "shlink-db-pgbackrest")
    assert projection["secret"]["name"] == secret["metadata"]["name"]
    # PGO's own Secret has that name.
    assert secret["metadata"]["name"] != "shlink-db-pgbackrest"
    assert not {"cipher-pass", "s3-key", "s3-key-secret"} & {
        option.partition("-")[2] for option in backups["global"]
    }


def test_what_leaves_the_cluster_is_encrypted_unless_refused() -> None:
    assert pgbackrest("backups-s3")["global"]["repo2-cipher-type"] == "aes-256-cbc"
    assert "repo2-cipher-type" not in pgbackrest("backups-everywhere")["global"]
    assert "cipher-pass" not in stores("backups-everywhere").get("repo2.conf", "")


@pytest.mark.parametrize("known", ["first-uid", None])
def test_a_database_keeps_its_path_when_its_secret_is_made_again(
    known: str | None,
) -> None:
    """The Secret's uid is another one then; the PostgresCluster remembers the first."""
    key = {"key": "k", "keySecret": "s"}
    settings = {"postgres": {"backups": {"repositories": {"repo2": _S3 | key}}}}
    recording = record("test", configuration(settings), sight=Sight("here", {}, known))
    keepers = plain(recording.one("RandomId", "shlink-db-repo2-path").inputs)["keepers"]
    cluster = manifest(recording, "PostgresCluster", "shlink-db")
    assert cluster["metadata"]["annotations"][DATABASE] == keepers["database"]
    assert (keepers["database"] == "first-uid") is (known is not None)


def test_the_passphrase_is_protected() -> None:
    """Backups in a bucket outlive the state, and nobody else has it."""
    recording = configurations.recording("backups-s3")
    assert recording.one("RandomPassword", "shlink-db-repo2-passphrase-1").protect


def test_each_incarnation_of_the_database_has_a_path_of_its_own() -> None:
    """In a shared path a new, empty database would expire the last backups of the one before."""
    recording = configurations.recording("backups-everywhere")
    paths = {
        name: value
        for name, value in pgbackrest("backups-everywhere")["global"].items()
        if name.endswith("-path")
    }
    assert set(paths) == {"repo2-path", "repo3-path", "repo4-path"}
    for name, path in paths.items():
        repository = name.removesuffix("-path")
        assert path.startswith("/shlink-db/")
        assert path.endswith(f"/{repository}")
        incarnation = recording.one("RandomId", f"shlink-db-{repository}-path")
        # PGO deletes this Secret together with the database.
        assert ("Secret", "shlink-db-postgres-pguser") in before(
            recording, "RandomId", incarnation.name
        )
        assert set(plain(incarnation.inputs)["keepers"]) == {"database"}


def test_a_restore_in_place_is_asked_for_by_its_number() -> None:
    cluster = manifest(configurations.recording("restore-in-place"), "PostgresCluster", "shlink-db")
    annotation = "postgres-operator.crunchydata.com/pgbackrest-restore"
    assert cluster["metadata"]["annotations"][annotation] == "2"
    restore = pgbackrest("restore-in-place")["restore"]
    assert (restore["enabled"], restore["repoName"]) == (True, "repo1")
    assert restore["options"] == ["--type=time", '--target="2026-11-24 09:30:00+00"']
    # PGO would take a data source beside it for a second restore.
    assert "dataSource" not in cluster["spec"]


def test_passwords_are_set_again_after_each_restore() -> None:
    """PGO does so only when its statements read otherwise than before."""
    user = DatabaseUser("shlink", ["shlink"])
    texts: set[str] = set()
    for number in range(16):
        text = user.options_after(number)
        assert "NOSUPERUSER" in text.split()
        assert all(option.startswith("NO") for option in text.split()), "a restore gives no right"
        texts.add(text)
    assert len(texts) == 16
    cluster = manifest(configurations.recording("restore-in-place"), "PostgresCluster", "shlink-db")
    options = {item["name"]: item.get("options") for item in cluster["spec"]["users"]}
    assert options["shlink"] == user.options_after(2)


@pytest.mark.parametrize("kind", ["Job", "Deployment"])
def test_a_restored_database_is_migrated_again_and_every_pod_starts_anew(kind: str) -> None:
    name = {"Job": "shlink-migration", "Deployment": "shlink"}[kind]
    recording = configurations.recording("restore-in-place")
    assert (
        pod(recording, kind, name)["metadata"]["annotations"]["shlink.io/database-restore"] == "2"
    )
    assert ("Stash", "shlink-db-complete") in before(recording, kind, name)
    plain_run = pod(configurations.recording("defaults"), kind, name)
    assert "shlink.io/database-restore" not in plain_run["metadata"]["annotations"]


def test_a_new_environment_starts_from_a_store() -> None:
    recording = configurations.recording("restore-store")
    cluster = manifest(recording, "PostgresCluster", "shlink-db")
    source = cluster["spec"]["dataSource"]["pgbackrest"]
    assert source["stanza"] == "db"
    assert source["repo"] == {"name": "repo1", "gcs": {"bucket": "prod"}}
    assert source["global"] == {
        "repo1-path": "/shlink-db/0a1b2c3d/repo2",
        "repo1-cipher-type": "aes-256-cbc",
        "repo1-gcs-key": "/etc/pgbackrest/conf.d/repo1-gcs-key",
    }
    assert source["options"] == ["--type=immediate", "--set=20261124-093000F"]
    secret = manifest(recording, "Secret", "shlink-db-restore")
    assert source["configuration"] == [{"secret": {"name": secret["metadata"]["name"]}}]
    assert "repo1-cipher-pass=passphrase" in secret["stringData"]["repo1.conf"].splitlines()
    # Its own backups go to its own places, never to the other environment's.
    assert [item["name"] for item in pgbackrest("restore-store")["repos"]] == ["repo1"]


def test_without_a_target_everything_is_restored() -> None:
    _, settings = parse(configuration({"postgres": {"restore": {"type": "inPlace", "number": 1}}}))
    assert isinstance(settings.postgres.restore, Model)
    assert target_options(settings.postgres.restore) == []


def test_a_moment_may_begin_at_a_named_backup() -> None:
    restore = {"set": "20261124-093000F", "time": "2026-11-24 10:00:00+00"}
    _, settings = parse(
        configuration({"postgres": {"restore": {"type": "inPlace", "number": 1, **restore}}})
    )
    assert settings.postgres.restore is not None
    assert target_options(settings.postgres.restore) == [
        "--type=time",
        '--target="2026-11-24 10:00:00+00"',
        "--set=20261124-093000F",
    ]


def test_a_restored_database_is_backed_up_at_once(program: Program) -> None:
    """Once for each number: the annotation's value is what PGO remembers."""
    recording = program(postgres={"restore": {"type": "inPlace", "number": 3}})
    cluster = manifest(recording, "PostgresCluster", "shlink-db")
    annotation = "postgres-operator.crunchydata.com/pgbackrest-backup"
    assert cluster["metadata"]["annotations"][annotation] == "restore-3"
    manual = cluster["spec"]["backups"]["pgbackrest"]["manual"]
    assert manual == {"repoName": "repo1", "options": ["--type=diff"]}
    assert "manual" not in pgbackrest("defaults")


@pytest.mark.parametrize(
    ("postgres", "words"),
    [
        ({"backups": {"repositories": {"repo1": _STORE}}}, "repositories.repo1"),
        ({"backups": {"repositories": {"repo5": _STORE}}}, "repositories.repo5"),
        ({"backups": {"repositories": {"repo2": _S3 | {"key": "k"}}}}, "keySecret"),
        ({"backups": {"repositories": {"repo2": _S3 | {"key": "", "keySecret": ""}}}}, "key"),
        ({"backups": {"repositories": {"repo2": _S3 | {"ca": "ca.pem"}}}}, "ca"),
        ({"restore": {"type": "inPlace"}}, "number"),
        (
            {"restore": {"type": "inPlace", "number": 1, "repository": "repo3"}},
            "postgres.restore.repository: repo3 is no repository of this database; allowed: repo1",
        ),
        ({"restore": {"type": "inPlace", "number": 1, "time": "yesterday"}}, "time"),
        # PGO hands the options to a shell.
        (
            {"restore": {"type": "inPlace", "number": 1, "set": "20261124-093000F;id"}},
            "restore.set",
        ),
        ({"restore": {"type": "store", "store": _STORE}}, "path"),
    ],
)
def test_what_could_not_work_is_refused(fault: Fault, postgres: Any, words: str) -> None:
    assert words in fault(postgres=postgres)

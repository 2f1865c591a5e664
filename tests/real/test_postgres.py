"""A real PostgreSQL with TLS, prepared as PGO prepares it, given what the program declares, and used as Shlink uses it.

PGO 6.0.3 (internal/postgres/users.go, databases.go): the databases belong to `postgres`; each user gets its options, its verifier and
ALL PRIVILEGES ON DATABASE for its databases. So `CREATE SCHEMA` in its own database is PGO's gift to `shlink`, not this program's.
"""

import base64
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from components.postgres import scram_verifier
from offline.record import plain
from tests import configurations
from tests.real.servers import PostgresServer, postgres_binaries, postgres_server

pytestmark = pytest.mark.skipif(
    postgres_binaries() is None,
    reason="no PostgreSQL on this machine; on Debian: apt-get install -y postgresql (.ci/run does)",
)


@dataclass(frozen=True)
class Declared:
    """What the program says about the database."""

    users: Mapping[str, tuple[str, str]]
    """Password and verifier by name, as in the Secrets that PGO adopts."""
    options: Mapping[str, str]
    databases: Mapping[str, list[str]]
    grants: list[Mapping[str, Any]]


@pytest.fixture(scope="module")
def declared() -> Declared:
    recording = configurations.recording("defaults")
    secrets = [
        plain(one.inputs)
        for one in recording.of_kind("Secret")
        if one.inputs["metadata"]["name"].startswith("shlink-db-pguser-")
    ]
    label = "postgres-operator.crunchydata.com/pguser"
    in_postgres = [one for one in secrets if one["metadata"]["namespace"] == "postgres"]
    users = plain(recording.one("PostgresCluster", "shlink-db").inputs)["spec"]["users"]
    return Declared(
        users={
            one["metadata"]["labels"][label]: (
                one["stringData"]["password"],
                one["stringData"]["verifier"],
            )
            for one in in_postgres
        },
        options={one["name"]: one.get("options", "") for one in users},
        databases={one["name"]: one.get("databases", []) for one in users},
        grants=[plain(one.inputs) for one in recording.of_kind("Grant")],
    )


@pytest.fixture(scope="module")
def server(declared: Declared) -> Iterator[PostgresServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    request = plain(
        configurations.recording("defaults").one("CertRequest", "shlink-db-server-request").inputs
    )
    names = [f"DNS:{name}" for name in request["dnsNames"]]
    names += [f"IP:{address}" for address in request["ipAddresses"]]
    with postgres_server(port, names=names) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            _as_pgo_does(admin, declared)
        yield running


def _as_pgo_does(admin: psycopg.Connection[Any], declared: Declared) -> None:
    for database in {one for several in declared.databases.values() for one in several}:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    for name, options in declared.options.items():
        if name == "postgres":
            continue  # the superuser is there, with a password of this server's own; its verifier has a test below
        role = sql.Identifier(name)
        verifier = sql.Literal(declared.users[name][1])
        assert options == "NOSUPERUSER"
        admin.execute(sql.SQL("CREATE USER {}").format(role))
        admin.execute(sql.SQL("ALTER ROLE {} WITH NOSUPERUSER PASSWORD {}").format(role, verifier))
        for database in declared.databases[name]:
            admin.execute(
                sql.SQL("GRANT ALL PRIVILEGES ON DATABASE {} TO {}").format(
                    sql.Identifier(database), role
                )
            )


def _connect(
    server: PostgresServer,
    user: str,
    password: str,
    *,
    database: str = "shlink",
    sslmode: str = "require",
) -> psycopg.Connection[Any]:
    address = f"host=127.0.0.1 port={server.port} connect_timeout=10"
    return psycopg.connect(
        address, dbname=database, user=user, password=password, sslmode=sslmode, autocommit=True
    )


@pytest.fixture
def shlink(server: PostgresServer, declared: Declared) -> Iterator[psycopg.Connection[Any]]:
    with _connect(server, "shlink", declared.users["shlink"][0]) as connection:
        yield connection


def _apply(server: PostgresServer, grant: Mapping[str, Any]) -> None:
    """A postgresql.Grant, as its provider words it."""
    assert grant["objectType"] == "schema"
    privileges = sql.SQL(", ").join(sql.SQL(_WORDS[one]) for one in grant["privileges"])
    with psycopg.connect(server.dsn(), dbname=grant["database"], autocommit=True) as admin:
        statement = sql.SQL("GRANT {} ON SCHEMA {} TO {}")
        admin.execute(
            statement.format(
                privileges, sql.Identifier(grant["schema"]), sql.Identifier(grant["role"])
            )
        )


_WORDS: Mapping[str, LiteralString] = {"CREATE": "CREATE", "USAGE": "USAGE"}


def test_the_guides_failure_and_its_cure(
    server: PostgresServer, declared: Declared, shlink: psycopg.Connection[Any]
) -> None:
    """Without the grant the migration fails as the guide says it does; with exactly what is declared it runs."""
    with psycopg.connect(server.dsn(), dbname="shlink", autocommit=True) as admin:
        admin.execute("REVOKE ALL ON SCHEMA public FROM shlink")
    with pytest.raises(InsufficientPrivilege, match="permission denied for schema public"):
        shlink.execute("CREATE TABLE short_urls (id bigint PRIMARY KEY)")
    assert [
        (one["role"], one["database"], sorted(one["privileges"])) for one in declared.grants
    ] == [("shlink", "shlink", ["CREATE", "USAGE"])]
    for grant in declared.grants:
        _apply(server, grant)
    # Doctrine's kind of migration, on PostgreSQL: sequences, tables, indexes, foreign keys, its own table of versions.
    shlink.execute("CREATE SEQUENCE short_urls_id_seq INCREMENT BY 1 MINVALUE 1 START 1")
    shlink.execute(
        "CREATE TABLE short_urls (id BIGINT NOT NULL, original_url TEXT NOT NULL, short_code VARCHAR(255) NOT NULL, PRIMARY KEY(id))"
    )
    shlink.execute("CREATE UNIQUE INDEX unique_short_code ON short_urls (short_code)")
    shlink.execute(
        "CREATE TABLE visits (id BIGSERIAL PRIMARY KEY, short_url_id BIGINT REFERENCES short_urls (id) ON DELETE CASCADE, date TIMESTAMP)"
    )
    shlink.execute("ALTER TABLE visits ADD potential_bot BOOLEAN DEFAULT false NOT NULL")
    shlink.execute(
        "CREATE TABLE migrations (version VARCHAR(191) NOT NULL, executed_at TIMESTAMP, PRIMARY KEY(version))"
    )
    shlink.execute(
        "INSERT INTO short_urls VALUES (nextval('short_urls_id_seq'), 'https://example.org', 'abc')"
    )
    shlink.execute("INSERT INTO visits (short_url_id, date) SELECT id, now() FROM short_urls")
    rows = shlink.execute(
        "SELECT s.short_code, v.potential_bot FROM visits v JOIN short_urls s ON s.id = v.short_url_id"
    ).fetchall()
    assert rows == [("abc", False)]
    shlink.execute("ALTER TABLE visits DROP COLUMN date")
    shlink.execute("DROP INDEX unique_short_code")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE DATABASE other",
        "CREATE ROLE other",
        "ALTER ROLE postgres PASSWORD 'x'",
        "ALTER ROLE shlink SUPERUSER",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "SELECT * FROM others",
        "INSERT INTO others VALUES (1)",
        "DROP TABLE others",
        "SELECT rolpassword FROM pg_authid",
        "SELECT pg_read_file('/etc/passwd')",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "ALTER SYSTEM SET fsync = off",
        "SET ROLE postgres",
        "CREATE EXTENSION file_fdw",
        "DROP SCHEMA public CASCADE",
    ],
)
def test_shlink_may_not(
    server: PostgresServer,
    declared: Declared,
    shlink: psycopg.Connection[Any],
    statement: LiteralString,
) -> None:
    for grant in declared.grants:
        _apply(server, grant)
    with psycopg.connect(server.dsn(), dbname="shlink", autocommit=True) as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS others (id int)")
    # A GRANT of what one has no right to give is a warning, not an error, where one has nothing of it to give.
    shlink.execute("SET client_min_messages = 'error'")
    if statement.startswith("GRANT"):
        shlink.execute(statement)
        with psycopg.connect(server.dsn(), dbname="shlink") as admin:
            row = admin.execute(
                "SELECT has_schema_privilege('pg_monitor', 'public', 'CREATE')"
            ).fetchone()
        assert row == (False,)
        return
    with pytest.raises(InsufficientPrivilege):
        shlink.execute(statement)


@pytest.mark.parametrize("role", ["shlink", "postgres"])
def test_the_declared_verifier_lets_the_declared_password_in(
    server: PostgresServer, declared: Declared, role: str
) -> None:
    password, verifier = declared.users[role]
    name = sql.Identifier(f"as_{role}")
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(verifier))
        )
        stored = admin.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = %s", [f"as_{role}"]
        ).fetchone()
    assert stored == (verifier,), "PostgreSQL took it for a password, not for a verifier"
    with _connect(server, f"as_{role}", password, database="postgres") as connection:
        assert connection.execute(
            "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        ).fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        _connect(server, f"as_{role}", f"{password}x", database="postgres")


def test_verifier_is_what_postgresql_computes(server: PostgresServer) -> None:
    """The same password and salt give the same text."""
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute("SET password_encryption = 'scram-sha-256'")
        admin.execute("CREATE ROLE computed LOGIN PASSWORD 'pSome0therPassw0rd'")
        row = admin.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = 'computed'"
        ).fetchone()
    assert row is not None
    salt = row[0].split("$")[1].split(":")[1]
    assert scram_verifier("pSome0therPassw0rd", base64.b64decode(salt)) == row[0]


def test_nothing_without_tls(server: PostgresServer, declared: Declared) -> None:
    """PGO's pg_hba.conf has hostssl lines only."""
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        _connect(server, "shlink", declared.users["shlink"][0], sslmode="disable")


def test_shlink_and_the_provider_verify_the_server(
    server: PostgresServer, declared: Declared, tmp_path: Path
) -> None:
    """With the names of the declared certificate, and no other server is believed."""
    recording = configurations.recording("defaults")
    deployment = plain(recording.one("Deployment", "shlink").inputs)
    items = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    variables = {item["name"]: item.get("value") for item in items}
    provider = plain(recording.one("postgresql", "shlink-db").inputs)
    # The test may run as root, PostgreSQL's folder is its own account's.
    authority = tmp_path / "ca.crt"
    authority.write_bytes(server.certificate.read_bytes())

    def connect(host: str, sslmode: str) -> None:
        psycopg.connect(
            host=host,
            hostaddr="127.0.0.1",
            port=server.port,
            dbname=variables["DB_NAME"],
            user="shlink",
            password=declared.users["shlink"][0],
            sslmode=sslmode,
            sslrootcert=str(authority),
        ).close()

    connect(str(variables["DB_HOST"]), str(variables["PGSSLMODE"]))
    connect(provider["host"], provider["sslmode"])
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        connect("another.example", str(variables["PGSSLMODE"]))


def test_the_grant_comes_between_cluster_and_migration_and_goes_with_the_cluster() -> None:
    """Nothing real shows it but a first `up` and a destroy: so it is read from what the engine is told."""
    recording = configurations.recording("defaults")
    cluster, (grant,) = recording.one("PostgresCluster", "shlink-db"), recording.of_kind("Grant")
    assert cluster.urn in recording.waits_for(grant)
    assert grant.urn in recording.waits_for(recording.one("Job", "shlink-migration"))
    assert grant.deleted_with == cluster.urn


def test_a_rotated_login_creates_what_the_login_before_may_change(
    server: PostgresServer, shlink: psycopg.Connection[Any]
) -> None:
    """Both logins are valid while the pods roll, and a migration may run as either."""
    recording = configurations.recording("database-rotated")
    (membership,) = [plain(item.inputs) for item in recording.of_kind("GrantRole")]
    secret = plain(recording.one("Secret", "shlink-db-shlink-b-pguser").inputs)["stringData"]
    with psycopg.connect(server.dsn(), dbname="shlink", autocommit=True) as admin:
        login, owner = (
            sql.Identifier(membership["role"]),
            sql.Identifier(membership["grantRole"]),
        )
        verifier = sql.Literal(secret["verifier"])
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER PASSWORD {}").format(login, verifier)
        )
        admin.execute(sql.SQL("GRANT {} TO {}").format(owner, login))
        admin.execute("GRANT CREATE, USAGE ON SCHEMA public TO shlink")
    deployment = plain(recording.one("Deployment", "shlink").inputs)
    variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    (options,) = [item["value"] for item in variables if item["name"] == "PGOPTIONS"]
    with psycopg.connect(
        server.dsn(),
        dbname="shlink",
        user=membership["role"],
        password=secret["password"],
        options=options,
        autocommit=True,
    ) as rotated:
        rotated.execute("CREATE TABLE of_the_rotated_login (id int)")
        shlink.execute("ALTER TABLE of_the_rotated_login ADD name text")
        shlink.execute("CREATE TABLE of_the_login_before (id int)")
        rotated.execute("ALTER TABLE of_the_login_before ADD name text")
        rows = rotated.execute(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'of_the_%'"
        ).fetchall()
    assert rows == [("shlink",)]

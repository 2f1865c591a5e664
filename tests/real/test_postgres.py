"""A real PostgreSQL with TLS, set up as PGO does with what the program declares, used like Shlink.

PGO 6.0.3 (internal/postgres/users.go, databases.go): the databases belong to `postgres`. Each user
gets its options, its verifier and ALL PRIVILEGES ON DATABASE for its databases. So it is PGO, not
this program, that lets `shlink` use CREATE SCHEMA in its own database.
"""

import base64
import itertools
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from components.postgres.component import scram_verifier
from offline.record import plain
from tests import configurations
from tests.conftest import manifest
from tests.conftest import server as variables_of_the_server
from tests.real.servers import PostgresServer, postgres_binaries, postgres_server

pytestmark = pytest.mark.skipif(
    postgres_binaries() is None,
    reason="no PostgreSQL on this machine; on Debian: apt-get install -y postgresql (.ci/run does)",
)


_USER_LABEL = "postgres-operator.crunchydata.com/pguser"


@dataclass(frozen=True)
class Declared:
    """What the program declares about the database."""

    users: Mapping[str, tuple[str, str]]
    """Password and verifier by name, as in the Secrets that PGO adopts."""
    options: Mapping[str, str]
    databases: Mapping[str, list[str]]
    grants: list[Mapping[str, Any]]


@pytest.fixture(scope="module")
def declared() -> Declared:
    recording = configurations.recording("defaults")
    credentials: dict[str, tuple[str, str]] = {}
    for resource in recording.of_kind("Secret"):
        secret = plain(resource.inputs)
        metadata = secret["metadata"]
        if metadata["namespace"] == "postgres" and metadata["name"].startswith("shlink-db-pguser-"):
            user, data = metadata["labels"][_USER_LABEL], secret["stringData"]
            credentials[user] = (data["password"], data["verifier"])
    users = manifest(recording, "PostgresCluster", "shlink-db")["spec"]["users"]
    return Declared(
        users=credentials,
        options={user["name"]: user.get("options", "") for user in users},
        databases={user["name"]: user.get("databases", []) for user in users},
        grants=[plain(grant.inputs) for grant in recording.of_kind("Grant")],
    )


@pytest.fixture(scope="module")
def server(declared: Declared) -> Iterator[PostgresServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    recording = configurations.recording("defaults")
    request = manifest(recording, "CertRequest", "shlink-db-server-request")
    names = [f"DNS:{name}" for name in request["dnsNames"]]
    names += [f"IP:{address}" for address in request["ipAddresses"]]
    with postgres_server(port, names=names) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            _as_pgo_does(admin, declared)
        yield running


def _as_pgo_does(admin: psycopg.Connection[Any], declared: Declared) -> None:
    for database in set(itertools.chain.from_iterable(declared.databases.values())):
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(database)))
    for name, options in declared.options.items():
        # The superuser exists, with this server's own password. A test below uses its verifier.
        if name == "postgres":
            continue
        role = sql.Identifier(name)
        verifier = sql.Literal(declared.users[name][1])
        assert options == "NOSUPERUSER"
        admin.execute(sql.SQL("CREATE USER {}").format(role))
        admin.execute(sql.SQL("ALTER ROLE {} WITH NOSUPERUSER PASSWORD {}").format(role, verifier))
        for database in declared.databases[name]:
            statement = sql.SQL("GRANT ALL PRIVILEGES ON DATABASE {} TO {}")
            admin.execute(statement.format(sql.Identifier(database), role))


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
    privileges = sql.SQL(", ").join(sql.SQL(_WORDS[word]) for word in grant["privileges"])
    schema, role = sql.Identifier(grant["schema"]), sql.Identifier(grant["role"])
    statement = sql.SQL("GRANT {} ON SCHEMA {} TO {}").format(privileges, schema, role)
    with psycopg.connect(server.dsn(), dbname=grant["database"], autocommit=True) as admin:
        admin.execute(statement)


_WORDS: Mapping[str, LiteralString] = {"CREATE": "CREATE", "USAGE": "USAGE"}
# What a migration of Doctrine does on PostgreSQL: sequences, tables, indexes, foreign keys, and a
# table of its own for the versions.
_MIGRATION: Sequence[LiteralString] = (
    "CREATE SEQUENCE short_urls_id_seq INCREMENT BY 1 MINVALUE 1 START 1",
    """CREATE TABLE short_urls (
        id BIGINT NOT NULL,
        original_url TEXT NOT NULL,
        short_code VARCHAR(255) NOT NULL,
        PRIMARY KEY(id)
    )""",
    "CREATE UNIQUE INDEX unique_short_code ON short_urls (short_code)",
    """CREATE TABLE visits (
        id BIGSERIAL PRIMARY KEY,
        short_url_id BIGINT REFERENCES short_urls (id) ON DELETE CASCADE,
        date TIMESTAMP
    )""",
    "ALTER TABLE visits ADD potential_bot BOOLEAN DEFAULT false NOT NULL",
    """CREATE TABLE migrations (
        version VARCHAR(191) NOT NULL, executed_at TIMESTAMP, PRIMARY KEY(version)
    )""",
    "INSERT INTO short_urls VALUES (nextval('short_urls_id_seq'), 'https://example.org', 'abc')",
    "INSERT INTO visits (short_url_id, date) SELECT id, now() FROM short_urls",
)


def test_the_guides_failure_and_its_cure(
    server: PostgresServer, declared: Declared, shlink: psycopg.Connection[Any]
) -> None:
    """Without the grant the migration fails as the guide tells. With the declared grant it runs."""
    with psycopg.connect(server.dsn(), dbname="shlink", autocommit=True) as admin:
        admin.execute("REVOKE ALL ON SCHEMA public FROM shlink")
    with pytest.raises(InsufficientPrivilege, match="permission denied for schema public"):
        shlink.execute("CREATE TABLE short_urls (id bigint PRIMARY KEY)")
    (grant,) = declared.grants
    assert (grant["role"], grant["database"]) == ("shlink", "shlink")
    assert sorted(grant["privileges"]) == ["CREATE", "USAGE"]
    _apply(server, grant)
    for statement in _MIGRATION:
        shlink.execute(statement)
    rows = shlink.execute(
        "SELECT s.short_code, v.potential_bot "
        "FROM visits v JOIN short_urls s ON s.id = v.short_url_id"
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
    """With its grant alone, it can reach no other role, table, file or setting."""
    for grant in declared.grants:
        _apply(server, grant)
    with psycopg.connect(server.dsn(), dbname="shlink", autocommit=True) as admin:
        admin.execute("CREATE TABLE IF NOT EXISTS others (id int)")
    # PostgreSQL only warns about a GRANT by a role that has no grant option at all.
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
    """PostgreSQL stores the verifier as it is, and the declared password matches it."""
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
    """They connect by the names of the declared certificate and refuse any other name."""
    recording = configurations.recording("defaults")
    variables = variables_of_the_server(recording)
    provider = manifest(recording, "postgresql", "shlink-db")
    # The test may run as root, but PostgreSQL's folder belongs to an account of its own.
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
    """Read from what the engine is told: only a first `up` and a destroy would show it for real."""
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
    secret = manifest(recording, "Secret", "shlink-db-shlink-b-pguser")["stringData"]
    login, owner = sql.Identifier(membership["role"]), sql.Identifier(membership["grantRole"])
    create = sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER PASSWORD {}")
    with psycopg.connect(server.dsn(), dbname="shlink", autocommit=True) as admin:
        admin.execute(create.format(login, sql.Literal(secret["verifier"])))
        admin.execute(sql.SQL("GRANT {} TO {}").format(owner, login))
        admin.execute("GRANT CREATE, USAGE ON SCHEMA public TO shlink")
    with psycopg.connect(
        server.dsn(),
        dbname="shlink",
        user=membership["role"],
        password=secret["password"],
        options=variables_of_the_server(recording)["PGOPTIONS"],
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

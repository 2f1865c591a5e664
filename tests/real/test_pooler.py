"""A real PgBouncer before a real PostgreSQL, set up as PGO does with what the program declares.

PGO 6.0.3: internal/pgbouncer/config.go (the file), postgres.go (the login that looks passwords up).
"""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from tests import configurations
from tests.conftest import manifest
from tests.real.servers import STARTUP_SECONDS, PostgresServer, postgres_binaries, postgres_server

pytestmark = pytest.mark.skipif(
    postgres_binaries() is None or shutil.which("pgbouncer") is None,
    reason="no PgBouncer on this machine; on Debian: apt-get install -y postgresql pgbouncer",
)

_LOOKUP = "_crunchypgbouncer"
_GET_AUTH = """
CREATE SCHEMA pgbouncer;
CREATE FUNCTION pgbouncer.get_auth(username TEXT) RETURNS TABLE(username TEXT, password TEXT) AS
  'SELECT rolname::TEXT, rolpassword::TEXT FROM pg_catalog.pg_authid
   WHERE pg_authid.rolname = $1 AND pg_authid.rolcanlogin AND NOT pg_authid.rolsuper'
LANGUAGE SQL STABLE SECURITY DEFINER;
REVOKE ALL ON FUNCTION pgbouncer.get_auth(username TEXT) FROM PUBLIC;
GRANT USAGE ON SCHEMA pgbouncer TO _crunchypgbouncer;
GRANT EXECUTE ON FUNCTION pgbouncer.get_auth(username TEXT) TO _crunchypgbouncer;
"""


@dataclass(frozen=True)
class Pooler:
    """A running PgBouncer, and the database behind it."""

    port: int
    certificate: Path
    pool_size: int
    admin: psycopg.Connection[Any]
    """The superuser's connection to database `shlink`, past PgBouncer."""

    def connect(self, user: str, password: str, **more: Any) -> psycopg.Connection[Any]:
        """As Shlink does."""
        address = f"host=127.0.0.1 port={self.port} connect_timeout=30 dbname=shlink"
        tls = {"sslmode": "verify-full", "sslrootcert": str(self.certificate)}
        return psycopg.connect(
            address, user=user, password=password, autocommit=True, **tls, **more
        )

    def set_password(self, user: str, password: str) -> None:
        """As PGO does, some time after the Secret has changed."""
        statement = sql.SQL("ALTER ROLE {} WITH PASSWORD {}")
        self.admin.execute(statement.format(sql.Identifier(user), sql.Literal(password)))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server(_free_port()) as running:
        with psycopg.connect(running.dsn(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE shlink")
            admin.execute("CREATE USER shlink WITH NOSUPERUSER PASSWORD 'first'")
            admin.execute("CREATE USER \"shlink-b\" WITH NOSUPERUSER PASSWORD 'second'")
            admin.execute('GRANT shlink TO "shlink-b"')
            admin.execute(f"CREATE USER {_LOOKUP} WITH PASSWORD 'lookup'")
        yield running


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Not pytest's own, which belongs to whoever runs the tests."""
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def pooler(server: PostgresServer, folder: Path) -> Iterator[Pooler]:
    spec = manifest(configurations.recording("pooler"), "PostgresCluster", "shlink-db")["spec"]
    declared: Mapping[str, str] = spec["proxy"]["pgBouncer"]["config"]["global"]
    port, certificate, key = _free_port(), folder / "tls.crt", folder / "tls.key"
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    subject = ["-subj", "/CN=localhost", "-addext", names, "-keyout", key, "-out", certificate]
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(request, check=True, capture_output=True)  # noqa: S603 -- our words
    authority = shutil.copy(server.certificate, folder / "backend.crt")
    options = {
        "ignore_startup_parameters": "extra_float_digits",
        "auth_file": folder / "users.txt",
        "auth_query": "SELECT username, password from pgbouncer.get_auth($1)",
        "auth_user": _LOOKUP,
        "client_tls_sslmode": "require",
        "client_tls_cert_file": certificate,
        "client_tls_key_file": key,
        "client_tls_ca_file": certificate,
        "listen_addr": "*",
        "listen_port": port,
        "server_tls_sslmode": "verify-full",
        "server_tls_ca_file": authority,
        "unix_socket_dir": "",
        **declared,
    }
    lines = [f"{option} = {value}" for option, value in options.items()]
    databases = f"[databases]\n* = host=127.0.0.1 port={server.port}\n"
    (folder / "pgbouncer.ini").write_text("\n".join(["[pgbouncer]", *lines, databases]))
    (folder / "users.txt").write_text(f'"{_LOOKUP}" "lookup"\n')
    dsn = server.dsn().replace("dbname=postgres", "dbname=shlink")
    with psycopg.connect(dsn, autocommit=True) as admin, _running(folder, port):
        admin.execute(_GET_AUTH)
        admin.execute("GRANT CREATE, USAGE ON SCHEMA public TO shlink")
        yield Pooler(port, certificate, int(declared["default_pool_size"]), admin)


@contextlib.contextmanager
def _running(folder: Path, port: int) -> Generator[None]:
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        # It refuses to run as root.
        account = {"user": "postgres", "group": "postgres", "extra_groups": []}
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, "postgres")
    log = folder / "log"
    with log.open("wb") as output:
        command = ["pgbouncer", str(folder / "pgbouncer.ini")]
        process = subprocess.Popen(  # noqa: S603 -- a program of a package, our words
            command, stdout=output, stderr=output, **account
        )
    try:
        deadline = time.monotonic() + STARTUP_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        else:
            raise RuntimeError(f"PgBouncer did not start:\n{log.read_text()}")
        yield
    finally:
        process.kill()
        process.wait()


def _value(connection: psycopg.Connection[Any], query: LiteralString) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


@pytest.fixture
def _urls(pooler: Pooler) -> Iterator[None]:  # pyright: ignore[reportUnusedFunction] -- pytest finds it
    """A table that the migration made: as the role, past PgBouncer."""
    pooler.admin.execute("SET ROLE shlink")
    pooler.admin.execute("CREATE TABLE urls (id serial PRIMARY KEY, url text)")
    pooler.admin.execute("RESET ROLE")
    yield
    pooler.admin.execute("DROP TABLE urls")


@pytest.mark.usefixtures("_urls")
@pytest.mark.parametrize("login", [("shlink", "first"), ("shlink-b", "second")], ids=str)
def test_both_logins_read_and_write_what_the_role_owns(
    pooler: Pooler, login: tuple[str, str]
) -> None:
    with pooler.connect(*login) as connection:
        assert _value(connection, "SELECT session_user") == login[0]
        assert _value(connection, "INSERT INTO urls (url) VALUES ('u') RETURNING url") == "u"
        assert _value(connection, "UPDATE urls SET url = 'v' RETURNING url") == "v"
        assert _value(connection, "DELETE FROM urls RETURNING url") == "v"


def test_a_wrong_password_and_a_superuser_are_refused(pooler: Pooler) -> None:
    for user in ("shlink", "postgres"):
        with pytest.raises(psycopg.OperationalError):
            pooler.connect(user, "wrong")


def test_the_role_cannot_be_asked_for_by_an_option(pooler: Pooler) -> None:
    """So the migration goes past it."""
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
        pooler.connect("shlink", "first", options="-c role=shlink")


def test_a_session_has_its_prepared_statements_and_leaves_nothing_behind(pooler: Pooler) -> None:
    with pooler.connect("shlink", "first") as connection:
        backend = _value(connection, "SELECT pg_backend_pid()")
        connection.execute("SET timezone = 'Asia/Tokyo'")
        connection.execute("PREPARE pdo_stmt_00000001 AS SELECT 1")
        for _ in range(3):
            with connection.transaction():
                assert _value(connection, "EXECUTE pdo_stmt_00000001") == 1
        connection.execute("DEALLOCATE pdo_stmt_00000001")
        connection.execute("PREPARE pdo_stmt_00000002 AS SELECT 2")
    with pooler.connect("shlink", "first") as connection:
        assert _value(connection, "SELECT pg_backend_pid()") == backend, "it was kept"
        assert _value(connection, "SHOW timezone") != "Asia/Tokyo"
        assert _value(connection, "SELECT count(*) FROM pg_prepared_statements") == 0


def test_a_rotation_refuses_no_connection(pooler: Pooler) -> None:
    """Each gives one login another password, while clients still log in as the other."""
    passwords = {"shlink": "first", "shlink-b": "second"}
    for number, (rotated, other) in enumerate([("shlink-b", "shlink"), ("shlink", "shlink-b")] * 2):
        previous, passwords[rotated] = passwords[rotated], f"password-{number}"
        with ThreadPoolExecutor(4) as threads:
            clients = [threads.submit(pooler.connect, other, passwords[other]) for _ in range(20)]
            pooler.set_password(rotated, passwords[rotated])
            clients += [threads.submit(pooler.connect, other, passwords[other]) for _ in range(20)]
            for client in clients:
                client.result().close()
        pooler.connect(rotated, passwords[rotated]).close()
        with pytest.raises(psycopg.OperationalError):
            pooler.connect(rotated, previous)
    pooler.set_password("shlink", "first")


def test_clients_beyond_the_pool_wait_and_the_database_holds_no_more(pooler: Pooler) -> None:
    def sleep() -> int:
        with pooler.connect("shlink", "first") as connection:
            return int(_value(connection, "SELECT pg_backend_pid() FROM pg_sleep(0.3)"))

    clients = 3 * pooler.pool_size
    with ThreadPoolExecutor(clients) as threads:
        backends = [task.result() for task in [threads.submit(sleep) for _ in range(clients)]]
    assert len(backends) == clients
    assert len(set(backends)) <= pooler.pool_size

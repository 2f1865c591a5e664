"""Servers that tests start on this machine, where a forward to a pod of the test cluster ends."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

STARTUP_SECONDS = 20


@dataclass(frozen=True)
class PostgresServer:
    """A running PostgreSQL that accepts nothing but TLS with a password."""

    port: int
    user: str
    password: str
    certificate: Path
    """Its own authority, for clients that verify."""

    def dsn(self, port: int | None = None) -> str:
        """For a client on this machine; another port leads through a forward."""
        return (
            f"host=127.0.0.1 port={port or self.port} user={self.user} password={self.password} "
            "dbname=postgres sslmode=require connect_timeout=30"
        )


def postgres_binaries() -> Path | None:
    """The folder of the newest Debian package, otherwise of the PATH's PostgreSQL, or None."""
    debian = list(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    if debian:
        return max(debian, key=lambda path: int(path.parts[-3])).parent
    on_path = shutil.which("postgres")
    return Path(on_path).parent if on_path else None


@contextlib.contextmanager
def postgres_server(
    port: int,
    *,
    user: str = "postgres",
    settings: Mapping[str, str] | None = None,
    names: Sequence[str] = ("DNS:localhost", "IP:127.0.0.1"),
) -> Generator[PostgresServer]:
    """A new PostgreSQL on 127.0.0.1:`port`, removed at the end.

    It has a self-signed certificate for `names` and a random password. `user` is its superuser, and
    `settings` go to postgresql.conf. Raises RuntimeError with its log if it does not start.
    """
    binaries = postgres_binaries()
    if binaries is None:
        raise RuntimeError("PostgreSQL is not installed here; Debian: apt-get install postgresql")
    password = secrets.token_hex(16)
    # PostgreSQL refuses to run as root; the package brings an account for it.
    account: dict[str, Any] = (
        {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    )
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        root = Path(name)
        data, log, password_file = root / "data", root / "log", root / "password"
        password_file.write_text(password)
        if account:
            shutil.chown(root, "postgres", "postgres")
            shutil.chown(password_file, "postgres", "postgres")

        def run(*command: str | Path) -> None:
            subprocess.run(command, check=True, capture_output=True, text=True, cwd=root, **account)  # noqa: S603

        run(
            binaries / "initdb",
            "-D",
            data,
            "-U",
            user,
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
            f"--pwfile={password_file}",
        )
        certificate = ["-keyout", data / "server.key", "-out", data / "server.crt"]
        run(
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            f"subjectAltName={','.join(names)}",
            *certificate,
        )
        (data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\n")
        options = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": root,
            "ssl": "on",
            "fsync": "off",
            **(settings or {}),
        }
        command: list[str | Path] = [binaries / "postgres", "-D", data]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        with (
            log.open("wb") as output,
            subprocess.Popen(  # noqa: S603 -- a program of a package, our words
                command, stdout=output, stderr=output, cwd=root, **account
            ) as process,
        ):
            try:
                server = PostgresServer(port, user, password, data / "server.crt")
                _wait_for(server, process, log)
                yield server
            finally:
                # A fast shutdown: it doesn't wait for its clients.
                process.send_signal(signal.SIGINT)
                process.wait(STARTUP_SECONDS)


def _wait_for(server: PostgresServer, process: "subprocess.Popen[Any]", log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while True:
        if process.poll() is not None:  # checked first: another server may answer on this port
            raise RuntimeError(
                f"PostgreSQL did not start on port {server.port}:\n{log.read_text()}"
            )
        try:
            psycopg.connect(server.dsn()).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"PostgreSQL does not answer on port {server.port}:\n{log.read_text()}"
                ) from None
            time.sleep(0.1)
        else:
            return

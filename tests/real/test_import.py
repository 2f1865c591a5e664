"""Shlink's own importer, as the Job of `make import-links` drives it, on a real PostgreSQL.

SHLINK_TEST_IMAGE names a folder with the files of Shlink's image, into which this writes.
"""

import os
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from components import scripts
from operate.import_links import pieces
from tests.real.servers import PostgresServer, postgres_server

_VARIABLE = "SHLINK_TEST_IMAGE"

LINKS = """Short code,Domain,Long URL,Title,Tags,Created,Valid until,Max visits
abc,,https://example.org/1,"A; ""B"" ",a|b,2024-01-01T00:00:00+00:00,2030-01-01T00:00:00+00:00,5
xyz,go.example.org,https://example.org/2,,,,,
xyz,go.example.org,https://example.org/3,,,,,
a/b,,https://example.org/4,,,,,
bad,,no URL,,,,,
here,,https://example.org/here,,,,,
taken,,https://example.org/other,,,,,
own,s.example.org,https://example.org/own,,,,,
"""


@pytest.fixture
def image() -> Path:
    folder = os.environ.get(_VARIABLE)
    if not folder or os.geteuid() != 0:
        pytest.skip(f"no files of Shlink's image to run as root: {_VARIABLE} names no folder")
    return Path(folder)


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with postgres_server(port) as running:
        yield running


def _shlink(
    image: Path, server: PostgresServer, command: list[str], **more: str
) -> tuple[int, str]:
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "SHLINK_RUNTIME": "none",
        "SKIP_INITIAL_GEOLITE_DOWNLOAD": "true",
        "DEFAULT_DOMAIN": "s.example.org",
        "DB_DRIVER": "postgres",
        "DB_HOST": "127.0.0.1",
        "DB_PORT": str(server.port),
        "DB_NAME": "postgres",
        "DB_USER": server.user,
        "DB_PASSWORD": server.password,
        "PGSSLMODE": "require",
        **more,
    }
    done = subprocess.run(  # noqa: S603 -- our words
        ["/usr/sbin/chroot", str(image), "sh", "-c", 'cd /etc/shlink && exec "$@"', "-", *command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _import(image: Path, server: PostgresServer, folder: Path) -> tuple[int, str]:
    inside = f"/{folder.relative_to(image)}/"
    script = scripts.read("shlink_import.php").replace("/tmp/", inside)  # noqa: S108 -- of the pod
    script = script.replace("/import/", f"{inside}pieces/")
    request = '{"source": "csv", "answers": {"delimiter": ","}}'
    return _shlink(image, server, ["php", "-r", script], IMPORT=request)


def _stored(admin: psycopg.Connection[Any]) -> Mapping[str, Any]:
    rows = admin.execute(
        "SELECT s.short_code, d.authority, s.title, s.date_created::text, s.valid_until::text, "
        "s.max_visits FROM short_urls s LEFT JOIN domains d ON d.id = s.domain_id"
    )
    return {row[0]: row[1:] for row in rows}


def test_links_come_once_and_what_does_not_come_is_told(
    image: Path, server: PostgresServer, tmp_path: Path
) -> None:
    """With the dates and limits, which Shlink's importer alone would leave out."""
    code, output = _shlink(image, server, ["sh", "docker-entrypoint.sh"])
    assert code == 0, output
    file = tmp_path / "links.csv"
    file.write_text(LINKS)
    folder = image / "tmp" / tmp_path.name
    (folder / "pieces").mkdir(parents=True)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        for slug, url in (("here", "https://example.org/here"), ("taken", "https://example.org/x")):
            query = "INSERT INTO short_urls (original_url, short_code, date_created) "
            admin.execute(query + "VALUES (%s, %s, now())", (url, slug))
        for number, piece in enumerate(pieces(file)):
            (folder / f"pieces/links-{number}").write_bytes(piece)
        code, first = _import(image, server, folder)
        stored = _stored(admin)
        _, second = _import(image, server, folder)
        again = _stored(admin)
    assert code == 1, "not all of it came"
    assert "links: 8 read, 3 came, 1 were here already" in first
    assert "links: 8 read, 0 came, 4 were here already" in second
    assert stored == again
    assert "1: the source has this short code twice (xyz)" in first
    assert "1: Shlink's importer would change the short code" in first
    assert "1: its short code is taken by a link to another URL (taken)" in first
    assert "1: Provided data is not valid (bad)" in first
    abc = (None, 'A; "B"', "2024-01-01 00:00:00", "2030-01-01 00:00:00", 5)
    assert stored["abc"] == abc
    assert stored["xyz"][0] == "go.example.org"
    assert stored["own"][0] is None, "the default domain is stored as none"


def test_a_database_that_fails_ends_the_import_without_a_trace(
    image: Path, server: PostgresServer, tmp_path: Path
) -> None:
    """A trace may show arguments, and so a password."""
    folder = image / "tmp" / tmp_path.name
    (folder / "pieces").mkdir(parents=True)
    code, output = _import(image, server, folder)
    assert code == 1
    assert "it ended early:" in output
    assert server.password not in output
    assert "#0" not in output

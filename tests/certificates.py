"""An authority and servers' certificates for tests, made by the openssl command, and a server."""

import ssl
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NAMES = (
    "vault.vault.svc",
    "vault-active.vault.svc",
    "shlink-db-primary.postgres.svc",
    "shlink-db-pgbouncer.postgres.svc",
)
"""What the servers of an environment are called by their clients."""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True)
class Made:
    """Files of one authority and of the certificates that it signed."""

    folder: Path

    def read(self, name: str) -> str:
        return (self.folder / f"{name}.crt").read_text()

    def server(self, name: str) -> ssl.SSLContext:
        """A server's context with one of the certificates."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        return context


@cache
def made() -> Made:
    """`good`, `ending` in ten days and `expired` are signed by `authority`; `foreign` is not."""
    folder = Path(tempfile.mkdtemp(prefix="certificates-"))
    result = Made(folder)
    for authority in ("authority", "another"):
        files = ("-keyout", f"{authority}.key", "-out", f"{authority}.crt")
        _openssl(
            folder, "req", "-x509", *_KEY, *files, "-days", "3650", "-subj", f"/CN={authority}"
        )
    _signed(folder, "good", "authority", days=365)
    _signed(folder, "ending", "authority", days=10)
    _signed(folder, "expired", "authority", days=-1)
    _signed(folder, "foreign", "another", days=365)
    return result


def _signed(folder: Path, name: str, authority: str, days: int) -> None:
    names = ",".join(f"DNS:{item}" for item in NAMES)
    files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
    extensions = ("-addext", f"subjectAltName={names}")
    _openssl(folder, "req", *_KEY, *files, "-subj", f"/CN={name}", *extensions)
    signer = ("-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial")
    request = ("-in", f"{name}.csr", "-out", f"{name}.crt", "-copy_extensions", "copy")
    _openssl(folder, "x509", "-req", *request, *signer, "-days", str(days))


def _openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)  # noqa: S603, S607

"""A client of the API server, logged in by what one context of a kubeconfig says.

The login is not kr8s' own, which writes private keys to files and leaves those of a credential
plugin there, and which gives the connection to proxies that kubectl would not use.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import os
import ssl
from collections.abc import Generator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import kr8s.asyncio

from .access import AnswerError, ClusterError, LoginError, UnreachableError, answer, disconnect
from .proxies import proxy_for, shown

_SECONDS = 30.0
"""That one answer of the API server may take; a stream lasts as long as it is open."""

Entry = Mapping[str, Any]
"""A cluster or a user of a kubeconfig, with the paths of its files made absolute."""


class Login:
    """What kr8s' client asks of its login."""

    namespace = "default"

    def __init__(self, cluster: Entry, user: Entry) -> None:
        self._cluster, self._user = cluster, user
        self.server: str = cluster["server"]
        self.tls_server_name: str | None = cluster.get("tls-server-name")
        self.proxy: str | None = cluster.get("proxy-url") or proxy_for(self.server)
        self.token: str | None = None
        self.tls: ssl.SSLContext

    async def reauthenticate(self) -> None:
        """Read the credentials, or have the plugin make them. Raises ClusterError."""
        user = self._user
        if "exec" in user:
            user = {**user, **await _plugin(user["exec"])}
        self.tls = _tls(self._cluster, user)
        self.token = user.get("token")
        if file := user.get("tokenFile"):
            self.token = _read("tokenFile", file).decode().strip()


class Client(kr8s.asyncio.Api):
    """kr8s' client with this login and these proxies."""

    def __init__(self, login: Login) -> None:
        super().__init__(bypass_factory=True, kubeconfig={}, serviceaccount="")  # pyright: ignore[reportUnknownMemberType] - half typed
        self.auth: Any = login

    async def connect(self) -> None:
        """Log in, and see that the API server answers.

        Raises ClusterError, UnreachableError and AnswerError.
        """
        await self.auth.reauthenticate()
        status, _ = await answer(self, "GET", "", "", "", base="/version")
        if status == HTTPStatus.UNAUTHORIZED:
            raise LoginError("the API server does not accept the login (401), it may have expired")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise AnswerError(status, "/version")

    async def _create_session(self) -> None:
        await disconnect(self)
        login: Login = self.auth
        # Objects that this writes are known by it: operate/doctor/drift.py.
        headers = {"User-Agent": f"kr8s/{kr8s.__version__}", "Content-Type": "application/json"}
        if login.token:
            headers["Authorization"] = f"Bearer {login.token}"
        self._session = httpx.AsyncClient(
            base_url=login.server,
            headers=headers,
            transport=_Transport(login),
            timeout=_SECONDS,
            follow_redirects=True,
        )


class _Transport(httpx.AsyncHTTPTransport):
    """Takes no proxy from the environment by itself, and names the one that it takes."""

    def __init__(self, login: Login) -> None:
        super().__init__(verify=login.tls, proxy=login.proxy)
        self._way = login.server
        if login.proxy:
            self._way += f" through the proxy {shown(login.proxy)}"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise UnreachableError(f"no connection to {self._way} ({reason})") from None


async def _plugin(plugin: Mapping[str, Any]) -> dict[str, str]:
    """The credentials that a plugin prints, which no message holds. Raises LoginError."""
    command: str = plugin["command"]
    arguments: list[str] = plugin.get("args") or []
    settings: list[dict[str, str]] = plugin.get("env") or []
    request = {
        "apiVersion": plugin.get("apiVersion"),
        "kind": "ExecCredential",
        "spec": {"interactive": False},
    }
    environment = {**os.environ, "KUBERNETES_EXEC_INFO": json.dumps(request)}
    environment |= {item["name"]: item["value"] for item in settings}
    try:
        process = await asyncio.create_subprocess_exec(
            command,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise LoginError(
            f"the kubeconfig needs the command {command}, which can't be run here "
            f"({os.strerror(error.errno or 0)}). Install it"
        ) from None
    printed, _ = await process.communicate()
    failed = f"the kubeconfig's credential plugin {command}"
    if process.returncode:
        raise LoginError(f"{failed} failed ({process.returncode}). Log in again")
    try:
        status = json.loads(printed)["status"]
    except (ValueError, KeyError, TypeError):
        raise LoginError(f"{failed} printed no credentials. Log in again") from None
    pair = {
        f"{key}-data": base64.b64encode(status[field].encode()).decode()
        for key, field in _PAIR.items()
        if field in status
    }
    return pair | ({"token": status["token"]} if "token" in status else {})


_PAIR = {"client-certificate": "clientCertificateData", "client-key": "clientKeyData"}


def _tls(cluster: Entry, user: Entry) -> ssl.SSLContext:
    authority = _content(cluster, "certificate-authority")
    certificate, key = (_content(user, name) for name in _PAIR)
    try:
        if authority is None:
            context = httpx.create_ssl_context()
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=authority.decode("ascii", errors="ignore"))
        if certificate and key:
            with _piped(certificate) as certificate_path, _piped(key) as key_path:
                # A password, or OpenSSL would ask a person for the one of an encrypted key.
                context.load_cert_chain(certificate_path, key_path, password="")
    except ssl.SSLError as error:
        reason = error.reason or "not PEM"
        raise ClusterError(f"the kubeconfig's certificates can't be used: {reason}") from None
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@contextlib.contextmanager
def _piped(content: bytes) -> Generator[str]:
    """A path that reads this once. Python loads a key only from a path, and a file may stay."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with open(writing, "wb", buffering=0) as pipe:  # noqa: PTH123 - it has no path
            if pipe.write(content) != len(content):
                raise ClusterError("the kubeconfig's client certificate or key is too long")
        yield f"/dev/fd/{reading}"
    finally:
        os.close(reading)


def _content(entry: Entry, key: str) -> bytes | None:
    """What a key of a kubeconfig holds, or the file that it names."""
    if data := entry.get(f"{key}-data"):
        try:
            return base64.b64decode(data)
        except binascii.Error:
            raise ClusterError(f"the kubeconfig's {key}-data is not Base64") from None
    return _read(key, entry[key]) if key in entry else None


def _read(key: str, file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError:
        raise ClusterError(f"the kubeconfig's {key} is not there: {file}") from None

"""The far ends of websockets that the API server opens to a pod: a command, or a server's port."""

import asyncio
import contextlib
import json
import ssl
import struct
from collections.abc import Callable
from typing import Protocol


class Server(Protocol):
    """What listens on a pod's port."""

    def answer(self, data: bytes) -> bytes: ...


class Port:
    """One forwarded port: every frame begins with its channel, the first of each with the port."""

    def __init__(self, port: int, server: Server) -> None:
        self._server = server
        head = struct.pack("<H", port)
        self._frames = [b"\0" + head, b"\1" + head]

    async def send_bytes(self, data: bytes) -> None:
        assert data[:1] == b"\0"
        answer = self._server.answer(data[1:])
        if answer:
            self._frames.append(b"\0" + answer)

    async def receive_bytes(self) -> bytes:
        return self._frames.pop(0)


class Closed:
    """A port on which nothing listens."""

    async def send_bytes(self, data: bytes) -> None:
        assert data

    async def receive_bytes(self) -> bytes:
        return b"\1\0\0connection refused"


class Hung:
    """A port whose server takes a connection and says nothing."""

    async def send_bytes(self, data: bytes) -> None:
        assert data

    async def receive_bytes(self) -> bytes:
        await asyncio.sleep(3600)
        return b""


class Unauthenticated:
    """A Redis that was told no password."""

    def answer(self, data: bytes) -> bytes:
        return b"-NOAUTH Authentication required.\r\n" if data else b""


class Plain:
    """A PostgreSQL that offers no TLS."""

    def answer(self, data: bytes) -> bytes:
        return b"N" if data else b""


class Command:
    """A command that prints one text, or fails."""

    def __init__(self, printed: str | None) -> None:
        self._frames: list[bytes] = []
        status: dict[str, str] = {"status": "Success"}
        if printed is None:
            self._frames.append(b"\2psql: error: password=hunter2")
            status = {"status": "Failure"}
        else:
            self._frames.append(b"\1" + printed.encode() + b"\n")
        self._frames.append(b"\3" + json.dumps(status).encode())

    async def receive_bytes(self) -> bytes:
        return self._frames.pop(0)


class RedisSentinel:
    """Answers one command by the address of the master it knows; nil without one."""

    def __init__(self, master: str) -> None:
        self._master = master

    def answer(self, data: bytes) -> bytes:
        assert data == b"SENTINEL get-master-addr-by-name mymaster\r\n"
        if not self._master:
            return b"*-1\r\n"
        parts = (self._master, "6379")
        return b"*2\r\n" + b"".join(f"${len(part)}\r\n{part}\r\n".encode() for part in parts)


class TlsServer:
    """A server's side of a TLS handshake, after PostgreSQL's question where it asks one.

    `http`: answers the requests that follow, each of which comes as a whole.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        starts_plain: bool,
        http: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self._plain = starts_plain
        self._http = http
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def answer(self, data: bytes) -> bytes:
        if self._plain:
            self._plain = False
            assert struct.unpack("!II", data) == (8, 80877103)
            return b"S"
        self._incoming.write(data)
        # A refusal of the client ends it; what it knows of the client is not asked here.
        with contextlib.suppress(ssl.SSLError):
            self._session.do_handshake()
            request = self._session.read()
            if self._http:
                self._session.write(self._http(request))
        return self._outgoing.read()


def vault_login(request: bytes, refusal: str) -> bytes:
    """What Vault answers to a login with a token of nobody's; `refusal` to a role that is known."""
    role = json.loads(request.partition(b"\r\n\r\n")[2])["role"]
    status, error = refusal.partition(" ")[::2] if refusal else ("403", "permission denied")
    if role == "doctor-asks-for-no-role" and status in ("400", "403") and "mount" not in error:
        status, error = "400", f'invalid role name "{role}"'
    body = json.dumps({"errors": [error]})
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n"
    return f"{head}{body}".encode()

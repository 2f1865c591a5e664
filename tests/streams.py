"""The far ends of websockets that the API server opens to a pod: a command, or a server's port."""

import contextlib
import json
import ssl
import struct
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
    """A server's side of a TLS handshake, after PostgreSQL's question where it asks one."""

    def __init__(self, context: ssl.SSLContext, *, starts_plain: bool) -> None:
        self._plain = starts_plain
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
        return self._outgoing.read()

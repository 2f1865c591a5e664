"""Streams to pods, by the real websocket client and by the libraries' own errors."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import httpx
import kr8s.asyncio
import pytest
from httpx_ws import WebSocketNetworkError
from httpx_ws.transport import ASGIWebSocketTransport

from components.cluster import streams
from components.cluster.access import ClusterAccess
from components.cluster.execute import Container, ExecuteError, execute
from components.cluster.streams import PortError, StreamError

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

DATABASE = Container("postgres", {"role": "master"}, "database")
RIGHT = "get and create on pods/exec, in namespace postgres: deploy/rbac/restore.yaml"


class Server:
    """An API server with one pod: answers a list, and streams as a test says."""

    def __init__(self, *frames: bytes, lists: int = 200, opens: int = 101, ends: int = 0) -> None:
        """`ends`: the code with which it ends a stream after its frames; 0: not at all."""
        self._frames, self._lists, self.opens, self._ends = frames, lists, opens, ends
        self.asked: list[tuple[str, list[tuple[str, str]]]] = []

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        self.asked.append((scope["path"], httpx.QueryParams(scope["query_string"]).multi_items()))
        if scope["type"] == "websocket":
            await self._stream(receive, send)
            return
        pod = {"metadata": {"name": "db-0"}, "status": {"phase": "Running"}}
        body = json.dumps({"items": [pod], "message": "pods is forbidden"}).encode()
        await send({"type": "http.response.start", "status": self._lists, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def _stream(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "v4.channel.k8s.io"})
        for frame in self._frames:
            await send({"type": "websocket.send", "bytes": frame})
        if self._ends:
            await send({"type": "websocket.close", "code": self._ends, "reason": "kubelet gone"})
        while (await receive())["type"] != "websocket.disconnect":
            pass


class Transport(ASGIWebSocketTransport):
    """To a server, which may refuse a stream."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)  # pyright: ignore[reportUnknownMemberType] - unannotated there
        self._opens = server.opens

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "upgrade" in request.headers and self._opens != HTTPStatus.SWITCHING_PROTOCOLS:
            return httpx.Response(self._opens)
        return await super().handle_async_request(request)


class Access(ClusterAccess):
    server: Server

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator[Any]:
        api: Any = kr8s.asyncio.Api(bypass_factory=True, kubeconfig={})
        session = httpx.AsyncClient(transport=Transport(self.server), base_url="http://cluster")
        api._session = await session.__aenter__()  # noqa: SLF001 - as kr8s does after a login
        try:
            yield api
        finally:
            # Without the error, which this transport would wrap once more.
            await session.__aexit__(None, None, None)


def access(server: Server) -> ClusterAccess:
    return type("OneAccess", (Access,), {"server": server})("lab")


def executed(server: Server, patience: float = 5) -> str:
    return asyncio.run(execute(access(server), DATABASE, ("psql", "-c", "s3cret"), patience))


def status(code: int | None, **fields: Any) -> bytes:
    causes = [] if code is None else [{"reason": "ExitCode", "message": str(code)}]
    return (
        b"\3" + json.dumps({"status": "Failure", "details": {"causes": causes}, **fields}).encode()
    )


SUCCESS = b"\3" + json.dumps({"status": "Success"}).encode()


def test_a_command_in_the_first_running_pod() -> None:
    server = Server(b"\1one ", b"\2warning", b"\1two", SUCCESS)
    assert executed(server) == "one two"
    (_, selector), (path, parameters) = server.asked
    assert selector == [("labelSelector", "role=master")]
    assert path == "/api/v1/namespaces/postgres/pods/db-0/exec"
    assert [text for key, text in parameters if key == "command"] == ["psql", "-c", "s3cret"]


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (Server(b"\2no such table\n", status(3)), "ended with 3: no such table"),
        (Server(status(None, message="no such file")), "ended with 1: no such file"),
        (Server(b"\1half", ends=1000), "pods/db-0/exec ended too early: 1000 kubelet gone"),
        (
            Server(opens=403),
            f"403 from the API server: pods/db-0/exec. It takes list on pods, and {RIGHT}",
        ),
        (Server(lists=403), RIGHT),
        (Server(opens=502), "502 from the API server: pods/db-0/exec"),
        (Server(b"\1half"), "no end within 0.2 s"),
    ],
    ids=["failed", "not started", "broken", "no exec", "no list", "no kubelet", "hung"],
)
def test_a_command_that_can_not_be_run_says_what_happened(server: Server, message: str) -> None:
    with pytest.raises(ExecuteError) as error:
        executed(server, patience=0.2)
    text = str(error.value)
    assert text.startswith("psql in container database of the pods with role=master")
    assert text.endswith(message)
    assert ("deploy/rbac" in text) == ("403" in text)
    assert "s3cret" not in text


async def received(server: Server) -> bytes:
    async with (
        access(server).connected() as api,
        streams.connection(api, "redis", "redis-0", 6379) as connection,
    ):
        return await connection.receive()


def test_a_port_that_answers_and_that_does_not() -> None:
    head = (b"\0\xeb\x18", b"\1\xeb\x18")
    assert asyncio.run(received(Server(*head, b"\0+PONG"))) == b"+PONG"
    with pytest.raises(PortError, match=r"^connection refused$"):
        asyncio.run(received(Server(*head, b"\1connection refused\n")))


def test_a_stream_that_breaks_is_one_error_and_no_group() -> None:
    with pytest.raises(StreamError, match="kubelet gone"):
        asyncio.run(received(Server(ends=1000)))


class Breaking:
    """A network that fails under an open stream, as httpx-ws 0.9 tells it."""

    @contextlib.asynccontextmanager
    async def open_websocket(self, **_: Any) -> AsyncGenerator[Any]:
        raise ExceptionGroup("unhandled", [ExceptionGroup("", [WebSocketNetworkError()])])
        yield


def test_a_network_that_fails_is_told_as_that() -> None:
    with pytest.raises(StreamError, match="the connection broke"):
        asyncio.run(streams.run(Breaking(), "postgres", "db-0", "database", ("true",)))

"""Forwards without a cluster: ports, messages, kubeconfigs, and the relay to a simulated server."""

import asyncio
import contextlib
import contextvars
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Coroutine, Iterator
from http import HTTPStatus
from typing import Any

import httpx
import httpx_ws
import pytest

from components.cluster import forward
from components.cluster.access import (
    AnswerError,
    ClusterAccess,
    ClusterError,
    LoginError,
    UnreachableError,
)
from components.cluster.forward import Forward, ForwardError, ForwardTarget, Relay, local_port
from components.cluster.streams import PortStream, StreamError

TARGET = ForwardTarget(
    "postgres/shlink-db-primary", "postgres", {"cluster": "shlink-db", "role": "master"}, 5432
)
ACCESS = ClusterAccess("prod eu", "/etc/kube config")
SHORT = "kubectl --context dev -n postgres"
KUBECTL = "kubectl --kubeconfig '/etc/kube config' --context 'prod eu' -n postgres"


def _name_of_exception(value: Any) -> str:
    """For the id of a case."""
    return type(value).__name__ if isinstance(value, Exception) else ""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Refusing(ClusterAccess):
    """An API server that fails every login as a test says, and counts them."""

    error: Exception
    logins = 0

    async def client(self) -> Any:
        type(self).logins += 1
        raise self.error


@pytest.fixture
def refusing() -> type[Refusing]:
    return type("RefusingOnce", (Refusing,), {})


# Ports


def test_a_port_is_the_same_in_every_run() -> None:
    """Providers' inputs contain the port, so another one would be a change in every stack."""
    assert local_port("shlink", "dev", "vault/vault") == 23352
    assert local_port("shlink", "dev", "postgres/shlink-db-primary") == 24214


def test_ports_are_spread_over_their_range() -> None:
    ports: list[int] = []
    for number in range(500):
        ports.append(local_port("shlink", f"stack-{number}", "vault/vault"))
        ports.append(local_port("shlink", f"stack-{number}", "postgres/db"))
    assert all(20000 <= port < 30000 for port in ports)
    assert len(set(ports)) > 900


def test_a_taken_port_names_service_port_and_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ForwardError) as refused:
            Forward(ACCESS, TARGET, port, "shlink:postgres").start()
    assert str(refused.value) == (
        f"postgres/shlink-db-primary: port {port} of 127.0.0.1 can't be bound: "
        "Address already in use. Stop what holds it, perhaps `make forward` or another run of "
        "this stack, or choose another: pulumi config set --path shlink:postgres.localPort PORT"
    )


def test_binding_asks_nothing_of_the_cluster_and_imports_no_client() -> None:
    program = (
        "import sys\n"
        "from components.cluster.forward import *\n"
        "access = ClusterAccess('nowhere', '/nowhere')\n"
        "target = ForwardTarget('s', 'n', {}, 1)\n"
        f"Forward(access, target, {free_port()}, 'shlink:s').start()\n"
        "print([name for name in ('kr8s', 'httpx') if name in sys.modules])"
    )
    done = subprocess.run(  # noqa: S603 -- this interpreter, our words
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_close_frees_the_port_and_may_be_repeated(refusing: type[Refusing]) -> None:
    port = free_port()
    forward = Forward(refusing("dev"), TARGET, port, "shlink:postgres")
    forward.close()
    for _ in range(2):
        forward.start()
        forward.close()
        forward.close()
    assert refusing.logins == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


# Messages


def reported(
    refusing: type[Refusing], error: Exception, connections: int = 1, timeout: float = 0.1
) -> list[str]:
    refusing.error = error
    messages: list[str] = []
    port = free_port()
    forward = Forward(
        refusing("prod eu", "/etc/kube config"),
        TARGET,
        port,
        "shlink:postgres",
        timeout=timeout,
        report=messages.append,
    )
    forward.start()
    with contextlib.closing(forward):
        for _ in range(connections):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                assert client.recv(1) == b""
        time.sleep(0.1)
    return messages


PLUGIN = LoginError("the kubeconfig's credential plugin aws failed (1). Log in again")
CONTEXTS = (
    "Set kubernetes:context, and kubernetes:kubeconfig where needed, "
    "to what kubectl config get-contexts shows"
)
ROLE = (
    "It takes a Role there with list on pods, and get and create on pods/portforward; "
    f"check with {KUBECTL} auth can-i create pods --subresource=portforward (and the same with get)"
)
CHECK = f"Check that this works here: {KUBECTL} get pods"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            AnswerError(503, "/version"),
            f"503 from the API server: /version (0.1 s long). {CHECK}",
        ),
        (
            UnreachableError("no connection to https://c (refused)"),
            f"no connection to https://c (refused) (0.1 s long). {CHECK}",
        ),
        (
            StreamError("the connection broke"),
            f"the connection broke (0.1 s long). {CHECK}",
        ),
        (PLUGIN, f"the kubeconfig's credential plugin aws failed (1). Log in again. {CHECK}"),
        (
            ClusterError("the kubeconfig has no context 'prod eu', only: dev"),
            f"the kubeconfig has no context 'prod eu', only: dev. {CONTEXTS}",
        ),
        (ValueError("never\nseen"), f"ValueError: never seen. {CHECK}"),
    ],
    ids=_name_of_exception,
)
def test_every_failure_is_one_line_with_service_cause_and_remedy(
    refusing: type[Refusing], error: Exception, expected: str
) -> None:
    direct = "Where a direct way exists, shlink:postgres.address takes it instead."
    assert reported(refusing, error) == [
        f"postgres/shlink-db-primary can't be reached: {expected}. {direct}"
    ]


def test_a_cause_is_reported_once(refusing: type[Refusing]) -> None:
    assert len(reported(refusing, PLUGIN, connections=5)) == 1
    assert refusing.logins == 5


def test_the_report_sees_the_context_of_the_program(refusing: type[Refusing]) -> None:
    """Pulumi keeps the engine that pulumi.log.error talks to in context variables."""
    engine = contextvars.ContextVar("engine", default="none")
    refusing.error = PLUGIN
    seen: list[str] = []
    port = free_port()
    engine.set("here")
    forward = Forward(
        refusing("dev"), TARGET, port, "shlink:postgres", report=lambda _: seen.append(engine.get())
    )
    forward.start()
    with (
        contextlib.closing(forward),
        socket.create_connection(("127.0.0.1", port), timeout=5) as client,
    ):
        assert client.recv(1) == b""
        time.sleep(0.1)
    assert seen == ["here"]


def test_only_what_may_pass_is_tried_again(refusing: type[Refusing]) -> None:
    reported(refusing, UnreachableError("refused"), timeout=0.7)
    assert refusing.logins == 2


def test_a_kubeconfig_by_its_contents_stays_out_of_messages() -> None:
    assert ClusterAccess("dev", json.dumps({"users": []})).kubectl == "kubectl --context dev"
    assert ClusterAccess("dev", "users:\n- token").kubectl == "kubectl --context dev"


# The right pod


def pod(
    name: str, *, phase: str = "Running", ready: str = "True", deleted: bool = False
) -> dict[str, Any]:
    metadata = {"name": name, **({"deletionTimestamp": "2026-01-01T00:00:00Z"} if deleted else {})}
    return {
        "metadata": metadata,
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]},
    }


class Cluster:
    """What a forward uses of a client: pods as a test says, and the streams it opens."""

    def __init__(
        self,
        *pods: dict[str, Any],
        statuses: tuple[int, ...] = (),
        stays: bool = False,
        opens: int = 101,
    ) -> None:
        self.pods, self.statuses, self.opened = list(pods), list(statuses), list[str]()
        self._stays, self._opens = stays, opens
        self._session = None

    @contextlib.asynccontextmanager
    async def call_api(self, *_: Any, **__: Any) -> AsyncGenerator[httpx.Response]:
        status = self.statuses.pop(0) if self.statuses else 200
        yield httpx.Response(status, json={"items": self.pods})

    @contextlib.asynccontextmanager
    async def open_websocket(self, *, url: str, **_: Any) -> AsyncGenerator["Server"]:
        self.opened.append(url)
        if self._opens != HTTPStatus.SWITCHING_PROTOCOLS:
            raise httpx_ws.WebSocketUpgradeError(httpx.Response(self._opens))
        yield Server(b"\0\x38\x15", b"\1\x38\x15", b"\0hello", stays=self._stays)


class Fake(ClusterAccess):
    logins = 0
    cluster: Cluster

    async def client(self) -> Any:
        type(self).logins += 1
        return self.cluster


def talk(cluster: Cluster, connections: int = 1) -> tuple[list[bytes], list[str], int]:
    fake = type("Fake", (Fake,), {"cluster": cluster})
    messages: list[str] = []
    port = free_port()
    forward = Forward(
        fake("dev"), TARGET, port, "shlink:postgres", timeout=1.2, report=messages.append
    )
    forward.start()
    answers: list[bytes] = []
    with contextlib.closing(forward):
        for _ in range(connections):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                answers.append(client.recv(100))
        time.sleep(0.1)
    return answers, messages, fake.logins


def test_the_pod_is_running_ready_and_not_being_deleted() -> None:
    cluster = Cluster(
        pod("a", deleted=True), pod("b", phase="Pending"), pod("c", ready="False"), pod("d")
    )
    answers, messages, logins = talk(cluster, connections=3)
    assert (answers, messages, logins) == ([b"hello"] * 3, [], 1)
    assert cluster.opened == ["pods/d/portforward"] * 3


def test_pods_that_are_not_ready_are_named() -> None:
    _, messages, _ = talk(Cluster(pod("b", ready="False"), pod("a", deleted=True)))
    assert (
        "not Ready: a, b in namespace postgres (1.2 s long). "
        "See kubectl --context dev -n postgres describe pods" in messages[0]
    )


def test_an_expired_login_is_renewed() -> None:
    assert talk(Cluster(pod("a"), statuses=(401,))) == ([b"hello"], [], 2)


def test_a_refused_list_is_not_tried_again() -> None:
    answers, messages, _ = talk(Cluster(pod("a"), statuses=(403,)))
    assert answers == [b""]
    assert "no permission to list pods in namespace postgres (403)" in messages[0]
    assert "auth can-i list pods" in messages[0]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (
            404,
            f"the API server answers 404 to get and create pods/portforward (1.2 s long). {CHECK}",
        ),
        (400, f"the API server answers 400 to get and create pods/portforward. {CHECK}"),
        (
            403,
            f"no permission to get and create pods/portforward in namespace postgres (403). {ROLE}",
        ),
    ],
)
def test_a_refused_stream_says_what_the_api_server_answers(status: int, expected: str) -> None:
    _, messages, _ = talk(Cluster(pod("a"), opens=status))
    assert expected in messages[0].replace(SHORT, KUBECTL)


def test_a_cause_that_comes_back_after_a_success_is_reported_again() -> None:
    answers, messages, _ = talk(Cluster(pod("a"), statuses=(403, 403, 200, 403)), connections=4)
    assert answers == [b"", b"", b"hello", b""]
    assert len(messages) == 2


def test_close_cuts_open_connections_quietly(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    cluster = Cluster(pod("a"), stays=True)
    forward = Forward(
        type("Fake", (Fake,), {"cluster": cluster})("dev"),
        TARGET,
        port,
        "shlink:postgres",
        report=print,
    )
    forward.start()
    with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
        assert client.recv(100) == b"hello"
        forward.close()
        assert client.recv(100) == b""
    assert caplog.records == []


# The relay


class Server:
    """The far end of a port-forward: sends its frames and closes, or stays silent with `stays`."""

    def __init__(self, *frames: bytes, stays: bool = False) -> None:
        self._frames: asyncio.Queue[bytes] = asyncio.Queue()
        for frame in frames:
            self.say(frame)
        if not stays:
            self.say(b"")
        self.received = bytearray()

    def say(self, frame: bytes) -> None:
        self._frames.put_nowait(frame)

    async def receive_bytes(self) -> bytes:
        frame = await self._frames.get()
        if not frame:
            raise httpx_ws.WebSocketDisconnect
        return frame

    async def send_bytes(self, data: bytes) -> None:
        assert data[0] == 0
        self.received += data[1:]


async def relayed(
    server: Server, near: socket.socket, client: Coroutine[Any, Any, None] | None = None
) -> str | None:
    """Relay between the server and one end of a socket pair, while the client acts on the other."""
    reader, writer = await asyncio.open_connection(sock=near)
    acting = asyncio.ensure_future(client) if client else None
    try:
        refusal = await Relay(PortStream(server), reader, writer).run()
    finally:
        writer.close()
        await writer.wait_closed()
    if acting:
        await acting
    return refusal


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    far.settimeout(5)
    with near, far:
        yield near, far


@pytest.fixture(autouse=True)
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "_DRAIN_SECONDS", 0.2)


@pytest.mark.parametrize(
    "frames",
    [
        (b"\0\x38\x15", b"\1\x38\x15", b"\0hello ", b"\0world"),
        (b"\0\x38\x15hello ", b"\1\x38\x15", b"\0world"),
        (b"\0\x38", b"\0\x15hello world"),
        (b"\0", b"\0\x38\x15hello world", b"\1\x38\x15"),
    ],
)
def test_the_port_bytes_are_dropped_wherever_they_come(
    ends: tuple[socket.socket, socket.socket], frames: tuple[bytes, ...]
) -> None:
    near, far = ends
    assert asyncio.run(relayed(Server(*frames), near)) is None
    assert far.recv(100, socket.MSG_WAITALL) == b"hello world"


def test_what_the_server_said_before_it_closed_arrives(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    sent = b"x" * 5_000_000
    frames = [b"\0" + sent[start : start + 100_000] for start in range(0, len(sent), 100_000)]

    async def read_while_writing() -> bytes:
        far.sendall(b"unread by a server that is done")
        return await asyncio.to_thread(far.makefile("rb").read)

    async def both() -> bytes:
        reading = asyncio.ensure_future(read_while_writing())
        await relayed(Server(b"\0\x38\x15", *frames), near)
        return await reading

    assert asyncio.run(both()) == sent


def test_a_client_that_only_listens_on_hears_the_answer(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    server = Server(b"\0\x38\x15", stays=True)

    async def client() -> None:
        far.sendall(b"question")
        far.shutdown(socket.SHUT_WR)
        for word in (b"\0slow ", b"\0answer"):
            await asyncio.sleep(0.15)
            server.say(word)

    begun = time.monotonic()
    assert asyncio.run(relayed(server, near, client())) is None
    assert 0.5 <= time.monotonic() - begun < 1.5
    assert server.received == b"question"
    assert far.recv(100, socket.MSG_WAITALL) == b"slow answer"


def test_a_client_that_left_is_not_kept_for_long(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    far.close()
    begun = time.monotonic()
    assert asyncio.run(relayed(Server(b"\0\x38\x15", stays=True), near)) is None
    assert time.monotonic() - begun < 1


REFUSED = b"\1error forwarding port 5432 to pod db-0: connection refused\n"


def test_an_error_instead_of_an_answer_is_returned(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = ends
    server = Server(b"\0\x38\x15", b"\1\x38\x15", REFUSED, stays=True)
    assert (
        asyncio.run(relayed(server, near))
        == "error forwarding port 5432 to pod db-0: connection refused"
    )


def test_an_error_after_an_answer_is_an_ordinary_end(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends
    assert (
        asyncio.run(relayed(Server(b"\0\x38\x15bye", b"\1\x38\x15", REFUSED, stays=True), near))
        is None
    )
    assert far.recv(100, socket.MSG_WAITALL) == b"bye"

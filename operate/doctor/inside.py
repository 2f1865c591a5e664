"""What doctor asks of a pod itself, where the caller may: a port's answer, a command's output.

Doctor's own role may neither forward a port nor run a command, so each question asks first whether
this login may (SelfSubjectAccessReview). A check without that right is skipped and says which right
it lacks; it is no finding.
"""

import base64
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import h11

from operate.view import NoAnswerError, Object, Reply, SkippedError, View, at

from .findings import Environment

T = TypeVar("T")

_PROTOCOL = "v4.channel.k8s.io"
"""Of both streams: the first byte of each frame is its channel."""

_STDOUT, _STATUS = 1, 3

_FORWARD_ERROR = 1

RIGHTS = "deploy/rbac/doctor-inside.yaml grants it"

_STORES = "external-secrets.io/v1/secretstores"

_SECONDS_PER_DAY = 86400


class Tunnel:
    """A connection to a port of a pod, through the API server."""

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        # On each channel the server first sends two bytes, the port.
        self._port_bytes = dict[int, int]()

    async def send(self, data: bytes) -> None:
        """Send bytes to the port."""
        await self._websocket.send_bytes(b"\0" + data)

    async def receive(self) -> bytes:
        """The next bytes of the port. Raises NoAnswerError when nothing listens there."""
        while True:
            frame = await self._websocket.receive_bytes()
            channel, data = frame[0], frame[1:]
            skipped = min(self._port_bytes.setdefault(channel, 2), len(data))
            self._port_bytes[channel] -= skipped
            if not data[skipped:]:
                continue
            if channel == _FORWARD_ERROR:
                raise NoAnswerError("nothing answers on the pod's port")
            return data[skipped:]


@contextlib.asynccontextmanager
async def tunnel(view: View, namespace: str, pod: str, port: int) -> AsyncGenerator[Tunnel]:
    """A connection to a port of a pod. Raises SkippedError and NoAnswerError."""
    await _require(view, namespace, "portforward")
    path = f"pods/{pod}/portforward"
    async with view.websocket(namespace, path, {"ports": str(port)}, _PROTOCOL) as websocket:
        yield Tunnel(websocket)


async def output(
    view: View, namespace: str, pod: str, container: str, command: Sequence[str]
) -> str:
    """What a command in a container prints. Raises SkippedError, and NoAnswerError if it fails."""
    await _require(view, namespace, "exec")
    parameters = {
        "command": list(command),
        "container": container,
        "stdout": "true",
        "stderr": "true",
    }
    printed = b""
    path = f"pods/{pod}/exec"
    async with view.websocket(namespace, path, parameters, _PROTOCOL) as websocket:
        while True:
            frame = await websocket.receive_bytes()
            if frame[:1] == bytes([_STDOUT]):
                printed += frame[1:]
            elif frame[:1] == bytes([_STATUS]):
                status = json.loads(frame[1:])
                break
    if status.get("status") != "Success":
        # Not what it printed: a server's error may quote a statement, and a password in it.
        raise NoAnswerError(f"{command[0]} fails in container {container} of pod {pod}")
    return printed.decode(errors="replace")


async def _require(view: View, namespace: str, subresource: str) -> None:
    """Raises SkippedError without the right to GET a websocket; since Kubernetes 1.35, POST too."""
    for verb in ("get", "create"):
        if not await view.may(verb, "pods", subresource, namespace):
            raise SkippedError(
                f"it takes get and create on pods/{subresource} in namespace {namespace}; {RIGHTS}"
            )


async def authority(environment: Environment) -> str:
    """The certificates that clients of this environment trust, as PEM text; not secret.

    External Secrets is given them in its SecretStores, which the read role sees. Empty where no
    store exists yet.
    """
    for manifest in environment.declared.of_kind("SecretStore"):
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        store = await environment.view.named(_STORES, namespace, name)
        bundle = at(store, "spec", "provider", "vault", "caBundle") if store else None
        if bundle:
            return base64.b64decode(str(bundle)).decode(errors="replace")
    return ""


def trusting(authority_pem: str) -> ssl.SSLContext:
    """A client's context that trusts this authority alone. Raises ssl.SSLError: it is no PEM."""
    context = ssl.create_default_context(cadata=authority_pem)
    # Go and libpq, which are the clients here, are not that strict.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class _Session:
    """A TLS session of a client over a tunnel."""

    def __init__(self, connection: Tunnel, context: ssl.SSLContext, name: str) -> None:
        self._connection = connection
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)

    async def handshake(self) -> None:
        """Raises ssl.SSLCertVerificationError: this client refuses the server's certificate."""
        await self._step(self.tls.do_handshake)
        # The end of the handshake, without which the server would log an error.
        await self._connection.send(self._outgoing.read())

    async def send(self, data: bytes) -> None:
        self.tls.write(data)
        await self._connection.send(self._outgoing.read())

    async def receive(self) -> bytes:
        return await self._step(self.tls.read)

    async def _step(self, act: Callable[[], T]) -> T:
        """Do something that may have to wait for bytes of the server."""
        while True:
            try:
                return act()
            except ssl.SSLWantReadError:
                if self._outgoing.pending:
                    await self._connection.send(self._outgoing.read())
                self._incoming.write(await self._connection.receive())


async def certificate(connection: Tunnel, context: ssl.SSLContext, name: str) -> Object:
    """The certificate that a server shows.

    Raises ssl.SSLCertVerificationError: a client refuses it.
    """
    session = _Session(connection, context, name)
    await session.handshake()
    return cast("Mapping[str, Any]", session.tls.getpeercert())


async def posted(
    connection: Tunnel, context: ssl.SSLContext, host: str, path: str, fields: Object
) -> Reply:
    """The answer of an HTTPS server to a POST of JSON. Raises NoAnswerError and ssl.SSLError."""
    session = _Session(connection, context, host)
    await session.handshake()
    client = h11.Connection(h11.CLIENT)
    body = json.dumps(fields).encode()
    headers = {
        "Host": host,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    request = h11.Request(method="POST", target=path, headers=list(headers.items()))
    parts = (request, h11.Data(data=body), h11.EndOfMessage())
    await session.send(b"".join(client.send(part) or b"" for part in parts))
    status, text = 0, b""
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                client.receive_data(await session.receive())
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                text += event.data
    except h11.RemoteProtocolError as error:
        raise NoAnswerError(f"{host} does not speak HTTP: {error}") from None
    try:
        answer = json.loads(text)
    except ValueError:
        answer = text.decode(errors="replace")
    return Reply(status, answer)


def days_left(view: View, shown: Object) -> float:
    """Days until a certificate ends, as the standard library parses it."""
    end = ssl.cert_time_to_seconds(str(shown["notAfter"]))
    return (end - view.now.timestamp()) / _SECONDS_PER_DAY

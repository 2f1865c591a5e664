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

from components.cluster import streams
from components.cluster.streams import PortStream
from operate.view import NoAnswerError, Object, Reply, SkippedError, View, at

from .findings import Environment

T = TypeVar("T")

RIGHTS = "deploy/rbac/doctor-inside.yaml grants it"

_STORES = "external-secrets.io/v1/secretstores"

_SECONDS_PER_DAY = 86400


@contextlib.asynccontextmanager
async def tunnel(view: View, namespace: str, pod: str, port: int) -> AsyncGenerator[PortStream]:
    """A connection to a port of a pod. Raises SkippedError and NoAnswerError."""
    await _require(view, namespace, "portforward")
    async with (
        view.patiently(f"port {port} of pod {pod}"),
        streams.connection(view.api, namespace, pod, port) as connection,
    ):
        yield connection


async def output(
    view: View, namespace: str, pod: str, container: str, command: Sequence[str]
) -> str:
    """What a command in a container prints. Raises SkippedError, and NoAnswerError if it fails."""
    await _require(view, namespace, "exec")
    async with view.patiently(f"{command[0]} in pod {pod}"):
        ended = await streams.run(view.api, namespace, pod, container, command)
    if ended.code:
        # Not what it printed: a server's error may quote a statement, and a password in it.
        raise NoAnswerError(f"{command[0]} fails in container {container} of pod {pod}")
    return ended.output


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

    def __init__(self, connection: PortStream, context: ssl.SSLContext, name: str) -> None:
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


async def certificate(connection: PortStream, context: ssl.SSLContext, name: str) -> Object:
    """The certificate that a server shows.

    Raises ssl.SSLCertVerificationError: a client refuses it.
    """
    session = _Session(connection, context, name)
    await session.handshake()
    return cast("Mapping[str, Any]", session.tls.getpeercert())


async def posted(
    connection: PortStream, context: ssl.SSLContext, host: str, path: str, fields: Object
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

"""Streams to a pod through the API server: a command, or a connection to one of its ports.

They speak Kubernetes' v4.channel.k8s.io: the first byte of each frame is its channel.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .access import AnswerError

_PROTOCOL = "v4.channel.k8s.io"

_PORT_ERROR = 1

_STDOUT, _STDERR, _STATUS = 1, 2, 3


class StreamError(ConnectionError):
    """A stream ended before its time; the message says how."""


class PortError(ConnectionError):
    """Nothing answers on the pod's port; the message is the kubelet's."""


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    errors: str


class PortStream:
    """A connection to a port of a pod."""

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        # On each channel the server first sends two bytes, the port.
        self._port_bytes = dict[int, int]()

    async def send(self, data: bytes) -> None:
        """Send bytes to the port."""
        await self._websocket.send_bytes(b"\0" + data)

    async def receive(self) -> bytes:
        """The next bytes of the port. Raises PortError, and whatever ends the stream."""
        while True:
            frame = await self._websocket.receive_bytes()
            channel, data = frame[0], frame[1:]
            skipped = min(self._port_bytes.setdefault(channel, 2), len(data))
            self._port_bytes[channel] -= skipped
            if not data[skipped:]:
                continue
            if channel == _PORT_ERROR:
                raise PortError(data[skipped:].decode(errors="replace").strip())
            return data[skipped:]


@contextlib.asynccontextmanager
async def connection(api: Any, namespace: str, pod: str, port: int) -> AsyncGenerator[PortStream]:
    """A connection to a port of a pod. Raises AnswerError and StreamError."""
    path, parameters = f"pods/{pod}/portforward", {"ports": str(port)}
    async with _opened(api, namespace, path, parameters) as websocket:
        yield PortStream(websocket)


async def run(api: Any, namespace: str, pod: str, container: str, command: Sequence[str]) -> Ended:
    """Run a command in a container until it ends. Raises AnswerError and StreamError."""
    parameters = {
        "command": list(command),
        "container": container,
        "stdout": "true",
        "stderr": "true",
    }
    printed = {_STDOUT: b"", _STDERR: b""}
    async with _opened(api, namespace, f"pods/{pod}/exec", parameters) as websocket:
        while (frame := await websocket.receive_bytes())[0] != _STATUS:
            printed[frame[0]] += frame[1:]
    status = json.loads(frame[1:])
    output, errors = (printed[channel].decode(errors="replace") for channel in printed)
    if status.get("status") == "Success":
        return Ended(0, output, errors)
    # Without a code it did not start: there is no such command, most often.
    details: dict[str, list[dict[str, str]]] = status.get("details") or {}
    causes = details.get("causes") or []
    codes = [int(cause["message"]) for cause in causes if cause.get("reason") == "ExitCode"]
    code = codes[0] if codes else 1
    return Ended(code, output, errors or status.get("message", ""))


@contextlib.asynccontextmanager
async def _opened(
    api: Any, namespace: str, path: str, parameters: Mapping[str, Any]
) -> AsyncGenerator[Any]:
    stream = api.open_websocket(
        namespace=namespace, url=path, params=parameters, subprotocols=[_PROTOCOL]
    )
    try:
        async with stream as websocket:
            yield websocket
    except Exception as error:  # noqa: BLE001 - it is raised again, unwrapped
        raise _plain(error, path) from None


def _plain(error: Exception, path: str) -> Exception:
    """What ended a stream: its task group wraps each error, of its user too (httpx-ws 0.9)."""
    import httpx_ws  # noqa: PLC0415 - as in ClusterAccess.client

    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    match error:
        case httpx_ws.WebSocketUpgradeError(response=response):
            return AnswerError(response.status_code, path)
        case httpx_ws.WebSocketDisconnect(code=code, reason=reason):
            return StreamError(f"the stream of {path} ended too early: {code} {reason}".rstrip())
        case httpx_ws.HTTPXWSException():
            return StreamError(f"the connection broke under the stream of {path}")
        case _:
            return error

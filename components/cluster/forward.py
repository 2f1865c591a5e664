"""Tunnels from this process into the cluster: a local port whose connections end in a pod.

Built on kr8s' websocket and not on its PortForward (0.20). That one reports success when the port
is taken, so a password could go to another stack's server; it repeats a refused permission for
ever; and it keeps the pod that it chose first, whatever fails over.
"""

import asyncio
import contextlib
import contextvars
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pulumi

from .access import (
    AnswerError,
    ClusterAccess,
    ClusterError,
    LoginError,
    UnreachableError,
    disconnect,
    is_running,
    label_selector,
    pods,
)
from .streams import PortError, PortStream, StreamError, connection

TIMEOUT = 15.0
"""Seconds that a new connection waits for a Ready pod and for the API server."""

_POLL_SECONDS = 0.5
"""Seconds between two attempts to find a Ready pod."""

_DRAIN_SECONDS = 2.0
"""Keep reading until the server has been quiet this long, in seconds. The protocol has no half
close, so nothing tells that an answer is complete once the client has finished sending."""

_CHUNK = 64 * 1024
"""Bytes of one read and one frame."""


class ForwardError(pulumi.RunError):
    """A local port can't be bound; the message names the cause and the remedy.

    A `RunError`, so that Pulumi prints the message without a traceback.
    """


class _NoConnectionError(Exception):
    """Why there is no connection, and what a person does about it.

    `transient`: it may be gone at the next attempt.
    """

    def __init__(self, cause: str, remedy: str, *, transient: bool = False) -> None:
        super().__init__(cause)
        self.cause, self.remedy, self.transient = cause, remedy, transient


@dataclass(frozen=True)
class ForwardTarget:
    """The pods behind a Service, one of which gets each connection."""

    service: str
    """Name for messages: `vault/vault`."""
    namespace: str
    """Of the pods."""
    pod_labels: Mapping[str, str]
    """A pod must have all of them."""
    port: int
    """The pod's port."""

    @property
    def selector(self) -> str:
        return label_selector(self.pod_labels)


def local_port(project: str, stack: str, service: str) -> int:
    """The local port for a Service of a stack. It never changes, and differs between stacks.

    Between 20000 and 29999, below the ports that operating systems hand out by themselves. Two
    Services may rarely get the same one; `Forward.start` then says so.
    """
    digest = hashlib.sha256(f"{project}/{stack}/{service}".encode()).digest()
    return 20000 + int.from_bytes(digest[:8]) % 10000


class Forward:
    """A port of 127.0.0.1 whose connections each end in the pod that is right at that moment.

    `start` binds the port and contacts nothing; the first connection does. The forward ends with
    the process or with `close`. If a connection can't be made, it is closed and the cause goes to
    `report`: once, until the cause changes or a connection succeeds.
    """

    def __init__(
        self,
        access: ClusterAccess,
        target: ForwardTarget,
        port: int,
        setting: str,
        *,
        timeout: float = TIMEOUT,
        report: Callable[[str], object] = pulumi.log.error,
    ) -> None:
        """Describe the forward; `start` opens it.

        `setting` is the group of settings that messages name, such as `shlink:vault`; it has the
        keys `localPort` and `address`. `timeout` is in seconds: how long a connection waits for a
        Ready pod and for the API server. `report` is called in the forward's thread; the default
        makes the update fail.
        """
        self._access, self._target, self._port, self._setting = access, target, port, setting
        self._timeout, self._report = timeout, report
        self._reported: str | None = None
        self._api: Any = None
        self._login = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Bind the port and serve it in a daemon thread.

        Raises ForwardError when the port can't be bound, for example because it is taken.
        """
        try:
            listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
        except OSError as error:
            raise ForwardError(
                f"{self._target.service}: port {self._port} of 127.0.0.1 can't be bound: "
                f"{os.strerror(error.errno or 0)}. "
                "Stop what holds it, perhaps `make forward` or another run of this stack, "
                f"or choose another: pulumi config set --path {self._setting}.localPort PORT"
            ) from None
        loop = self._loop = asyncio.new_event_loop()
        # The default report needs the engine's address. Pulumi keeps it in context variables,
        # which a thread does not inherit.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run,
            args=(loop.run_forever,),
            name=f"forward {self._target.service}",
            daemon=True,
        )
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._connected, sock=listener), loop
        ).result()

    def close(self) -> None:
        """Stop listening and cut the open connections. Does nothing before `start` or twice."""
        loop, self._loop = self._loop, None
        if loop is None:
            return
        asyncio.run_coroutine_threadsafe(self._shut_down(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        loop.close()

    async def _shut_down(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await disconnect(self._api)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with contextlib.AsyncExitStack() as stack:
                stack.callback(writer.close)
                websocket = await self._open(stack)
                refusal = await Relay(websocket, reader, writer).run()
            if refusal is None:
                self._reported = None
                return
            target = self._target
            fault = _NoConnectionError(
                f"nothing answers on port {target.port} of its pod: {refusal}",
                f"Look at its log: {self._access.kubectl} -n {target.namespace} logs "
                f"-l {target.selector} --all-containers",
            )
        except asyncio.CancelledError:
            return  # by close(); asyncio's streams would print it as a failure
        # A server, a proxy or a plugin can fail in any way, and a person has to be told.
        except Exception as error:  # noqa: BLE001
            fault = self._diagnose(error)
        message = (
            f"{self._target.service} can't be reached: {fault.cause}. {fault.remedy}. "
            f"Where a direct way exists, {self._setting}.address takes it instead."
        )
        if message != self._reported:
            self._reported = message
            self._report(message)

    async def _open(self, stack: contextlib.AsyncExitStack) -> PortStream:
        """A stream to a pod, closed by the stack. Raises _NoConnectionError."""
        silent = f"neither the login nor the API server of context {self._access.context!r} answers"
        fault = _NoConnectionError(silent, self._check_login(), transient=True)
        try:
            async with asyncio.timeout(self._timeout):
                while True:
                    try:
                        return await self._attempt(stack)
                    except Exception as error:  # noqa: BLE001 - as above
                        fault = self._diagnose(error)
                        # Once an outage is reported, the next attempt fails at once: the timeouts
                        # of a provider's retries would add up.
                        if not fault.transient or self._reported is not None:
                            raise fault from None
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise _NoConnectionError(
                f"{fault.cause} ({self._timeout:g} s long)", fault.remedy
            ) from None

    async def _attempt(self, stack: contextlib.AsyncExitStack) -> PortStream:
        async with self._login:
            api = self._api = self._api or await self._access.client()
        target = self._target
        try:
            pod = self._choose(await pods(api, target.namespace, target.selector))
        except AnswerError as error:
            if error.status == HTTPStatus.UNAUTHORIZED and self._api is api:
                self._api = None  # the login expired
            raise self._refused(error.status, "list", "pods") from None
        try:
            return await stack.enter_async_context(
                connection(api, target.namespace, pod, target.port)
            )
        except AnswerError as error:
            raise self._refused(error.status, "get and create", "pods/portforward") from None

    def _choose(self, candidates: list[Mapping[str, Any]]) -> str:
        for pod in candidates:
            conditions = pod["status"].get("conditions", [])
            ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
            if ready and is_running(pod):
                return pod["metadata"]["name"]
        target = self._target
        cause = f"there is no pod in namespace {target.namespace} with {target.selector}"
        if candidates:
            names = ", ".join(sorted(pod["metadata"]["name"] for pod in candidates))
            cause = f"not Ready: {names} in namespace {target.namespace}"
        remedy = (
            f"See {self._access.kubectl} -n {target.namespace} describe pods -l {target.selector}"
        )
        raise _NoConnectionError(cause, remedy, transient=True)

    def _refused(self, status: int, verb: str, resource: str) -> _NoConnectionError:
        if status == HTTPStatus.UNAUTHORIZED:
            cause = "the API server no longer accepts the login (401)"
            return _NoConnectionError(cause, self._check_login(), transient=True)
        if status != HTTPStatus.FORBIDDEN:
            cause = f"the API server answers {status} to {verb} {resource}"
            return _NoConnectionError(
                cause, self._check_login(), transient=status >= HTTPStatus.NOT_FOUND
            )
        # A websocket is a GET; since Kubernetes 1.35 the API server asks for `create` as well.
        can_i = f"{self._access.kubectl} -n {self._target.namespace} auth can-i"
        checks = (
            "list pods"
            if resource == "pods"
            else "create pods --subresource=portforward (and the same with get)"
        )
        return _NoConnectionError(
            f"no permission to {verb} {resource} in namespace {self._target.namespace} (403)",
            "It takes a Role there with list on pods, and get and create on pods/portforward; "
            f"check with {can_i} {checks}",
        )

    def _check_login(self) -> str:
        kubectl = f"{self._access.kubectl} -n {self._target.namespace}"
        return f"Check that this works here: {kubectl} get pods"

    def _diagnose(self, error: Exception) -> _NoConnectionError:
        """Describe any failure in one line."""
        remedy = self._check_login()
        match error:
            case _NoConnectionError():
                return error
            case UnreachableError() | StreamError() | AnswerError():
                return _NoConnectionError(str(error), remedy, transient=True)
            case LoginError():
                return _NoConnectionError(str(error), remedy)
            case ClusterError():
                remedy = (
                    "Set kubernetes:context, and kubernetes:kubeconfig where needed, "
                    "to what kubectl config get-contexts shows"
                )
                return _NoConnectionError(str(error), remedy)
            case _:
                cause = f"{type(error).__name__}: {str(error)[:200]}".replace("\n", " ")
                return _NoConnectionError(cause, remedy)


class Relay:
    """Copies one connection between a local socket and a stream to a pod's port."""

    def __init__(
        self, stream: PortStream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._stream, self._reader, self._writer = stream, reader, writer
        self._last_sent: float | None = None
        self._last_heard: float | None = None
        self._refusal: str | None = None

    async def run(self) -> str | None:
        """Copy until either side is done, and deliver the rest.

        Returns the error of a server that sent nothing else.
        """
        tasks = [asyncio.ensure_future(self._upload()), asyncio.ensure_future(self._download())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # Closing a socket with unread data discards what was sent last, so read on until the
        # client has seen the end.
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                self._writer.write_eof()
                while await self._reader.read(_CHUNK):
                    pass
        return self._refusal

    async def _upload(self) -> None:
        with contextlib.suppress(
            Exception
        ):  # one side is gone; what the server sent before may still be on its way
            while data := await self._reader.read(_CHUNK):
                await self._stream.send(data)
        now = asyncio.get_running_loop().time
        self._last_sent = now()
        while (left := self._quiet_until() - now()) > 0:  # noqa: ASYNC110 -- waits for time
            await asyncio.sleep(left)

    def _quiet_until(self) -> float:
        return max(self._last_sent or 0, self._last_heard or 0) + _DRAIN_SECONDS

    async def _download(self) -> None:
        try:
            while data := await self._stream.receive():
                self._last_heard = asyncio.get_running_loop().time()
                self._writer.write(data)
                await self._writer.drain()
        except PortError as error:
            # After an answer, or once the client has left, this is an ordinary end: "connection
            # reset by peer".
            if self._last_heard is None and self._last_sent is None:
                self._refusal = str(error)

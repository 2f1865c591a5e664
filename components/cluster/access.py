"""The one cluster of a stack: who may reach it, and how.

Nothing else in this program reads a kubeconfig. `provider` is what every Kubernetes resource goes
through, `ClusterAccess` is what the forwards, the waits and the commands connect with.
"""

import json
import os
import shlex
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import pulumi
import pulumi_kubernetes as kubernetes
import yaml

from ..settings.environment import Cluster


class ClusterError(pulumi.RunError):
    """The kubeconfig cannot be used; the message names the cause and the remedy.

    A `RunError`, so that Pulumi prints the message without a traceback.
    """


class LoginError(ClusterError):
    """The login failed; the message names the cause and the remedy."""


class UnreachableError(ConnectionError):
    """No connection to the API server; the message names it, the proxy and the cause."""


class AnswerError(ConnectionError):
    """The API server answers otherwise than it was asked to.

    `question`: what it was asked, or what it says.
    """

    def __init__(self, status: int, question: str) -> None:
        super().__init__(f"{status} from the API server: {question}")
        self.status = status


REFUSED_LOGIN = (
    "the API server does not accept this login (401): its token or certificate has expired, or "
    "belongs to another cluster"
)


def why(error: Exception) -> str:
    """Why a cluster can't be asked. Another error's text may hold what a plugin printed."""
    if isinstance(error, ClusterError | UnreachableError | AnswerError):
        return str(error)
    # Of kr8s, whose import is slow.
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is not None:
        refused = status == HTTPStatus.UNAUTHORIZED
        return REFUSED_LOGIN if refused else f"the API server answers {status}"
    return "no answer" if isinstance(error, TimeoutError) else type(error).__name__


def provider(
    cluster: Cluster, after: pulumi.Input[pulumi.Resource] | None = None
) -> kubernetes.Provider:
    """The provider of every Kubernetes resource of this program; the ambient context is never used.

    `after`: what must have happened before anything in the cluster is touched: it is known to be
    the environment's own, and no change of a setting would destroy anything.
    Its kubeconfig is a secret of the state, whether the stack's file encrypts it or not.
    """
    # `make recover` sets this for the plugin, which reads it too. From the program's own
    # environment it would become an input of the provider, and so a change in the next `up`.
    os.environ.pop("PULUMI_K8S_UPSERT_EXISTING_OBJECTS", None)
    kubeconfig = None
    if cluster.kubeconfig is not None:
        kubeconfig = pulumi.Output.secret(cluster.kubeconfig)
    dependencies = None if after is None else [after]
    return kubernetes.Provider(
        "cluster",
        context=cluster.context,
        kubeconfig=kubeconfig,
        # Without it, another current context of the kubeconfig would mean another cluster to the
        # provider, which would replace everything.
        cluster_identifier=cluster.identifier,
        # Each creation gets a field manager of its own. One that a killed run left behind would
        # hold its fields for ever, and every later change of them would end in a conflict.
        enable_patch_force=True,
        # A rotated password changes its Secret in place, under the name that its product knows.
        enable_secret_mutable=True,
        enable_config_map_mutable=True,
        opts=pulumi.ResourceOptions(depends_on=dependencies),
    )


def label_selector(labels: Mapping[str, str]) -> str:
    """Labels as the API and kubectl take them: an object must have all of them."""
    return ",".join(f"{key}={value}" for key, value in labels.items())


def access(cluster: Cluster) -> "ClusterAccess":
    """The same cluster for what is not a resource: forwards and waits."""
    return ClusterAccess(context=cluster.context, kubeconfig=cluster.kubeconfig)


@dataclass(frozen=True)
class ClusterAccess:
    """The one cluster of a stack, as its configuration names it."""

    context: str
    kubeconfig: str | None = None
    """Path or contents, as in `kubernetes:kubeconfig`. None: $KUBECONFIG, then ~/.kube/config."""

    @property
    def kubectl(self) -> str:
        """The kubectl command that reaches the same cluster, for messages."""
        file = (
            []
            if self.kubeconfig is None or _is_contents(self.kubeconfig)
            else ["--kubeconfig", self.kubeconfig]
        )
        return shlex.join(["kubectl", *file, "--context", self.context])

    async def client(self) -> Any:
        """A new client of kr8s, logged in, for the running event loop.

        Keep it: a login contacts the API server and may run a plugin. `Any`, because kr8s' types
        are half unknown. Raises ClusterError when the kubeconfig or its plugin can't be used,
        UnreachableError and AnswerError. None of their messages is secret.
        """
        from .login import Client, Login  # noqa: PLC0415 - half a second that a preview saves

        api = Client(Login(*self._entries()))
        try:
            await api.connect()
        except BaseException:
            await disconnect(api)
            raise
        return api

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Any]:
        """A client as `client` returns it, which is closed at the end."""
        api = await self.client()
        try:
            yield api
        finally:
            await disconnect(api)

    @asynccontextmanager
    async def kept(self) -> AsyncGenerator["ClusterAccess"]:
        """The same cluster by one login: whatever connects through it shares the client."""
        async with self.connected() as api:
            yield _KeptAccess(self.context, self.kubeconfig, api)

    def _entries(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The cluster and the user of this context. Raises ClusterError."""
        known: dict[str, dict[str, Any]] = {"contexts": {}, "clusters": {}, "users": {}}
        for folder, content in self._read():
            for kind, entries in known.items():
                named = cast("list[dict[str, Any]]", content.get(kind) or [])
                for entry in named:
                    value = dict(cast("dict[str, Any]", entry.get(kind[:-1]) or {}))
                    for key in _FILES & value.keys():
                        value[key] = str(folder / value[key])
                    # The first file that has the name wins, as with kubectl.
                    entries.setdefault(entry["name"], value)
        if self.context not in known["contexts"]:
            raise ClusterError(
                f"the kubeconfig has no context {self.context!r}, only: "
                f"{', '.join(known['contexts']) or 'none'}"
            )
        context = known["contexts"][self.context]
        cluster = known["clusters"].get(context.get("cluster"), {})
        if "server" not in cluster:
            raise ClusterError(f"the kubeconfig's context {self.context!r} leads to no cluster")
        return cluster, known["users"].get(context.get("user"), {})

    def _read(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        source = self.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        try:
            if _is_contents(source):
                yield Path(), yaml.safe_load(source)
                return
            files = [
                file
                for name in source.split(os.pathsep)
                if name and (file := Path(name).expanduser()).is_file()
            ]
            if not files:
                raise ClusterError(f"there is no kubeconfig at {source}")
            for file in files:
                yield file.absolute().parent, yaml.safe_load(file.read_text()) or {}
        except yaml.YAMLError:
            # Its message quotes the text, which may be a token.
            raise ClusterError("the kubeconfig is not valid YAML") from None


@dataclass(frozen=True)
class _KeptAccess(ClusterAccess):
    api: Any = None
    """The client, which is somebody else's to close."""

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Any]:
        yield self.api


_FILES = {"certificate-authority", "client-certificate", "client-key", "tokenFile"}
"""Keys of a kubeconfig whose value is a path, relative to the kubeconfig."""


async def answer(
    api: Any, method: str, version: str, namespace: str, url: str, **more: Any
) -> tuple[int, str]:
    """Status and text of the API server's answer, whatever it is. `version`: v1, batch/v1."""
    base = "/apis" if "/" in version else "/api"
    more.setdefault("base", base)
    async with api.call_api(
        method, version=version, namespace=namespace, url=url, raise_for_status=False, **more
    ) as response:
        return int(response.status_code), str(response.text)


async def read(api: Any, resource: str, namespace: str, name: str) -> Mapping[str, Any] | None:
    """One object, or None. `resource`: plural name with version and group, `statefulsets.v1.apps`.

    By its address, which needs no look at the kinds that the cluster serves: `objects` says why.
    Raises AnswerError.
    """
    plural, version, group = resource.split(".", 2)
    place = f"{group}/{version}" if group else version
    status, text = await answer(api, "GET", place, namespace, f"{plural}/{name}")
    match status:
        case HTTPStatus.OK:
            return json.loads(text)
        case HTTPStatus.NOT_FOUND:
            return None
        case _:
            raise AnswerError(status, text)


async def pods(api: Any, namespace: str, labels: str) -> list[Mapping[str, Any]]:
    """Pods with these labels. Raises AnswerError."""
    status, text = await answer(
        api, "GET", "v1", namespace, "pods", params={"labelSelector": labels}
    )
    if status != HTTPStatus.OK:
        raise AnswerError(status, text)
    return cast("list[Mapping[str, Any]]", json.loads(text)["items"])


def is_running(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has begun, and does not end."""
    running = pod.get("status", {}).get("phase") == "Running"
    return running and "deletionTimestamp" not in pod["metadata"]


async def objects(
    api: Any, kind: str, *names: str, namespace: str, labels: str | None = None
) -> AsyncGenerator[Any]:
    """Objects of one of Kubernetes' own kinds, such as Deployment, as kr8s has them.

    By kr8s' class. By its name kr8s 0.20 would look at every kind that the cluster serves, and it
    fails there while any aggregated API is down, as without a metrics-server that runs.
    """
    import kr8s  # noqa: PLC0415 - as in ClusterAccess.client
    import kr8s.asyncio.objects as kinds  # noqa: PLC0415

    listed = api.async_get(getattr(kinds, kind), *names, namespace=namespace, label_selector=labels)
    try:
        async for item in listed:
            yield item
    except kr8s.ServerError as error:
        status = error.response.status_code if error.response else HTTPStatus.BAD_GATEWAY
        raise AnswerError(status, str(error)) from None


async def named(api: Any, kind: str, namespace: str, name: str) -> Any:
    """One object of Kubernetes' own kinds, as kr8s has it, or None."""
    async for item in objects(api, kind, name, namespace=namespace):
        return item
    return None


async def disconnect(api: Any) -> None:
    """Close every connection of a client."""
    if api is not None and api._session is not None:  # noqa: SLF001 - kr8s has no word for it
        await api._session.aclose()  # noqa: SLF001


def _is_contents(kubeconfig: str) -> bool:
    return "\n" in kubeconfig or kubeconfig.lstrip().startswith("{")

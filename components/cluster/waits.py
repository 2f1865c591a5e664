"""Resource hooks that block until an operator has acted on a custom resource.

A hook stands before the consumer (`before_create`, `before_update`), never after the producer: the
engine holds a resource's lock while an after-hook runs, so nothing else starts and nothing that
finished is recorded (engine 3.259, CreateStep.Apply), and a failed after-hook is not repeated.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pulumi

from .access import ClusterAccess, objects, read
from .polling import poll

if TYPE_CHECKING:
    from kr8s.asyncio import Api

ReadinessCheck = Callable[[Mapping[str, Any]], str | None]
"""Takes an object; returns why it is not ready, or None when it is."""

_LOOKS_BETWEEN = 10
"""Of the checks, so many lie between two looks at the pods."""

# Not ErrImagePull: the kubelet alternates between the two.
_BLOCKED = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerError")


@dataclass(frozen=True)
class WaitTarget:
    """An object in the cluster, and the check that it must pass."""

    resource: str
    """Plural name with version and API group: `statefulsets.v1.apps`."""
    namespace: pulumi.Input[str]
    """Where the object is."""
    name: pulumi.Input[str]
    """The object's name."""
    not_ready: pulumi.Input[ReadinessCheck]
    """The check; an Output if it needs a value that is only known while the program runs."""
    timeout: float = 300
    """Seconds until the wait fails. A first backup or a slow volume needs more."""


def wait_hook(
    name: str, access: ClusterAccess, targets: Sequence[WaitTarget]
) -> pulumi.ResourceHook:
    """A hook that returns once every target is ready, or fails the update with the reason.

    Not run in a preview. A failed `before_` hook is repeated by the next `up`.
    """

    async def wait(_: pulumi.ResourceHookArgs) -> None:
        await asyncio.gather(*(until_ready(access, target) for target in targets))

    return pulumi.ResourceHook(name, wait)


async def until_ready(access: ClusterAccess, target: WaitTarget, interval: float = 2) -> None:
    """Check the target every `interval` seconds. Raises TimeoutError with the last reason."""
    namespace = await _value(target.namespace)
    name = await _value(target.name)
    not_ready = cast("ReadinessCheck", await pulumi.Output.from_input(target.not_ready).future())
    teller, looks = Teller(), itertools.count(1)

    async def look(api: Any) -> str:
        item = await read(api, target.resource, namespace, name)
        reason = "it does not exist yet" if item is None else not_ready(item)
        if reason is not None and next(looks) % _LOOKS_BETWEEN == 0:
            for text in await blocked(api, namespace):
                teller.warn(text)
        return reason or ""

    if reason := await watch(access, look, target.timeout, interval):
        raise TimeoutError(
            f"{target.resource} {namespace}/{name}: not ready after {target.timeout:g} s: "
            f"{reason}. Inspect it with: "
            f"{access.kubectl} -n {namespace} describe {target.resource} {name}"
        )


async def watch(
    access: ClusterAccess, look: Callable[[Any], Awaitable[str]], patience: float, interval: float
) -> str:
    """Poll with one client. Returns what is missing, and raises HopelessError only."""
    client: Api | None = None

    async def attempt() -> str:
        nonlocal client
        try:
            client = client or await access.client()
            return await look(client)
        except HopelessError:
            raise
        # An API server, a proxy or a credential plugin may answer anything.
        except Exception as error:  # noqa: BLE001
            # With a new client the next look logs in again.
            client = None
            return f"{type(error).__name__}: {error}"

    return await poll(attempt, patience, interval)


class HopelessError(pulumi.RunError):
    """To wait longer is of no use; the message says why."""


class Teller:
    """Says each thing once."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, text: str) -> None:
        """Warn a person who waits."""
        if text not in self._said:
            self._said.add(text)
            pulumi.log.warn(text)


async def blocked(api: Any, namespace: str) -> list[str]:
    """Containers that cannot start, each with what the kubelet says: a wrong image, most often."""
    texts: list[str] = []
    async for pod in objects(api, "Pod", namespace=namespace):
        status = pod.raw.get("status", {})
        containers: list[Any] = []
        for key in ("initContainerStatuses", "containerStatuses"):
            containers += status.get(key) or []
        for container in containers:
            waiting: Mapping[str, str] = container.get("state", {}).get("waiting") or {}
            if waiting.get("reason") in _BLOCKED:
                where = f"pod {namespace}/{pod.raw['metadata']['name']}, {container['name']}"
                texts.append(f"{where}: {waiting['reason']}: {container.get('image')}")
    return texts


async def _value(text: pulumi.Input[str]) -> str:
    return str(await pulumi.Output.from_input(text).future())


def steadily(check: ReadinessCheck, looks: int = 2) -> ReadinessCheck:
    """Ready only after `looks` checks in a row found it so.

    For an operator that reports a change as seen a moment before it has acted on it.
    """
    in_a_row = 0

    def not_ready(item: Mapping[str, Any]) -> str | None:
        nonlocal in_a_row
        reason = check(item)
        in_a_row = 0 if reason else in_a_row + 1
        if reason is None and in_a_row < looks:
            return "ready just now; it has to stay so"
        return reason

    return not_ready


def replicas_ready(item: Mapping[str, Any]) -> str | None:
    """For Deployments and StatefulSets: all pods have the latest template and are Ready."""
    replicas, status = item["spec"]["replicas"], item.get("status", {})
    if status.get("observedGeneration", 0) < item["metadata"]["generation"]:
        return "its controller has not seen the latest change"
    updated = status.get("updatedReplicas", 0)
    if updated < replicas:
        return f"{updated} of {replicas} pods are up to date"
    ready = status.get("readyReplicas", 0)
    if ready < replicas:
        return f"{ready} of {replicas} pods are Ready"
    return None


def synced(item: Mapping[str, Any]) -> str | None:
    """For ExternalSecrets: this generation is synced. `Ready` alone stays True from the last sync.

    `status.syncedResourceVersion` begins with the generation
    (external-secrets/external-secrets, util.GetResourceVersion).
    """
    generation = item["metadata"]["generation"]
    status = item.get("status", {})
    if str(status.get("syncedResourceVersion", "")).startswith(f"{generation}-"):
        return None
    for condition in status.get("conditions", []):
        if condition["type"] == "Ready" and condition["status"] != "True":
            return f"{condition['reason']}: {condition.get('message', '')}"
    return f"generation {generation} is not synced yet"

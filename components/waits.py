"""Waiting for what an operator makes of a resource, as hooks: whatever depends on the resource starts when the hook returns."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import pulumi

from .forward import ClusterAccess

if TYPE_CHECKING:
    from kr8s.asyncio import Api

Verdict = Callable[[Mapping[str, Any]], str | None]
"""Looks at an object; says what is still missing, or None when it is as wanted."""


@dataclass(frozen=True)
class Awaited:
    """An object and what must be true of it."""

    resource: str
    """Plural name with its group: `statefulsets.apps`."""
    namespace: str
    name: str
    missing: Verdict
    patience: float = 300
    """Seconds."""

    def __str__(self) -> str:
        return f"{self.resource} {self.namespace}/{self.name}"


def wait_hook(name: str, access: ClusterAccess, awaited: Sequence[Awaited]) -> pulumi.ResourceHook:
    """A hook that returns when every object is as wanted, and fails the update with the reason when one is not in time.

    Not run in a preview. A failed `after_` hook is not repeated by the next `up` (the resource counts as made by then), a failed
    `before_` hook is.
    """

    async def wait(_: pulumi.ResourceHookArgs) -> None:
        await asyncio.gather(*(until(access, one) for one in awaited))

    return pulumi.ResourceHook(name, wait)


async def until(access: ClusterAccess, awaited: Awaited, interval: float = 2) -> None:
    """Look every `interval` seconds. Raises TimeoutError with the last reason once the patience is over."""
    deadline = asyncio.get_running_loop().time() + awaited.patience
    api: Api | None = None
    while True:
        try:
            api = api or await access.client()
            found: list[Any] = [
                item
                async for item in cast("Any", api).async_get(
                    awaited.resource, awaited.name, namespace=awaited.namespace
                )
            ]
            reason = awaited.missing(found[0].raw) if found else "it does not exist yet"
        except Exception as error:  # noqa: BLE001 -- whatever an API server, a proxy or a credential plugin answers; the patience bounds it
            # With a new client the next look logs in again.
            api, reason = None, f"{type(error).__name__}: {error}"
        if reason is None:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(
                f"{awaited}: {reason}, {awaited.patience:g} s long; see: "
                f"{access.kubectl} -n {awaited.namespace} describe {awaited.resource} {awaited.name}"
            )
        await asyncio.sleep(interval)


def replicas_ready(item: Mapping[str, Any]) -> str | None:
    """For Deployments and StatefulSets: the latest spec was seen and all its pods are Ready."""
    wanted, status = item["spec"]["replicas"], item.get("status", {})
    if status.get("observedGeneration", 0) < item["metadata"]["generation"]:
        return "its controller has not seen the latest change"
    ready = status.get("readyReplicas", 0)
    return None if ready >= wanted else f"{ready} of {wanted} pods are Ready"


def synced(item: Mapping[str, Any]) -> str | None:
    """For ExternalSecrets: this very generation was synced. `Ready` alone stays True from the last sync.

    `status.syncedResourceVersion` begins with the generation (external-secrets/external-secrets, util.GetResourceVersion).
    """
    generation = item["metadata"]["generation"]
    if str(item.get("status", {}).get("syncedResourceVersion", "")).startswith(f"{generation}-"):
        return None
    conditions = item.get("status", {}).get("conditions", [])
    reasons = [
        f"{one['reason']}: {one.get('message', '')}"
        for one in conditions
        if one["type"] == "Ready" and one["status"] != "True"
    ]
    return "; ".join(reasons) or f"generation {generation} is not synced yet"

"""Which pods a Service leads to: what the cluster's DNS answers for its name."""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import cast

from operate.view import Object, View, at, labels_of, listed, mapped

_SLICES = "discovery.k8s.io/v1/endpointslices"


class Served(Enum):
    """Whether somebody answers behind a port."""

    NO_SERVICE = "no Service is for it"
    NO_READY_POD = "no Ready pod"
    YES = "served"


def _service(piece: Object) -> str:
    return str(labels_of(piece).get("kubernetes.io/service-name", ""))


async def endpoints(view: View, namespace: str, service: str) -> list[Object]:
    """The endpoints of a Service. Raises LookError."""
    entries: list[Object] = []
    for piece in await view.objects(_SLICES, namespace):
        if _service(piece) == service:
            entries += listed(piece, "endpoints")
    return entries


def any_ready(entries: Iterable[Object]) -> bool:
    """Whether one of the endpoints is Ready."""
    return any(mapped(entry, "conditions").get("ready", True) for entry in entries)


async def unnamed(
    view: View, namespace: str, service: str, pods: Sequence[Object], *, by_address: bool = False
) -> list[str]:
    """The pods, by name, that a Service does not lead to.

    A headless Service of a StatefulSet gives each pod a DNS name through its endpoint's `hostname`.
    `by_address`: the endpoint names no pod, as where a controller writes it. Raises LookError.
    """
    named: set[str] = set()
    for entry in await endpoints(view, namespace, service):
        named |= {str(entry.get("hostname", "")), str(at(entry, "targetRef", "name") or "")}
        named.update(cast("list[str]", entry.get("addresses") or []))
    missing: list[str] = []
    for pod in pods:
        name, address = pod["metadata"]["name"], str(at(pod, "status", "podIP"))
        if name not in named and not (by_address and address in named):
            missing.append(name)
    return missing


async def pods_behind(view: View, namespace: str) -> dict[str, set[str]]:
    """The pods, by name, that each Service of a namespace leads to, Ready or not."""
    pods: dict[str, set[str]] = {}
    for piece in await view.objects(_SLICES, namespace):
        targets = [mapped(entry, "targetRef") for entry in listed(piece, "endpoints")]
        names = {str(target["name"]) for target in targets if target.get("kind") == "Pod"}
        pods.setdefault(_service(piece), set()).update(names)
    return pods


async def served(view: View, namespace: str, port: int, prefix: str) -> Served:
    """Whether a Ready endpoint of any Service in a namespace answers on a port.

    `prefix`: how names of such ports begin; a pod may listen on another number than its Service.
    Without pods a slice tells no ports; its Service's name then holds the prefix.
    """
    state = Served.NO_SERVICE
    for piece in await view.objects(_SLICES, namespace):
        entries = listed(piece, "ports")
        is_for_it = not entries and prefix in _service(piece)
        for entry in entries:
            if entry.get("port") == port or str(entry.get("name", "")).startswith(prefix):
                is_for_it = True
        if is_for_it and any_ready(listed(piece, "endpoints")):
            return Served.YES
        if is_for_it:
            state = Served.NO_READY_POD
    return state

"""Which pods a Service leads to: what the cluster's DNS answers for its name."""

from collections.abc import Sequence
from typing import cast

from operate.view import Object, View, at, labels_of, listed, mapped

_SLICES = "discovery.k8s.io/v1/endpointslices"

_SERVICE = "kubernetes.io/service-name"


async def unnamed(
    view: View, namespace: str, service: str, pods: Sequence[Object], *, by_address: bool = False
) -> list[str]:
    """The pods, by name, that a Service does not lead to.

    A headless Service of a StatefulSet gives each pod a DNS name through its endpoint's `hostname`.
    `by_address`: the endpoint names no pod, as where a controller writes it. Raises LookError.
    """
    known: set[str] = set()
    for piece in await view.objects(_SLICES, namespace):
        if labels_of(piece).get(_SERVICE) != service:
            continue
        for endpoint in listed(piece, "endpoints"):
            known.add(str(endpoint.get("hostname", "")))
            known.add(str(at(endpoint, "targetRef", "name") or ""))
            known.update(cast("list[str]", endpoint.get("addresses") or []))
    missing: list[str] = []
    for pod in pods:
        name = pod["metadata"]["name"]
        keys = {name} | ({str(at(pod, "status", "podIP"))} if by_address else set[str]())
        if not keys & known:
            missing.append(name)
    return missing


async def behind(view: View, namespace: str) -> dict[str, set[str]]:
    """The pods, by name, that each Service of a namespace leads to, Ready or not."""
    found: dict[str, set[str]] = {}
    for piece in await view.objects(_SLICES, namespace):
        pods = found.setdefault(str(labels_of(piece).get(_SERVICE, "")), set())
        for endpoint in listed(piece, "endpoints"):
            if at(endpoint, "targetRef", "kind") == "Pod":
                pods.add(str(at(endpoint, "targetRef", "name")))
    return found


async def serves(view: View, namespace: str, port: int, names: str) -> bool | None:
    """Whether a Ready endpoint of any Service in a namespace answers on a port.

    `names`: how names of such ports begin; a pod may listen on another number than its Service.
    None: no Service is for that port. Without pods a slice tells no ports; its Service's name then
    holds `names`.
    """
    there: bool | None = None
    for piece in await view.objects(_SLICES, namespace):
        entries = listed(piece, "ports")
        if not entries and names in str(labels_of(piece).get(_SERVICE, "")):
            there = bool(there)
        own = [
            entry
            for entry in entries
            if entry.get("port") == port or str(entry.get("name", "")).startswith(names)
        ]
        if not own:
            continue
        there = bool(there)
        for endpoint in listed(piece, "endpoints"):
            if mapped(endpoint, "conditions").get("ready", True):
                return True
    return there

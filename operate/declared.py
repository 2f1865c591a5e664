"""What a stack declares, read from its file without a cluster: the program itself is run offline.

Doctor compares a cluster with this, so no name and no number of the program is repeated here.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from components.cluster.access import ClusterAccess, access
from components.outputs import Outputs
from components.outputs import parse as parse_outputs
from components.program.identity import MARK, Sight, api_server
from components.settings.environment import Cluster, Settings
from components.settings.environment import parse as parse_settings
from offline import stacks
from offline.record import ROOT, Recorded, Recording, Secret, record

from .view import Object, at

_PATIENCE = 5.0
"""Seconds that the API server has to answer."""


@dataclass(frozen=True)
class HelmInstall:
    """A chart that the program installs."""

    name: str
    """Of the Helm release."""
    namespace: str


@dataclass(frozen=True)
class Declared:
    """One environment as its stack's file describes it."""

    stack: str
    cluster: Cluster
    settings: Settings
    outputs: Outputs
    manifests: tuple[Object, ...]
    """Every Kubernetes object of the program but Secrets; values that are secret are None."""
    operators: tuple[HelmInstall, ...]
    vault: HelmInstall

    def of_kind(self, kind: str) -> list[Object]:
        """The objects of a kind, in a stable order."""
        manifests = [item for item in self.manifests if item["kind"] == kind]
        return sorted(manifests, key=lambda item: (_namespace(item), item["metadata"]["name"]))

    def named(self, kind: str, name: str) -> Object | None:
        """The object of this kind and name."""
        for item in self.of_kind(kind):
            if item["metadata"]["name"] == name:
                return item
        return None

    @property
    def namespaces(self) -> list[str]:
        """The environment's own namespaces."""
        return [item["metadata"]["name"] for item in self.of_kind("Namespace")]


def declared(stack: str, root: Path = ROOT) -> Declared:
    """What a stack declares. Raises StackError and SettingsError: its file can't be used."""
    configuration, encrypted = stacks.configuration(root, stack)
    cluster, settings = parse_settings(configuration, encrypted)
    return of_recording(record(stack, configuration, encrypted), cluster, settings)


async def _sight(cluster: ClusterAccess) -> Sight | None:
    """What an update would see of the cluster and puts into objects; None where it can't look."""
    try:
        async with asyncio.timeout(_PATIENCE), cluster.connected() as api:
            return Sight("", {}, api_server=await api_server(api))
    # Whoever asked for this connects next, and tells what is wrong.
    except Exception:  # noqa: BLE001
        return None


def connectable(stack: str, kubeconfig: str | None) -> Declared:
    """What a stack declares, with a cluster to connect to without the stack's passphrase.

    `kubeconfig` is a file that takes the place of the stack's own. Raises StackError and
    SettingsError.
    """
    configuration, encrypted = stacks.configuration(ROOT, stack)
    cluster, settings = parse_settings(configuration, encrypted)
    if kubeconfig:
        path = str(Path(kubeconfig).expanduser())
        cluster = cluster.model_copy(update={"kubeconfig": path})
    elif cluster.kubeconfig == stacks.PLACEHOLDER:
        raise stacks.StackError(
            f"kubernetes:kubeconfig of stack {stack} is encrypted, and this command asks for no "
            "passphrase: name a file, as in KUBECONFIG=~/.kube/config after `make`'s target, or "
            "--kubeconfig ~/.kube/config"
        )
    sight = None if settings.network.names_api_server else asyncio.run(_sight(access(cluster)))
    recording = record(stack, configuration, encrypted, sight=sight)
    return of_recording(recording, cluster, settings)


def of_recording(recording: Recording, cluster: Cluster, settings: Settings) -> Declared:
    """What a recorded run of the program declares."""
    objects = [item for item in recording.resources.values() if item.is_kubernetes_object]
    manifests = [_manifest(item) for item in objects if item.kind != "Secret"]
    operators = tuple(_install(item.inputs) for item in recording.of_kind("Release"))
    return Declared(
        stack=recording.stack,
        cluster=cluster,
        settings=settings,
        outputs=parse_outputs(cast("Mapping[str, Any]", _public(recording.outputs))),
        manifests=tuple(manifests),
        operators=operators,
        vault=_install(recording.of_kind("Chart")[0].inputs),
    )


def _manifest(item: Recorded) -> Object:
    """What is declared of an object: nothing that is secret, or that the program leaves alone."""
    manifest = _public(item.inputs)
    annotations = manifest["metadata"].get("annotations", {})
    if MARK in annotations:
        # Its number is the state's, which nothing here reads.
        annotations[MARK] = None
    for path in item.ignore_changes:
        *above, field = path.split(".")
        holder = at(manifest, *above)
        if isinstance(holder, dict):
            cast("dict[str, Any]", holder).pop(field, None)
    return manifest


def _install(inputs: Mapping[str, Any]) -> HelmInstall:
    return HelmInstall(name=str(inputs["name"]), namespace=str(inputs["namespace"]))


def _namespace(item: Object) -> str:
    return str(item["metadata"].get("namespace", ""))


def _public(value: Any) -> Any:
    """A recorded value without what is secret in it."""
    if isinstance(value, Secret):
        return None
    if isinstance(value, Mapping):
        items = cast("Mapping[str, Any]", value).items()
        return {key: _public(item) for key, item in items}
    if isinstance(value, list):
        return [_public(item) for item in cast("list[Any]", value)]
    return value

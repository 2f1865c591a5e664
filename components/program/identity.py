"""Whose an environment is, and whose cluster: marks, and the look before anything is touched.

An environment is its project, its stack and an id that the state keeps. The three stand as a mark
on each of its namespaces and on each object that belongs to no namespace. A cluster is known by
the uid of its namespace kube-system, which the record of the settings keeps: two kubeconfigs may
give two clusters one name.
"""

import asyncio
import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Self, cast

import pulumi
import pulumi_random as random
from pulumi_kubernetes import meta

from ..cluster.access import ClusterAccess, answer, read, why
from ..network.flows import POSTGRES
from ..postgres.component import CLUSTER, DATABASE
from ..postgres.guard import RESOURCE
from ..settings.changes import CLUSTER_UID

MARK = "shlink.io/environment"
"""The annotation that says whose an object is."""

ADOPT = "PULUMI_K8S_UPSERT_EXISTING_OBJECTS"
"""The variable by which the Kubernetes provider overwrites what exists."""

LOOKED = "SHLINK_ADOPTS_ITS_OWN"
"""Set beside it by `make recover`, which has looked whose each existing object is."""

_CLUSTER = "kube-system"
"""The namespace whose uid is the cluster's own: it is as old as the cluster."""

_PATIENCE = 20.0
"""Seconds in which the API server must have answered."""


class IdentityError(pulumi.RunError):
    """It is somebody else's; the message says whose, and what to do. Nothing was touched."""


@dataclass(frozen=True)
class Identity:
    """Whose an object is."""

    project: str
    stack: str
    id: str
    """Random, kept in the state: the same after the stack was renamed."""

    @classmethod
    def parse(cls, mark: str) -> Self:
        """Read a mark; what was written by hand may lack a part."""
        project, stack, number = (*mark.split("/"), "", "")[:3]
        return cls(project, stack, number)

    @property
    def mark(self) -> str:
        """The annotation's value."""
        return f"{self.project}/{self.stack}/{self.id}"

    def __str__(self) -> str:
        return f"stack {self.stack} of project {self.project} (id {self.id})"


@dataclass(frozen=True)
class Marked:
    """An object in a cluster."""

    uid: str
    mark: str | None
    """None: nobody has marked it."""

    @classmethod
    def read(cls, item: Mapping[str, Any]) -> Self:
        metadata = _map(item, "metadata")
        return cls(metadata["uid"], _map(metadata, "annotations").get(MARK))


@dataclass(frozen=True)
class Sight:
    """What a cluster shows of whose it is."""

    cluster: str
    """The cluster's own uid."""
    namespaces: Mapping[str, Marked]
    """Every namespace, by name."""
    database: str | None = None
    """What the database is known by that runs here; None: none runs, or it has not been told."""
    api_server: Sequence[str] = ()
    """Networks of single addresses: its Service's and its own. Empty: this login may not ask."""

    @classmethod
    def read(
        cls,
        items: Iterable[Mapping[str, Any]],
        cluster: Mapping[str, Any] | None = None,
        api_server: Sequence[str] = (),
    ) -> Self:
        """From the namespaces, from the environment's PostgresCluster, and the API server's."""
        namespaces = {item["metadata"]["name"]: Marked.read(item) for item in items}
        metadata = _map(cluster or {}, "metadata")
        database = _map(metadata, "annotations").get(DATABASE)
        if "deletionTimestamp" in metadata:
            database = None
        return cls(namespaces[_CLUSTER].uid, namespaces, database, api_server)

    def foreign(self, names: Iterable[str], own: str | None) -> dict[str, Identity]:
        """Whose each of these namespaces is that bears the mark of another id than `own`."""
        others: dict[str, Identity] = {}
        for name in names:
            namespace = self.namespaces.get(name)
            if namespace and namespace.mark is not None:
                owner = Identity.parse(namespace.mark)
                if owner.id != own:
                    others[name] = owner
        return others


def _map(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What is under a key; empty where it is missing."""
    return item.get(key) or {}


async def look(cluster: ClusterAccess) -> Sight:
    """Read the namespaces. Raises IdentityError when the API server does not show them."""
    try:
        async with asyncio.timeout(_PATIENCE), cluster.connected() as api:
            status, text = await answer(api, "GET", "v1", "", "namespaces")
            database, addresses = None, Sight.api_server
            if status == HTTPStatus.OK:
                database = await read(api, RESOURCE, POSTGRES, CLUSTER)
                addresses = await api_server(api)
    except pulumi.RunError:
        raise
    # A proxy, a credential plugin or the network may fail in any way.
    except Exception as error:  # noqa: BLE001
        raise IdentityError(
            f"the cluster of context {cluster.context} can't be asked whose it is "
            f"({why(error)}), so nothing was touched. Look: {cluster.kubectl} get namespaces"
        ) from None
    if status != HTTPStatus.OK:
        raise IdentityError(
            f"the API server of context {cluster.context} answers {status} to a list of "
            "namespaces, which tells whose they are, so nothing was touched. The right is in "
            f"deploy/rbac/deploy.yaml. Look: {cluster.kubectl} get namespaces"
        )
    return Sight.read(json.loads(text)["items"], database, addresses)


async def api_server(api: Any) -> Sequence[str]:
    """Networks of the single addresses at which the API server answers, its Service's among them.

    Policies see the one or the other, before or after a Service's address is replaced. Empty unless
    this login is shown both.
    """
    service = await _shown(api, "v1", "services/kubernetes")
    slices = await _shown(api, "discovery.k8s.io/v1", "endpointslices/kubernetes")
    endpoints: list[Mapping[str, list[str]]] = slices.get("endpoints") or []
    addresses: list[str] = []
    for endpoint in endpoints:
        addresses += endpoint["addresses"]
    if not service or not addresses:
        return ()
    addresses += service["spec"]["clusterIPs"]
    return tuple(sorted({str(ipaddress.ip_network(address)) for address in addresses}))


async def _shown(api: Any, version: str, url: str) -> Mapping[str, Any]:
    """An object of namespace `default`; empty where this login may not see it."""
    status, text = await answer(api, "GET", version, "default", url)
    return json.loads(text) if status == HTTPStatus.OK else {}


def look_first(cluster: ClusterAccess) -> Sight | None:
    """What the cluster shows before the program registers anything.

    None where a preview can't see it: it changes nothing, and needs no cluster.
    Raises IdentityError.
    """
    if os.environ.get(ADOPT) and not os.environ.get(LOOKED):
        raise IdentityError(
            f"{ADOPT} is set, by which an update overwrites whatever exists under its names, "
            "whosever it is, so nothing was touched. `make recover` adopts what bears the mark of "
            "this environment (docs/takeover.md)"
        )
    # The engine's own loop runs already.
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(asyncio.run, look(cluster)).result()
        except pulumi.RunError:
            if pulumi.runtime.is_dry_run():
                return None
            raise


class Environment:
    """The environment's own identity, as an annotation on whatever is declared from now on."""

    id: pulumi.Output[str]

    def __init__(self) -> None:
        self.id = random.RandomId(_ENVIRONMENT, byte_length=6).hex
        project, stack = pulumi.get_project(), pulumi.get_stack()
        self._mark = self.id.apply(lambda number: Identity(project, stack, number).mark)
        pulumi.runtime.register_stack_transformation(self._marked)

    def _marked(
        self, args: pulumi.ResourceTransformationArgs
    ) -> pulumi.ResourceTransformationResult | None:
        """Mark a namespace, or another object outside of every namespace."""
        if not args.type_.startswith("kubernetes:") or args.type_.startswith("kubernetes:helm"):
            return None
        props = cast("dict[str, Any]", args.props)
        if args.opts.urn is not None or "metadata" not in props:
            # No registration: the engine's answer refers to an object that a chart made.
            return None
        metadata = props["metadata"]
        if isinstance(metadata, dict):
            metadata = meta.v1.ObjectMetaArgs(**cast("dict[str, Any]", metadata))
        if metadata.namespace is not None:
            return None
        annotations = cast("Mapping[str, Any]", metadata.annotations or {})
        metadata.annotations = {**annotations, MARK: self._mark}
        return pulumi.ResourceTransformationResult({**props, "metadata": metadata}, args.opts)


async def verified(
    record: pulumi.Stash,
    environment: Environment,
    namespaces: Sequence[str],
    sight: Sight | None,
) -> pulumi.Resource:
    """The record, once the cluster is known to be its own and no namespace somebody else's.

    Whatever depends on it is neither created nor changed before, with `--target` too: the engine
    then answers with the record as it is in the state. Raises IdentityError.
    """
    # Unknown in the first preview: a state without an id owns no mark.
    own, recorded = await environment.id.future(), await record.input.future()
    if sight is not None:
        before = cast("Mapping[str, Any]", recorded or {}).get(CLUSTER_UID)
        refuse_another_cluster(sight, before)
        refuse_foreign(sight, namespaces, own)
    return record


def refuse_another_cluster(sight: Sight, recorded: str | None) -> None:
    """Raise IdentityError unless the cluster is the recorded one; None: none was recorded."""
    if recorded is not None and recorded != sight.cluster:
        raise IdentityError(
            f"this is another cluster than the one that holds this environment, under the same "
            f"name: the uid of namespace {_CLUSTER} is {sight.cluster}, recorded is {recorded}. "
            "Nothing was touched. Set KUBECONFIG or kubernetes:kubeconfig to the file of the "
            "recorded cluster; for another cluster, make another stack. If the recorded one is "
            "gone for good: docs/upgrades.md#changes-that-are-refused"
        )


def refuse_foreign(sight: Sight, names: Iterable[str], own: str | None) -> None:
    """Raise IdentityError if one of these namespaces bears the mark of another environment."""
    others = sight.foreign(names, own)
    if not others:
        return
    owned = [f"namespace {name} belongs to {owner}" for name, owner in others.items()]
    raise IdentityError(
        f"{'; '.join(owned)}. This environment is {_name(own)}, so nothing was touched. Each "
        "environment needs a cluster of its own: set kubernetes:context, or select that stack. If "
        "it is gone and its state is lost, docs/takeover.md says how its objects are taken over"
    )


def _name(own: str | None) -> str:
    return f"another one (id {own})" if own else "another one, without an id in its state"


@dataclass(frozen=True)
class State:
    """What a stack's state knows of whose it is."""

    own: Identity | None
    """None: no update of this version has run."""
    cluster: str | None
    """Uid of the cluster, as recorded."""
    objects: Mapping[tuple[str, str], str]
    """Uids of what it has in the cluster and in no namespace, by kind and name."""
    empty: bool
    """Whether it has nothing in any cluster: its record then binds nobody."""

    @classmethod
    def read(cls, deployment: Mapping[str, Any]) -> Self:
        """Read an exported state."""
        own: Identity | None = None
        recorded: str | None = None
        objects: dict[tuple[str, str], str] = {}
        empty = True
        resources: list[Mapping[str, Any]] = deployment.get("resources") or []
        for resource in resources:
            prefix, project, *_, name = resource["urn"].split("::")
            outputs = _map(resource, "outputs")
            if (resource["type"], name) == (_RANDOM_ID, _ENVIRONMENT):
                own = Identity(project, prefix.removeprefix("urn:pulumi:"), outputs["hex"])
            elif (resource["type"], name) == (_STASH, RECORD):
                recorded = _map(outputs, "input").get(CLUSTER_UID)
            elif resource["type"].startswith("kubernetes:") and resource.get("custom", True):
                empty = False
                metadata = _map(outputs, "metadata")
                if "uid" in metadata and "namespace" not in metadata:
                    objects[outputs["kind"], metadata["name"]] = metadata["uid"]
        return cls(own, recorded, objects, empty)


_RANDOM_ID = "random:index/randomId:RandomId"

_STASH = "pulumi:index:Stash"

_ENVIRONMENT = "environment"

RECORD = "settings"
"""Name of the resource that keeps the record of the settings."""


def exported(stack: str) -> State | None:
    """What the running stack's state says by now; None where the command can't tell."""
    command = shutil.which("pulumi")
    if command is None:
        return None
    words = [command, "stack", "export", "--stack", stack]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 -- built here
    if done.returncode:
        return None
    return State.read(json.loads(done.stdout)["deployment"])

"""Whose the cluster and its namespaces are, for the commands that act without the program.

The program itself looks before it registers anything: components/program/identity.py.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.cluster.access import ClusterAccess, read
from components.program import identity
from components.program.identity import Identity, IdentityError, Marked, Sight, State

from .declared import Declared
from .repair.pulumi_cli import Pulumi, PulumiError
from .view import plural

PROJECT = "shlink"
"""Its name in Pulumi.yaml."""

Named = tuple[str, str]
"""Kind and name of an object that belongs to no namespace."""


def check(cluster: ClusterAccess, state: State) -> Sight:
    """Look whether what the state describes is what this cluster holds. Raises IdentityError."""
    sight = asyncio.run(identity.look(cluster))
    if not state.empty:
        identity.refuse_another_cluster(sight, state.cluster)
    names = [name for kind, name in state.objects if kind == "Namespace"]
    identity.refuse_foreign(sight, names, _id(state))
    for name in names:
        namespace = sight.namespaces.get(name)
        if (
            namespace
            and namespace.mark is None
            and not _held(state, ("Namespace", name), namespace)
        ):
            raise IdentityError(
                f"namespace {name} of context {cluster.context} is not the one that this stack "
                "made: its uid is another, and it bears no mark. Nothing was touched. Is this the "
                "right cluster (KUBECONFIG, kubernetes:kubeconfig)? If somebody made the namespace "
                f"again in its place, mark it first: {_mark_command(cluster, state, [name])}"
            )
    return sight


def check_adoption(cluster: ClusterAccess, state: State, declared: Declared) -> None:
    """Look whether whatever exists under the names of this environment is its own.

    What is in a namespace belongs to the namespace's owner. Raises IdentityError.
    """
    sight = check(cluster, state)
    identity.refuse_foreign(sight, declared.namespaces, _id(state))
    existing: dict[Named, Marked] = {}
    for name in declared.namespaces:
        if name in sight.namespaces:
            existing["Namespace", name] = sight.namespaces[name]
    outside = [item for item in declared.manifests if _is_outside(item)]
    existing |= asyncio.run(_existing(cluster, outside))
    unowned: list[Named] = []
    for place, item in existing.items():
        own = item.mark is not None and Identity.parse(item.mark).id == _id(state)
        if not own and not _held(state, place, item):
            unowned.append(place)
    if not unowned:
        return
    shown = ", ".join(f"{kind} {name}" for kind, name in unowned)
    if state.own is None:
        remedy = "`make up` first: it gives this stack its id, and stops there"
    else:
        commands: list[str] = []
        for kind in sorted({kind for kind, _ in unowned}, reverse=True):
            names = [name for other, name in unowned if other == kind]
            commands.append(_mark_command(cluster, state, names, kind))
        remedy = " && ".join(commands)
    raise IdentityError(
        f"{shown}: exists, is not in this stack's state and does not bear its mark, so it may be "
        "somebody else's, and nothing was touched. Another environment needs a cluster of its own. "
        f"If it is to become this stack's (docs/takeover.md): {remedy}"
    )


def check_by_stack(cluster: ClusterAccess, declared: Declared) -> None:
    """Look whether the namespaces are this stack's, without its state where that can't be read.

    Then the mark's project and stack are compared. Raises IdentityError.
    """
    try:
        state = State.read(Pulumi(declared.stack).export())
    except PulumiError:
        state = None
    if state is not None:
        check(cluster, state)
        return
    sight = asyncio.run(identity.look(cluster))
    for name in declared.namespaces:
        namespace = sight.namespaces.get(name)
        if namespace is None:
            continue
        if namespace.mark is None:
            raise IdentityError(
                f"namespace {name} of context {cluster.context} bears no mark of an environment, "
                f"so nothing was touched; `make up STACK={declared.stack}` puts it on its own"
            )
        owner = Identity.parse(namespace.mark)
        if (owner.project, owner.stack) != (PROJECT, declared.stack):
            raise IdentityError(
                f"namespace {name} of context {cluster.context} belongs to {owner}, so nothing "
                "was touched. Is this the right cluster (KUBECONFIG, kubernetes:context)?"
            )


def _id(state: State) -> str | None:
    return state.own.id if state.own else None


def _held(state: State, place: Named, item: Marked) -> bool:
    """Whether the state holds this very object."""
    return state.objects.get(place) == item.uid


def _mark_command(
    cluster: ClusterAccess, state: State, names: Iterable[str], kind: str = "Namespace"
) -> str:
    mark = state.own.mark if state.own else ""
    words = f"annotate {kind.lower()} {' '.join(names)}"
    return f"{cluster.kubectl} {words} --overwrite {identity.MARK}={mark}"


def _is_outside(item: Mapping[str, Any]) -> bool:
    """Whether it belongs to no namespace; namespaces themselves are known already."""
    return item["kind"] != "Namespace" and not item["metadata"].get("namespace")


async def _existing(
    cluster: ClusterAccess, manifests: Sequence[Mapping[str, Any]]
) -> dict[Named, Marked]:
    existing: dict[Named, Marked] = {}
    if not manifests:
        return existing
    async with cluster.connected() as api:
        for manifest in manifests:
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            group, version = manifest["apiVersion"].split("/")
            item = await read(api, f"{plural(kind)}.{version}.{group}", "", name)
            if item is not None:
                existing[kind, name] = Marked.read(item)
    return existing

"""What waits for what: the layers of an environment, their order, the longest chain."""

from collections.abc import Iterator

from offline.record import Recorded, Recording

Graph = dict[str, set[str]]
"""Each layer's name, and the names of the layers that it waits for directly."""


def layers(recording: Recording) -> Graph:
    """The top-level components as a graph with the fewest arrows that say the same order."""
    layer_of: dict[str, str] = {}
    for component in recording.children(""):
        if not component.custom:
            layer_of[component.urn] = component.name
            for resource in descendants(recording, component.urn):
                layer_of[resource.urn] = component.name

    graph: Graph = {layer: set() for layer in layer_of.values()}
    for urn, layer in layer_of.items():
        for requirement in recording.resources[urn].requirements:
            # A random value, a key or a certificate exists at once: nobody waits for its layer.
            at_once = requirement.rpartition("$")[2].startswith(("random:", "tls:"))
            if requirement in layer_of and not at_once:
                graph[layer].add(layer_of[requirement])
        graph[layer].discard(layer)
    return _without_detours(graph)


def descendants(recording: Recording, urn: str) -> Iterator[Recorded]:
    """All resources below a component."""
    for child in recording.children(urn):
        yield child
        yield from descendants(recording, child.urn)


def columns(recording: Recording) -> list[list[str]]:
    """The layers by the earliest moment they can start; those of one column run side by side."""
    graph = layers(recording)
    column_of: dict[str, int] = {}

    def column(layer: str) -> int:
        if layer not in column_of:
            column_of[layer] = 1 + max(map(column, graph[layer]), default=-1)
        return column_of[layer]

    grid: list[list[str]] = []
    for layer in sorted(graph, key=lambda name: (column(name), name)):
        if column(layer) == len(grid):
            grid.append([])
        grid[-1].append(layer)
    return grid


def longest_chain(recording: Recording) -> list[Recorded]:
    """The resources that must come one after the other; they bound the time of an `up`."""
    chain_to: dict[str, list[Recorded]] = {}

    def chain(urn: str) -> list[Recorded]:
        if urn not in chain_to:
            resource = recording.resources[urn]
            earlier = resource.requirements & recording.resources.keys()
            longest = max(map(chain, earlier), key=len, default=list[Recorded]())
            own_step = [resource] if resource.custom else []
            chain_to[urn] = [*longest, *own_step]
        return chain_to[urn]

    return max(map(chain, recording.resources), key=len, default=list[Recorded]())


def mermaid(recording: Recording) -> str:
    """The picture of the layers as Markdown; hosting services and editors draw it."""
    graph = layers(recording)
    lines = ["```mermaid", "flowchart LR"]
    lines += [f"  {_node(layer)}[{layer}]" for layer in sorted(graph)]
    for layer in sorted(graph):
        lines += [f"  {_node(earlier)} --> {_node(layer)}" for earlier in sorted(graph[layer])]
    return "\n".join([*lines, "```", ""])


def _node(layer: str) -> str:
    return layer.replace("-", "_")


def _without_detours(graph: Graph) -> Graph:
    """Drops A -> C where A -> B -> C says it already."""

    def reached(layer: str) -> set[str]:
        return graph[layer].union(*map(reached, graph[layer]))

    fewest: Graph = {}
    for layer, needs in graph.items():
        through_others: set[str] = set()
        for need in needs:
            through_others |= reached(need)
        fewest[layer] = needs - through_others
    return fewest

"""What a person sees of a recording: the tree by layer, the dependency picture, the outputs, the manifests."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any, cast

import yaml
from rich.console import Console
from rich.table import Table
from rich.tree import Tree

from offline.record import Recorded, Recording, Secret, object_name


def masked(value: Any) -> Any:
    """Plain data for YAML: a secret is a mark that says so; of a secret map the keys are kept."""
    if isinstance(value, Secret):
        inside = value.value
        return (
            dict.fromkeys(sorted(cast("Mapping[str, Any]", inside)), "[secret]")
            if isinstance(inside, Mapping)
            else "[secret]"
        )
    if isinstance(value, Mapping):
        return {key: masked(item) for key, item in sorted(cast("Mapping[str, Any]", value).items())}
    return [masked(item) for item in cast("list[Any]", value)] if isinstance(value, list) else value


def tree(recording: Recording) -> Tree:
    """Every resource below the component that made it, with counts."""
    total = Counter(
        "component" if not one.custom else "resource" for one in recording.resources.values()
    )
    root = Tree(
        f"[bold]shlink/{recording.stack}[/]  {total['resource']} resources in {total['component']} components"
    )

    def grow(branch: Tree, parent: str) -> None:
        for one in sorted(recording.children(parent), key=_order):
            inside = list(_descendants(recording, one.urn))
            label = (
                f"[cyan]{one.kind}[/] {one.name}"
                if one.custom or one.remote
                else f"[bold]{one.kind}[/] {one.name}  [dim]{len(inside)}[/]"
            )
            detail = _detail(one)
            grow(branch.add(f"{label}  [dim]{detail}[/]" if detail else label), one.urn)

    grow(root, "")
    return root


def _order(one: Recorded) -> tuple[int, str, str]:
    layers = ("network", "operators", "vault", "postgres", "redis", "externalsecrets", "shlink")
    layer = one.type.split(":")[1]
    return (
        layers.index(layer) if one.type.startswith("shlink:") and layer in layers else -1,
        one.kind,
        one.name,
    )


def _descendants(recording: Recording, urn: str) -> Iterator[Recorded]:
    for one in recording.children(urn):
        yield one
        yield from _descendants(recording, one.urn)


def _detail(one: Recorded) -> str:
    """What a reader would open the manifest for."""
    inputs, metadata = one.inputs, one.inputs.get("metadata")
    if one.kind == "Grant":
        return f"{', '.join(inputs['privileges'])} on {inputs['objectType']} {inputs['schema']} of {inputs['database']} to {inputs['role']}"
    if one.kind == "Policy":
        return (
            ", ".join(re.findall(r'"([^"]+)": \{\s*"capabilities"', str(inputs["policy"])))
            + ": read"
        )
    if one.kind == "SecretV2":
        return f"{inputs['mount']}/{inputs['name']}"
    if one.kind in ("Release", "Chart"):
        return f"{inputs['chart']} {inputs['version']}"
    if isinstance(metadata, Mapping):
        place = cast("Mapping[str, Any]", metadata)
        return "/".join(str(place[key]) for key in ("namespace", "name") if key in place)
    return ""


def layers(recording: Recording) -> dict[str, set[str]]:
    """Each top-level component and the components that something in it waits for, without those reached through another."""
    home: dict[str, str] = {}
    tops = [one for one in recording.children("") if not one.custom]
    for top in tops:
        home[top.urn] = top.name
        home |= {one.urn: top.name for one in _descendants(recording, top.urn)}
    needs: dict[str, set[str]] = {top.name: set() for top in tops}
    for one in recording.resources.values():
        if one.urn in home:
            wanted = {*one.depends_on, one.provider.rpartition("::")[0]}
            # A random value is there at once: nobody waits for the layer that it was made for.
            needs[home[one.urn]] |= {
                home[urn]
                for urn in wanted
                if urn in home and not urn.rpartition("$")[2].startswith(("random:", "tls:"))
            }
            needs[home[one.urn]].discard(home[one.urn])

    def reach(name: str) -> set[str]:
        return needs[name].union(*(reach(other) for other in needs[name])) if needs[name] else set()

    return {
        name: {one for one in direct if not any(one in reach(other) for other in direct - {one})}
        for name, direct in needs.items()
    }


def longest_chain(recording: Recording) -> list[Recorded]:
    """The resources that must come one after the other: what bounds an `up` however much runs side by side."""
    best: dict[str, list[Recorded]] = {}

    def chain(urn: str) -> list[Recorded]:
        if urn not in best:
            one = recording.resources[urn]
            before = {
                *one.depends_on,
                one.provider.rpartition("::")[0],
            } & recording.resources.keys()
            longest = max((chain(other) for other in before), key=len, default=list[Recorded]())
            best[urn] = [*longest, one] if one.custom else longest
        return best[urn]

    return max((chain(urn) for urn in recording.resources), key=len, default=list[Recorded]())


def mermaid(recording: Recording) -> str:
    """The dependency picture for a README."""
    graph = layers(recording)
    lines = ["```mermaid", "flowchart LR"]
    lines += [f"  {_id(name)}[{name}]" for name in sorted(graph)]
    lines += [
        f"  {_id(before)} --> {_id(name)}"
        for name in sorted(graph)
        for before in sorted(graph[name])
    ]
    return "\n".join([*lines, "```", ""])


def _id(name: str) -> str:
    return name.replace("-", "_")


def columns(recording: Recording) -> list[list[str]]:
    """The layers by the earliest moment at which they can start: those of one column run side by side."""
    graph = layers(recording)
    depth: dict[str, int] = {}

    def level(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((level(before) for before in graph[name]), default=-1)
        return depth[name]

    for name in graph:
        level(name)
    return [
        sorted(name for name in graph if depth[name] == at)
        for at in range(max(depth.values(), default=-1) + 1)
    ]


def svg(recording: Recording) -> str:
    """The dependency picture for a browser: what waits is to the right of what it waits for."""
    graph, wide, high, step_x, step_y = layers(recording), 200, 34, 260, 56
    grid = columns(recording)
    tallest = max(map(len, grid), default=1)
    place = {
        name: (20 + x * step_x, 20 + (y + (tallest - len(column)) / 2) * step_y)
        for x, column in enumerate(grid)
        for y, name in enumerate(column)
    }
    edges = [
        f'<path d="M{place[before][0] + wide},{place[before][1] + high / 2} C{place[before][0] + wide + 40},{place[before][1] + high / 2} '
        f'{place[name][0] - 40},{place[name][1] + high / 2} {place[name][0] - 4},{place[name][1] + high / 2}"/>'
        for name in graph
        for before in graph[name]
    ]
    boxes = [
        f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="6"/>'
        f'<text x="{x + wide / 2}" y="{y + high / 2 + 5}">{escape(name)}</text>'
        for name, (x, y) in place.items()
    ]
    width, height = 40 + (len(grid) - 1) * step_x + wide, 40 + tallest * step_y
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        "<title>What waits for what</title><style>rect{fill:#eef3fb;stroke:#4468b0}text{font:14px sans-serif;text-anchor:middle}"
        "path{fill:none;stroke:#7a8bad;stroke-width:1.5;marker-end:url(#to)}svg{background:#fff}</style>"
        '<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<polygon points="0,0 8,4 0,8" fill="#7a8bad"/></marker></defs>'
        + "".join(edges)
        + "".join(boxes)
        + "</svg>\n"
    )


def manifests(recording: Recording, folder: Path) -> int:
    """One YAML file for each Kubernetes object that the program declares, and the values of each chart; returns how many objects."""
    written = 0
    for one in recording.resources.values():
        if one.is_kubernetes_object:
            space = one.inputs.get("metadata", {}).get("namespace", "cluster")
            _write(folder / str(space) / f"{one.kind.lower()}-{object_name(one)}.yaml", one.inputs)
            written += 1
        elif one.kind in ("Release", "Chart"):
            _write(
                folder / "charts" / f"{one.name}.yaml",
                {
                    key: one.inputs[key]
                    for key in ("chart", "version", "repositoryOpts", "values")
                    if key in one.inputs
                },
            )
    return written


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(masked(content), sort_keys=False, width=120))


def outputs(recording: Recording) -> Table:
    """The outputs contract with this stack's values."""
    table = Table(
        title="Outputs", title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    for name, value in sorted(recording.outputs.items()):
        shown = masked(value)
        if isinstance(shown, dict):
            shown = ", ".join(
                f"{key}={item}" for key, item in cast("dict[str, str]", shown).items()
            )
        table.add_row(name, str(shown))
    return table


def order(recording: Recording) -> Table:
    """The dependency picture as text: one line for each step, what is in one line runs side by side."""
    table = Table(
        title="Order (one row waits for the rows above)",
        title_justify="left",
        show_header=False,
        box=None,
        padding=(0, 2, 0, 0),
    )
    for step, names in enumerate(columns(recording), 1):
        table.add_row(f"[dim]{step}[/]", ", ".join(names))
    return table


def show(recording: Recording, console: Console, folder: Path) -> None:
    """Print all of it, and write the files into an emptied folder."""
    for old in sorted(folder.rglob("*"), reverse=True) if folder.exists() else []:
        old.rmdir() if old.is_dir() else old.unlink()
    objects = manifests(recording, folder)
    shown = tree(recording)
    (folder / "graph.svg").write_text(svg(recording))
    (folder / "graph.md").write_text(mermaid(recording))
    with (folder / "tree.txt").open("w") as file:
        Console(file=file, width=160, no_color=True).print(shown)
    console.print(shown, soft_wrap=True)
    console.print(order(recording), outputs(recording))
    for message in recording.messages:
        console.print(f"[yellow]{message}[/]")
    console.print(
        f"{objects} Kubernetes objects in {folder}/, what waits for what in {folder}/graph.svg",
        highlight=False,
    )

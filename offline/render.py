"""What a person sees of a recording in the terminal: the tree by layer, the order, the outputs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from offline import files, graph
from offline.record import Recorded, Recording

WIDTH = 160
"""Columns of what goes into a file or a pipe."""
_POLICY_PATHS = 4
_LAYERS = ("network", "operators", "vault", "postgres", "redis", "externalsecrets", "shlink")
"""The order of the tree: an unknown layer comes first."""


def show(recording: Recording, console: Console, folder: Path) -> None:
    """Print everything, and put the files into `folder` in place of an older preview's.

    Raises ForeignFilesError.
    """
    shown = tree(recording)
    with files.replacing(folder) as written:
        objects = files.write_manifests(recording, written)
        (written / "graph.md").write_text(graph.mermaid(recording))
        with (written / "tree.txt").open("w") as file:
            Console(file=file, width=WIDTH, no_color=True).print(shown)
    console.print(shown, soft_wrap=True)
    console.print(order(recording), outputs(recording))
    for message in recording.messages:
        console.print(f"[yellow]{escape(message)}[/]")
    console.print(
        f"{objects} Kubernetes objects in {folder}/, the picture of what waits for what in"
        f" {folder}/graph.md",
        highlight=False,
    )


def tree(recording: Recording) -> Tree:
    """Every resource below its component, with counts."""
    resources = [resource for resource in recording.resources.values() if resource.custom]
    components = len(recording.resources) - len(resources)
    root = Tree(
        f"[bold]shlink/{recording.stack}[/]  {len(resources)} resources in {components} components"
    )

    def grow(branch: Tree, parent: str) -> None:
        for resource in sorted(recording.children(parent), key=_place):
            grow(branch.add(_label(recording, resource)), resource.urn)

    grow(root, "")
    return root


def order(recording: Recording) -> RenderableType:
    """The dependency picture as text: a row per step; the layers of a row run side by side."""
    table = _table("Order (each row waits for the rows above)")
    for step, layers in enumerate(graph.columns(recording), 1):
        table.add_row(f"[dim]{step}[/]", ", ".join(layers))
    return table


def outputs(recording: Recording) -> RenderableType:
    """The outputs contract with this stack's values."""
    table = _table("Outputs")
    for name, value in sorted(recording.outputs.items()):
        shown = files.masked(value)
        if isinstance(shown, dict):
            entries = cast("dict[str, Any]", shown).items()
            shown = ", ".join(f"{key}={item}" for key, item in entries)
        table.add_row(name, escape(str(shown)))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0)
    )


def _place(resource: Recorded) -> tuple[int, str, str]:
    layer = resource.type.split(":")[1]
    position = -1
    if resource.type.startswith("shlink:") and layer in _LAYERS:
        position = _LAYERS.index(layer)
    return position, resource.kind, resource.name


def _label(recording: Recording, resource: Recorded) -> str:
    if resource.custom or resource.remote:
        label = f"[cyan]{resource.kind}[/] {escape(resource.name)}"
        detail = _detail(resource)
    else:
        label = f"[bold]{resource.kind}[/] {escape(resource.name)}"
        detail = str(sum(1 for _ in graph.descendants(recording, resource.urn)))
    return f"{label}  [dim]{escape(detail)}[/]" if detail else label


def _policy_paths(policy: str) -> str:
    """What a policy of Vault opens; of a long one the first paths."""
    paths = re.findall(r'"([^"]+)": \{\s*"capabilities"', policy)
    shown = ", ".join(paths[:_POLICY_PATHS])
    if len(paths) > _POLICY_PATHS:
        return f"{shown} and {len(paths) - _POLICY_PATHS} more paths"
    return shown


def _detail(resource: Recorded) -> str:
    """What a reader would open the manifest for."""
    inputs, metadata = resource.inputs, resource.inputs.get("metadata")
    if resource.kind == "Grant":
        privileges = ", ".join(inputs["privileges"])
        target = f"{inputs['objectType']} {inputs['schema']} of {inputs['database']}"
        return f"{privileges} on {target} to {inputs['role']}"
    if resource.kind == "Policy":
        return _policy_paths(str(inputs["policy"]))
    if resource.kind == "SecretV2":
        return f"{inputs['mount']}/{inputs['name']}"
    if resource.kind in ("Release", "Chart"):
        return f"{inputs['chart']} {inputs['version']}"
    if isinstance(metadata, Mapping):
        place = cast("Mapping[str, Any]", metadata)
        return "/".join(str(place[key]) for key in ("namespace", "name") if key in place)
    return ""

"""What a person sees of a recording in the terminal: the tree by layer, the order, the outputs."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from offline import files, graph
from offline.record import Recorded, Recording
from offline.terminal import hanging

_FILE_WIDTH = 160
"""Columns of tree.txt: a line for each resource, for a comparison of two previews."""
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
            Console(file=file, width=_FILE_WIDTH, no_color=True).print(shown)
    with console.capture() as lines:
        console.print(shown)
    console.file.write(re.sub(" +$", "", lines.get(), flags=re.MULTILINE))
    _rows("Order (each row waits for the rows above)", order(recording), console)
    _rows("Outputs", outputs(recording), console)
    for message in recording.messages:
        console.print(f"[yellow]{escape(hanging('', message, console.width))}[/]", soft_wrap=True)
    written_files = (
        f"{objects} Kubernetes objects in {folder}/, what waits for what in {folder}/graph.md"
    )
    console.print(hanging("", written_files, console.width), soft_wrap=True)


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


def order(recording: Recording) -> dict[str, str]:
    """The dependency picture as text: the layers of a step run side by side."""
    columns = graph.columns(recording)
    return {str(step): ", ".join(layers) for step, layers in enumerate(columns, 1)}


def outputs(recording: Recording) -> dict[str, str]:
    """The outputs contract with this stack's values."""
    texts: dict[str, str] = {}
    for name, value in sorted(recording.outputs.items()):
        shown = files.masked(value)
        if isinstance(shown, dict):
            entries = cast("dict[str, Any]", shown).items()
            shown = ", ".join(f"{key}={item}" for key, item in entries)
        texts[name] = str(shown)
    return texts


def _rows(title: str, texts: Mapping[str, str], console: Console) -> None:
    console.print(f"[italic]{title}[/]")
    column = max(map(len, texts))
    for name, text in texts.items():
        row = hanging(f"{name:{column}}  ", text, console.width)
        console.print(escape(row), soft_wrap=True)


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

"""Writes what a preview leaves on disk: a folder of YAML files that the next preview may replace.

A preview removes only what a preview wrote. Each folder holds a list of its files; a folder with
anything else in it is refused, not emptied. A new folder is written aside and takes the old one's
place by a rename, so previews that run at the same time never see half of each other.
"""

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from offline.record import Recording, Secret, object_name

LIST = ".written-by-preview"
"""The file in each folder that names everything in it."""
_CHART_INPUTS = ("chart", "version", "repositoryOpts", "values")
_READ_AS_ANOTHER_TYPE = re.compile(r"[yYnN]|[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+|0o[0-7]+")
"""Strings that PyYAML leaves unquoted and that other parsers read as a boolean or a number."""


class ForeignFilesError(Exception):
    """A folder that a preview would replace holds something that no preview wrote."""


@contextlib.contextmanager
def replacing(folder: Path) -> Generator[Path]:
    """An empty folder to write into; it takes the place of `folder` at the end of the block.

    Raises ForeignFilesError, before or after the block, and then leaves everything as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_preview_in(folder.parent):
        _refuse_foreign_files(folder)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
        written, old = Path(aside, "new"), Path(aside, "old")
        written.mkdir()
        yield written
        (written / LIST).write_text("".join(f"{name}\n" for name in _contents(written)))
        with _only_preview_in(folder.parent):
            _refuse_foreign_files(folder)
            if folder.exists():
                folder.rename(old)
            written.rename(folder)


@contextlib.contextmanager
def _only_preview_in(parent: Path) -> Generator[None]:
    """Other previews that replace a folder of `parent` wait meanwhile.

    The lock is on `parent` itself, so no lock file stays.
    """
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refuse_foreign_files(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ForeignFilesError(f"{folder} is not a folder: move it away or choose another --out")
    written = {LIST}
    if (folder / LIST).is_file():
        written.update((folder / LIST).read_text().splitlines())
    foreign = [name for name in _contents(folder) if name not in written]
    if foreign:
        raise ForeignFilesError(
            f"{folder} holds {foreign[0]}, which no preview wrote: move it away or choose another"
            " --out (`make clean` removes all of build/)"
        )


def _contents(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def masked(value: Any) -> Any:
    """Plain data with its secrets replaced by a mark; of a secret map the keys are kept."""
    if isinstance(value, Secret):
        content: Any = value.value
        if isinstance(content, Mapping):
            return dict.fromkeys(sorted(cast("Mapping[str, Any]", content)), "[secret]")
        return "[secret]"
    if isinstance(value, Mapping):
        return {key: masked(item) for key, item in sorted(cast("Mapping[str, Any]", value).items())}
    if isinstance(value, list):
        return [masked(item) for item in cast("list[Any]", value)]
    return value


def write_manifests(recording: Recording, folder: Path) -> int:
    """A file for each Kubernetes object that the program declares, and the values of each chart.

    Returns the number of objects.
    """
    objects = 0
    for resource in recording.resources.values():
        if resource.is_kubernetes_object:
            namespace = str(resource.inputs.get("metadata", {}).get("namespace", "cluster"))
            name = f"{resource.kind.lower()}-{object_name(resource)}.yaml"
            _write(folder / namespace / name, resource.inputs)
            objects += 1
        elif resource.kind in ("Release", "Chart"):
            inputs = {key: resource.inputs[key] for key in _CHART_INPUTS if key in resource.inputs}
            _write(folder / "charts" / f"{resource.name}.yaml", inputs)
    return objects


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumped(masked(content)))


def dumped(value: Any) -> str:
    """YAML that every parser reads back as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=120)


class _Dumper(yaml.SafeDumper):
    pass


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None
    if _READ_AS_ANOTHER_TYPE.fullmatch(text):
        style = "'"
    elif "\n" in text:
        style = "|"
    # The stubs leave the type of the value open.
    return dumper.represent_scalar(  # pyright: ignore[reportUnknownMemberType]
        "tag:yaml.org,2002:str", text, style=style
    )


_Dumper.add_representer(str, _text)

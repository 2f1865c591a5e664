"""The stacks of a folder, and a stack's configuration without its passphrase.

A placeholder takes the place of each encrypted value.
"""

import re
from pathlib import Path

from components.settings import stack_file
from components.settings.stack_file import PLACEHOLDER, StackFileError

__all__ = ["PLACEHOLDER", "StackError", "configuration", "names"]

StackError = StackFileError


def names(root: Path) -> list[str]:
    """The stacks that have a file."""
    return sorted(
        path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        for path in root.glob("Pulumi.*.yaml")
    )


def configuration(root: Path, stack: str) -> tuple[dict[str, str], frozenset[str]]:
    """Configuration as the program gets it, and the keys or paths that are encrypted.

    Keys are full, and objects are JSON text. Raises StackError: the file is missing, can't be read,
    or has something in it that the engine would ignore.
    """
    path = root / f"Pulumi.{stack}.yaml"
    known = ", ".join(names(root)) or "none"
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", stack):
        raise StackError(
            f"{stack!r} is no name of a stack: letters, digits, dashes, dots and underscores; "
            f"stacks: {known}"
        )
    if not path.exists():
        raise StackError(
            f"there is no stack {stack!r}: Pulumi.{stack}.yaml does not exist; stacks: {known}"
        )
    file = stack_file.read(path)
    if file.faults:
        raise StackError("\n  ".join(["the stack's file can't be used:", *file.faults]))
    return file.values, file.encrypted

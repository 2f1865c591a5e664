"""The stacks of a folder, and a stack's configuration without its passphrase.

A placeholder takes the place of each encrypted value.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

from components.settings import stack_file
from components.settings.stack_file import PLACEHOLDER, StackFileError

__all__ = ["PLACEHOLDER", "StackError", "check_name", "configuration", "names"]

StackError = StackFileError


def names(root: Path) -> list[str]:
    """The stacks that have a file."""
    return sorted(
        path.name.removeprefix("Pulumi.").removesuffix(".yaml")
        for path in root.glob("Pulumi.*.yaml")
    )


def check_name(root: Path, stack: str) -> None:
    """Raises StackError: the engine would not take this name."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", stack):
        known = ", ".join(names(root)) or "none"
        raise StackError(
            f"{stack!r} is no name of a stack: letters, digits, dashes, dots and underscores; "
            f"stacks: {known}"
        )


def configuration(root: Path, stack: str) -> tuple[dict[str, str], frozenset[str]]:
    """Configuration as the program gets it, and the keys or paths that are encrypted.

    Keys are full, and objects are JSON text. The pulumi command is asked what stands in Pulumi ESC.
    Raises StackError: the file is missing, can't be read, or has something in it that the engine
    would ignore.
    """
    path = root / f"Pulumi.{stack}.yaml"
    check_name(root, stack)
    if not path.exists():
        known = ", ".join(names(root)) or "none"
        raise StackError(
            f"there is no stack {stack!r}: Pulumi.{stack}.yaml does not exist; stacks: {known}; "
            f"to make one: make new STACK={stack}"
        )
    file = stack_file.read(path)
    if file.faults:
        raise StackError("\n  ".join(["the stack's file can't be used:", *file.faults]))
    if not file.environments:
        return file.values, file.encrypted
    resolved, secret = _resolved(root, stack, file.environments)
    return resolved | file.values, file.encrypted | (secret - file.values.keys())


def _resolved(
    root: Path, stack: str, environments: tuple[str, ...]
) -> tuple[dict[str, str], frozenset[str]]:
    """Values that the stack takes from Pulumi ESC, without its secrets.

    Where the pulumi command can't tell, a line says which environment is not seen.
    """
    command = ["pulumi", "config", "--json", "--show-secrets=false", "--stack", stack]
    try:
        answer = subprocess.run(  # noqa: S603 -- the stack's name is checked above
            command, cwd=root, capture_output=True, text=True, timeout=60, check=True
        )
        entries = cast("dict[str, dict[str, Any]]", json.loads(answer.stdout))
    except FileNotFoundError:
        reason = "the pulumi command is not there"
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines() or ["it failed"]
        reason = f"pulumi config: {lines[-1]}"
    except (subprocess.TimeoutExpired, ValueError):
        reason = "pulumi config gave no answer"
    else:
        secret = frozenset(key for key, entry in entries.items() if entry.get("secret"))
        values = {key: str(entry.get("value", PLACEHOLDER)) for key, entry in entries.items()}
        return values, secret
    sys.stderr.write(
        f"note: values from the environment {', '.join(environments)} (Pulumi ESC) are not seen "
        f"here: {reason}\n"
    )
    return {}, frozenset()

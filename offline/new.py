"""`make new STACK=NAME`: a stack's file like another one's, with what only its owner knows.

What the other file marks with CHANGE-ME is asked; so are a cluster and a domain where nothing is
marked. The new file is written once the program accepts it.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pulumi
from rich.prompt import Prompt

from components.settings import stack_file
from components.settings.environment import parse
from components.settings.reading import TO_CHANGE
from offline import stacks
from offline.record import ROOT

_ALWAYS = re.compile(r"^ *(?:kubernetes:context|domain): (?P<value>[^\s#{}]+)")

Ask = Callable[[str, str | None], str]
"""A question and what is meant without an answer."""

_NEXT = """{path} is written. What comes next (docs/getting-started.md):
  make preview STACK={stack}         # what it will hold, offline
  make doctor PRE=1 STACK={stack}    # whether the cluster can take it
  pulumi stack init --no-select {stack}
  make up STACK={stack}
"""


def filled(text: str, ask: Ask) -> str:
    """The text with an answer in the place of each mark; comments stay as they are."""
    lines: list[str] = []
    for line in text.splitlines():
        value, comment_sign, comment = line.partition(" #")
        if line.lstrip().startswith("#"):
            value, comment_sign, comment = "", "", line
        for mark in TO_CHANGE.findall(value):
            value = value.replace(mark, ask(value.strip(), None), 1)
        if (plain := _ALWAYS.match(value)) and not TO_CHANGE.search(line):
            start, end = plain.span("value")
            value = value[:start] + ask(value.strip(), plain["value"]) + value[end:]
        lines.append(value + comment_sign + comment)
    return "\n".join(lines) + "\n"


def write(root: Path, stack: str, like: str, ask: Ask) -> Path:
    """Write the file. Raises StackFileError and SettingsError; then nothing is written."""
    stacks.check_name(root, stack)
    path = root / f"Pulumi.{stack}.yaml"
    if path.exists():
        raise stacks.StackError(f"{path.name} is there already; change it, or take another name")
    example = root / f"Pulumi.{like}.yaml"
    if not example.exists():
        known = ", ".join(stacks.names(root))
        raise stacks.StackError(f"FROM={like}: {example.name} does not exist; allowed: {known}")
    text = example.read_text()
    if stack_file.read(example).encrypted:
        raise stacks.StackError(
            f"FROM={like}: {example.name} holds encrypted values, which only its own stack can "
            "read; take another file"
        )
    written = filled(text, ask)
    trial = path.with_suffix(".new")
    try:
        trial.write_text(written)
        file = stack_file.read(trial)
        if file.faults:
            raise stacks.StackError(
                "\n  ".join(["the answers make no stack's file:", *file.faults])
            )
        parse(file.values, file.encrypted)
        trial.rename(path)
    finally:
        trial.unlink(missing_ok=True)
    return path


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m offline.new", description=__doc__)
    parser.add_argument("stack", help="name of the new environment")
    parser.add_argument("--like", default="dev", help="the environment whose file to begin with")
    options = parser.parse_args(arguments)
    try:
        path = write(ROOT, options.stack, options.like, _on_the_terminal)
    except pulumi.RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except (EOFError, KeyboardInterrupt):
        sys.stderr.write("error: nothing was written: each question needs an answer\n")
        return 1
    sys.stdout.write(_NEXT.format(path=path.name, stack=options.stack))
    return 0


def _on_the_terminal(question: str, default: str | None) -> str:
    while not (answer := Prompt.ask(question, default=default)):
        pass
    return answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

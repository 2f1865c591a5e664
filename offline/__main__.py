"""`python -m offline preview|bench STACK`: see `make preview` and `make bench`."""

import argparse
import sys
from pathlib import Path

import pulumi
from rich.console import Console

from offline import render, stacks
from offline.record import ROOT, record


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m offline",
        description="Show what a stack would hold, without a cluster or an engine.",
    )
    parser.add_argument("stack", help="the XXX of Pulumi.XXX.yaml")
    parser.add_argument("--root", type=Path, default=ROOT, help="where the stack files are")
    parser.add_argument(
        "--out", type=Path, default=Path("build/preview"), help="where the manifests go"
    )
    options = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        configuration, encrypted = stacks.configuration(options.root, options.stack)
        recording = record(options.stack, configuration, encrypted)
    except (stacks.StackError, pulumi.RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    console.print(
        "[dim]Offline: what this stack would hold. The difference against what is running is `pulumi preview`'s to tell.[/]"
    )
    render.show(recording, console, options.out / options.stack)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

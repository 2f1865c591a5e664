"""`make preview`, or `python -m offline STACK`: what a stack would hold, without a cluster."""

import argparse
import sys
from pathlib import Path

import pulumi

from components.settings.environment import doubts, parse
from offline import policy, render, stacks
from offline.files import ForeignFilesError
from offline.record import ROOT, record
from offline.terminal import console


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m offline", description=__doc__)
    parser.add_argument("stack", help="the XXX of Pulumi.XXX.yaml")
    parser.add_argument("--root", type=Path, default=ROOT, help="where the stack files are")
    parser.add_argument(
        "--out", type=Path, default=Path("build/preview"), help="where the manifests go"
    )
    options = parser.parse_args(arguments)
    screen = console()
    try:
        configuration, encrypted = stacks.configuration(options.root, options.stack)
        # The engine tells the program the keys with something encrypted below them, not the paths.
        warnings = doubts(*parse(configuration, encrypted), encrypted)
        recording = record(options.stack, configuration, encrypted)
        recording.messages += [doubt for doubt in warnings if doubt not in recording.messages]
        screen.print(
            "[dim]Offline: what this stack would hold. To compare it with what is running:\n"
            f"make live-preview STACK={options.stack}[/]",
            soft_wrap=True,
        )
        render.show(recording, screen, options.out / options.stack)
        broken = policy.faults(recording)
        if broken:
            lines = "\n".join(f"  {fault}" for fault in broken)
            sys.stderr.write(f"error: what this stack would hold breaks a rule:\n{lines}\n")
            return 1
    except (ForeignFilesError, stacks.StackError, pulumi.RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except OSError as error:  # a checkout that can't be written to, a full disk
        sys.stderr.write(
            f"error: {error.filename or options.out}: {error.strerror}; "
            "choose another folder with --out\n"
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

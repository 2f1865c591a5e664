"""`python -m operate doctor|smoke|drill STACK`; see `make doctor`, `make smoke`, `make drill`."""

import argparse
import asyncio
import dataclasses
import json
import sys
from collections.abc import Sequence

import pulumi
from rich.console import Console

from components.cluster.access import access
from offline import stacks

from . import ownership
from .declared import Declared, add_stack, connectable
from .doctor import preflight
from .doctor.checks import CHECKS
from .doctor.examine import BLIND, HEALTHY, ILL, Report, examine
from .doctor.report import show
from .rehearse import drills
from .smoke import SmokeError, Step, smoke


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        environment = connectable(options.stack, options.kubeconfig)
    except (stacks.StackError, pulumi.RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        return BLIND
    return options.run(environment, options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m operate", description="Look after a stack.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    add_stack(common)
    common.add_argument("--json", action="store_true", help="print one JSON object")
    doctor = commands.add_parser(
        "doctor",
        parents=[common],
        help="find what is wrong, its cause and its remedy",
        description="Exit code: 0 nothing to mend, 1 something to mend, 2 it could not look.",
    )
    doctor.add_argument(
        "--pre", action="store_true", help="ask whether this cluster can take the stack"
    )
    doctor.set_defaults(run=_doctor)
    smoke_parser = commands.add_parser(
        "smoke",
        parents=[common],
        help="create a short URL, follow it, see its visit, delete it",
        description="Exit code: 0 it works, 1 it does not, 2 it could not be reached.",
    )
    smoke_parser.add_argument(
        "--outside", action="store_true", help="use the external URL in place of a forward"
    )
    smoke_parser.set_defaults(run=_smoke)
    drill = commands.add_parser(
        "drill",
        parents=[common],
        help="make a failure on purpose, or rotate a credential, and measure the recovery",
        description="Exit code: 0 recovered, 1 not recovered or not done.",
    )
    drill.add_argument("name", choices=[item.name for item in drills.DRILLS])
    drill.set_defaults(run=_drill)
    return parser


def _doctor(environment: Declared, options: argparse.Namespace) -> int:
    checks = preflight.CHECKS if options.pre else CHECKS
    reached = access(environment.cluster)
    look = examine(environment, reached, checks=checks, progress=_Progress())
    report = asyncio.run(look)
    _print(report, as_json=options.json)
    return report.exit_code


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
        return
    width = None if sys.stdout.isatty() else 160
    show(report, Console(width=width, highlight=False))


def _smoke(environment: Declared, options: argparse.Namespace) -> int:
    tell = _silent if options.json else _tell
    try:
        steps = smoke(environment, access(environment.cluster), outside=options.outside, tell=tell)
    except (SmokeError, pulumi.RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        return BLIND
    failed = [step for step in steps if not step.ok]
    if options.json:
        told = [dataclasses.asdict(step) for step in steps]
        document = {"stack": environment.stack, "ok": not failed, "steps": told}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif failed:
        sys.stdout.write(
            f"Shlink does not work. Find the cause: make doctor STACK={environment.stack}\n"
        )
    else:
        sys.stdout.write(f"Shlink works: {environment.outputs.external_url}\n")
    return ILL if failed else HEALTHY


def _drill(environment: Declared, options: argparse.Namespace) -> int:
    drill = next(item for item in drills.DRILLS if item.name == options.name)
    reached = access(environment.cluster)
    try:
        ownership.check_by_stack(reached, environment)
    except pulumi.RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return ILL
    sys.stdout.write(f"{drill.says}\n")
    where = f"stack {environment.stack}, context {environment.cluster.context}"
    if _answer(f"Do it in {where}? Type the stack's name: ") != environment.stack:
        sys.stdout.write("nothing done\n")
        return ILL

    def tell(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    try:
        outcome = drills.run(
            drill,
            environment,
            reached,
            tell=tell,
            again=lambda: connectable(options.stack, options.kubeconfig),
        )
    except (drills.DrillError, pulumi.RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        return ILL
    for step in outcome.steps:
        _tell(step)
    return HEALTHY if outcome.ok else ILL


def _answer(question: str) -> str:
    """What a person types, or a script sends; empty where nobody is there."""
    try:
        return input(question)
    except EOFError:
        return ""


def _tell(step: Step) -> None:
    mark = "ok  " if step.ok else "FAIL"
    if step.skipped:
        mark = "skip"
    detail = step.fault or step.skipped
    line = f"{mark} {step.name} ({step.seconds:.1f} s)"
    if detail:
        line = f"{line}: {detail}"
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _silent(_: Step) -> None:
    """JSON is printed at the end."""


class _Progress:
    """One line of a terminal that tells what is going on; nothing where there is no terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text} ...\r")
            sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

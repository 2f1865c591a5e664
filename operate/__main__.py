"""`python -m operate COMMAND STACK`: what `make` runs against a cluster.

Exit codes: 0 all is well, 1 something is not as it should be, 2 the command could not do its work
and says why, 130 it was interrupted.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import pulumi

from components.cluster.access import access
from offline.terminal import console, hanging

from . import asking, forward, import_links, ownership, rights
from .declared import Declared, connectable
from .doctor import preflight
from .doctor.checks import CHECKS
from .doctor.examine import BLIND, HEALTHY, ILL, examine
from .doctor.report import show
from .export_links import export_links
from .rehearse import drills, restore_drill
from .repair import recover, vault_renew
from .repair.pulumi_cli import DriftError, Pulumi
from .smoke import Step, resolution, smoke

INTERRUPTED = 130

_ENGINE: Mapping[str, tuple[str, Sequence[str]]] = {
    "live-preview": ("what an update would change", ["preview"]),
    "drift": (
        "fails where what runs differs from the program; changes nothing",
        ["preview", "--refresh", "--run-program", "--expect-no-changes"],
    ),
    "up": ("create or update the environment", ["up"]),
    "refresh": (
        "read what is there into the state, then mend it",
        ["up", "--refresh", "--run-program"],
    ),
}
"""Commands that are the engine's own. The forwards exist only while the program runs."""

Options = argparse.Namespace


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except pulumi.RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return ILL if isinstance(error, DriftError) else BLIND
    except ConnectionError as error:
        sys.stderr.write(f"error: {error}; see: make doctor STACK={options.stack}\n")
        return BLIND
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m operate", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[Options], int], text: str, *, connects: bool = False
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.add_argument("stack", help="the XXX of Pulumi.XXX.yaml")
        if connects:
            added.add_argument(
                "--kubeconfig", help="use this file; needed where the stack's own is encrypted"
            )
        added.set_defaults(run=run, engine=())
        return added

    for name, (text, words) in _ENGINE.items():
        command(name, _engine, text).set_defaults(engine=words)
    command("destroy", _destroy, "delete the environment, past a dead run's lock")
    command("recover", _recover, "undo what a killed run left half done, and go on")
    command("vault-renew", _vault_renew, "make Vault from nothing, and write its values again")
    command("forward", _forward, "keep the forwards to Vault and PostgreSQL open")
    doctor = command("doctor", _doctor, "find what is wrong, and its remedy", connects=True)
    doctor.add_argument(
        "--pre", action="store_true", help="ask whether this cluster can take the stack"
    )
    _add_json(doctor)
    command("rights", _rights, "what each ServiceAccount may do", connects=True)
    used = command("smoke", _smoke, "create, follow and delete a short URL", connects=True)
    used.add_argument(
        "--outside", action="store_true", help="use the external URL in place of a forward"
    )
    _add_json(used)
    drill = command("drill", _drill, "make a failure, and measure the recovery", connects=True)
    drill.add_argument("name", nargs="?", default="", help="which; without it they are listed")
    restore = command(
        "restore-drill", _restore_drill, "restore the latest backup beside the live", connects=True
    )
    restore_drill.add_options(restore)
    _add_json(restore)
    links = command("import-links", _import_links, "bring links along", connects=True)
    import_links.add_options(links)
    export = command("export-links", _export_links, "write all links into a CSV", connects=True)
    export.add_argument("file", help="which must not exist")
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _engine(options: Options) -> int:
    name, *words = options.engine
    _command(options, changes=name != "preview").run(name, *words)
    return HEALTHY


def _destroy(options: Options) -> int:
    recover.destroy(_command(options))
    return HEALTHY


def _recover(options: Options) -> int:
    recover.recover(_command(options))
    return HEALTHY


def _vault_renew(options: Options) -> int:
    vault_renew.renew(_command(options))
    return HEALTHY


def _command(options: Options, *, changes: bool = True) -> Pulumi:
    command = Pulumi(options.stack)
    command.check()
    if changes:
        # Before anything is done: some of these commands ask late.
        asking.check_answerable()
    return command


def _forward(options: Options) -> int:
    forward.hold_open(options.stack)
    return HEALTHY


def _doctor(options: Options) -> int:
    environment = _environment(options)
    checks = preflight.CHECKS if options.pre else CHECKS
    look = examine(environment, access(environment.cluster), checks=checks, progress=_Progress())
    report = asyncio.run(look)
    if options.json:
        _print(report.as_json())
    else:
        show(report, console())
    return report.exit_code


def _rights(options: Options) -> int:
    for account, lines in asyncio.run(rights.look(access(_environment(options).cluster))).items():
        _say(account)
        for line in lines or ["nothing"]:
            _say(hanging("  - ", line))
    return HEALTHY


def _smoke(options: Options) -> int:
    environment = _environment(options)
    tell = _ignore if options.json else _tell
    steps = smoke(environment, access(environment.cluster), outside=options.outside, tell=tell)
    failed = [step for step in steps if not step.ok]
    url, stack = environment.outputs.external_url, environment.stack
    name = resolution(url)
    if options.json:
        shown = [dataclasses.asdict(step) for step in steps]
        _print({"stack": stack, "ok": not failed, "steps": shown, "name": name})
    elif failed and options.outside:
        # Doctor does not know where the name should lead.
        text = (
            f"Shlink does not work at {url}, and {name}. If `make smoke STACK={stack}` works, the "
            "name or the way from it to the cluster is wrong"
        )
        _say(hanging("", text))
    elif failed:
        _say(hanging("", f"Shlink does not work. Find the cause: make doctor STACK={stack}"))
    else:
        _say(hanging("", f"Shlink works: {url} ({name})"))
    return ILL if failed else HEALTHY


def _drill(options: Options) -> int:
    if not options.name:
        _say(drills.listed(options.stack))
        return HEALTHY
    drill = drills.by_name(options.name)
    environment = _environment(options)
    reached = access(environment.cluster)
    ownership.check_by_stack(reached, environment)
    _agree(environment, drill.says)
    outcome = drills.run(
        drill, environment, reached, tell=_say, again=lambda: _environment(options)
    )
    for step in outcome.steps:
        _tell(step)
    return HEALTHY if outcome.ok else ILL


def _restore_drill(options: Options) -> int:
    environment = _environment(options)
    reached = access(environment.cluster)
    ownership.check_by_stack(reached, environment)
    tell = _ignore if options.json else _say
    drill = restore_drill.Drill(
        environment, reached, tell=tell, patience=options.patience, max_age=options.max_age
    )
    outcome = asyncio.run(drill.choose(options.repository))
    _agree(environment, asyncio.run(drill.announcement(outcome)))
    asyncio.run(_interruptible(drill.run(outcome)))
    if options.json:
        _print({"stack": options.stack, "ok": outcome.ok, **dataclasses.asdict(outcome)})
    else:
        _say("\n".join(restore_drill.shown(outcome)))
    return HEALTHY if outcome.ok else ILL


def _import_links(options: Options) -> int:
    environment = _environment(options)
    plan = import_links.plan(environment, options)
    reached = access(environment.cluster)
    ownership.check_by_stack(reached, environment)
    _agree(environment, f"Imports from {options.origin or options.source}, for hours if need be")
    run = import_links.Importing(reached, _say)
    asyncio.run(_interruptible(run.run(plan.job, plan.needs())))
    return HEALTHY if run.complete else ILL


def _export_links(options: Options) -> int:
    environment = _environment(options)
    export_links(environment, access(environment.cluster), Path(options.file), _say)
    return HEALTHY


def _environment(options: Options) -> Declared:
    return connectable(options.stack, options.kubeconfig)


async def _interruptible(work: Coroutine[Any, Any, None]) -> None:
    """Run it so that SIGTERM and SIGHUP, too, end it by its own `finally`."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, task.cancel)
    await task


def _agree(environment: Declared, announcement: str) -> None:
    """Say what will happen, and ask. Raises NotAgreedError."""
    sys.stderr.write(f"{announcement}\n")
    where = f"stack {environment.stack}, context {environment.cluster.context}"
    if not asking.agreed(f"Do it in {where}?"):
        raise asking.NotAgreedError("nothing was done")


def _tell(step: Step) -> None:
    mark = "ok  " if step.ok else "FAIL"
    if step.skipped:
        mark = "skip"
    detail = step.fault or step.skipped
    line = f"{step.name} ({step.seconds:.1f} s)"
    if detail:
        line = f"{line}: {detail}"
    _say(hanging(f"{mark} ", line))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _print(document: Mapping[str, Any]) -> None:
    _say(json.dumps(document, indent=2))


def _ignore(_: Any) -> None:
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

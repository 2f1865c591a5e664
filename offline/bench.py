"""`make bench`: what a preview costs, how much a stack holds, and what can't run side by side.

The bare program registers as many ConfigMaps under the same monitor, so the ratio is what this
program adds to its SDK. Ratios are of medians, and the commands take turns, so that a slow or busy
machine slows all of them alike.
"""

import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pulumi
from rich.console import Console

from offline import stacks
from offline.graph import columns, longest_chain
from offline.record import ROOT, Monitor, Recording, record, run

RUNS = 5
_BARE = """
from pulumi_kubernetes.core.v1 import ConfigMap
for number in range({count}):
    ConfigMap(f"bare-{{number}}", data={{"number": str(number)}})
"""


def main(stack: str) -> None:
    console = Console(highlight=False, soft_wrap=True)
    recording = _program(stack)
    _show_times(console, stack, len(recording.resources))
    _show_contents(console, recording)


def _show_times(console: Console, stack: str, count: int) -> None:
    commands = {
        "bare": ["-m", "offline.bench", "--bare", str(count)],
        "program": ["-m", "offline.bench", "--program", stack],
        "preview": ["-m", "offline", stack, "--out", "build/bench"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, arguments in commands.items():
            times[name].append(_seconds(arguments))
    bare = statistics.median(times["bare"])
    console.print(f"{count} bare ConfigMaps: {bare:.2f} s (medians of {RUNS} runs)")
    for name in ("program", "preview"):
        median = statistics.median(times[name])
        console.print(f"{name} of {stack}: {median:.2f} s, {median / bare:.2f} times the bare ones")


def _show_contents(console: Console, recording: Recording) -> None:
    custom = [resource for resource in recording.resources.values() if resource.custom]
    components = len(recording.resources) - len(custom)
    kinds = Counter(resource.kind for resource in custom)
    console.print(f"resources: {len(custom)}, in {components} components")
    console.print("  " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    console.print("layers; each row waits for the rows above:")
    for layers in columns(recording):
        console.print("  " + ", ".join(layers))
    chain = longest_chain(recording)
    average = len(custom) / len(chain)
    console.print(
        f"longest chain: {len(chain)} of {len(custom)} resources,"
        f" {average:.1f} side by side on average"
    )
    console.print("  " + " -> ".join(f"{resource.kind} {resource.name}" for resource in chain))


def _seconds(arguments: Sequence[str]) -> float:
    start = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)  # noqa: S603 -- no shell, and the words are ours
    return time.perf_counter() - start


def _program(stack: str) -> Recording:
    configuration, encrypted = stacks.configuration(ROOT, stack)
    return record(stack, configuration, encrypted)


def _bare(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "bare.py")
        program.write_text(_BARE.format(count=count))
        monitor = Monitor(Recording("bare"))
        run(program, monitor, {}, project="bare", stack="bare", logger=logging.getLogger("bare"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--bare", number]:
            _bare(int(number))
        case ["--program", name]:
            _program(name)
        case [name] if name:
            try:
                main(name)
            except (stacks.StackError, pulumi.RunError) as error:
                sys.exit(f"error: {error}")
            except KeyboardInterrupt:
                sys.exit(130)
        case _:
            sys.exit("usage: python -m offline.bench STACK")

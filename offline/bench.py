"""`make bench`: what a preview costs against what it can't do without, how much there is, and what must come one after the other.

Times are ratios of medians taken in turn, so that a slow or busy machine slows both sides.
"""

import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from offline import stacks
from offline.record import ROOT, record
from offline.render import columns, longest_chain

RUNS = 5
_PACKAGES = "import pulumi, pulumi_kubernetes.core.v1, pulumi_kubernetes.apps.v1, pulumi_vault, pulumi_postgresql, pulumi_random, pulumi_tls"


def _seconds(arguments: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True)  # noqa: S603 -- this interpreter, our words
    return time.perf_counter() - start


def main(stack: str) -> None:
    console = Console(highlight=False)
    commands = {
        "importing the SDKs": ["-c", _PACKAGES],
        "preview": ["-m", "offline", stack, "--out", "build/bench"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, arguments in commands.items():
            times[name].append(_seconds(arguments))
    medians = {name: statistics.median(found) for name, found in times.items()}
    sdk, preview = medians.values()
    console.print(
        f"preview: {preview / sdk:.2f} times importing the SDKs (medians of {RUNS}: {preview:.2f} s, {sdk:.2f} s)"
    )

    configuration, encrypted = stacks.configuration(ROOT, stack)
    recording = record(stack, configuration, encrypted)
    custom = [one for one in recording.resources.values() if one.custom]
    console.print(
        f"resources: {len(custom)}, in {len(recording.resources) - len(custom)} components"
    )
    console.print(
        "  "
        + ", ".join(
            f"{count} {kind}" for kind, count in Counter(one.kind for one in custom).most_common()
        )
    )
    console.print("layers, one row at a time, a row's side by side:")
    for names in columns(recording):
        console.print("  " + ", ".join(names))
    chain = longest_chain(recording)
    console.print(
        f"longest chain: {len(chain)} of {len(custom)} resources, {len(custom) / len(chain):.1f} side by side on average"
    )
    console.print("  " + " -> ".join(f"{one.kind} {one.name}" for one in chain))


if __name__ == "__main__":
    main(sys.argv[1])

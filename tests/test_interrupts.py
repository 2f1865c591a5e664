"""What a program that is interrupted prints."""

import subprocess
import sys

import pytest

from offline.record import ROOT


def ended(statement: str) -> subprocess.CompletedProcess[str]:
    """A program that makes interrupts quiet and then ends by this statement."""
    program = f"from components.program import interrupts\ninterrupts.quiet()\n{statement}"
    return subprocess.run(  # noqa: S603 -- our own words
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "statement",
    [
        "raise KeyboardInterrupt",
        # A shell starts what runs in the background with interrupts ignored.
        (
            "import os, signal, time\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "os.kill(os.getpid(), signal.SIGINT); time.sleep(5)"
        ),
    ],
    ids=["raised", "signalled"],
)
def test_an_interrupt_is_no_traceback_and_no_success(statement: str) -> None:
    done = ended(statement)
    assert done.stderr == ""
    assert done.returncode != 0


def test_another_exception_is_told_as_before() -> None:
    assert "ValueError: told" in ended("raise ValueError('told')").stderr

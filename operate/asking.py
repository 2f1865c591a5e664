"""Asking a person before something is changed that can't be taken back."""

import os
import sys

import pulumi
from rich.console import Console
from rich.prompt import Confirm
from rich.text import Text

VARIABLE = "PULUMI_SKIP_CONFIRMATIONS"
"""With the value `true` it answers yes: the engine's own variable for the same purpose."""


class NotAgreedError(pulumi.RunError):
    """Nobody agreed, so nothing was done."""


def answered_by_script() -> bool:
    """Whether a script has said yes beforehand."""
    return os.environ.get(VARIABLE) == "true"


def check_answerable() -> None:
    """Raises NotAgreedError: neither a person nor a script is there to agree."""
    if not answered_by_script() and not sys.stdin.isatty():
        raise NotAgreedError(
            f"nothing was changed: there is no terminal to answer on; {VARIABLE}=true says yes"
        )


def agreed(question: str) -> bool:
    """A person's answer, or a script's. Raises NotAgreedError."""
    check_answerable()
    if answered_by_script():
        return True
    try:
        # Beside a report that goes into a file.
        return Confirm.ask(Text(question), console=Console(stderr=True), default=False)
    except EOFError:
        return False

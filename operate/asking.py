"""Asking a person before something is changed that can't be taken back."""

import os
import sys

import pulumi
from rich.prompt import Confirm

VARIABLE = "PULUMI_SKIP_CONFIRMATIONS"
"""With the value `true` it answers yes: the engine's own variable for the same purpose."""


class NotAgreedError(pulumi.RunError):
    """Nobody agreed, so nothing was done."""


def answered_by_script() -> bool:
    """Whether a script has said yes beforehand."""
    return os.environ.get(VARIABLE) == "true"


def agreed(question: str) -> bool:
    """A person's answer, or a script's. Raises NotAgreedError: nobody is there to answer."""
    if answered_by_script():
        return True
    if not sys.stdin.isatty():
        raise NotAgreedError(
            f"nothing was changed: there is no terminal to answer on ({VARIABLE}=true says yes). "
            f"The question: {question}"
        )
    return Confirm.ask(question, default=False)

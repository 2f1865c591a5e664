"""What commands print for a person: the terminal's width, or 80 columns of a file or a pipe."""

import sys
import textwrap

from rich.console import Console

WIDTH = 80


def console() -> Console:
    width = None if sys.stdout.isatty() else WIDTH
    return Console(width=width, highlight=False)


def hanging(lead: str, text: str, width: int = 0) -> str:
    """The text behind its lead, its further lines below its first; the width is the terminal's.

    No word is broken: names and addresses stay whole for whoever copies them.
    """
    filled = textwrap.fill(
        text,
        width or console().width,
        initial_indent=lead,
        subsequent_indent=" " * len(lead),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return filled or lead.rstrip()

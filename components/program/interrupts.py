"""An interrupted program ends without a traceback: the engine has told already why it stops.

When a deployment has failed or was cancelled, the engine closes its connection to the language
host, which sends the program an interrupt (pulumi-language-python 3.259, main.go, `cmd.Cancel`).
Python would print where the program stood at that moment, beneath the real error.
"""

import sys
from types import TracebackType


def quiet() -> None:
    """Print no traceback of a KeyboardInterrupt; every other exception is printed as before."""
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)

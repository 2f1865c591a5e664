"""`make forward`: keeps a stack's forwards open, for a plain `pulumi refresh`, psql or vault."""

import sys
import threading

from components.program import reach
from components.settings import environment as settings
from offline import stacks
from offline.record import ROOT


def hold_open(stack: str) -> None:
    """Print the addresses and wait for Ctrl-C.

    Raises StackFileError, SettingsError and ForwardError.
    """
    cluster, stack_settings = settings.parse(*stacks.configuration(ROOT, stack))
    servers = reach.servers(cluster, stack_settings, project="shlink", stack=stack)
    sys.stdout.write(
        f"Vault: {servers.vault}\n"
        f"PostgreSQL: {servers.postgres_host}:{servers.postgres_port}\n"
        "open until Ctrl-C\n"
    )
    sys.stdout.flush()
    threading.Event().wait()

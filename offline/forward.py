"""`make forward`: keeps a stack's forwards open, for a plain `pulumi refresh`, psql or vault."""

import sys
import threading

import pulumi

from components.program import reach
from components.settings import environment as settings
from offline import stacks
from offline.record import ROOT


def main(stack: str) -> int:
    try:
        cluster, stack_settings = settings.parse(*stacks.configuration(ROOT, stack))
        servers = reach.servers(cluster, stack_settings, project="shlink", stack=stack)
    except (stacks.StackError, pulumi.RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"Vault: {servers.vault}\n")
    sys.stdout.write(f"PostgreSQL: {servers.postgres_host}:{servers.postgres_port}\n")
    sys.stdout.write("open until Ctrl-C\n")
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    return 1


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004 -- the stack
        sys.exit("usage: python -m offline.forward STACK")
    sys.exit(main(sys.argv[1]))

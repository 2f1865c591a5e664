"""`make forward`: holds the forwards of a stack open until interrupted, for a plain `pulumi refresh`, psql or the vault command."""

import sys
import threading

import pulumi

from components import reach, settings
from offline import stacks
from offline.record import ROOT


def main(stack: str) -> int:
    try:
        cluster, wanted = settings.parse(*stacks.configuration(ROOT, stack))
        servers = reach.servers(cluster, wanted, project="shlink", stack=stack)
    except (stacks.StackError, pulumi.RunError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(
        f"Vault: {servers.vault}\nPostgreSQL: {servers.postgres_host}:{servers.postgres_port}\nheld open until Ctrl-C\n"
    )
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

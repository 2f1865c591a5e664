"""The program's forward to Vault, held open for a command of the engine that does not run it."""

import contextlib
from collections.abc import Generator

from components.cluster.access import access
from components.cluster.forward import Forward, local_port
from components.settings.environment import Cluster, Settings
from components.vault.component import forward_target


@contextlib.contextmanager
def vault_reachable(cluster: Cluster, declared: Settings, urn: str) -> Generator[None]:
    """Hold the forward open at the address that the state has; `urn` is any of the state's.

    Not by `refresh --run-program`: with targets that do not include the whole program, the engine
    (3.259) leaves a state that it cannot read any more. Raises ForwardError: the port is taken.
    """
    if declared.vault.address is not None:
        yield
        return
    prefix, project, *_ = urn.split("::")
    stack = prefix.removeprefix("urn:pulumi:")
    vault = forward_target(mode=declared.vault.mode, image=declared.images.vault)
    port = declared.vault.local_port or local_port(project, stack, vault.service)
    forward = Forward(access(cluster), vault, port, setting="shlink:vault")
    forward.start()
    try:
        yield
    finally:
        forward.close()

"""How this program reaches Vault and PostgreSQL inside the cluster."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from ..cluster.access import access
from ..cluster.forward import Forward, ForwardTarget, local_port
from ..postgres import component as postgres
from ..settings.environment import Cluster, Settings
from ..vault import component as vault


@dataclass(frozen=True)
class Servers:
    """Where the providers of this program find Vault and PostgreSQL."""

    vault: str
    """URL."""
    postgres_host: str
    postgres_port: int


def servers(cluster: Cluster, settings: Settings, *, project: str, stack: str) -> Servers:
    """Use the configured addresses. For a missing one, listen now and forward what connects.

    Raises ForwardError: a port is taken.
    """

    def bind(target: ForwardTarget, port: int | None, layer: str) -> int:
        # The same port in each run, since a provider's inputs must not change; another per stack.
        port = port or local_port(project, stack, target.service)
        Forward(access(cluster), target, port, setting=f"shlink:{layer}").start()
        return port

    url = settings.vault.address
    if url is None:
        vault_target = vault.forward_target(mode=settings.vault.mode, image=settings.images.vault)
        local = bind(vault_target, settings.vault.local_port, "vault")
        url = f"https://127.0.0.1:{local}"
    if settings.postgres.address is None:
        port = bind(postgres.PRIMARY, settings.postgres.local_port, "postgres")
        return Servers(url, "127.0.0.1", port)
    direct = urlsplit(f"//{settings.postgres.address}")
    return Servers(url, direct.hostname or "", direct.port or 5432)

"""`make vault-renew`: Vault made from nothing, for a lost volume, lost unseal keys, or both.

All values that this program keeps in Vault come from the state, so an empty Vault costs nothing but
what others put there. The steps, each of which may be repeated:

- the volumes are deleted while no server runs, and the Secret with the keys is emptied, its content
  kept under another name;
- what is lost of Vault in Kubernetes is made again, and the init Job runs once more: new keys, and
  the program's own login;
- the state forgets what is no longer in Vault, and `up` writes it again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from components.cluster.access import ClusterAccess, access, label_selector, named, objects
from components.cluster.polling import poll
from components.network.flows import VAULT
from components.program.identity import State
from components.settings import environment as settings
from operate import ownership

from .pulumi_cli import Pulumi, PulumiError, per_resource, say
from .vault_forward import vault_reachable

RELEASE = "vault"
"""The StatefulSet, and the beginning of the other names (components/vault/component.py)."""

KEYS = f"{RELEASE}-unseal-keys"

_SERVERS: Mapping[str, str] = {
    "app.kubernetes.io/name": "vault",
    "app.kubernetes.io/instance": RELEASE,
}
"""On the pods, and on their claims."""

_COMPONENT = "::shlink:vault:Vault$"

# Patterns, so that what an update adds to Vault belongs to them: the Secret of another key service.
_ALL = f"**{_COMPONENT}**"

_IN_CLUSTER = f"**{_COMPONENT}kubernetes:**"

# Another key service is another way out of Vault's namespace.
_NETWORK = "**::shlink:network:Namespace$**"

_JOB = "kubernetes:batch/v1:Job"

_PATIENCE = 180.0
"""Seconds in which pods and volumes must be gone."""

_INTERVAL = 2.0

_QUESTION = (
    "Everything in Vault and its unseal keys are deleted. This program writes its own values "
    "again; what anybody else keeps in Vault is lost. Shlink runs on meanwhile. Go on?"
)


@dataclass(frozen=True)
class VaultRecords:
    """What the state knows of Vault, by URN."""

    jobs: Sequence[str]
    """What initialises it."""
    inside: Sequence[str]
    """What lives in it, whichever component made it."""


def vault_records(deployment: Mapping[str, Any]) -> VaultRecords:
    """Read an exported state."""
    jobs: list[str] = []
    inside: list[str] = []
    resources: list[Mapping[str, str]] = deployment.get("resources") or []
    for resource in resources:
        urn, kind = resource["urn"], resource["type"]
        if kind.startswith("vault:"):
            inside.append(urn)
        elif kind == _JOB and _COMPONENT in urn:
            jobs.append(urn)
    return VaultRecords(jobs=jobs, inside=inside)


def renew(command: Pulumi) -> None:
    """Make Vault from nothing. Raises PulumiError; IdentityError where it is somebody else's."""
    deployment = command.export()
    records = vault_records(deployment)
    if not records.jobs:
        raise PulumiError("the state knows no Vault; make up brings it, without this command")
    target, declared = settings.parse(*command.configuration())
    if declared.vault.token or declared.vault.auth_login:
        raise PulumiError(
            "shlink:vault.token and shlink:vault.authLogin name a login that a new Vault does not "
            "know; remove them first, and set the login up again afterwards"
        )
    cluster = access(target)
    ownership.check(cluster, State.read(deployment))
    empty(command, cluster)
    say("making Vault's own objects again, and initialising it")
    command.run("refresh", "--skip-preview", *per_resource("--target", [_IN_CLUSTER, _NETWORK]))
    replaced = per_resource("--replace", records.jobs)
    command.run("up", "--skip-preview", *per_resource("--target", [_ALL, _NETWORK]), *replaced)
    say("looking what is in the new Vault")
    with vault_reachable(target, declared, records.jobs[0]):
        command.run("refresh", "--skip-preview", *per_resource("--target", records.inside))
    say("writing everything into it")
    command.run("up", "--skip-preview")
    say(f"done. Save the new keys away from the cluster: Secret {VAULT}/{KEYS}")


def empty(command: Pulumi, cluster: ClusterAccess) -> None:
    """Delete volumes and keys after a question. Raises PulumiError."""
    if not command.confirm(_QUESTION):
        raise PulumiError("nothing was changed")
    asyncio.run(_empty(cluster))


async def has_volumes(cluster: ClusterAccess) -> bool:
    """Whether a volume of Vault's is there."""
    async with cluster.connected() as api:
        return bool(await _all(api, "PersistentVolumeClaim"))


async def _empty(cluster: ClusterAccess) -> None:
    """Delete volumes and keys. What is lost already is passed over."""
    async with cluster.connected() as api:
        await _forget_keys(api)
        statefulset = await named(api, "StatefulSet", VAULT, RELEASE)
        if statefulset is not None:
            # Only the following `up` starts it again: with what the settings say by now, such as
            # another key service, for which an initialised server would be of no use.
            say("stopping Vault")
            await statefulset.patch({"spec": {"replicas": 0}})
        await _gone(api, "Pod")
        for claim in await _all(api, "PersistentVolumeClaim"):
            say(f"deleting the volume of claim {VAULT}/{claim.name}")
            await claim.delete()
        await _gone(api, "PersistentVolumeClaim")


async def _forget_keys(api: Any) -> None:
    secret = await named(api, "Secret", VAULT, KEYS)
    if secret is None or not secret.raw.get("data"):
        return
    name = f"{KEYS}-until-{datetime.now(tz=UTC):%Y%m%d-%H%M%S}"
    say(f"keeping the keys before in Secret {VAULT}/{name}: of use only with a copy of the volume")
    copy = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": VAULT},
        "data": secret.raw["data"],
    }
    await _create(api, copy)
    await secret.patch({"data": None})


async def _create(api: Any, secret: Mapping[str, Any]) -> None:
    async with api.call_api(
        "POST", version="v1", namespace=VAULT, url="secrets", json=secret
    ) as response:
        response.raise_for_status()


async def _all(api: Any, kind: str) -> list[Any]:
    servers = objects(api, kind, namespace=VAULT, labels=label_selector(_SERVERS))
    return [item async for item in servers]


async def _gone(api: Any, kind: str) -> None:
    """Wait until none of Vault's is left. Raises PulumiError."""

    async def look() -> str:
        return ", ".join(item.name for item in await _all(api, kind))

    if left := await poll(look, _PATIENCE, _INTERVAL):
        raise PulumiError(
            f"{kind} in namespace {VAULT} still there after {_PATIENCE:g} s: {left}. "
            "Look why, then run this command again"
        )

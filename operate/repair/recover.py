"""`make recover`: from a run that was killed, at any moment, to a working environment.

A killed run leaves three things behind. Each is undone here; nothing that holds data is removed:

- the stack's lock;
- creations of which the state does not know whether they happened. Objects in Kubernetes are
  adopted by the following `up`, if they are in a namespace of this environment's own or bear its
  mark; what has a path of its own in Vault is read into the state;
- deletions that go on in the cluster: they are waited for, and the following `up` reads what is
  left before it builds up again;
- Helm's own record of an unfinished installation or upgrade, without which Helm adopts what is
  there, and with which it refuses for ever, because the name is still in use;
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.cluster.access import ClusterAccess, access, objects, read
from components.cluster.polling import poll
from components.program.identity import ADOPT, LOOKED, State
from components.settings import environment as settings
from offline import record as offline
from operate import ownership
from operate.declared import of_recording
from operate.view import plural

from . import finalizers, vault_renew
from .pulumi_cli import Pulumi, PulumiError, per_resource, say
from .vault_forward import vault_reachable

Record = Mapping[str, Any]
"""A resource or an operation, as the engine exports it."""

_RELEASE = "kubernetes:helm.sh/v3:Release"

_PASSWORD = "random:index/randomPassword:RandomPassword"  # noqa: S105 -- a type

_PATHS = frozenset(
    {
        "vault:index/mount:Mount",
        "vault:index/authBackend:AuthBackend",
        "vault:index/audit:Audit",
        "vault:jwt/authBackend:AuthBackend",
    }
)
"""Types whose path in Vault can be taken only once; the path is their id for the provider."""

_HELM_UNFINISHED = frozenset(
    {"pending-install", "pending-upgrade", "pending-rollback", "uninstalling"}
)

_PATIENCE = 300.0
"""Seconds in which what a destroy was deleting must be gone."""

_INTERVAL = 2.0

# In the environment of the engine and so of the provider; the program itself drops it
# (components/cluster/access.py), or it would become a change of the provider for the next `up`.
_ADOPT = {ADOPT: "true", LOOKED: "true"}


@dataclass(frozen=True)
class Leftovers:
    """What the state says a killed run left behind."""

    stack: str | None
    """URN of the stack itself; None before anything was recorded."""
    creations: Sequence[str]
    """URNs of all creations without a known end."""
    vault_paths: Mapping[str, str]
    """Of those in Vault that may exist by now: id by URN."""
    started_releases: frozenset[tuple[str, str]]
    """Namespace and name of the Helm releases among them."""
    releases: frozenset[tuple[str, str]]
    """Namespace and name of every Helm release, the finished ones too."""
    deletions: Sequence[Record]
    """What was being deleted without a known end, apart from replacements."""


@dataclass(frozen=True)
class HelmRecord:
    """A Secret in which Helm keeps one revision of a release. It holds the chart, no data."""

    namespace: str
    name: str
    release: str
    status: str


def leftovers(deployment: Mapping[str, Any]) -> Leftovers:
    """Read the pending operations of an exported state."""
    creations: list[str] = []
    deletions: list[Record] = []
    vault_paths: dict[str, str] = {}
    started: set[tuple[str, str]] = set()
    resources: list[Record] = deployment.get("resources") or []
    operations: list[Record] = deployment.get("pending_operations") or []
    stacks = [item["urn"] for item in resources if item["type"] == "pulumi:pulumi:Stack"]
    releases = {_release(item) for item in resources if _is_release(item)}
    for operation in operations:
        resource: Record = operation["resource"]
        if operation["type"] == "deleting" and not _replaced(resource):
            deletions.append(resource)
        if operation["type"] != "creating":
            continue
        creations.append(resource["urn"])
        if resource["type"] in _PATHS:
            # An audit device and an auth method are named by their type unless a path is given.
            inputs = resource["inputs"]
            vault_paths[resource["urn"]] = inputs.get("path") or inputs["type"]
        if _is_release(resource):
            started.add(_release(resource))
    stack = stacks[0] if stacks else None
    return Leftovers(
        stack=stack,
        creations=creations,
        vault_paths=vault_paths,
        started_releases=frozenset(started),
        releases=frozenset(releases | started),
        deletions=deletions,
    )


def _is_release(resource: Mapping[str, Any]) -> bool:
    return resource["type"] == _RELEASE


def _release(resource: Mapping[str, Any]) -> tuple[str, str]:
    return resource["inputs"]["namespace"], resource["inputs"]["name"]


def _replaced(resource: Mapping[str, Any]) -> bool:
    return bool(resource.get("delete") or resource.get("pendingReplacement"))


def blocking(records: Iterable[HelmRecord], left: Leftovers) -> list[HelmRecord]:
    """The records that would make Helm refuse.

    Any record of a release that the state does not know as installed, and the unfinished revision
    of one that it knows.
    """
    stuck: list[HelmRecord] = []
    for record in records:
        started = (record.namespace, record.release) in left.started_releases
        if started or record.status in _HELM_UNFINISHED:
            stuck.append(record)
    return stuck


async def helm_records(
    cluster: ClusterAccess, releases: Iterable[tuple[str, str]]
) -> list[HelmRecord]:
    """Helm's records of these releases, by their labels."""
    api = await cluster.client()
    records: list[HelmRecord] = []
    for namespace, release in sorted(releases):
        secrets = objects(api, "Secret", namespace=namespace, labels=f"owner=helm,name={release}")
        records += [_helm_record(namespace, release, item.raw) async for item in secrets]
    return records


def _helm_record(namespace: str, release: str, secret: Mapping[str, Any]) -> HelmRecord:
    metadata = secret["metadata"]
    return HelmRecord(
        namespace=namespace,
        name=metadata["name"],
        release=release,
        status=metadata["labels"].get("status", ""),
    )


async def remove_records(cluster: ClusterAccess, records: Iterable[HelmRecord]) -> None:
    """Delete these Secrets."""
    api = await cluster.client()
    for record in records:
        async for item in objects(api, "Secret", record.name, namespace=record.namespace):
            await item.delete()


def recover(command: Pulumi) -> None:
    """Undo what a killed run left behind, then bring the environment up.

    Raises PulumiError, and IdentityError where something is not this environment's.
    """
    deployment = command.export()
    left = leftovers(deployment)
    values, secret_keys = command.configuration()
    target, declared = settings.parse(values, secret_keys)
    cluster = access(target)
    objects_declared = of_recording(
        offline.record(command.stack, values, secret_keys), target, declared
    )
    ownership.check_adoption(cluster, State.read(deployment), objects_declared)
    if left.deletions:
        question = (
            f"The last run was deleting ({len(left.deletions)} unfinished, as "
            f"{left.deletions[0]['urn']}). `make destroy` goes on with that. "
            "Build the environment up again instead?"
        )
        if not command.confirm(question):
            raise PulumiError("nothing was changed; to go on deleting: make destroy")
    arguments: list[str] = []
    if left.deletions:
        arguments = _after_destroy(command, cluster, left, deployment)
    _clear_helm(command, cluster, left)
    if left.creations and left.stack is not None:
        say(f"{len(left.creations)} creations have no known end")
        if left.vault_paths:
            # Once more, as a person may have taken time over the questions before.
            command.import_state(with_created(command.export(), left.vault_paths))
            with vault_reachable(target, declared, left.stack):
                targets = per_resource("--target", left.vault_paths)
                command.run("refresh", "--skip-preview", *targets)
        else:
            # The stack itself is read from nowhere. A full refresh would need Vault and PostgreSQL
            # to answer, with passwords that a killed rotation may have left half changed.
            words = ["--clear-pending-creates", "--skip-preview", "--target", left.stack]
            command.run("refresh", *words)
    say("bringing the environment up, adopting what exists")
    command.run("up", *arguments, environment=_ADOPT)


def _after_destroy(
    command: Pulumi, cluster: ClusterAccess, left: Leftovers, deployment: Record
) -> list[str]:
    """Make sure that what a destroy was deleting is gone; returns what `up` must do beside."""
    asyncio.run(until_gone(cluster, left.deletions))
    # The state still has what is gone by now.
    arguments = ["--refresh", "--run-program"]
    known = vault_renew.vault_records(deployment)
    if not known.inside and asyncio.run(vault_renew.has_volumes(cluster)):
        say("the state has nothing in Vault any more, and its volume still holds the Vault before")
        vault_renew.empty(command, cluster)
        arguments += per_resource("--replace", known.jobs)
    return arguments


async def until_gone(cluster: ClusterAccess, deletions: Sequence[Record]) -> None:
    """Wait until nothing of this is still being deleted in the cluster. Raises PulumiError."""
    async with cluster.connected() as api:

        async def look() -> str:
            return "; ".join([item async for item in _ending(api, deletions)])

        ending = await poll(look, _PATIENCE, _INTERVAL)
    if ending:
        raise PulumiError(
            f"still being deleted after {_PATIENCE:g} s: {ending}. Look why, then run this "
            "command again, or go on deleting: make destroy"
        )


async def _ending(api: Any, deletions: Sequence[Record]) -> AsyncGenerator[str]:
    """What of this still exists and has been told to go, with what it waits for."""
    for resource in deletions:
        item = resource.get("outputs") or resource["inputs"]
        if "apiVersion" not in item or "metadata" not in item:
            continue
        group, _, version = item["apiVersion"].rpartition("/")
        kind, metadata = item["kind"], item["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        live = await read(api, f"{plural(kind)}.{version}.{group}", namespace, name)
        if live is not None and live["metadata"].get("deletionTimestamp"):
            finalizers = ", ".join(live["metadata"].get("finalizers", ()))
            yield f"{kind} {namespace}/{name} (waits for: {finalizers or 'its pods'})"


def with_created(deployment: Mapping[str, Any], paths: Mapping[str, str]) -> dict[str, Any]:
    """The state, with these pending creations as if they had ended; the ids are by URN.

    A refresh then reads what is really there, or drops what is not. The engine's own way,
    `refresh --import-pending-creates`, reads only what is targeted, and 3.259 finds no target that
    is pending.
    """
    resources: list[Record] = list(deployment["resources"])
    for operation in deployment["pending_operations"]:
        resource: Record = operation["resource"]
        urn = resource["urn"]
        if operation["type"] == "creating" and urn in paths:
            resources.append({**resource, "id": paths[urn], "outputs": resource["inputs"]})
    return {**deployment, "resources": resources, "pending_operations": []}


def _clear_helm(command: Pulumi, cluster: ClusterAccess, left: Leftovers) -> None:
    if not left.releases:
        return
    stuck = blocking(asyncio.run(helm_records(cluster, left.releases)), left)
    if not stuck:
        return
    say("Helm's own records of unfinished installations stand in the way (they hold no data):")
    for record in stuck:
        say(f"  Secret {record.namespace}/{record.name} ({record.status})")
    if not command.confirm("Delete these Secrets?"):
        raise PulumiError("nothing was changed: Helm refuses to install while these Secrets exist")
    asyncio.run(remove_records(cluster, stuck))


def destroy(command: Pulumi) -> None:
    """Delete the environment, past a dead lock. Raises PulumiError and IdentityError."""
    state = State.read(command.export())
    if not state.empty:
        target, declared = settings.parse(*command.configuration())
        cluster = access(target)
        ownership.check(cluster, state)
        _give_up_passphrases(command)
        namespaces = [place for kind, place in state.objects if kind == "Namespace"]
        finalizers.clear(command, cluster, declared, namespaces)
    command.run("destroy")


def passphrases(deployment: Record) -> list[str]:
    """URNs of what opens the backups that stay in object stores."""
    resources: Sequence[Record] = deployment.get("resources") or []
    return [
        item["urn"]
        for item in resources
        if item["type"] == _PASSWORD and item.get("protect") and "-passphrase-" in item["urn"]
    ]


def _give_up_passphrases(command: Pulumi) -> None:
    """The backups in a bucket outlive the state, which alone has their passphrases."""
    urns = passphrases(command.export())
    if not urns:
        return
    say("backups in object stores stay, and open only with passphrases that go with the state:")
    for urn in urns:
        say(f"  {urn.rpartition('::')[2]}")
    question = (
        "Have you saved them, each with its path, or are the backups of no more use "
        "(docs/operations.md, Backup and restore)?"
    )
    if not command.confirm(question):
        raise PulumiError("nothing was changed; save the passphrases first, then: make destroy")
    command.unprotect(urns)

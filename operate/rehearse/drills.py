"""`make drill`: makes a failure on purpose, or rotates a credential, and measures the recovery.

Each drill says what it will do and asks before it does it. It ends with doctor and the smoke test.
Deleting a pod needs deploy/rbac/drill.yaml, besides the rights of doctor and the smoke test.
Stopping a node is a person's to do: nothing that this program may do to a node is the same.
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pulumi

from components.cluster.access import ClusterAccess, answer
from components.cluster.polling import poll
from components.postgres.component import PRIMARY
from components.vault.component import forward_target
from offline.terminal import hanging
from operate.declared import Declared
from operate.doctor.examine import CONFIRM_SECONDS, HEALTHY, ILL, Report, examine
from operate.doctor.findings import Severity
from operate.repair.pulumi_cli import PulumiError, executable
from operate.smoke import SmokeError, Step, smoke
from operate.view import LookError, Object, View, condition, labelled

PATIENCE = 900.0
"""Seconds in which an environment must have recovered."""

BEGIN_PATIENCE = 300.0
"""Seconds that a drill waits for what is under way before it begins."""

_INTERVAL = 2.0

_CALM = 30.0
"""Seconds without any finding that make a recovery: redis-operator looks every 30 s, and a Secret's
new version may reach a server's files after its pod was Ready."""


class DrillError(pulumi.RunError):
    """The drill could not be done, or the environment did not recover; the message says which."""


@dataclass(frozen=True)
class Drill:
    """One failure or change that an environment must survive."""

    name: str
    says: str
    """What it will do, and what users may notice."""
    act: "Act"
    """Does it; returns what it did. Raises DrillError."""
    by_a_person: bool = False
    """Whether the act waits for a person, whose time is not part of the recovery."""


Tell = Callable[[str], object]

Act = Callable[[Declared, ClusterAccess, Tell], str]

Place = Callable[[Declared], tuple[str, Mapping[str, str]]]
"""A namespace, and labels of pods in it."""


def _delete(place: Place, *, every: bool = False) -> Act:
    """An act that deletes the first pod with the labels of a place, or every one."""

    def act(declared: Declared, access: ClusterAccess, _: Tell) -> str:
        namespace, labels = place(declared)
        return asyncio.run(_delete_pods(access, namespace, labels, every=every))

    return act


async def _delete_pods(
    access: ClusterAccess, namespace: str, labels: Mapping[str, str], *, every: bool
) -> str:
    try:
        async with access.connected() as api:
            pods = await View(api).objects("v1/pods", namespace)
            names = [pod["metadata"]["name"] for pod in pods if labelled(pod, labels)]
            if not names:
                raise DrillError(f"no pod in namespace {namespace} has the labels {dict(labels)}")
            chosen = names if every else names[:1]
            old = {pod["metadata"]["uid"] for pod in pods if pod["metadata"]["name"] in chosen}
            await asyncio.gather(*(_delete_pod(api, namespace, name) for name in chosen))
            await _gone(api, namespace, old)
    except LookError as error:
        raise DrillError(str(error)) from None
    deleted = [f"{namespace}/{name}" for name in chosen]
    return f"pod{'s' if len(deleted) > 1 else ''} {', '.join(deleted)} deleted"


async def _gone(api: Any, namespace: str, uids: set[Any]) -> None:
    """Returns when no pod has one of these identities: a pod that stops still answers."""

    async def look() -> str:
        pods = await View(api).objects("v1/pods", namespace)
        left = [pod["metadata"]["name"] for pod in pods if pod["metadata"]["uid"] in uids]
        return ", ".join(left)

    if left := await poll(look, PATIENCE, _INTERVAL / 4):
        raise DrillError(f"a deleted pod in namespace {namespace} does not stop: {left}")


async def _delete_pod(api: Any, namespace: str, name: str) -> None:
    status, _ = await answer(api, "DELETE", "v1", namespace, f"pods/{name}")
    if status >= HTTPStatus.BAD_REQUEST:
        raise DrillError(
            f"pod {namespace}/{name} can't be deleted ({status}); deploy/rbac/drill.yaml grants it"
        )


def _vault(declared: Declared) -> tuple[str, Mapping[str, str]]:
    settings = declared.settings
    target = forward_target(mode=settings.vault.mode, image=settings.images.vault)
    return target.namespace, target.pod_labels


def _vault_servers(_: Declared) -> tuple[str, Mapping[str, str]]:
    target = forward_target(mode="standalone")
    return target.namespace, target.pod_labels


def _primary(_: Declared) -> tuple[str, Mapping[str, str]]:
    return PRIMARY.namespace, PRIMARY.pod_labels


def _master(declared: Declared) -> tuple[str, Mapping[str, str]]:
    failovers = declared.of_kind("RedisFailover")
    if not failovers:
        raise DrillError("this stack runs no Redis of its own (redis.mode)")
    metadata = failovers[0]["metadata"]
    labels = {"app.kubernetes.io/name": metadata["name"], "redisfailovers-role": "master"}
    return metadata["namespace"], labels


def _rotate(credential: str) -> Act:
    """An act that raises a number in the stack's file and applies it."""

    def act(declared: Declared, _: ClusterAccess, __: Tell) -> str:
        current = int(getattr(declared.settings.rotation, credential))
        key = "apiKey" if credential == "api_key" else credential
        path = ["--path", f"shlink:rotation.{key}", str(current + 1)]
        try:
            pulumi = executable()
        except PulumiError as error:
            raise DrillError(str(error)) from None
        for words in (
            ["config", "set", "--stack", declared.stack, *path],
            ["up", "--yes", "--stack", declared.stack],
        ):
            done = subprocess.run([pulumi, *words], check=False)  # noqa: S603 -- built here
            if done.returncode:
                raise DrillError(
                    f"pulumi {' '.join(words)} ended with {done.returncode}; shlink:rotation.{key} "
                    f"stays {current + 1}, and `make up STACK={declared.stack}` goes on"
                )
        return f"{credential} rotated to number {current + 1}"

    return act


def _node_loss(_: Declared, access: ClusterAccess, tell: Tell) -> str:
    """Waits until a person has stopped the node of the database's primary."""
    return asyncio.run(_lost_node(access, tell))


async def _lost_node(access: ClusterAccess, tell: Tell) -> str:
    try:
        async with access.connected() as api:
            pods = await View(api).objects("v1/pods", PRIMARY.namespace)
            names = [
                str(pod["spec"].get("nodeName", ""))
                for pod in pods
                if labelled(pod, PRIMARY.pod_labels)
            ]
            if not names:
                raise DrillError("no pod is the primary of PostgreSQL")
            name = names[0]
            ready = [node for node in await View(api).objects("v1/nodes") if _is_ready(node)]
            alone = len(ready) == 1
            if alone:
                tell("This cluster has one node, so nothing can take over: users notice it all.")
            tell(
                f"Stop node {name} now: switch it off, or `systemctl stop kubelet` on it. "
                f"Kubernetes notices after about 40 s. Waiting up to {PATIENCE:.0f} s."
            )

            async def look() -> str:
                ready = _is_ready(await View(api).named("v1/nodes", "", name))
                return name if ready else ""

            if await poll(look, PATIENCE, _INTERVAL):
                raise DrillError(f"node {name} is still Ready: nobody stopped it")
    except LookError as error:
        raise DrillError(str(error)) from None
    tell(
        f"Node {name} is lost. Start it again, or, where it never comes back, remove it: "
        f"{access.kubectl} delete node {name}. Its pods move after five minutes at the soonest."
    )
    return f"node {name} stopped"


def _is_ready(node: Object | None) -> bool:
    status = condition(node, "Ready") if node else None
    return status is not None and status["status"] == "True"


_ROTATIONS = {
    "database": "No request is refused: the login before stays valid.",
    "superuser": "Only this program uses it.",
    "redis": "Servers restart one by one; requests may wait for a failover.",
    "api_key": "The key before stays valid until the next rotation.",
    "vault": "Only this program uses it.",
    "certificates": "Vault and PostgreSQL roll; with one instance of PostgreSQL, requests fail "
    "meanwhile.",
}


def _rotation(credential: str) -> Drill:
    name = credential.replace("_", "-")
    setting = "apiKey" if credential == "api_key" else credential
    return Drill(
        f"rotate-{name}",
        f"Raises shlink:rotation.{setting} by one in the stack's file and runs `pulumi up`. "
        f"{_ROTATIONS[credential]}",
        _rotate(credential),
    )


DRILLS: tuple[Drill, ...] = (
    Drill(
        "vault-restart",
        "Deletes the (active) Vault pod. Running pods notice nothing; no Secret changes meanwhile.",
        _delete(_vault),
    ),
    Drill(
        "vault-unseal",
        "Deletes every Vault pod. All servers start sealed and must be unsealed by the sidecar or "
        "the key service. Running pods notice nothing; no Secret changes meanwhile.",
        _delete(_vault_servers, every=True),
    ),
    Drill(
        "postgres-failover",
        "Deletes the primary of PostgreSQL. Requests fail until another, or the same, is primary.",
        _delete(_primary),
    ),
    Drill(
        "redis-failover",
        "Deletes the Redis master. Requests may wait until Sentinel has elected another.",
        _delete(_master),
    ),
    Drill(
        "node-loss",
        "Asks you to stop the node that runs the primary of PostgreSQL, and waits for it.",
        _node_loss,
        by_a_person=True,
    ),
    *map(_rotation, _ROTATIONS),
)


def listed(stack: str) -> str:
    """Each drill with what it does, and how to run one."""
    lines = [f"make drill STACK={stack} DRILL=NAME, where NAME is one of:"]
    for drill in DRILLS:
        lines += ["", drill.name, hanging("  ", drill.says)]
    return "\n".join(lines)


def by_name(name: str) -> Drill:
    """Raises DrillError: there is no such drill."""
    for drill in DRILLS:
        if drill.name == name:
            return drill
    names = ", ".join(drill.name for drill in DRILLS)
    raise DrillError(f"there is no drill {name!r}; allowed: {names}")


@dataclass(frozen=True)
class Outcome:
    """What a drill showed."""

    did: str
    seconds: float
    """From the act until doctor had nothing to mend and nothing under way, and it stayed so."""
    steps: list[Step]
    """Of the smoke test."""

    @property
    def ok(self) -> bool:
        """Whether Shlink works again."""
        return all(step.ok for step in self.steps)


def run(
    drill: Drill,
    declared: Declared,
    access: ClusterAccess,
    *,
    tell: Tell,
    patience: float = PATIENCE,
    again: Callable[[], Declared] | None = None,
) -> Outcome:
    """Do it, wait for the recovery, use the environment. Raises DrillError.

    `again` reads the stack's file anew, which a rotation has changed.
    """
    _begin(declared, access, tell)
    started = time.monotonic()
    did = drill.act(declared, access, tell)
    tell(f"{did} ({time.monotonic() - started:.0f} s)")
    if drill.by_a_person:
        started = time.monotonic()
    declared = again() if again else declared
    healthy_since: float | None = None
    while True:
        # The first look must not come before Kubernetes has noticed.
        time.sleep(_INTERVAL)
        looked = time.monotonic()
        report = _look(declared, access)
        if not _recovered(report):
            healthy_since = None
            if looked - started > patience:
                message = _why_not(report)
                raise DrillError(f"not recovered after {patience:g} s: {message}")
            continue
        if healthy_since is None:
            healthy_since = looked
            tell(f"nothing to mend after {looked - started:.0f} s; watching {_CALM:.0f} s more")
        if looked - healthy_since >= _CALM:
            break
    seconds = healthy_since - started
    tell(f"recovered after {seconds:.0f} s")
    try:
        steps = smoke(declared, access)
    except SmokeError as error:
        raise DrillError(f"recovered, but the smoke test can't run: {error}") from None
    return Outcome(did=did, seconds=seconds, steps=steps)


def _begin(declared: Declared, access: ClusterAccess, tell: Tell) -> None:
    """Returns when nothing is under way and everything answers.

    Raises DrillError: there is something to mend, or no look was complete in time.
    """
    deadline = time.monotonic() + BEGIN_PATIENCE
    report = _look(declared, access, confirm=CONFIRM_SECONDS)
    told = ""
    while not _recovered(report):
        message = _why_not(report)
        if report.exit_code == ILL or time.monotonic() > deadline:
            raise DrillError(f"the environment is not healthy to begin with: {message}")
        if message != told:
            tell(f"waiting for what is under way: {message}")
            told = message
        time.sleep(_INTERVAL)
        report = _look(declared, access, confirm=CONFIRM_SECONDS)


def _look(declared: Declared, access: ClusterAccess, confirm: float = 0) -> Report:
    return asyncio.run(examine(declared, access, confirm=confirm))


def _why_not(report: Report) -> str:
    """The first finding, where there is one."""
    return report.findings[0].message if report.findings else "it changes"


def _recovered(report: Report) -> bool:
    moving = any(finding.severity is Severity.PROGRESS for finding in report.findings)
    return report.exit_code == HEALTHY and not moving

"""`make drill`: makes a failure on purpose, or rotates a credential, and measures the recovery.

Each drill says what it will do and asks before it does it. It ends with doctor and the smoke test.
Deleting a pod needs deploy/rbac/drill.yaml, besides the rights of doctor and the smoke test.
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from components.cluster import ClusterAccess, disconnect
from components.postgres import PRIMARY
from components.vault import forward_target

from .declared import Declared
from .doctor import HEALTHY, Report, examine
from .findings import Severity
from .smoke import SmokeError, Step, smoke
from .view import LookError, View, labelled

PATIENCE = 900.0
"""Seconds in which an environment must have recovered."""
_INTERVAL = 2.0


class DrillError(Exception):
    """The drill could not be done, or the environment did not recover; the message says which."""


@dataclass(frozen=True)
class Drill:
    """One failure or change that an environment must survive."""

    name: str
    says: str
    """What it will do, and what users may notice."""
    act: Callable[[Declared, ClusterAccess], str]
    """Does it; returns what it did. Raises DrillError."""


def _delete(place: Callable[[Declared], tuple[str, Mapping[str, str]]]) -> Callable[..., str]:
    """An act that deletes the first pod in a namespace with these labels."""

    def act(declared: Declared, access: ClusterAccess) -> str:
        namespace, labels = place(declared)
        return asyncio.run(_delete_pod(access, namespace, labels))

    return act


async def _delete_pod(access: ClusterAccess, namespace: str, labels: Mapping[str, str]) -> str:
    api: Any = await access.client()
    try:
        pods = await View(api).objects("v1/pods", namespace)
        names = [pod["metadata"]["name"] for pod in pods if labelled(pod, labels)]
        if not names:
            raise DrillError(f"no pod in namespace {namespace} has the labels {dict(labels)}")
        async with api.call_api(
            "DELETE",
            version="v1",
            base="/api",
            namespace=namespace,
            url=f"pods/{names[0]}",
            raise_for_status=False,
        ) as response:
            status = response.status_code
    except LookError as error:
        raise DrillError(str(error)) from None
    finally:
        await disconnect(api)
    if status >= HTTPStatus.BAD_REQUEST:
        raise DrillError(
            f"pod {namespace}/{names[0]} can't be deleted ({status}); deploy/rbac/drill.yaml "
            "grants it"
        )
    return f"pod {namespace}/{names[0]} deleted"


def _vault(declared: Declared) -> tuple[str, Mapping[str, str]]:
    target = forward_target(mode=declared.settings.vault.mode)
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


def _rotate(credential: str) -> Callable[..., str]:
    """An act that raises a number in the stack's file and applies it."""

    def act(declared: Declared, _: ClusterAccess) -> str:
        current = int(getattr(declared.settings.rotation, credential))
        key = "apiKey" if credential == "api_key" else credential
        path = ["--path", f"shlink:rotation.{key}", str(current + 1)]
        for command in (
            ["pulumi", "config", "set", "--stack", declared.stack, *path],
            ["pulumi", "up", "--yes", "--stack", declared.stack],
        ):
            done = subprocess.run(command, check=False)  # noqa: S603 -- built here
            if done.returncode:
                raise DrillError(f"{' '.join(command)} ended with {done.returncode}")
        return f"{credential} rotated to number {current + 1}"

    return act


_ROTATIONS = ("database", "superuser", "redis", "api_key", "vault")
DRILLS: tuple[Drill, ...] = (
    Drill(
        "vault-restart",
        "Deletes the (active) Vault pod. Running pods notice nothing; no Secret changes meanwhile.",
        _delete(_vault),
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
    *(
        Drill(
            f"rotate-{credential.replace('_', '-')}",
            f"Raises shlink:rotation.{credential} by one in the stack's file and runs `pulumi up`.",
            _rotate(credential),
        )
        for credential in _ROTATIONS
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What a drill showed."""

    did: str
    seconds: float
    """From the act until doctor had nothing to mend and nothing under way."""
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
    tell: Callable[[str], object],
    patience: float = PATIENCE,
) -> Outcome:
    """Do it, wait for the recovery, use the environment. Raises DrillError."""
    before = _look(declared, access)
    if not _recovered(before):
        message = before.findings[0].message
        raise DrillError(f"the environment is not healthy to begin with: {message}")
    did = drill.act(declared, access)
    tell(did)
    started = time.monotonic()
    # The first look must not come before Kubernetes has noticed.
    time.sleep(_INTERVAL)
    while True:
        report = _look(declared, access)
        if _recovered(report):
            break
        if time.monotonic() - started > patience:
            message = report.findings[0].message
            raise DrillError(f"not recovered after {patience:g} s: {message}")
        time.sleep(_INTERVAL)
    seconds = time.monotonic() - started
    tell(f"recovered after {seconds:.0f} s")
    try:
        steps = smoke(declared, access)
    except SmokeError as error:
        raise DrillError(f"recovered, but the smoke test can't run: {error}") from None
    return Outcome(did=did, seconds=seconds, steps=steps)


def _look(declared: Declared, access: ClusterAccess) -> Report:
    return asyncio.run(examine(declared, access, confirm=0))


def _recovered(report: Report) -> bool:
    moving = any(finding.severity is Severity.PROGRESS for finding in report.findings)
    return report.exit_code == HEALTHY and not moving

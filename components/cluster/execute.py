"""Runs a command in a container of the cluster, for questions that only the product can answer."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi

from .access import ClusterAccess, label_selector, objects


class ExecuteError(pulumi.RunError):
    """A command could not be run, or failed; the message names the cause.

    A `RunError`, so that Pulumi prints the message without a traceback.
    """


@dataclass(frozen=True)
class Container:
    """A container, in the first running pod that has these labels."""

    namespace: str
    """Of the pod."""
    pod_labels: Mapping[str, str]
    """The pod must have all of them."""
    name: str
    """Of the container in the pod."""

    @property
    def selector(self) -> str:
        return label_selector(self.pod_labels)


async def execute(
    access: ClusterAccess, container: Container, command: Sequence[str], patience: float = 60
) -> str:
    """The command's output. Raises ExecuteError, also when it takes longer than `patience` seconds.

    The name of the program is the only part of the command that a message holds.
    """
    where = f"{command[0]} in container {container.name} of the pods with {container.selector}"
    try:
        async with asyncio.timeout(patience):
            done = await _done(access, container, command)
    except TimeoutError:
        raise ExecuteError(f"{where}: no end within {patience:g} s") from None
    except ExecuteError:
        raise
    # An API server, a proxy, a credential plugin or the kubelet may answer anything.
    except Exception as error:  # noqa: BLE001
        raise ExecuteError(
            f"{where}: {error or type(error).__name__}. It needs the right pods/exec in namespace "
            f"{container.namespace}: deploy/rbac/restore.yaml"
        ) from None
    if done.returncode:
        text = done.stderr.decode(errors="replace") or done.stdout.decode(errors="replace")
        raise ExecuteError(f"{where} ended with {done.returncode}: {text.strip()}")
    return str(done.stdout.decode(errors="replace"))


async def _done(access: ClusterAccess, container: Container, command: Sequence[str]) -> Any:
    async with access.connected() as api:
        pod = await _running(api, container)
        if pod is None:
            raise ExecuteError(
                f"no pod runs in namespace {container.namespace} with {container.selector}"
            )
        return await pod.async_exec(list(command), container=container.name, check=False)


async def _running(api: Any, container: Container) -> Any:
    pods = objects(api, "Pod", namespace=container.namespace, labels=container.selector)
    async for pod in pods:
        status = pod.raw.get("status", {})
        if status.get("phase") == "Running" and "deletionTimestamp" not in pod.raw["metadata"]:
            return pod
    return None

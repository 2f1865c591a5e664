"""Runs a command in a container of the cluster, for questions that only the product can answer."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pulumi

from . import streams
from .access import AnswerError, ClusterAccess, is_running, label_selector, pods


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
        async with asyncio.timeout(patience), access.connected() as api:
            pod = await _running(api, container)
            ended = await streams.run(api, container.namespace, pod, container.name, command)
    except TimeoutError:
        raise ExecuteError(f"{where}: no end within {patience:g} s") from None
    except ExecuteError:
        raise
    except AnswerError as error:
        text = f"{where}: {error}"
        if error.status == HTTPStatus.FORBIDDEN:
            text += (
                ". It takes list on pods, and get and create on pods/exec, in namespace "
                f"{container.namespace}: deploy/rbac/restore.yaml"
            )
        raise ExecuteError(text) from None
    # A proxy, a credential plugin or the network may fail in any way.
    except Exception as error:  # noqa: BLE001
        raise ExecuteError(f"{where}: {str(error) or type(error).__name__}") from None
    if ended.code:
        text = ended.errors or ended.output
        raise ExecuteError(f"{where} ended with {ended.code}: {text.strip()}")
    return ended.output


async def _running(api: Any, container: Container) -> str:
    """The pod's name."""
    for pod in await pods(api, container.namespace, container.selector):
        if is_running(pod):
            return str(pod["metadata"]["name"])
    raise ExecuteError(f"no pod runs in namespace {container.namespace} with {container.selector}")

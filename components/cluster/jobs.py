"""Waits for a Job as long as it runs, and runs one again that has failed.

Pulumi's own way to replace a failed Job (`pulumi.com/replaceUnready`) replaces whatever is not
complete, in the middle of its work too (pulumi-kubernetes 4.34, provider.go, Diff).
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import pulumi

from .access import AnswerError, ClusterAccess, answer, objects, read
from .waits import HopelessError, Teller, blocked, watch

_GROUP = "batch/v1"

_SAY_SECONDS = 60.0

_SET_BY_CONTROLLER = {
    "controller-uid",
    "job-name",
    "batch.kubernetes.io/controller-uid",
    "batch.kubernetes.io/job-name",
}


class JobError(HopelessError):
    """A Job failed; the message ends with what its last pod said."""


@dataclass(frozen=True)
class JobTarget:
    """A Job in the cluster."""

    namespace: pulumi.Input[str]
    """Where it is."""
    name: str
    """Its name."""
    timeout: float = 3600
    """Seconds until the wait fails. The Job runs on, and the next update waits again."""


def job_hook(name: str, access: ClusterAccess, job: JobTarget) -> pulumi.ResourceHook:
    """A hook that returns once the Job is complete, or fails the update with the reason.

    A Job that had failed before is run again first. Not run in a preview.
    """

    async def wait(_: pulumi.ResourceHookArgs) -> None:
        await until_complete(access, job)

    return pulumi.ResourceHook(name, wait)


async def until_complete(access: ClusterAccess, job: JobTarget, interval: float = 2) -> None:
    """Check the Job every `interval` seconds. Raises JobError or TimeoutError."""
    namespace = str(await pulumi.Output.from_input(job.namespace).future())
    inspect = f"Its log: {access.kubectl} -n {namespace} logs -f job/{job.name}"
    run = _Run(namespace, job.name, inspect)
    if missing := await watch(access, run.look, job.timeout, interval):
        raise TimeoutError(
            f"Job {namespace}/{job.name}: not complete after {job.timeout:g} s; it runs on, "
            f"and the next update waits again. Last: {missing}. {inspect}"
        )


class _Run:
    """What is known of a Job from look to look."""

    def __init__(self, namespace: str, name: str, inspect: str) -> None:
        self._namespace, self._name, self._inspect = namespace, name, inspect
        self._teller = Teller()
        self._began = self._said = asyncio.get_running_loop().time()
        self._words = ""
        """Of the last attempt that failed."""
        self._failed: Mapping[str, Any] | None = None
        """The Job of an earlier update, which had failed."""
        self._seen = False

    async def look(self, api: Any) -> str:
        """What is missing. Raises JobError when the Job has failed."""
        now = asyncio.get_running_loop().time()
        if now - self._said > _SAY_SECONDS:
            self._said = now
            pulumi.log.info(f"{self._name} has run for {now - self._began:.0f} s. {self._inspect}")
        item = await read(api, "jobs.v1.batch", self._namespace, self._name)
        if item is None:
            if self._failed is not None:
                await self._send(api, "POST", "jobs", json=_fresh(self._failed))
            return "it does not exist yet"
        for text in await blocked(api, self._namespace):
            self._teller.warn(text)
        end, failures = _end(item), item.get("status", {}).get("failed", 0)
        if end == "Failed" and self._runs_again(item):
            self._teller.warn(f"{self._name} had failed; it runs again")
            options = {"propagationPolicy": "Background"}
            await self._send(api, "DELETE", f"jobs/{self._name}", params=options)
            return "it had failed before"
        self._seen = True
        if end == "Complete":
            return ""
        if failures:
            self._words = await _last_words(api, self._namespace, self._name)
            self._teller.warn(f"{self._name}: attempt {failures} failed: {self._words}")
        if end == "Failed":
            raise JobError(
                f"Job {self._namespace}/{self._name} failed: {self._words}. {self._inspect}"
            )
        return self._words or "it runs"

    def _runs_again(self, item: Mapping[str, Any]) -> bool:
        """Whether it had failed before this wait began."""
        if not self._seen and self._failed is None:
            self._failed = item
        return (
            self._failed is not None and self._failed["metadata"]["uid"] == item["metadata"]["uid"]
        )

    async def _send(self, api: Any, method: str, url: str, **more: Any) -> None:
        status, text = await answer(api, method, _GROUP, self._namespace, url, **more)
        if status >= HTTPStatus.BAD_REQUEST and status != HTTPStatus.NOT_FOUND:
            raise AnswerError(status, text)


def _end(item: Mapping[str, Any]) -> str:
    """Complete, Failed, or nothing while it runs."""
    for condition in item.get("status", {}).get("conditions", []):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return str(condition["type"])
    return ""


async def _last_words(api: Any, namespace: str, name: str) -> str:
    """What the pod that failed last left as its reason."""
    last, words = "", ""
    async for pod in objects(api, "Pod", namespace=namespace, labels=f"job-name={name}"):
        containers: list[Any] = pod.raw.get("status", {}).get("containerStatuses") or []
        for container in containers:
            ended: Mapping[str, str] = container.get("state", {}).get("terminated") or {}
            finished = ended.get("finishedAt", "")
            if finished > last:
                last, words = finished, ended.get("message") or ended.get("reason") or ""
    return words.strip() or "it left no reason"


def _fresh(item: Mapping[str, Any]) -> dict[str, Any]:
    """The Job as it was asked for, without what its controller has added."""
    metadata, spec = item["metadata"], dict(item["spec"])
    spec.pop("selector", None)
    template = dict(spec["template"])
    template["metadata"] = _own(template["metadata"])
    return {
        "apiVersion": _GROUP,
        "kind": "Job",
        "metadata": {**_own(metadata), "name": metadata["name"]},
        "spec": {**spec, "template": template},
    }


def _own(metadata: Mapping[str, Any]) -> dict[str, Any]:
    labels: Mapping[str, str] = metadata.get("labels") or {}
    return {
        "labels": {key: text for key, text in labels.items() if key not in _SET_BY_CONTROLLER},
        "annotations": dict(metadata.get("annotations") or {}),
    }

"""A Job is waited for while it runs, and run again only after it has failed."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx
import pytest

from components.cluster.access import ClusterAccess
from components.cluster.jobs import JobError, JobTarget, until_complete


def job(end: str = "", uid: str = "1", failed: int = 0) -> dict[str, Any]:
    """A Job as its controller leaves it."""
    conditions = [{"type": end, "status": "True"}] if end else []
    labels = {"app": "shlink", "controller-uid": uid, "job-name": "migration"}
    return {
        "metadata": {"name": "migration", "uid": uid, "labels": labels, "resourceVersion": "7"},
        "spec": {
            "backoffLimit": 6,
            "selector": {"matchLabels": {"controller-uid": uid}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": []}},
        },
        "status": {"conditions": conditions, "failed": failed},
    }


class Api:
    """Answers each look with the next of these Jobs, and then with the last for ever."""

    def __init__(self, *jobs: Mapping[str, Any] | None) -> None:
        self._jobs = list(jobs)
        self.did: list[str] = []
        self.created: Any = None

    async def async_get(self, *_: Any, **__: Any) -> AsyncGenerator[Any]:
        ended = {"finishedAt": "2026-12-01T10:00:00Z", "message": "no such column\n"}
        container = {"name": "migration", "state": {"terminated": ended}}
        status = {"containerStatuses": [container]}
        yield SimpleNamespace(raw={"metadata": {"name": "migration-1"}, "status": status})

    @contextlib.asynccontextmanager
    async def call_api(self, method: str, *, url: str, **call: Any) -> AsyncGenerator[Any]:
        if method == "GET":
            item = self._jobs.pop(0) if len(self._jobs) > 1 else self._jobs[0]
            yield httpx.Response(404) if item is None else httpx.Response(200, json=item)
            return
        self.did.append(f"{method} {url}")
        self.created = call.get("json")
        yield httpx.Response(201)


def wait(api: Api, timeout: float = 5) -> Sequence[str]:
    """Wait for the Job; returns what it warned of."""

    class Access(ClusterAccess):
        async def client(self) -> Any:
            return api

    target = JobTarget("shlink", "migration", timeout)
    with mock.patch("pulumi.log.warn") as warn:
        asyncio.run(until_complete(Access("lab"), target, interval=0.001))
    return [str(call.args[0]) for call in warn.call_args_list]


def test_a_job_that_runs_is_left_alone() -> None:
    """Pulumi's replaceUnready would delete a migration in the middle."""
    api = Api(None, job(), job(failed=1), job("Complete"))
    (warning,) = wait(api)
    assert warning == "migration: attempt 1 failed: no such column"
    assert api.did == []


def test_a_job_that_fails_ends_the_wait_with_its_last_words() -> None:
    api = Api(job(), job("Failed", failed=7))
    with pytest.raises(JobError, match=r"no such column\. Its log: kubectl .*job/migration"):
        wait(api)
    assert api.did == []


def test_a_job_that_had_failed_before_runs_again_as_it_was_asked_for() -> None:
    api = Api(job("Failed"), job("Failed"), None, job(uid="2"), job("Complete", uid="2"))
    wait(api)
    assert api.did == ["DELETE jobs/migration"] * 2 + ["POST jobs"]
    assert api.created["metadata"] == {
        "name": "migration",
        "labels": {"app": "shlink"},
        "annotations": {},
    }
    assert "selector" not in api.created["spec"]
    assert api.created["spec"]["template"]["metadata"]["labels"] == {"app": "shlink"}


def test_it_runs_again_once() -> None:
    failed = Api(job("Failed"), None, job("Failed", uid="2", failed=7))
    with pytest.raises(JobError, match="no such column"):
        wait(failed)
    assert failed.did.count("POST jobs") == 1


def test_the_end_of_patience_leaves_it_running() -> None:
    with pytest.raises(TimeoutError, match="it runs on, and the next update waits again"):
        wait(Api(job()), timeout=0.02)

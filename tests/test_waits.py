"""Waiting: what counts as done, timeout, and the reason in the message."""

import asyncio
import contextvars
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import pytest

from components.cluster.access import ClusterAccess
from components.cluster.waits import (
    WaitTarget,
    replicas_ready,
    steadily,
    synced,
    until_ready,
    wait_hook,
)

Answer = Mapping[str, Any] | Exception | int | None
"""An object, a fault, a status without an object, or no such object."""


class Api:
    """Answers each look with the next of its answers, and then with the last for ever."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        self.logins = 0
        self.asked: list[str] = []
        self.pods: list[Mapping[str, Any]] = []

    @asynccontextmanager
    async def call_api(
        self, method: str, *, base: str, version: str, namespace: str, url: str, **_: Any
    ) -> AsyncGenerator[Any]:
        self.asked.append(f"{method} {base}/{version}/namespaces/{namespace}/{url}")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        match answer:
            case None:
                yield SimpleNamespace(status_code=404, text="not found")
            case int():
                yield SimpleNamespace(status_code=answer, text="no object")
            case _:
                yield SimpleNamespace(status_code=200, text=json.dumps(answer))

    async def async_get(self, *_: Any, **__: Any) -> AsyncGenerator[Any]:
        for pod in self.pods:
            yield SimpleNamespace(raw=pod)


class Access(ClusterAccess):
    api: Api

    async def client(self) -> Any:
        self.api.logins += 1
        return self.api


def access(*answers: Answer) -> Access:
    """Access to a cluster that gives these answers in turn."""
    cluster = Access("prod eu")
    object.__setattr__(cluster, "api", Api(answers))
    return cluster


def missing(item: Mapping[str, Any]) -> str | None:
    return None if item["done"] else f"step {item['step']} of 3"


def wait(where: Access, timeout: float = 5) -> None:
    target = WaitTarget("things.v1.example.org", "space", "it", missing, timeout)
    asyncio.run(until_ready(where, target, interval=0.001))


def test_it_looks_until_the_object_is_as_wanted() -> None:
    where = access(None, {"done": False, "step": 1}, {"done": False, "step": 2}, {"done": True})
    wait(where)
    assert where.api.asked == ["GET /apis/example.org/v1/namespaces/space/things/it"] * 4
    assert where.api.logins == 1


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([None], "it does not exist yet"),
        ([None, {"done": False, "step": 1}, {"done": False, "step": 2}], "step 2 of 3"),
        (
            [{"done": False, "step": 1}, ConnectionRefusedError("port 6443")],
            "ConnectionRefusedError: port 6443",
        ),
        ([503], "AnswerError: 503 from the API server: no object"),
        ([dict[str, Any]()], "KeyError: 'done'"),
    ],
)
def test_the_end_of_patience_says_what_was_last_missing_and_where_to_look(
    answers: list[Answer], reason: str
) -> None:
    with pytest.raises(TimeoutError) as error:
        wait(access(*answers), timeout=0.05)
    assert str(error.value) == (
        f"things.v1.example.org space/it: not ready after 0.05 s: {reason}. "
        "Inspect it with: kubectl --context 'prod eu' -n space describe things.v1.example.org it"
    )


def test_a_wait_names_the_image_that_nobody_can_pull_once() -> None:
    """Otherwise `up` would be silent until its patience ends."""
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off"}
    container = {"name": "database", "image": "r.io/pg:99", "state": {"waiting": waiting}}
    where = access({"done": False, "step": 1})
    pod = {"metadata": {"name": "db-0"}, "status": {"containerStatuses": [container]}}
    where.api.pods = [pod]
    with mock.patch("pulumi.log.warn") as warn, pytest.raises(TimeoutError):
        wait(where, timeout=0.2)
    warn.assert_called_once_with("pod space/db-0, database: ImagePullBackOff: r.io/pg:99")


def test_after_a_fault_it_logs_in_again() -> None:
    where = access(ConnectionResetError(), ConnectionResetError(), {"done": True})
    wait(where)
    assert where.api.logins == 3


def test_a_hook_waits_for_all_and_fails_with_the_one_that_is_late() -> None:
    where = access({"done": True})
    late = WaitTarget("things.v1.apps", "space", "late", lambda _: "not there", 0.01)
    fine = WaitTarget("things.v1.apps", "space", "fine", lambda _: None)

    def run(awaited: list[WaitTarget]) -> None:
        with mock.patch("pulumi.resource_hooks.register_resource_hook"):
            hook = wait_hook("ready", where, awaited)
        assert hook.name == "ready"
        # A preview has nothing to wait for.
        assert hook.opts is None or not hook.opts.on_dry_run
        asyncio.run(cast("Any", hook.callback(cast("Any", None))))

    contextvars.copy_context().run(run, [fine])
    with (
        mock.patch("components.cluster.waits.asyncio.sleep"),
        pytest.raises(
            TimeoutError, match=r"things\.v1\.apps space/late: not ready after 0\.01 s: not there"
        ),
    ):
        run([fine, late])


def workload(
    replicas: int, ready: int | None, observed: int | None = 2, updated: int | None = 3
) -> dict[str, Any]:
    status = {"readyReplicas": ready, "updatedReplicas": updated, "observedGeneration": observed}
    return {
        "metadata": {"generation": 2},
        "spec": {"replicas": replicas},
        "status": {key: value for key, value in status.items() if value is not None},
    }


@pytest.mark.parametrize(
    ("item", "missing"),
    [
        (workload(3, 3), None),
        (workload(3, 4), None),  # during a surge
        (workload(3, 2), "2 of 3 pods are Ready"),
        (workload(3, None), "0 of 3 pods are Ready"),
        (workload(3, 3, updated=2), "2 of 3 pods are up to date"),
        (workload(3, 3, updated=None), "0 of 3 pods are up to date"),
        (workload(3, 3, observed=1), "its controller has not seen the latest change"),
        (workload(3, 3, observed=None), "its controller has not seen the latest change"),
        (
            {"metadata": {"generation": 1}, "spec": {"replicas": 3}},
            "its controller has not seen the latest change",
        ),
    ],
)
def test_when_pods_are_ready(item: Mapping[str, Any], missing: str | None) -> None:
    assert replicas_ready(item) == missing


def external(
    generation: int, version: str | None, *conditions: tuple[str, str, str]
) -> dict[str, Any]:
    listed = [
        {"type": kind, "status": status, "reason": "SecretSynced", "message": text}
        for kind, status, text in conditions
    ]
    return {
        "metadata": {"generation": generation},
        "status": {"syncedResourceVersion": version or "", "conditions": listed},
    }


@pytest.mark.parametrize(
    ("item", "missing"),
    [
        (external(2, "2-29fa", ("Ready", "True", "")), None),
        # Ready is of the last sync; the generation is what counts.
        (external(2, "1-29fa", ("Ready", "True", "")), "generation 2 is not synced yet"),
        (external(2, "21-29fa", ("Ready", "True", "")), "generation 2 is not synced yet"),
        (external(2, None), "generation 2 is not synced yet"),
        ({"metadata": {"generation": 1}}, "generation 1 is not synced yet"),
        (
            external(2, "1-29fa", ("Ready", "False", "permission denied")),
            "SecretSynced: permission denied",
        ),
        (external(2, "1-29fa", ("Deleted", "False", "x")), "generation 2 is not synced yet"),
    ],
)
def test_when_a_secret_is_synced(item: Mapping[str, Any], missing: str | None) -> None:
    assert synced(item) == missing


def test_ready_for_a_moment_is_not_ready_steadily() -> None:
    """PGO reports a generation as seen just before it replaces the first pod."""
    looks = iter([None, "1 of 2 pods", None, None])
    check = steadily(lambda _: next(looks))
    assert [check({}) is None for _ in range(4)] == [False, False, False, True]

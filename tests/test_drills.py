"""Drills ask first, act, wait for the recovery and use the environment afterwards."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import httpx
import pytest

from components.cluster.access import ClusterAccess
from components.program.identity import IdentityError
from components.settings.environment import RotationSettings
from offline import terminal
from operate import __main__ as command
from operate.declared import Declared, declared
from operate.rehearse import drills
from operate.rehearse.drills import DRILLS, DrillError, run
from operate.smoke import Step
from tests.world import Api, World, healthy


class DrillApi(Api):
    """An API server on which a pod may be deleted; it is Ready again at the third look."""

    def answer(self, method: str, path: str, body: Any = None) -> httpx.Response:
        if method != "DELETE":
            return super().answer(method, path, body)
        if "delete" in self.world.forbidden:
            return httpx.Response(403, json={"kind": "Status"})
        name = path.rpartition("/")[2]
        self.world.not_ready(name, seconds=SOON)
        self.world.find("Pod", name)["metadata"]["uid"] = "new"
        return httpx.Response(200, json={})


def access(world: World, heal_after: int) -> ClusterAccess:
    looks = {"number": 0}

    class Access(ClusterAccess):
        """Each connection is one look."""

        async def client(self) -> Any:
            looks["number"] += 1
            if looks["number"] > heal_after:
                world.objects = healthy(world.declared).objects
            return DrillApi(world)

    return Access("lab")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def works(*_: Any) -> list[Step]:
        return [Step("health", 0.1)]

    monkeypatch.setattr(drills, "_INTERVAL", 0.0)
    monkeypatch.setattr(drills, "_CALM", 0.0)
    monkeypatch.setattr(drills, "CONFIRM_SECONDS", 0.0)
    monkeypatch.setattr(drills, "smoke", works)
    monkeypatch.setattr(command.ownership, "check_by_stack", mock.Mock())


SOON = -600
"""Seconds since a pod was Ready last. Less than none: a slow machine ages it while it looks."""


def drill(name: str) -> drills.Drill:
    return next(item for item in DRILLS if item.name == name)


@pytest.mark.parametrize(
    ("name", "pod"),
    [
        ("vault-restart", "vault/vault-0"),
        ("vault-unseal", "vault/vault-0"),
        ("postgres-failover", "postgres/shlink-db-instance1-axyz-0"),
        ("redis-failover", "redis/rfr-shlink-redis-0"),
    ],
)
def test_the_right_pod_is_deleted_and_the_recovery_awaited(name: str, pod: str) -> None:
    world = healthy(declared("dev"))
    told: list[str] = []
    outcome = run(drill(name), world.declared, access(world, heal_after=4), tell=told.append)
    assert outcome.did == f"pod {pod} deleted"
    assert told[0].startswith(outcome.did)
    assert told[-1].startswith("recovered after ")
    assert outcome.ok
    namespace, _, name = pod.partition("/")
    assert f"DELETE /api/v1/namespaces/{namespace}/pods/{name}" in world.asked


def test_the_recovery_begins_when_the_deleted_pod_has_stopped() -> None:
    """Until then it may answer as before, and nothing would seem to have happened."""
    world = healthy(declared("dev"))
    lists: list[str] = []

    class Stopping(DrillApi):
        """The pod has the same identity for two more lists."""

        def answer(self, method: str, path: str, body: Any = None) -> httpx.Response:
            uid = world.find("Pod", "vault-0")["metadata"]["uid"]
            answer = super().answer(method, path, body)
            if method == "DELETE":
                world.find("Pod", "vault-0")["metadata"]["uid"] = uid
                lists.append("deleted")
            elif lists and path.endswith("/vault/pods"):
                lists.append(path)
                if len(lists) > 2:
                    world.find("Pod", "vault-0")["metadata"]["uid"] = "new"
            return answer

    class Access(ClusterAccess):
        async def client(self) -> Any:
            return Stopping(world)

    drill("vault-restart").act(world.declared, Access("lab"), print)
    assert len(lists) > 3


def nothing(*_: object) -> str:
    return "nothing done"


def test_a_recovery_that_does_not_last_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may take its new certificate, and be away for it, after all pods were Ready."""
    world = healthy(declared("dev"))
    looks: list[str] = []

    class Access(ClusterAccess):
        """Shlink is not Ready at the third look after the act."""

        async def client(self) -> Any:
            looks.append("look")
            fresh = healthy(world.declared)
            if len(looks) == 3:
                fresh.not_ready("shlink-7f8b-0", seconds=SOON)
            world.objects = fresh.objects
            return DrillApi(world)

    monkeypatch.setattr(drills, "_CALM", 0.001)
    told: list[str] = []
    run(
        drills.Drill("calm", "Does nothing.", nothing),
        world.declared,
        Access("lab"),
        tell=told.append,
    )
    assert len([line for line in told if line.startswith("nothing to mend after")]) == 2
    assert told[-1].startswith("recovered after")


def test_a_drill_waits_for_what_is_under_way_before_it_begins() -> None:
    world = healthy(declared("dev"))
    world.not_ready("shlink-7f8b-0", seconds=SOON)
    told: list[str] = []
    run(drill("vault-restart"), world.declared, access(world, heal_after=2), tell=told.append)
    waiting = [line for line in told if line.startswith("waiting for what is under way")]
    assert waiting[0].startswith("waiting for what is under way: Shlink: pod shlink-7f8b-0")
    assert told[len(waiting)] == "pod vault/vault-0 deleted (0 s)"


def test_what_a_drill_waits_for_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = healthy(declared("dev"))
    world.not_ready("shlink-7f8b-0", seconds=SOON)

    def why_not(_: object) -> str:
        return "one thing"

    monkeypatch.setattr(drills, "_why_not", why_not)
    told: list[str] = []
    run(drill("vault-restart"), world.declared, access(world, heal_after=3), tell=told.append)
    assert told[:2] == [
        "waiting for what is under way: one thing",
        "pod vault/vault-0 deleted (0 s)",
    ]


def test_a_look_without_an_answer_is_repeated_before_a_drill_begins() -> None:
    """A busy API server is no fault of the environment."""
    world = healthy(declared("dev"))
    asked: list[str] = []

    class Busy(DrillApi):
        """The first look gets no answer about pods."""

        def answer(self, method: str, path: str, body: Any = None) -> httpx.Response:
            if path.endswith("/pods") and len(asked) == 1:
                raise httpx.ReadTimeout("")
            return super().answer(method, path, body)

    class Access(ClusterAccess):
        """Each connection is one look."""

        async def client(self) -> Any:
            asked.append("look")
            world.objects = healthy(world.declared).objects
            return Busy(world)

    told: list[str] = []
    run(drill("vault-restart"), world.declared, Access("lab"), tell=told.append)
    assert "no answer" in told[0]
    assert told[1] == "pod vault/vault-0 deleted (0 s)"


def test_a_sick_environment_is_left_alone() -> None:
    world = healthy(declared("dev"))
    world.remove("Service", "rfs-")
    with pytest.raises(DrillError, match="not healthy to begin with"):
        run(drill("redis-failover"), world.declared, access(world, 99), tell=print)
    assert not [line for line in world.asked if line.startswith("DELETE")]


def test_an_environment_that_does_not_recover_is_told() -> None:
    world = healthy(declared("dev"))
    with pytest.raises(DrillError, match="not recovered after 0 s: Redis"):
        run(drill("redis-failover"), world.declared, access(world, 99), tell=print, patience=0)


def test_a_missing_right_names_the_role() -> None:
    world = healthy(declared("dev"))
    world.forbidden = {"delete"}
    with pytest.raises(DrillError, match=r"deploy/rbac/drill\.yaml"):
        run(drill("vault-restart"), world.declared, access(world, 99), tell=print)


@pytest.mark.parametrize(
    ("name", "key"), [("rotate-api-key", "apiKey"), ("rotate-certificates", "certificates")]
)
def test_a_rotation_raises_the_number_and_applies_it(
    name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def call(line: list[str], **_: Any) -> Any:
        commands.append(line)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr("operate.rehearse.drills.subprocess.run", call)
    monkeypatch.setattr("operate.rehearse.drills.executable", lambda: "pulumi")
    did = drill(name).act(declared("dev"), ClusterAccess("lab"), print)
    assert did.endswith("rotated to number 2")
    assert commands[0][-3:] == ["--path", f"shlink:rotation.{key}", "2"]
    assert commands[1][:3] == ["pulumi", "up", "--yes"]


def test_every_credential_that_has_a_number_has_a_drill() -> None:
    numbered = {field.replace("_", "-") for field in RotationSettings.model_fields}
    assert {f"rotate-{name}" for name in numbered} <= {item.name for item in DRILLS}


def test_every_server_of_vault_is_deleted_at_once() -> None:
    world = healthy(declared("prod"))
    outcome = run(drill("vault-unseal"), world.declared, access(world, heal_after=4), tell=print)
    assert outcome.did == "pods vault/vault-0, vault/vault-1, vault/vault-2 deleted"


def test_a_node_is_stopped_by_a_person_and_then_awaited() -> None:
    """The node is lost at the second look at it, and comes back."""
    world = healthy(declared("dev"))
    told: list[str] = []

    class NodeApi(DrillApi):
        def answer(self, method: str, path: str, body: Any = None) -> httpx.Response:
            if path.endswith("/nodes") and told:
                status = world.find("Node", "node-1")["status"]["conditions"][0]
                status["status"] = "Unknown"
            return super().answer(method, path, body)

    class Access(ClusterAccess):
        """The environment is healthy again once the loss was told."""

        async def client(self) -> Any:
            if len(told) > 2:
                world.objects = healthy(world.declared).objects
                return Api(world)
            return NodeApi(world)

    outcome = run(drill("node-loss"), world.declared, Access("lab"), tell=told.append)
    assert outcome.did == "node node-1 stopped"
    assert "one node" in told[0]
    assert told[1].startswith("Stop node node-1 now")
    assert "kubectl --context lab delete node node-1" in told[2]


def test_the_drills_are_listed_without_a_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["drill", "dev"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [item.name for item in drills.DRILLS if item.name not in printed] == []
    assert max(map(len, printed)) <= terminal.WIDTH


def test_an_unknown_drill_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command.main(["drill", "dev", "nope"]) == 2
    assert "vault-restart" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "code"), [(True, 0), (False, 2)])
def test_it_asks_first(
    answer: bool,  # noqa: FBT001 -- parametrized
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done: list[str] = []

    def act(
        drill: drills.Drill, _: Declared, *__: Any, tell: Callable[[str], object], again: Any
    ) -> Any:
        assert again().stack == "dev"
        done.append(drill.name)
        tell("done")
        return drills.Outcome(did="done", seconds=1, steps=[Step("health", 0.1)])

    monkeypatch.setattr(command.asking, "agreed", mock.Mock(return_value=answer))
    monkeypatch.setattr(drills, "run", act)
    assert command.main(["drill", "dev", "vault-restart"]) == code
    assert done == (["vault-restart"] if code == 0 else [])
    assert ("nothing was done" in capsys.readouterr().err) == bool(code)


def test_nobody_elses_environment_is_drilled(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = mock.Mock(side_effect=IdentityError("namespace vault belongs to stack prod"))
    monkeypatch.setattr(command.ownership, "check_by_stack", theirs)
    monkeypatch.setattr(command.asking, "agreed", mock.Mock(side_effect=AssertionError))
    assert command.main(["drill", "dev", "vault-restart"]) == 2
    assert "belongs to stack prod" in capsys.readouterr().err

"""Drills ask first, act, wait for the recovery and use the environment afterwards."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from components.cluster import ClusterAccess
from operate import __main__ as command
from operate import drills
from operate.declared import Declared, declared
from operate.drills import DRILLS, DrillError, run
from operate.smoke import Step
from tests.world import Api, World, healthy


class DrillApi(Api):
    """An API server on which a pod may be deleted; it is Ready again at the third look."""

    def answer(self, method: str, path: str, body: Any = None) -> httpx.Response:
        if method != "DELETE":
            return super().answer(method, path, body)
        if "delete" in self.world.forbidden:
            return httpx.Response(403, json={"kind": "Status"})
        self.world.not_ready(path.rpartition("/")[2], seconds=5)
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
    monkeypatch.setattr(drills, "smoke", works)


def drill(name: str) -> drills.Drill:
    return next(item for item in DRILLS if item.name == name)


@pytest.mark.parametrize(
    ("name", "pod"),
    [
        ("vault-restart", "vault/vault-0"),
        ("postgres-failover", "postgres/shlink-db-instance1-axyz-0"),
        ("redis-failover", "redis/rfr-shlink-redis-0"),
    ],
)
def test_the_right_pod_is_deleted_and_the_recovery_awaited(name: str, pod: str) -> None:
    world = healthy(declared("dev"))
    told: list[str] = []
    outcome = run(drill(name), world.declared, access(world, heal_after=4), tell=told.append)
    assert outcome.did == f"pod {pod} deleted"
    assert told[0] == outcome.did
    assert told[1].startswith("recovered after ")
    assert outcome.ok
    namespace, _, name = pod.partition("/")
    assert f"DELETE /api/v1/namespaces/{namespace}/pods/{name}" in world.asked


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


def test_a_rotation_raises_the_number_and_applies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def call(line: list[str], **_: Any) -> Any:
        commands.append(line)
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr("operate.drills.subprocess.run", call)
    assert drill("rotate-api-key").act(declared("dev"), ClusterAccess("lab")) == (
        "api_key rotated to number 2"
    )
    assert commands[0][-3:] == ["--path", "shlink:rotation.apiKey", "2"]
    assert commands[1][:3] == ["pulumi", "up", "--yes"]


@pytest.mark.parametrize(("typed", "code"), [("dev", 0), ("yes", 1)])
def test_it_asks_for_the_name_of_the_stack(
    typed: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done: list[str] = []

    def act(drill: drills.Drill, _: Declared, *__: Any, tell: Callable[[str], object]) -> Any:
        done.append(drill.name)
        tell("done")
        return drills.Outcome(did="done", seconds=1, steps=[Step("health", 0.1)])

    def answer(_: str) -> str:
        return typed

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(drills, "run", act)
    assert command.main(["drill", "dev", "vault-restart"]) == code
    assert done == (["vault-restart"] if code == 0 else [])
    assert ("nothing done" in capsys.readouterr().out) == bool(code)

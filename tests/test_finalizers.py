"""A destroy names what would wait for a dead operator, and offers the way out."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx
import pytest

from components.cluster.access import ClusterAccess
from components.network.flows import CONTROLLER, PGO
from components.settings.environment import Settings
from operate.repair import finalizers
from operate.repair.pulumi_cli import Pulumi, PulumiError

CLUSTER = "postgres-operator.crunchydata.com/finalizer"


def pod(labels: Mapping[str, str], *, ready: bool = True) -> dict[str, Any]:
    status = {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]}
    return {"metadata": {"labels": dict(labels)}, "status": status}


class Live(ClusterAccess):
    """A cluster with lists of objects by path, in which nothing else is served."""

    def __init__(self, **lists: list[dict[str, Any]]) -> None:
        super().__init__("lab")
        object.__setattr__(self, "lists", lists)
        object.__setattr__(self, "patched", [])

    lists: Mapping[str, list[dict[str, Any]]]
    patched: list[tuple[str, Any]]

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator["Live"]:
        yield self

    @contextlib.asynccontextmanager
    async def call_api(
        self, method: str, namespace: str, url: str, **more: Any
    ) -> AsyncGenerator[httpx.Response]:
        if method == "PATCH":
            assert more["headers"] == {"Content-Type": "application/merge-patch+json"}
            self.patched.append((f"{namespace}/{url}", json.loads(more["content"])))
            yield httpx.Response(200, text="{}")
            return
        items = self.lists.get(f"{namespace}_{url}".replace("-", "_"))
        status = 404 if items is None else 200
        yield httpx.Response(status, text=json.dumps({"items": items or []}))


def cluster(name: str = "shlink-db", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}}


def live(*pgo: dict[str, Any]) -> Live:
    return Live(
        postgres_pods=list(pgo),
        postgres_postgresclusters=[cluster(finalizers=[CLUSTER]), cluster("other")],
        external_secrets_pods=[pod(CONTROLLER.labels)],
        shlink_externalsecrets=[cluster("a", finalizers=["e"])],
    )


def look(cluster: Live) -> list[str]:
    waiting = finalizers.look(cluster, Settings(), ["postgres", "shlink"])
    return [str(item) for item in asyncio.run(waiting)]


def test_an_operator_that_runs_removes_its_own() -> None:
    assert look(live(pod(PGO.labels))) == []


@pytest.mark.parametrize("pods", [[], [pod(PGO.labels, ready=False)], [pod({"app": "x"})]])
def test_what_waits_for_a_dead_operator_is_named(pods: list[dict[str, Any]]) -> None:
    (waiting,) = look(live(*pods))
    assert waiting.startswith(f"postgresclusters postgres/shlink-db waits for {CLUSTER}, which PGO")
    assert "no pod of it is Ready in namespace postgres" in waiting


def test_one_that_was_there_is_looked_for_where_it_runs() -> None:
    operators = {"externalSecrets": {"install": False, "namespace": "platform"}}
    settings = Settings.model_validate({"operators": operators})
    cluster = live(pod(PGO.labels))
    waiting = asyncio.run(finalizers.look(cluster, settings, ["shlink"]))
    assert "no pod of it is Ready in namespace platform" in waiting[0].operator


@pytest.mark.parametrize("answer", [True, False])
def test_a_finalizer_goes_only_when_a_person_agrees(
    capsys: pytest.CaptureFixture[str], *, answer: bool
) -> None:
    cluster = live()
    command = Pulumi("dev", confirm=lambda _: answer)
    if not answer:
        with pytest.raises(PulumiError, match="nothing was changed"):
            finalizers.clear(command, cluster, Settings(), ["postgres"])
        assert cluster.patched == []
        return
    finalizers.clear(command, cluster, Settings(), ["postgres"])
    removed = {"metadata": {"finalizers": None}}
    assert cluster.patched == [("postgres/postgresclusters/shlink-db", removed)]
    assert "postgresclusters postgres/shlink-db waits for" in capsys.readouterr().err

"""`make restore-drill`: the latest backup, restored beside the live database, compared, removed."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from components.cluster.access import ClusterAccess
from components.postgres.backup_info import Backup, RepositoryContent
from components.postgres.component import CLUSTER
from components.program.identity import IdentityError
from offline.record import plain
from operate import asking
from operate.__main__ import main
from operate.declared import Declared, of_recording
from operate.rehearse.restore_drill import (
    COPY,
    Content,
    Drill,
    Outcome,
    RestoreDrillError,
    compare,
    copy_of,
    latest,
)
from tests import configurations

BACKUP = "20261124-090000F"


def holds(hour: int) -> RepositoryContent:
    stop = datetime(2026, 11, 24, hour, tzinfo=UTC)
    return RepositoryContent(problem=None, backups=[Backup(f"backup-{hour}", "full", stop, 1)])


def test_the_latest_backup_of_all_repositories_is_chosen() -> None:
    known = {"repo1": holds(9), "repo2": holds(10), "repo3": RepositoryContent("no valid backups")}
    assert latest(known, None)[0] == "repo2"
    assert latest(known, "repo1")[1].label == "backup-9"


def test_without_a_valid_backup_there_is_no_drill() -> None:
    known = {"repo1": holds(9), "repo2": RepositoryContent("no valid backups")}
    with pytest.raises(RestoreDrillError, match="repo2: no valid backups"):
        latest(known, "repo2")


def live(name: str) -> Any:
    (cluster,) = configurations.recording(name).of_kind("PostgresCluster")
    return json.loads(json.dumps(plain(cluster.inputs)))


@pytest.mark.parametrize("name", ["defaults", "backups-everywhere", "restore-store", "monitoring"])
def test_the_copy_writes_to_nothing_of_the_live_database(name: str) -> None:
    cluster = live(name)
    copy = copy_of(cluster, "repo2")
    spec = copy["spec"]
    assert copy["metadata"]["name"] == COPY != cluster["metadata"]["name"]
    assert spec["dataSource"] == {
        "postgresCluster": {
            "clusterName": cluster["metadata"]["name"],
            "repoName": "repo2",
            "resources": cluster["spec"]["backups"]["pgbackrest"]["jobs"]["resources"],
        }
    }
    own = spec["backups"]["pgbackrest"]
    (repository,) = own["repos"]
    # PGO 6.0.3 restores again and again without a repository.
    assert set(repository) == {"name", "volume"}, "no schedule and no store"
    assert "configuration" not in own, "no key of a store"
    assert own["global"] == {"start-fast": "y"}, "no path of the live backups"
    assert spec["users"] == [], "no login"


def test_the_copy_is_bounded() -> None:
    spec = copy_of(live("defaults"), "repo1")["spec"]
    (instance,) = spec["instances"]
    assert instance["replicas"] == 1
    own = spec["backups"]["pgbackrest"]
    for holder in (instance, own["repoHost"], own["jobs"], *own["sidecars"].values()):
        assert holder["resources"]["limits"]["memory"]


def test_a_copy_that_has_everything_is_good() -> None:
    content = Content({"public.visits": 3, "public.tags": 0}, 1000.0)
    assert compare(content, content, 900) == (0.0, [])


@pytest.mark.parametrize(
    ("copy", "words"),
    [
        (Content({"public.visits": 3}, 1000.0), "table public.urls is missing"),
        (Content({"public.visits": 3, "public.urls": 0}, 1000.0), "public.urls is empty"),
        (Content({"public.visits": 2, "public.urls": 2}, 99.0), "901 s older than the live one"),
        (Content({"public.visits": 1, "public.urls": 2}, None), "it has no visit"),
    ],
)
def test_what_the_copy_lacks_is_a_fault(copy: Content, words: str) -> None:
    before = Content({"public.visits": 3, "public.urls": 2}, 1000.0)
    _, faults = compare(before, copy, 900)
    assert words in "\n".join(faults)


def declared(name: str = "defaults") -> Declared:
    recording = configurations.recording(name)
    cluster, settings = mock.MagicMock(), mock.MagicMock()
    return of_recording(recording, cluster, settings)


class Access(ClusterAccess):
    """Counts logins to a cluster that nobody asks anything."""

    logins = 0

    async def client(self) -> Any:
        type(self).logins += 1
        return SimpleNamespace(_session=None)


class Rehearsal(Drill):
    """A drill without a cluster: what it would call, and how its steps end."""

    def __init__(self, answer: Any) -> None:
        super().__init__(declared(), Access("lab"), tell=lambda _: None)
        self.did: list[str] = []
        self._answer = answer

    async def _call(self, method: str, url: str, body: Any = None) -> int:
        self.did.append(f"{method} {url}{' with a body' if body else ''}")
        return 404 if method == "DELETE" else 201

    async def _content(self, cluster: str) -> Content:  # noqa: ARG002 -- as its base
        return Content({"public.visits": 1}, 1000.0)

    async def _ask(self, cluster: str, query: str) -> str:  # noqa: ARG002 -- as its base
        return str(self._answer[cluster])

    async def _restored(self) -> Content:
        if isinstance(self._answer, BaseException):
            raise self._answer
        self._log = "LOG:  last completed transaction was at log time 2026-11-24 09:00:01.5+00\n"
        return await self._content(COPY)


def rehearse(answer: Any) -> tuple[Rehearsal, Outcome]:
    drill, outcome = Rehearsal(answer), Outcome(BACKUP, "repo1")
    asyncio.run(drill.run(outcome))
    return drill, outcome


def test_it_logs_in_once() -> None:
    """A login may run a credential plugin, and the drill looks every three seconds."""

    class Look(Rehearsal):
        async def _ask(self, cluster: str, query: str) -> str:
            async with self._cluster.connected():
                return await super()._ask(cluster, query)

    Access.logins = 0
    drill, outcome = Look({CLUSTER: "1", COPY: "1"}), Outcome(BACKUP, "repo1")
    asyncio.run(drill.run(outcome))
    assert Access.logins == 1


def test_it_removes_what_an_earlier_drill_left_and_its_own_copy() -> None:
    drill, outcome = rehearse({"shlink-db": 5, COPY: 5})
    assert drill.did == [
        f"DELETE postgresclusters/{COPY}",
        "POST postgresclusters with a body",
        f"DELETE postgresclusters/{COPY}",
    ]
    assert outcome.ok
    assert outcome.last_transaction == "2026-11-24 09:00:01.5+00"
    assert outcome.age is not None
    assert outcome.tables == {"public.visits": (1, 1)}


def test_a_hole_in_the_visits_is_a_fault() -> None:
    _, outcome = rehearse({"shlink-db": 5, COPY: 4})
    assert outcome.faults == ["of 5 visits older than its last minute it has only 4"]


@pytest.mark.parametrize("end", [RestoreDrillError("too late"), asyncio.CancelledError()])
def test_the_copy_goes_also_after_a_failure_and_an_interruption(end: BaseException) -> None:
    drill = Rehearsal(end)
    with pytest.raises(type(end)):
        asyncio.run(drill.run(Outcome(BACKUP, "repo1")))
    assert drill.did[-1] == f"DELETE postgresclusters/{COPY}"
    assert len(drill.did) == 3


@pytest.fixture(name="own")
def _own() -> Iterator[mock.Mock]:
    """The namespaces are this stack's."""
    with mock.patch("operate.ownership.check_by_stack") as check:
        yield check


def test_nobody_elses_database_is_restored(
    own: mock.Mock, capsys: pytest.CaptureFixture[str]
) -> None:
    own.side_effect = IdentityError("namespace vault belongs to stack prod")
    with mock.patch.object(Drill, "choose", mock.AsyncMock(side_effect=AssertionError)):
        assert main(["restore-drill", "dev"]) == 2
    assert "belongs to stack prod" in capsys.readouterr().err


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("answer", [False, True])
def test_it_asks_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, answer: bool
) -> None:
    monkeypatch.setattr(asking, "agreed", mock.Mock(return_value=answer))
    ran = mock.AsyncMock()
    with (
        mock.patch.object(Drill, "choose", mock.AsyncMock(return_value=Outcome(BACKUP, "repo1"))),
        mock.patch.object(Drill, "exists", mock.AsyncMock(return_value=True)),
        mock.patch.object(Drill, "run", ran),
    ):
        code = main(["restore-drill", "dev"])
    assert (code == 0) == ran.called == answer
    assert "it goes first" in capsys.readouterr().err


@pytest.mark.usefixtures("own")
def test_a_script_may_agree(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(asking.VARIABLE, "true")
    with (
        mock.patch.object(Drill, "choose", mock.AsyncMock(return_value=Outcome(BACKUP, "repo1"))),
        mock.patch.object(Drill, "exists", mock.AsyncMock(return_value=False)),
        mock.patch.object(Drill, "run", mock.AsyncMock()),
    ):
        assert main(["restore-drill", "dev", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["backup"] == BACKUP

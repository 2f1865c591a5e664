"""Before a restore: a valid backup is looked for, the clients stop, the last WAL is archived."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import httpx
import pulumi
import pytest

from components.cluster.access import ClusterAccess
from components.cluster.execute import ExecuteError
from components.manifests.placement import Placement
from components.postgres import guard as postgres_guard
from components.postgres import restore as restores
from components.postgres.backup_info import (
    BackupInfoError,
    beginning,
    contents,
    impossible,
    left_behind,
)
from components.postgres.guard import GuardArgs, creation_hook, guard_hook
from components.postgres.restore import (
    RestoreArgs,
    Workload,
    look_into_store,
    prepare_in_place,
    start_hook,
)
from components.settings.postgres import InPlaceRestore, StoreRestore
from tests import configurations
from tests.conftest import Program, manifest

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
FULL = "20261124-090000F"
DIFFERENTIAL = "20261124-090000F_20261124-100000D"


def backup(label: str, repository: int, hour: int, database: int = 1, **more: Any) -> Any:
    """A backup as pgBackRest 2.55.1 lists it, complete at this hour."""
    stop = int(datetime(2026, 11, 24, hour, tzinfo=UTC).timestamp())
    kinds = {"F": "full", "D": "diff"}
    return {
        "label": label,
        "type": kinds[label[-1]],
        "error": False,
        "database": {"id": database, "repo-key": repository},
        "timestamp": {"start": stop - 60, "stop": stop},
        "info": {"size": 30_000_000},
        "archive": {"start": "000000010000000000000002"},
        "lsn": {"start": "0/2000028"},
        **more,
    }


def info(*backups: Any, faults: dict[int, str] | None = None, upgraded: bool = False) -> str:
    """What `pgbackrest info` prints for two repositories."""
    repositories: list[Any] = []
    databases: list[Any] = []
    for key in (1, 2):
        status = {"code": 0, "message": "ok"}
        if key in (faults or {}):
            status = {"code": 99, "message": (faults or {})[key]}
        repositories.append({"key": key, "cipher": "none", "status": status})
        databases.append({"id": 1, "repo-key": key, "version": "16"})
        if upgraded:
            databases.append({"id": 2, "repo-key": key, "version": "17"})
    stanza = {"name": "db", "backup": backups, "repo": repositories, "db": databases}
    return json.dumps([stanza])


GOOD = info(backup(FULL, 1, 9), backup(DIFFERENTIAL, 1, 10))


def in_place(**settings: Any) -> InPlaceRestore:
    return InPlaceRestore.model_validate({"type": "inPlace", "number": 2, **settings})


def why_not(text: str, **settings: Any) -> str | None:
    restore = in_place(**settings)
    return impossible(restore, contents(text).get(restore.repository), NOW)


@pytest.mark.parametrize(
    "settings",
    [{}, {"set": DIFFERENTIAL}, {"time": "2026-11-24 09:00:01+00"}],
    ids=["newest", "set", "time"],
)
def test_a_valid_backup_can_be_restored(settings: Any) -> None:
    assert why_not(GOOD, **settings) is None


@pytest.mark.parametrize(
    ("text", "settings", "words"),
    [
        (GOOD, {"repository": "repo2"}, "no valid backups of this database"),
        (GOOD, {"repository": "repo3"}, "does not know this repository"),
        (info(faults={1: "missing stanza path"}), {}, "missing stanza path"),
        (info(backup(FULL, 1, 9, error=True)), {}, "no valid backups"),
        # PostgreSQL 17 can't read what 16 wrote.
        (info(backup(FULL, 1, 9), upgraded=True), {}, "no valid backups"),
        (GOOD, {"set": "20261123-090000F"}, f"only: {FULL}, {DIFFERENTIAL}"),
        (GOOD, {"time": "2026-11-24 08:59:59+00"}, "complete at 2026-11-24 09:00:00+00"),
        # Half past ten in Berlin is half past nine here.
        (GOOD, {"time": "2026-11-24 09:30:00+01"}, "complete at 2026-11-24 09:00:00+00"),
        (GOOD, {"time": "2026-11-24 12:00:01+00"}, "is still to come"),
    ],
)
def test_a_restore_that_would_leave_the_database_down_is_known(
    text: str, settings: Any, words: str
) -> None:
    assert words in str(why_not(text, **settings))


# An earlier restore went back to before the second backup: timeline 2 leaves 1 at 0/6000050.
HISTORY = "1\t0/6000050\treached consistency\n\n"
EARLIER, LATER = "20261124-080000F", "20261124-090000F"


def restored(*more: Any) -> str:
    """What `pgbackrest info` tells after such a restore."""
    earlier = backup(EARLIER, 1, 8)
    later = backup(LATER, 1, 9, lsn={"start": "0/7000028"})
    stanza = json.loads(info(earlier, later, *more))
    place = {"id": 1, "repo-key": 1}
    stanza[0]["archive"] = [{"database": place, "id": "16-1", "max": "00000002000000000000000A"}]
    return json.dumps(stanza)


def ways(text: str, **settings: Any) -> str | None:
    restore, content = in_place(**settings), contents(text)["repo1"]
    start = beginning(restore, content)
    return None if start is None else left_behind(start, restore, content, HISTORY)


def test_a_backup_that_an_earlier_restore_left_behind_is_told_with_what_works() -> None:
    """`target timeline 2 forked from backup timeline 1`: pgBackRest 2.55.1 on a real cluster."""
    newest, moment = ways(restored()), ways(restored(), time="2026-11-24 09:30:00+00")
    for reason in (newest, moment):
        assert f"it would start from backup {LATER}" in str(reason)
        assert "make a backup" in str(reason)
    assert "`set`" not in str(newest), "it would end where that backup ends"
    assert str(moment).endswith(f"beside `time`: {EARLIER}")


@pytest.mark.parametrize(
    "settings",
    [
        {"time": "2026-11-24 08:30:00+00"},
        {"time": "2026-11-24 09:30:00+00", "set": EARLIER},
        {"set": LATER},
    ],
    ids=["before the fork", "from an older backup", "no timeline is followed"],
)
def test_what_does_not_start_beyond_the_fork_is_restored(settings: Any) -> None:
    assert ways(restored(), **settings) is None


def test_a_backup_after_the_restore_makes_the_next_one_possible() -> None:
    after = backup(
        f"{LATER}_20261124-100000D", 1, 10, archive={"start": "00000002000000000000000B"}
    )
    content = contents(restored(after))["repo1"]
    start = beginning(in_place(), content)
    assert start is not None
    assert start.timeline == content.timeline == 2


def test_nothing_is_stopped_for_a_backup_that_was_left_behind() -> None:
    api = Pods()
    with pytest.raises(pulumi.RunError, match="nothing was changed: it would start from"):
        prepare(api, restored(), history=HISTORY)
    assert not [line for line in api.did if line.startswith("patch")]


def test_only_the_first_line_of_a_cause_is_told() -> None:
    """The next lines of pgBackRest's message are the request that failed."""
    text = info(faults={2: "[ProtocolError] HTTP request failed with 403 (Forbidden):\nhost: s3"})
    reason = why_not(text, repository="repo2")
    assert reason == "pgBackRest says: [ProtocolError] HTTP request failed with 403 (Forbidden)"


def test_the_document_is_read_between_errors() -> None:
    """A pod's log mixes both, and the document does not end in a new line."""
    assert contents(f"ERROR: [039]: first\n{GOOD}ERROR: second")["repo1"].has_full


@pytest.mark.parametrize("text", ["", "ERROR: [103]: unable to find a valid repository", "[x]"])
def test_what_is_no_document_is_told(text: str) -> None:
    with pytest.raises(BackupInfoError, match="pgBackRest told: "):
        contents(text)


class Pods:
    """A kr8s client that knows one Deployment, whose pods end some looks after it was scaled."""

    def __init__(self, log: str = "", looks: int = 2) -> None:
        self.did: list[str] = []
        self._session = None
        self._left, self._log = looks, log
        self.job: Any = None
        self.replicas = 3
        self.scaled_again: list[int] = []
        """What an autoscaler sets after it has seen a change."""

    async def async_get(
        self, kind: type, *_: str, label_selector: str | None = None, **__: str
    ) -> AsyncGenerator[Any]:
        if kind.__name__ == "Deployment":
            variable = {"name": "RELATED_IMAGE_PGBACKREST", "value": "pgbackrest:1"}
            pod = {"containers": [{"env": [variable]}]}
            selector = {"matchLabels": {"app": "shlink"}}
            spec = {"replicas": self.replicas, "selector": selector, "template": {"spec": pod}}
            deployment = SimpleNamespace(raw={"spec": spec})
            deployment.patch = self.patch
            yield deployment
        elif label_selector and label_selector.startswith("job-name="):
            yield SimpleNamespace(
                raw={"metadata": {"name": "look"}, "status": {"phase": "Succeeded"}}
            )
        elif self._left:
            self._left -= 1
            yield SimpleNamespace(raw={"metadata": {"name": "shlink-1"}})

    async def patch(self, change: Any) -> None:
        self.did.append(f"patch {json.dumps(change)}")
        self.replicas = change["spec"]["replicas"]
        if self.scaled_again:
            self.replicas = self.scaled_again.pop()

    @contextlib.asynccontextmanager
    async def call_api(self, method: str, **call: Any) -> AsyncGenerator[httpx.Response]:
        self.did.append(f"{method} {call['url']}")
        self.job = call.get("json") or self.job
        yield httpx.Response(200, text=self._log)


def reached(api: Pods) -> ClusterAccess:
    class Access(ClusterAccess):
        async def client(self) -> Any:
            return api

    return Access("lab")


ARGS = {"cluster": "shlink-db", "workloads": [Workload("shlink", "shlink")]}


def prepare(
    api: Pods,
    text: str,
    status: Any = None,
    archive: Exception | None = None,
    history: str = "",
) -> None:
    """Prepare restore number 2, where pgBackRest tells this."""

    async def execute(_: Any, container: Any, command: Sequence[str], **__: float) -> str:
        api.did.append(f"execute {command[0]} in {container.name}")
        if archive and container.name == "database":
            raise archive
        if "repo-get" in command:
            assert command[-1] == "archive/db/16-1/00000002.history"
            return history
        return text

    args = RestoreArgs(access=reached(api), **cast("Any", ARGS))
    with (
        mock.patch.object(restores, "execute", execute),
        mock.patch.object(restores, "_INTERVAL", 0),
        mock.patch.object(pulumi.log, "warn") as warn,
        mock.patch.object(pulumi.log, "info"),
    ):
        asyncio.run(prepare_in_place(args, in_place(), "postgres", status or {}))
    api.did += [f"warn {call.args[0]}" for call in warn.call_args_list]


def test_it_looks_then_stops_the_clients_then_archives() -> None:
    api = Pods()
    prepare(api, GOOD)
    assert api.did == [
        "execute pgbackrest in pgbackrest",
        'patch {"spec": {"replicas": 0}}',
        "execute bash in database",
    ]


def test_an_autoscaler_that_decided_just_before_is_overruled() -> None:
    """It scales once more on what it saw; a number of 0 it then leaves alone."""
    api = Pods()
    api.scaled_again = [4]
    prepare(api, GOOD)
    assert api.did.count('patch {"spec": {"replicas": 0}}') == 2
    assert api.replicas == 0


def test_what_does_not_stop_runs_again() -> None:
    """The database was not touched, and no later update would start an autoscaled Deployment."""
    api = Pods(looks=10**6)
    with (
        mock.patch.object(restores, "_STOP_SECONDS", 0.05),
        pytest.raises(pulumi.RunError, match="the Deployment runs again"),
    ):
        prepare(api, GOOD)
    assert api.replicas == 3
    assert "execute bash in database" not in api.did


@pytest.mark.parametrize(
    ("replicas", "did"), [(0, ['patch {"spec": {"replicas": 2}}']), (3, list[str]())]
)
def test_what_an_autoscaler_leaves_at_0_is_started(replicas: int, did: list[str]) -> None:
    api = Pods()
    api.replicas = replicas
    workload = Workload("shlink", "shlink", autoscaled_from=2)
    with mock.patch("pulumi.resource_hooks.register_resource_hook"):
        hook = start_hook("start", reached(api), workload)
    asyncio.run(cast("Any", hook.callback(cast("Any", None))))
    assert api.did == did


@pytest.mark.parametrize("scaled", ["autoscaler", ""])
def test_only_an_autoscaled_deployment_needs_to_be_started(program: Program, scaled: str) -> None:
    """Otherwise its own update brings the declared number of pods back."""
    app = {"maxReplicas": 6} if scaled else {}
    hooks = program(app=app).one("Deployment", "shlink").hooks["before_update"]
    assert ("shlink-db-start-shlink" in hooks) == bool(scaled)


def test_without_a_valid_backup_nothing_is_changed() -> None:
    api = Pods()
    with pytest.raises(pulumi.RunError) as error:
        prepare(api, info(backup(FULL, 2, 9)))
    assert api.did == ["execute pgbackrest in pgbackrest"] * 2, "the others for the message only"
    message = str(error.value)
    assert "nothing was changed" in message
    assert f"repo2: 1 backups, the oldest {FULL}" in message, "the way out is shown"


def test_a_broken_database_can_be_restored() -> None:
    api = Pods()
    prepare(api, GOOD, archive=ExecuteError("no pod runs"))
    assert api.did[-1].startswith("warn the restore ends with the WAL that was archived before")


def test_a_lower_number_is_refused() -> None:
    """PGO compares for equality, so a lower number would be another restore."""
    api = Pods()
    with pytest.raises(pulumi.RunError, match="allowed: 4 for another one"):
        prepare(api, GOOD, {"pgbackrest": {"restore": {"id": "3", "finished": True}}})
    assert api.did == []


def test_a_restore_that_was_done_is_not_prepared_again() -> None:
    """After a kill the state does not know of it; PGO does, and restores nothing."""
    done = {"id": "2", "finished": True, "succeeded": 1}
    api = Pods()
    prepare(api, GOOD, {"pgbackrest": {"restore": done}})
    assert api.did == [
        "warn shlink:postgres.restore: restore 2 was done before; for another raise `number`"
    ]


def test_a_restore_that_failed_is_prepared_again() -> None:
    """Another set or time under the same number is how PGO goes on from it."""
    api = Pods()
    prepare(api, GOOD, {"pgbackrest": {"restore": {"id": "2", "finished": True, "failed": 7}}})
    assert "execute pgbackrest in pgbackrest" in api.did


def run_hook(hook: pulumi.ResourceHook, old: Any, new: Any, *, preview: bool = False) -> list[str]:
    """Run a hook of the PostgresCluster; returns what it warned of."""
    args = SimpleNamespace(old_inputs=old, new_inputs=new)
    with (
        mock.patch.object(pulumi.runtime, "is_dry_run", return_value=preview),
        mock.patch.object(pulumi.log, "warn") as warn,
    ):
        asyncio.run(cast("Any", hook.callback(cast("Any", args))))
    return [str(call.args[0]) for call in warn.call_args_list]


def guarded(kind: Any, restore: Any = None) -> pulumi.ResourceHook:
    args = GuardArgs(RestoreArgs(access=reached(Pods()), **cast("Any", ARGS)), restore)
    with mock.patch("pulumi.resource_hooks.register_resource_hook"):
        return kind("guard", args)


def inputs(name: str) -> Any:
    return json.loads(
        json.dumps(manifest(configurations.recording(name), "PostgresCluster", "shlink-db"))
    )


def test_an_update_without_a_new_restore_prepares_nothing() -> None:
    cluster = inputs("restore-in-place")
    prepared = mock.AsyncMock()
    with mock.patch.object(postgres_guard, "prepare_in_place", prepared):
        run_hook(guarded(guard_hook, in_place()), cluster, cluster)
    prepared.assert_not_called()


@pytest.mark.parametrize("change", ["number", "target"])
def test_another_number_or_target_prepares_a_restore(change: str) -> None:
    old, new = inputs("restore-in-place"), inputs("restore-in-place")
    if change == "number":
        new["metadata"]["annotations"]["postgres-operator.crunchydata.com/pgbackrest-restore"] = "3"
    else:
        new["spec"]["backups"]["pgbackrest"]["restore"]["options"] = []
    prepared = mock.AsyncMock()
    status = mock.AsyncMock(return_value={"pgbackrest": {}})
    with (
        mock.patch.object(postgres_guard, "prepare_in_place", prepared),
        mock.patch.object(postgres_guard, "_status", status),
    ):
        run_hook(guarded(guard_hook, in_place()), old, new)
    assert prepared.call_args.args[2:] == ("postgres", {"pgbackrest": {}})


def test_a_preview_tells_what_a_restore_would_replace() -> None:
    old, new = inputs("defaults"), inputs("restore-in-place")
    restore = in_place(time="2026-11-24 09:30:00+00")
    (warning,) = run_hook(guarded(guard_hook, restore), old, new, preview=True)
    assert "up to 2026-11-24 09:30:00+00" in warning
    assert "shlink stops meanwhile" in warning


@pytest.mark.parametrize("preview", ["preview", ""])
def test_a_new_database_is_never_restored_in_place(preview: str) -> None:
    """PGO would wait for a backup in the new, empty repository for ever."""
    with pytest.raises(pulumi.RunError, match="use type store"):
        run_hook(
            guarded(creation_hook, in_place()),
            None,
            inputs("restore-in-place"),
            preview=bool(preview),
        )


def store(**more: Any) -> StoreRestore:
    place = {"type": "gcs", "bucket": "prod", "key": '{"a": 1}'}
    path = "/shlink-db/0a1b2c3d/repo2"
    return StoreRestore.model_validate({"type": "store", "store": place, "path": path, **more})


def look(api: Pods, restore: StoreRestore, **more: Any) -> Any:
    source = inputs("restore-store")["spec"]["dataSource"]["pgbackrest"]
    args = RestoreArgs(access=reached(api), **cast("Any", ARGS), **more)
    asyncio.run(look_into_store(args, restore, "postgres", source))
    return source


def test_a_store_is_looked_into_before_there_is_a_database() -> None:
    api = Pods(GOOD)
    look(api, store())
    assert [line.partition(" ")[0] for line in api.did] == ["POST", "GET", "DELETE"]
    pod = api.job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    told = {item["name"]: item["value"] for item in container["env"]}
    assert told["PGBACKREST_REPO1_TYPE"] == "gcs"
    assert told["PGBACKREST_REPO1_GCS_BUCKET"] == "prod"
    assert told["PGBACKREST_REPO1_PATH"] == "/shlink-db/0a1b2c3d/repo2"
    assert container["image"] == "pgbackrest:1", "the one that PGO uses"
    assert "passphrase" not in json.dumps(api.job), "it is in the Secret only"
    assert pod["volumes"][0]["projected"]["sources"], "the Secret"


def test_the_pod_that_looks_runs_where_the_database_will() -> None:
    api = Pods(GOOD)
    placement = Placement(
        node_selector={"pool": "data"}, priority_class="high", pull_secret="registries"
    )
    look(api, store(), placement=placement)
    pod = api.job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "data"}
    assert pod["priorityClassName"] == "high"
    assert pod["imagePullSecrets"] == [{"name": "registries"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (info(faults={1: "[FormatError] unable to load info file"}), "unable to load info file"),
        ("ERROR: [049]: unable to get address for 's3'", "unable to get address"),
        (info(), "no valid backups"),
    ],
)
def test_a_store_without_a_valid_backup_makes_no_database(text: str, words: str) -> None:
    api = Pods(text)
    with pytest.raises(pulumi.RunError, match="so none was made") as error:
        look(api, store())
    assert words in str(error.value)
    assert "/shlink-db/0a1b2c3d/repo2" in str(error.value)
    assert api.did[-1].startswith("DELETE jobs/"), "the Job goes all the same"


def test_a_named_backup_must_be_in_the_store() -> None:
    with pytest.raises(pulumi.RunError, match=f"only: {FULL}"):
        look(Pods(GOOD), store(set="20261123-090000F"))


def test_a_future_moment_is_seen_by_the_clock() -> None:
    later = (datetime.now(tz=UTC) + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S+00")
    with pytest.raises(pulumi.RunError, match="still to come"):
        look(Pods(GOOD), store(time=later))


def test_no_store_is_restored_beside_the_running_one() -> None:
    """PGO would tear the running cluster down for it."""
    old, new = inputs("defaults"), inputs("restore-store")
    with pytest.raises(pulumi.RunError, match="would replace the running one"):
        run_hook(guarded(guard_hook), old, new)
    run_hook(guarded(guard_hook), new, new)

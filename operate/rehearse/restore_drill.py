"""`make restore-drill`: restores the latest backup beside the live database, and compares the two.

The copy is a second PostgresCluster in the same namespace, without users. It reads the live
database's repository and nothing else of it, and is removed at the end, whatever happens: a
failure, Ctrl-C, SIGTERM. A killed run's copy is removed by the next one.
It needs deploy/rbac/restore-drill.yaml.
"""

import argparse
import contextlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import pulumi

from components.cluster.access import ClusterAccess, answer
from components.cluster.execute import Container, ExecuteError, execute
from components.cluster.polling import poll
from components.network.flows import RESTORE_DRILL
from components.postgres.backup_info import Backup, RepositoryContent, summary
from components.postgres.backups import IP_VERSION
from components.postgres.component import CLUSTER, PRIMARY
from components.postgres.restore import repository_contents
from operate.declared import Declared
from operate.view import LookError, Object, View, labelled, mapped

COPY = RESTORE_DRILL.name
"""Name of the second PostgresCluster; the network policies know its pods by it."""

PATIENCE = 1800.0
"""Seconds in which the copy must answer."""

MAX_AGE = 900.0
"""Seconds by which the copy's newest visit may be older than the live database's."""

_REMOVAL_SECONDS = 300.0

_INTERVAL = 3.0

# A visit is stored some seconds after its date, so the end of the copy is not compared row by row.
_BOUNDARY_SECONDS = 60

_LABEL = "postgres-operator.crunchydata.com"

_CLUSTERS = f"{_LABEL}/v1beta1/postgresclusters"

_ACCEPTED = (
    "postgresVersion",
    "image",
    "imagePullPolicy",
    "imagePullSecrets",
    "config",
    "metadata",
)
"""What the copy takes from the live cluster's spec, besides one instance. Nothing that writes."""

_PGBACKREST = ("image", "repoHost", "jobs", "sidecars")
"""What it takes of the live cluster's backups."""

_LAST = re.compile(r"last completed transaction was at log time ([0-9:. -]+[+-][0-9:]+)")

_TABLES = r"""
psql --no-psqlrc --quiet --no-align --tuples-only --field-separator=, --dbname="$1" <<'SQL'
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SELECT format(
  'SELECT %L, count(*) FROM %I.%I;', schemaname || '.' || tablename, schemaname, tablename)
FROM pg_catalog.pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') \gexec
SQL
"""

_NEWEST = "SELECT extract(epoch FROM max(date)) FROM visits"


class RestoreDrillError(pulumi.RunError):
    """The drill could not be done; the message says why."""


@dataclass(frozen=True)
class Content:
    """What a database holds."""

    tables: Mapping[str, int]
    """Rows by table."""
    newest_visit: float | None
    """Seconds since 1970 in the time zone that Shlink writes; None without visits."""


@dataclass
class Outcome:
    """What the drill showed."""

    backup: str
    """Label of the backup."""
    repository: str
    seconds: float = 0
    """From the request until the copy answered."""
    last_transaction: str | None = None
    """The last one that was restored, as PostgreSQL logged it; None where the log was lost."""
    age: float | None = None
    """Seconds between that and the beginning of the drill."""
    behind: float | None = None
    """Seconds between the newest visit of the live database when the drill began and the copy's."""
    tables: dict[str, tuple[int, int]] = field(default_factory=dict[str, "tuple[int, int]"])
    """Rows by table: in the live database when the drill began, and in the copy."""
    faults: list[str] = field(default_factory=list[str])
    """What the copy lacks."""

    @property
    def ok(self) -> bool:
        """Whether the backup would have saved the environment."""
        return not self.faults


def latest(known: Mapping[str, RepositoryContent], repository: str | None) -> tuple[str, Backup]:
    """The latest backup, in this repository or in any. Raises RestoreDrillError."""
    names = [repository] if repository else sorted(known)
    backups = {
        name: content.latest
        for name, content in known.items()
        if name in names and content.problem is None and content.latest
    }
    if not backups:
        shown = [f"{name}: {summary(content)}" for name, content in sorted(known.items())]
        raise RestoreDrillError(
            f"there is no valid backup to restore in {', '.join(names)}. {'; '.join(shown)}"
        )
    name = max(backups, key=lambda item: backups[item].stop)
    return name, backups[name]


def copy_of(live: Object, repository: str) -> dict[str, Any]:
    """The manifest of the copy: one instance of the live cluster's size, from its repository."""
    spec = live["spec"]
    instance = {**spec["instances"][0], "replicas": 1}
    pgbackrest = spec["backups"]["pgbackrest"]
    resources = pgbackrest["jobs"]["resources"]
    # A repository of its own: PGO 6.0.3 forgets without one that it has restored, and restores
    # again (reconcilePGBackRest empties status.pgbackrest). Never the live one's, so no schedule
    # and no store.
    volume = {key: pgbackrest["repos"][0][key] for key in ("name", "volume")}
    own = {key: pgbackrest[key] for key in _PGBACKREST if key in pgbackrest}
    own |= {"global": {"start-fast": "y"}, "repos": [volume]}
    source = {"clusterName": CLUSTER, "repoName": repository, "resources": resources}
    copied = {key: spec[key] for key in _ACCEPTED if key in spec}
    annotations = mapped(live, "metadata", "annotations")
    return {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {
            "name": COPY,
            "namespace": live["metadata"]["namespace"],
            "annotations": {key: annotations[key] for key in annotations if key == IP_VERSION},
        },
        "spec": {
            **copied,
            "instances": [instance],
            # Without this empty list PGO would make a user and a database of its own.
            "users": [],
            "backups": {"pgbackrest": own},
            "dataSource": {"postgresCluster": source},
        },
    }


def compare(live: Content, copy: Content, max_age: float) -> tuple[float | None, list[str]]:
    """How many seconds the copy is behind, and what it lacks."""
    faults = [
        f"table {name} is missing" for name in sorted(live.tables.keys() - copy.tables.keys())
    ]
    faults += [
        f"table {name} is empty; the live one has {rows} rows"
        for name, rows in sorted(live.tables.items())
        if rows and copy.tables.get(name) == 0
    ]
    if live.newest_visit is None:
        return None, faults
    if copy.newest_visit is None:
        return None, [*faults, "it has no visit; the live database has"]
    behind = max(live.newest_visit - copy.newest_visit, 0.0)
    if behind > max_age:
        faults.append(
            f"its newest visit is {behind:.0f} s older than the live one; at most {max_age:g} s "
            "are allowed. Is WAL archived? make doctor"
        )
    return behind, faults


class Drill:
    """One restore of a backup, beside the live database of an environment."""

    def __init__(
        self,
        environment: Declared,
        cluster: ClusterAccess,
        *,
        tell: Callable[[str], object],
        patience: float = PATIENCE,
        max_age: float = MAX_AGE,
    ) -> None:
        live = environment.named("PostgresCluster", CLUSTER)
        if live is None:
            raise RestoreDrillError(f"this stack declares no PostgresCluster {CLUSTER}")
        self._live, self._cluster, self._tell = live, cluster, tell
        self._patience, self._max_age = patience, max_age
        self._settings = environment.settings.postgres
        self._database = environment.outputs.database_name
        self._namespace = str(live["metadata"]["namespace"])
        self._log = ""

    async def choose(self, repository: str | None) -> Outcome:
        """The backup that would be restored. Changes nothing. Raises RestoreDrillError."""
        place = (self._namespace, CLUSTER, repository)
        known = await repository_contents(self._cluster, *place)
        name, backup = latest(known, repository)
        return Outcome(backup=backup.label, repository=name)

    async def run(self, outcome: Outcome) -> None:
        """Restore, compare, remove. Raises RestoreDrillError and ExecuteError."""
        own = self._cluster
        try:
            # It looks every few seconds, and a login may run a credential plugin.
            async with own.kept() as self._cluster:
                await self._run(outcome)
        finally:
            self._cluster = own

    async def _run(self, outcome: Outcome) -> None:
        await self.remove()
        live = await self._content(CLUSTER)
        began, clock = datetime.now(tz=UTC), time.monotonic()
        try:
            await self._call("POST", "postgresclusters", copy_of(self._live, outcome.repository))
            self._tell(f"restoring backup {outcome.backup} from {outcome.repository} as {COPY}")
            copy = await self._restored()
            outcome.seconds = time.monotonic() - clock
            self._tell(f"the copy answers after {outcome.seconds:.0f} s")
            self._judge(outcome, live, copy, began)
            await self._compare_visits(outcome, copy)
        finally:
            await self.remove()

    def _judge(self, outcome: Outcome, live: Content, copy: Content, began: datetime) -> None:
        logged = _LAST.findall(self._log)
        if logged:
            outcome.last_transaction = logged[-1]
            outcome.age = (began - datetime.fromisoformat(logged[-1].strip())).total_seconds()
        for name in sorted(live.tables.keys() | copy.tables.keys()):
            outcome.tables[name] = (live.tables.get(name, 0), copy.tables.get(name, 0))
        outcome.behind, outcome.faults = compare(live, copy, self._max_age)

    async def _compare_visits(self, outcome: Outcome, copy: Content) -> None:
        """Visits before the copy's last minute are in both: a hole in WAL would show here."""
        if copy.newest_visit is None:
            return
        until = copy.newest_visit - _BOUNDARY_SECONDS
        query = f"SELECT count(*) FROM visits WHERE extract(epoch FROM date) < {until:.0f}"  # noqa: S608 -- a number
        counts = [int(await self._ask(cluster, query)) for cluster in (CLUSTER, COPY)]
        if counts[1] < counts[0]:
            outcome.faults.append(
                f"of {counts[0]} visits older than its last minute it has only {counts[1]}"
            )

    async def _restored(self) -> Content:
        """What the copy holds, once it answers as a primary."""

        async def look() -> str:
            await self._read_log()
            try:
                recovers = await self._ask(COPY, "SELECT pg_is_in_recovery()") != "f"
            except ExecuteError as error:
                return str(error)
            return "it is in recovery" if recovers else ""

        if reason := await poll(look, self._patience, _INTERVAL):
            raise RestoreDrillError(
                f"the copy does not answer after {self._patience:g} s: {reason}. The end of the "
                f"restore's log:\n{_tail(self._log)}"
            )
        return await self._content(COPY)

    async def _read_log(self) -> None:
        """Keep the log of the restoring Job, which PGO deletes when the copy runs."""
        # The pod may be too new for a log, or gone.
        with contextlib.suppress(LookError):
            async with self._cluster.connected() as api:
                view = View(api)
                for pod in await view.objects("v1/pods", self._namespace):
                    if labelled(pod, {f"{_LABEL}/pgbackrest-restore": "", **RESTORE_DRILL.labels}):
                        place = f"v1/pods/{pod['metadata']['name']}/log"
                        reply = await view.reply(place, self._namespace)
                        if reply.status == HTTPStatus.OK:
                            self._log = str(reply.body)

    async def _content(self, cluster: str) -> Content:
        command = ["bash", "-ceu", _TABLES, "-", self._database]
        lines = (await execute(self._cluster, self._container(cluster), command)).splitlines()
        pairs = [line.rpartition(",") for line in lines if line]
        tables = {name: int(rows) for name, _, rows in pairs}
        newest = await self._ask(cluster, _NEWEST) if "public.visits" in tables else ""
        newest_visit = float(newest) if newest else None
        return Content(tables=tables, newest_visit=newest_visit)

    async def _ask(self, cluster: str, query: str) -> str:
        command = ["psql", "-qAtX", f"--dbname={self._database}", "-c", query]
        return (await execute(self._cluster, self._container(cluster), command)).strip()

    def _container(self, cluster: str) -> Container:
        labels = {**PRIMARY.pod_labels, f"{_LABEL}/cluster": cluster}
        return Container(self._namespace, labels, "database")

    async def announcement(self, outcome: Outcome) -> str:
        """What the drill will do, for the person who is asked."""
        claim = self._settings
        text = (
            f"Restores backup {outcome.backup} from {outcome.repository} as {COPY}, beside the "
            f"live database: volumes of {claim.storage.size} and {claim.backups.storage.size}, up "
            f"to {claim.resources.memory_limit} of memory for PostgreSQL, until it is removed again"
        )
        if await self.exists():
            text += f"\n{COPY} is there, from a drill that goes on or was killed; it goes first"
        return text

    async def exists(self) -> bool:
        """Whether a copy is there, from a run that was killed or one that goes on."""
        try:
            async with self._cluster.connected() as api:
                return await View(api).named(_CLUSTERS, self._namespace, COPY) is not None
        except LookError as error:
            raise RestoreDrillError(str(error)) from None

    async def remove(self) -> None:
        """Delete the copy, if there is one, and wait until its volumes are gone."""
        status = await self._call("DELETE", f"postgresclusters/{COPY}")
        if status == HTTPStatus.NOT_FOUND:
            return
        if left := await poll(self._left, _REMOVAL_SECONDS, _INTERVAL):
            raise RestoreDrillError(
                f"{left}: not gone after {_REMOVAL_SECONDS:g} s. Look at it: "
                f"{self._cluster.kubectl} -n {self._namespace} describe postgrescluster {COPY}"
            )
        self._tell(f"{COPY} is removed")

    async def _left(self) -> str:
        left: list[str] = []
        async with self._cluster.connected() as api:
            view = View(api)
            try:
                if await view.named(_CLUSTERS, self._namespace, COPY) is not None:
                    left.append(COPY)
                for kind in ("v1/persistentvolumeclaims", "v1/pods"):
                    items = await view.objects(kind, self._namespace)
                    own = [item for item in items if labelled(item, RESTORE_DRILL.labels)]
                    left += [str(item["metadata"]["name"]) for item in own]
            except LookError as error:
                left.append(str(error))
        return ", ".join(left)

    async def _call(self, method: str, url: str, body: Object | None = None) -> int:
        more: dict[str, Any] = {} if body is None else {"json": body}
        place = (f"{_LABEL}/v1beta1", self._namespace, url)
        async with self._cluster.connected() as api:
            status, text = await answer(api, method, *place, **more)
        if status >= HTTPStatus.BAD_REQUEST and status != HTTPStatus.NOT_FOUND:
            raise RestoreDrillError(
                f"{method} {url} in namespace {self._namespace} is answered by {status}: "
                f"{text[:300]}. deploy/rbac/restore-drill.yaml grants what is needed"
            )
        return status


def _tail(log: str, lines: int = 15) -> str:
    return "\n".join(log.strip().splitlines()[-lines:]) or "it has none"


def shown(outcome: Outcome) -> list[str]:
    """The outcome for a person."""
    lines = [
        f"backup {outcome.backup} from {outcome.repository}: {outcome.seconds:.0f} s to restore"
    ]
    if outcome.age is not None:
        lines.append(
            f"last transaction: {outcome.last_transaction}, {outcome.age:.0f} s before the drill"
        )
    if outcome.behind is not None:
        lines.append(f"newest visit: {outcome.behind:.0f} s older than the live one")
    lines += [
        f"  {name}: {copied} of {rows} rows" for name, (rows, copied) in outcome.tables.items()
    ]
    lines += [f"FAIL {fault}" for fault in outcome.faults]
    return lines


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what a restore drill may be told."""
    parser.add_argument("--repository", help="from this one (repo1); the latest backup by default")
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, help="seconds in which the copy must answer"
    )
    parser.add_argument(
        "--max-age",
        type=float,
        default=MAX_AGE,
        help="seconds by which the copy's newest visit may be older than the live one",
    )

"""PostgreSQL: the cluster that PGO makes, its primary and replicas, and its backups."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from components import ports
from operate import certificates, inside
from operate.drift import unchanged
from operate.findings import Check, Environment, Problem, Severity, error_unless, skip
from operate.names import unnamed
from operate.pods import GRACE, Workload, moved, pod_problems, pods_of, ready
from operate.view import (
    NoAnswerError,
    Object,
    age,
    at,
    condition,
    labelled,
    labels_of,
    listed,
    mapped,
    written,
)

from .cluster import CLUSTER

_LABEL = "postgres-operator.crunchydata.com"
_CLUSTERS = "postgres-operator.crunchydata.com/v1beta1/postgresclusters"
_LAG = 256 * 1024 * 1024
"""Bytes of WAL that a replica may be behind. Patroni tells positions only every 10 s."""
_BACKUP_HOURS = 12
"""Hours after which a scheduled backup must have succeeded."""
_BACKUP_DAYS = 8
"""Days without any scheduled backup; the longest schedule by default is a week."""


def _declared(environment: Environment) -> Object:
    return environment.declared.of_kind("PostgresCluster")[0]


def _name(environment: Environment) -> tuple[str, str]:
    metadata = _declared(environment)["metadata"]
    return metadata["namespace"], metadata["name"]


def _workload(environment: Environment) -> Workload:
    manifest = _declared(environment)
    namespace, name = _name(environment)
    replicas = sum(int(item.get("replicas", 1)) for item in manifest["spec"]["instances"])
    return Workload(
        title="PostgreSQL",
        namespace=namespace,
        labels={f"{_LABEL}/cluster": name, f"{_LABEL}/data": "postgres"},
        owners=(name,),
        replicas=replicas,
        memory_setting="shlink:postgres.resources.memoryLimit",
        secrets=("cluster.objects",),
        unchanged="postgres.unchanged",
    )


async def _created(environment: Environment) -> list[Problem]:
    """PGO has acted on the PostgresCluster."""
    view = environment.view
    namespace, name = _name(environment)
    cluster = await view.named(_CLUSTERS, namespace, name)
    if cluster is None:
        text = f"PostgresCluster {namespace}/{name} does not exist"
        return [Problem(text, "object-missing", environment.make("refresh"))]
    if cluster["spec"].get("shutdown"):
        return [
            Problem(
                f"PostgresCluster {name} is shut down (spec.shutdown)",
                "postgres-stopped",
                environment.make("refresh"),
                causes=CLUSTER,
            )
        ]
    described = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
    behind = cluster.get("status", {}).get("observedGeneration", 0) < cluster["metadata"].get(
        "generation", 1
    )
    if behind or not at(cluster, "status", "instances"):
        young = min(age(view, cluster["metadata"]["creationTimestamp"]), written(view, cluster))
        text = "PGO has not acted on the latest change of the PostgresCluster"
        warning = await _last_warning(environment, namespace, name)
        return [
            Problem(
                f"{text}{warning}",
                "postgres-not-created",
                described,
                severity=error_unless(changing=young < GRACE),
            )
        ]
    return []


async def _last_warning(environment: Environment, namespace: str, name: str) -> str:
    """What PGO says of the cluster, when it is recent."""
    for event in reversed(await environment.view.objects("v1/events", namespace)):
        about = mapped(event, "involvedObject")
        if about.get("name") == name and event.get("type") == "Warning":
            message = str(event.get("message", "")).splitlines()
            return f": {event.get('reason')}: {message[0][:200] if message else ''}"
    return ""


async def _running(environment: Environment) -> list[Problem]:
    workload = _workload(environment)
    problems = await pod_problems(environment, workload)
    pods = await pods_of(environment.view, workload)
    if not pods and not problems:
        namespace, name = _name(environment)
        text = "PostgreSQL: no pod exists"
        warning = await _last_warning(environment, namespace, name)
        remedy = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
        problems.append(Problem(f"{text}{warning}", "postgres-not-created", remedy))
    return problems


async def _primaries(environment: Environment) -> list[Object]:
    """The Ready pods that Patroni has labelled as the primary."""
    primaries: list[Object] = []
    for pod in await pods_of(environment.view, _workload(environment)):
        role = labels_of(pod).get(f"{_LABEL}/role")
        if role in ("master", "primary") and ready(pod):
            primaries.append(pod)
    return primaries


async def _primary(environment: Environment) -> list[Problem]:
    workload = _workload(environment)
    namespace, name = _name(environment)
    pods = await pods_of(environment.view, workload)
    primaries = await _primaries(environment)
    if len(primaries) == 1:
        return []
    moving = any(moved(environment.view, pod) for pod in pods)
    names = ", ".join(pod["metadata"]["name"] for pod in primaries) or "none"
    command = f"get pods -L {_LABEL}/role -l {_LABEL}/cluster={name}"
    return [
        Problem(
            f"PostgreSQL has no single Ready primary: {names} of {len(pods)} pods",
            "postgres-no-primary",
            environment.kubectl_in(namespace, command),
            severity=error_unless(changing=moving),
        )
    ]


async def _pooler(environment: Environment) -> list[Problem]:
    """PgBouncer's pods are Ready; nothing where there is none."""
    declared = mapped(_declared(environment), "spec", "proxy", "pgBouncer")
    if not declared:
        return []
    namespace, name = _name(environment)
    deployment = f"{name}-pgbouncer"
    workload = Workload(
        title="PgBouncer",
        namespace=namespace,
        labels={f"{_LABEL}/cluster": name, f"{_LABEL}/role": "pgbouncer"},
        owners=(deployment,),
        replicas=int(declared["replicas"]),
        secrets=("cluster.objects",),
    )
    problems = await pod_problems(environment, workload)
    if not problems and not await pods_of(environment.view, workload):
        text = f"PgBouncer: no pod exists{await _last_warning(environment, namespace, name)}"
        remedy = environment.kubectl_in(namespace, f"describe deployment {deployment}")
        problems.append(Problem(text, "pooler-not-ready", remedy))
    return problems


async def _replicas(environment: Environment) -> list[Problem]:
    """Replicas stream from the primary. Patroni writes each member's state into its pod."""
    workload = _workload(environment)
    members: dict[str, Mapping[str, Any]] = {}
    for pod in await pods_of(environment.view, workload):
        settled = age(environment.view, pod["metadata"]["creationTimestamp"]) > GRACE
        if ready(pod) and settled:
            members[pod["metadata"]["name"]] = _patroni(pod)
    leaders = [item for item in members.values() if item.get("role") in ("master", "primary")]
    if len(leaders) != 1:
        return []
    differences: list[str] = []
    for name, member in members.items():
        if member is leaders[0] or "xlog_location" not in member:
            continue
        behind = int(leaders[0].get("xlog_location", 0)) - int(member["xlog_location"])
        if member.get("timeline") != leaders[0].get("timeline"):
            differences.append(f"{name} is on another timeline than the primary")
        elif behind > _LAG:
            differences.append(f"{name} is {behind / 1024 / 1024:.0f} MiB behind")
    if not differences:
        return []
    namespace, cluster = _name(environment)
    command = f"get pods -l {_LABEL}/cluster={cluster}"
    return [
        Problem(
            f"PostgreSQL replicas: {'; '.join(differences)}",
            "postgres-replica-behind",
            environment.kubectl_in(namespace, command),
            severity=Severity.WARNING,
        )
    ]


def _patroni(pod: Object) -> Mapping[str, Any]:
    text = mapped(pod, "metadata", "annotations").get("status", "{}")
    try:
        state = json.loads(text)
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", state) if isinstance(state, dict) else {}


async def _repository(environment: Environment) -> list[Problem]:
    """PgBackRest's repositories exist and hold the first backup."""
    namespace, name = _name(environment)
    cluster = await environment.view.named(_CLUSTERS, namespace, name)
    if cluster is None:
        return []
    status = mapped(cluster, "status", "pgbackrest")
    described = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
    created = age(environment.view, cluster["metadata"]["creationTimestamp"])
    young = min(created, written(environment.view, cluster)) < 2 * GRACE
    severity = error_unless(changing=young)
    for repository in listed(status, "repos"):
        if not repository.get("stanzaCreated"):
            warning = await _last_warning(environment, namespace, name)
            text = f"backup repository {repository['name']} can't be used{warning}"
            return [Problem(text, "postgres-no-repository", described, severity=severity)]
    for kind in (
        "PGBackRestRepoHostReady",
        "PGBackRestReplicaRepoReady",
        "PGBackRestReplicaCreate",
    ):
        entry = condition(cluster, kind)
        if entry is None or entry["status"] == "True":
            continue
        moving = age(environment.view, entry.get("lastTransitionTime")) < 2 * GRACE
        text = f"backups: {kind} is {entry['status']} ({entry.get('reason', '')})"
        level = Severity.PROGRESS if moving else severity
        return [Problem(text, "postgres-no-repository", described, severity=level)]
    return []


async def _backups(environment: Environment) -> list[Problem]:
    """Each scheduled backup has succeeded in its time."""
    view = environment.view
    namespace, name = _name(environment)
    problems: list[Problem] = []
    for job in await view.objects("batch/v1/cronjobs", namespace):
        if not labelled(job, {f"{_LABEL}/cluster": name}):
            continue
        schedule, status = job["metadata"]["name"], job.get("status", {})
        due = age(view, status.get("lastScheduleTime"))
        succeeded = age(view, status.get("lastSuccessfulTime"))
        started = status.get("lastScheduleTime") is not None
        never = status.get("lastSuccessfulTime") is None
        if job["spec"].get("suspend"):
            text = f"backup schedule {schedule} is suspended"
        elif started and due > _BACKUP_HOURS * 3600 and (never or succeeded > due):
            last = "never" if never else f"{succeeded / 3600:.0f} h ago"
            text = f"backup {schedule} has not succeeded since it was due; last success: {last}"
        elif started and due > _BACKUP_DAYS * 86400:
            text = f"backup {schedule} was last started {due / 86400:.0f} days ago"
        else:
            continue
        command = f"get jobs,pods -l {_LABEL}/cluster={name}"
        remedy = environment.kubectl_in(namespace, command)
        problems.append(Problem(text, "postgres-backup-old", remedy))
    return problems[:1]


async def _certificate(environment: Environment) -> list[Problem]:
    """The primary shows a certificate of this environment's authority."""
    return await certificates.problems(
        environment,
        await _primaries(environment),
        title="PostgreSQL",
        port=ports.POSTGRES,
        name=environment.declared.outputs.database_host,
        opening=_ask_for_tls,
    )


async def _ask_for_tls(connection: inside.Tunnel) -> None:
    """Raises NoAnswerError.

    https://www.postgresql.org/docs/16/protocol-flow.html#PROTOCOL-FLOW-SSL
    """
    await connection.send(struct.pack("!II", 8, 80877103))
    if await connection.receive() != b"S":
        raise NoAnswerError("it offers no TLS")


async def _names(environment: Environment) -> list[Problem]:
    """The Service by which clients find the primary leads to it. Patroni keeps its endpoint."""
    namespace, name = _name(environment)
    primaries = await _primaries(environment)
    if len(primaries) != 1:
        return []
    service = f"{name}-ha"
    missing = await unnamed(environment.view, namespace, service, primaries, by_address=True)
    if not missing:
        return []
    # Patroni writes the endpoint a moment after the label.
    changed = condition(primaries[0], "Ready") or {}
    moving = age(environment.view, changed.get("lastTransitionTime")) < GRACE
    remedy = environment.kubectl_in(namespace, f"describe service {service}")
    return [
        Problem(
            f"PostgreSQL: Service {service} does not lead to the primary ({missing[0]})",
            "postgres-no-names",
            remedy,
            severity=error_unless(changing=moving),
        )
    ]


@dataclass(frozen=True)
class _Told:
    """What the primary says of itself."""

    may_create: bool | None
    """Whether the owner of Shlink's tables may create some; None: that role does not exist."""
    failing: bool
    """Whether the last attempt to archive WAL failed."""
    waiting: int
    """Seconds that the oldest finished WAL file has waited to be archived."""
    archiving: bool


_QUESTION = """
select coalesce((select has_schema_privilege(oid, 'public', 'CREATE')::text
                 from pg_roles where rolname = '{role}'), ''),
       (coalesce(last_failed_time, '-infinity') > coalesce(last_archived_time, '-infinity'))::text,
       (select coalesce(max(extract(epoch from now() - modification)), 0)::int
        from pg_ls_archive_statusdir() where name like '%.ready'),
       (current_setting('archive_mode') <> 'off')::text
from pg_stat_archiver
"""
"""https://www.postgresql.org/docs/16/monitoring-stats.html#MONITORING-PG-STAT-ARCHIVER-VIEW"""


async def _asked(environment: Environment) -> _Told | Problem | None:
    """What the primary tells, asked once for all checks."""
    return await environment.view.once(("psql",), lambda: _ask(environment))


async def _ask(environment: Environment) -> _Told | Problem | None:
    """What the primary's psql tells, by a local login. None: there is no primary to ask."""
    primaries = await _primaries(environment)
    users = listed(_declared(environment), "spec", "users")
    owners = [user for user in users if user.get("databases")]
    if len(primaries) != 1 or not owners:
        return None
    role, database = owners[0]["name"], owners[0]["databases"][0]
    question = " ".join(_QUESTION.format(role=role).split())
    command = ("psql", "-X", "-A", "-t", "-q", "-d", database, "-c", question)
    namespace, _ = _name(environment)
    try:
        text = await inside.output(
            environment.view, namespace, primaries[0]["metadata"]["name"], "database", command
        )
    except NoAnswerError as error:
        return skip(str(error))
    may_create, failing, waiting, archiving = text.strip().split("|")
    granted = None if not may_create else may_create == "true"
    return _Told(
        may_create=granted,
        failing=failing == "true",
        waiting=int(waiting),
        archiving=archiving == "true",
    )


async def _grant(environment: Environment) -> list[Problem]:
    """Shlink's role may create its tables, which only its next migration would notice."""
    told = await _asked(environment)
    if not isinstance(told, _Told):
        return [told] if told else []
    if told.may_create:
        return []
    reason = "its role does not exist" if told.may_create is None else "the grant is missing"
    text = f"PostgreSQL: Shlink's user may not create tables in schema public: {reason}"
    return [Problem(text, "postgres-grant-missing", environment.make("refresh"))]


async def _archiving(environment: Environment) -> list[Problem]:
    """WAL is archived. A repository can be there and be full, or refuse the write."""
    told = await _asked(environment)
    if not isinstance(told, _Told):
        return [told] if told else []
    namespace, name = _name(environment)
    if not told.archiving:
        text = "PostgreSQL archives no WAL: archive_mode is off"
        return [Problem(text, "postgres-archiving-failing", environment.make("refresh"))]
    if not told.failing:
        return []
    return [
        Problem(
            f"PostgreSQL can't archive its WAL; the oldest file waits for {told.waiting} s",
            "postgres-archiving-failing",
            environment.kubectl_in(namespace, f"describe postgrescluster {name}"),
            severity=error_unless(changing=told.waiting <= GRACE),
        )
    ]


CHECKS = (
    unchanged("postgres.unchanged", {"PostgresCluster": _CLUSTERS}),
    Check(
        name="postgres.created",
        description="PGO has made the database cluster that is declared",
        depends_on=(
            *CLUSTER,
            "cluster.kinds",
            "cluster.policies",
            "operators.available",
            "postgres.unchanged",
        ),
        look=_created,
    ),
    Check(
        name="postgres.running",
        description="PostgreSQL's pods are Ready",
        depends_on=(
            *CLUSTER,
            "cluster.nodes",
            "cluster.volumes",
            "cluster.policies",
            "postgres.created",
        ),
        look=_running,
    ),
    Check(
        name="postgres.primary",
        description="there is one primary",
        depends_on=("postgres.running",),
        look=_primary,
    ),
    Check(
        name="postgres.names",
        description="PostgreSQL's Service leads to the primary",
        depends_on=("postgres.primary",),
        look=_names,
    ),
    Check(
        name="postgres.certificate",
        description="PostgreSQL's clients accept its certificate, which does not end soon",
        depends_on=("postgres.primary",),
        look=_certificate,
    ),
    Check(
        name="postgres.grant",
        description="Shlink's user may create its tables",
        depends_on=("postgres.primary",),
        look=_grant,
    ),
    Check(
        name="postgres.pooler",
        description="PgBouncer's pods are Ready",
        depends_on=("cluster.nodes", "cluster.policies", "postgres.created"),
        look=_pooler,
    ),
    Check(
        name="postgres.replicas",
        description="the replicas follow it",
        depends_on=("postgres.primary",),
        look=_replicas,
    ),
    Check(
        name="postgres.repository",
        description="the backup repositories can be written",
        depends_on=("postgres.primary", "cluster.volumes"),
        look=_repository,
    ),
    Check(
        name="postgres.archiving",
        description="PostgreSQL archives its WAL",
        depends_on=("postgres.repository",),
        look=_archiving,
    ),
    Check(
        name="postgres.backups",
        description="scheduled backups succeed",
        depends_on=("postgres.repository",),
        look=_backups,
    ),
)

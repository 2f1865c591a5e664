"""PostgreSQL: the cluster that PGO makes, its primary and replicas, and its backups."""

import json
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, cast

from components import ports
from components.cluster.streams import PortStream
from components.monitoring.thresholds import LAG_BYTES
from components.network.flows import POOLER
from operate.doctor import as_declared, certificates
from operate.doctor.endpoints import unnamed
from operate.doctor.findings import CLUSTER, Checks, Environment, Problem, Severity, error_unless
from operate.doctor.last_update import last_update
from operate.doctor.pod_problems import GRACE, Workload, moved, pod_problems, pods_of, ready
from operate.view import Object, age, at, condition, labelled, listed, mapped, names, written

from . import postgres_inside, postgres_volumes
from .postgres_cluster import (
    LABEL,
    LEADERS,
    actual_cluster,
    declared_cluster,
    instances,
    place,
    primaries,
    restoring,
)

CHECKS = Checks()

check = CHECKS.check

_BACKUP_HOURS = 12
"""Hours after which a scheduled backup must have succeeded."""

_BACKUP_DAYS = 8
"""Days without any scheduled backup; the longest schedule by default is a week."""


CHECKS.append(as_declared.unchanged("postgres.unchanged", "PostgresCluster"))


def _describe(environment: Environment) -> str:
    namespace, name = place(environment)
    return environment.kubectl_in(namespace, f"describe postgrescluster {name}")


@check(
    "postgres.created",
    "PGO has made the database cluster that is declared",
    after=(
        *CLUSTER,
        "cluster.kinds",
        "cluster.policies",
        "operators.available",
        "postgres.unchanged",
    ),
)
async def _created(environment: Environment) -> AsyncIterator[Problem]:
    view, (namespace, name) = environment.view, place(environment)
    manifest = declared_cluster(environment)
    cluster = await as_declared.actual(environment, manifest)
    if cluster is None:
        yield await as_declared.missing(environment, manifest)
        return
    # PGO tries a restore seven times, and the database is down meanwhile.
    restore = mapped(cluster, "status", "pgbackrest", "restore")
    if restore.get("failed") and not restore.get("succeeded"):
        text = f"PostgreSQL: restore {restore.get('id')} has failed {restore['failed']} times"
        text = f"{text}, and the database is down until one succeeds"
        logs = environment.kubectl_in(namespace, f"logs job/{name}-pgbackrest-restore --tail=20")
        yield Problem(text, "postgres-restore-failed", logs)
        return
    number = await restoring(environment)
    page = "postgres-not-created"
    if number is not None:
        text = f"PostgreSQL is restored (shlink:postgres.restore, number {number})"
        yield Problem(text, page, _describe(environment), severity=Severity.PROGRESS)
    elif cluster["spec"].get("shutdown"):
        text = f"PostgresCluster {name} is shut down (spec.shutdown)"
        yield Problem(text, "postgres-stopped", causes=CLUSTER)
    elif _not_acted_on(cluster):
        text = "PGO has not acted on the latest change of the PostgresCluster"
        young = min(age(view, cluster["metadata"]["creationTimestamp"]), written(view, cluster))
        text, severity = (
            f"{text}{await _warning(environment)}",
            error_unless(changing=young < GRACE),
        )
        yield Problem(text, page, _describe(environment), severity=severity)


def _not_acted_on(cluster: Object) -> bool:
    """Whether PGO has not looked at the latest change, or made nothing of it."""
    seen = int(at(cluster, "status", "observedGeneration") or 0)
    generation = int(cluster["metadata"].get("generation", 1))
    return seen < generation or not at(cluster, "status", "instances")


async def _warning(environment: Environment) -> str:
    """The last warning of PGO about the cluster."""
    namespace, name = place(environment)
    for event in reversed(await environment.view.objects("v1/events", namespace)):
        about = mapped(event, "involvedObject")
        if about.get("name") == name and event.get("type") == "Warning":
            line = str(event.get("message", "")).partition("\n")[0]
            return f": {event.get('reason')}: {line[:200]}"
    return ""


@check("postgres.patroni", "Patroni looks after the instances", after=("postgres.created",))
async def _patroni_acts(environment: Environment) -> AsyncIterator[Problem]:
    """Paused, it neither restarts nor fails over."""
    pods = await pods_of(environment.view, instances(environment))
    paused = names(pod for pod in pods if _patroni(pod).get("pause"))
    if paused:
        text = "PostgreSQL: Patroni is paused: it restarts nothing and does not fail over"
        command = f"exec {paused[0]} -c database -- patronictl resume"
        remedy, warning = environment.kubectl_in(place(environment)[0], command), Severity.WARNING
        yield Problem(text, "postgres-paused", remedy, severity=warning, may_explain=True)


def _patroni(pod: Object) -> Mapping[str, Any]:
    """What Patroni writes of a member into its pod."""
    try:
        state = json.loads(mapped(pod, "metadata", "annotations").get("status", "{}"))
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", state) if isinstance(state, dict) else {}


check("postgres.volumes", "PostgreSQL's volumes have room", after=("postgres.created",))(
    postgres_volumes.look
)

check(
    "postgres.log",
    "PostgreSQL's log names no fault",
    after=("postgres.created", "postgres.volumes", "postgres.unchanged"),
)(postgres_inside.log)


@check(
    "postgres.running",
    "PostgreSQL's pods are Ready",
    after=(
        *CLUSTER,
        "cluster.nodes",
        "cluster.volumes",
        "cluster.policies",
        "postgres.created",
        "postgres.patroni",
        "postgres.volumes",
        "postgres.log",
        "postgres.unchanged",
    ),
)
async def _running(environment: Environment) -> AsyncIterator[Problem]:
    # PGO makes what the object asks for, which may not be what the file asks for yet.
    cluster = await as_declared.actual(environment, declared_cluster(environment))
    workload = instances(environment, cluster)
    problems = await pod_problems(environment, workload)
    pods = await pods_of(environment.view, workload)
    for pod, problem in _start_failed(environment, pods):
        # Patroni knows more of this pod than the kubelet does.
        others = [item for item in problems if f"pod {pod} is not Ready" not in item.message]
        problems = [problem, *others]
    for problem in problems:
        yield problem
    if not pods and not problems:
        text = f"PostgreSQL: no pod exists{await _warning(environment)}"
        yield Problem(text, "postgres-not-created", _describe(environment))


def _start_failed(environment: Environment, pods: list[Object]) -> Iterator[tuple[str, Problem]]:
    """Replicas, by name, that Patroni can't start beside a primary that runs.

    Patroni tries for ever: a replica that can't be rewound has to be copied again.
    """
    namespace, cluster = place(environment)
    leaders = names(pod for pod in pods if ready(pod) and _patroni(pod).get("role") in LEADERS)
    for pod in pods:
        since = (condition(pod, "Ready") or {}).get("lastTransitionTime")
        failed = _patroni(pod).get("state") == "start failed" and not ready(pod)
        if leaders and failed and age(environment.view, since) > GRACE:
            name, leader = pod["metadata"]["name"], leaders[0]
            text = f"replica {name} can't follow the primary {leader} (Patroni: start failed)"
            copy = f"exec {leader} -c database -- patronictl reinit {cluster}-ha {name} --force"
            remedy = environment.kubectl_in(namespace, copy)
            yield name, Problem(f"PostgreSQL: {text}", "postgres-replica-behind", remedy)


@check(
    "postgres.primary",
    "there is one primary",
    after=("postgres.running", "postgres.patroni", "postgres.unchanged"),
)
async def _primary(environment: Environment) -> AsyncIterator[Problem]:
    namespace, name = place(environment)
    pods = await pods_of(environment.view, instances(environment))
    leaders = names(await primaries(environment))
    if len(leaders) != 1:
        moving = any(moved(environment.view, pod) for pod in pods)
        text = f"{', '.join(leaders) or 'none'} of {len(pods)} pods"
        command = f"get pods -L {LABEL}/role -l {LABEL}/cluster={name}"
        yield Problem(
            f"PostgreSQL has no single Ready primary: {text}",
            "postgres-no-primary",
            environment.kubectl_in(namespace, command),
            severity=error_unless(changing=moving),
        )


@check(
    "postgres.names",
    "PostgreSQL's Service leads to the primary",
    after=("postgres.primary", "postgres.unchanged"),
)
async def _names(environment: Environment) -> AsyncIterator[Problem]:
    """Patroni keeps its endpoint."""
    namespace, name = place(environment)
    leaders, service = await primaries(environment), f"{name}-ha"
    missing = await unnamed(environment.view, namespace, service, leaders, by_address=True)
    if len(leaders) == 1 and missing:
        # Patroni writes the endpoint a moment after the label.
        changed = condition(leaders[0], "Ready") or {}
        moving = age(environment.view, changed.get("lastTransitionTime")) < GRACE
        text = f"PostgreSQL: Service {service} does not lead to the primary ({missing[0]})"
        remedy = environment.kubectl_in(namespace, f"describe service {service}")
        severity = error_unless(changing=moving)
        yield Problem(text, "postgres-no-names", remedy, severity=severity)


check(
    "postgres.settings",
    "nobody has set in PostgreSQL what PGO does not know of",
    after=("postgres.primary",),
)(postgres_inside.settings)


@check(
    "postgres.certificate",
    "PostgreSQL's clients accept its certificate, which does not end soon",
    after=("postgres.primary", "postgres.settings", "postgres.unchanged"),
)
async def _certificate(environment: Environment) -> AsyncIterator[Problem]:
    for problem in await certificates.problems(
        environment,
        await primaries(environment),
        title="PostgreSQL",
        port=ports.POSTGRES,
        name=environment.declared.outputs.database_host,
        server="postgres.settings",
        opening=_ask_for_tls,
    ):
        yield problem


async def _ask_for_tls(connection: PortStream) -> None:
    """Raises NoTlsError.

    https://www.postgresql.org/docs/16/protocol-flow.html#PROTOCOL-FLOW-SSL
    """
    await connection.send(struct.pack("!II", 8, 80877103))
    if await connection.receive() != b"S":
        raise certificates.NoTlsError("it offers no TLS")


check(
    "postgres.logins",
    "Shlink can log in to its database and write there",
    after=("postgres.primary", "postgres.unchanged"),
)(postgres_inside.logins)

check(
    "postgres.grant",
    "Shlink's user may create its tables",
    after=("postgres.primary", "postgres.logins"),
)(postgres_inside.grant)

check(
    "postgres.tables",
    "Shlink's tables are there, its own, and not locked for long",
    after=("postgres.primary", "postgres.logins"),
)(postgres_inside.tables)


@check(
    "postgres.pooler",
    "PgBouncer's pods are Ready, and clients accept its certificate",
    after=("cluster.nodes", "cluster.policies", "postgres.created"),
)
async def _pooler(environment: Environment) -> AsyncIterator[Problem]:
    manifest = declared_cluster(environment)
    declared = mapped(manifest, "spec", "proxy", "pgBouncer")
    if not declared:
        return
    cluster = await as_declared.actual(environment, manifest)
    pooler = mapped(cluster or {}, "spec", "proxy", "pgBouncer")
    if not pooler and not (await last_update(environment)).is_applied(manifest):
        return
    namespace, deployment = POOLER.namespace, POOLER.name
    workload = Workload(
        title="PgBouncer",
        namespace=namespace,
        labels=POOLER.labels,
        owners=(deployment,),
        replicas=int((pooler or declared)["replicas"]),
        secrets=("cluster.objects",),
    )
    problems = await pod_problems(environment, workload)
    pods = await pods_of(environment.view, workload)
    if not problems and not pods:
        text = f"PgBouncer: no pod exists{await _warning(environment)}"
        remedy = environment.kubectl_in(namespace, f"describe deployment {deployment}")
        problems = [Problem(text, "pooler-not-ready", remedy)]
    if not problems:
        problems = await certificates.problems(
            environment,
            pods,
            title="PgBouncer",
            port=ports.POSTGRES,
            name=f"{deployment}.{namespace}.svc",
            server="postgres.created",
            opening=_ask_for_tls,
        )
    for problem in problems:
        yield problem


@check(
    "postgres.replicas", "the replicas follow it", after=("postgres.primary", "postgres.unchanged")
)
async def _replicas(environment: Environment) -> AsyncIterator[Problem]:
    """Patroni writes each member's state into its pod."""
    view, pods = environment.view, await pods_of(environment.view, instances(environment))
    members: dict[str, Mapping[str, Any]] = {}
    for pod in pods:
        if ready(pod) and age(view, pod["metadata"]["creationTimestamp"]) > GRACE:
            members[pod["metadata"]["name"]] = _patroni(pod)
    leaders = [item for item in members.values() if item.get("role") in LEADERS]
    if len(leaders) != 1:
        return
    differences: list[str] = []
    for name, member in members.items():
        if member is not leaders[0]:
            differences += _differences(name, member, leaders[0])
    if differences:
        namespace, cluster = place(environment)
        # After a failover a replica follows the new primary a moment later.
        moving = any(moved(view, pod) for pod in pods)
        severity = Severity.PROGRESS if moving else Severity.WARNING
        remedy = environment.kubectl_in(namespace, f"get pods -l {LABEL}/cluster={cluster}")
        text = f"PostgreSQL replicas: {'; '.join(differences)}"
        yield Problem(text, "postgres-replica-behind", remedy, severity=severity)


def _differences(name: str, member: Mapping[str, Any], leader: Mapping[str, Any]) -> Iterator[str]:
    """What keeps a member from following the leader."""
    if member.get("replication_state", "streaming") != "streaming":
        yield f"{name} receives no changes ({member['replication_state']})"
    elif "xlog_location" in member:
        behind = int(leader.get("xlog_location", 0)) - int(member["xlog_location"])
        if member.get("timeline") != leader.get("timeline"):
            yield f"{name} is on another timeline than the primary"
        elif behind > LAG_BYTES:
            yield f"{name} is {behind / 1024 / 1024:.0f} MiB behind"


@check(
    "postgres.repository",
    "the backup repositories can be written",
    after=("postgres.primary", "cluster.volumes", "postgres.volumes", "postgres.unchanged"),
)
async def _repository(environment: Environment) -> AsyncIterator[Problem]:
    cluster, view = await actual_cluster(environment), environment.view
    created = age(view, cluster["metadata"]["creationTimestamp"])
    severity = error_unless(changing=min(created, written(view, cluster)) < 2 * GRACE)
    page, remedy = "postgres-no-repository", _describe(environment)
    for repository in listed(cluster, "status", "pgbackrest", "repos"):
        if not repository.get("stanzaCreated"):
            warning = await _warning(environment)
            text = f"backup repository {repository['name']} can't be used{warning}"
            yield Problem(text, page, remedy, severity=severity)
            return
    for kind in (
        "PGBackRestRepoHostReady",
        "PGBackRestReplicaRepoReady",
        "PGBackRestReplicaCreate",
    ):
        entry = condition(cluster, kind)
        if entry is not None and entry["status"] != "True":
            if age(view, entry.get("lastTransitionTime")) < 2 * GRACE:
                severity = Severity.PROGRESS
            text = f"backups: {kind} is {entry['status']} ({entry.get('reason', '')})"
            yield Problem(text, page, remedy, severity=severity)
            return


check(
    "postgres.archiving",
    "PostgreSQL archives its WAL",
    after=("postgres.repository", "postgres.settings", "postgres.unchanged"),
)(postgres_inside.archiving)


@check(
    "postgres.backups",
    "scheduled backups succeed",
    after=("postgres.repository", "postgres.unchanged"),
)
async def _backups(environment: Environment) -> AsyncIterator[Problem]:
    view, (namespace, name) = environment.view, place(environment)
    for job in await view.objects("batch/v1/cronjobs", namespace):
        reason = _late(environment, job)
        if reason and labelled(job, {f"{LABEL}/cluster": name}):
            remedy = environment.kubectl_in(namespace, f"get jobs,pods -l {LABEL}/cluster={name}")
            yield Problem(f"backup {reason}", "postgres-backup-old", remedy)
            return


def _late(environment: Environment, job: Object) -> str:
    """Why no backup of a schedule is as new as it should be; empty if it is."""
    schedule, status, view = job["metadata"]["name"], mapped(job, "status"), environment.view
    due = age(view, status.get("lastScheduleTime"))
    succeeded = age(view, status.get("lastSuccessfulTime"))
    never = status.get("lastSuccessfulTime") is None
    if job["spec"].get("suspend"):
        return f"schedule {schedule} is suspended"
    if due > _BACKUP_HOURS * 3600 and (never or succeeded > due):
        last = "never" if never else f"{succeeded / 3600:.0f} h ago"
        return f"{schedule} has not succeeded since it was due; last success: {last}"
    if due > _BACKUP_DAYS * 86400:
        return f"{schedule} was last started {due / 86400:.0f} days ago"
    return ""

"""PostgreSQL: the cluster that PGO makes, its primary and replicas, and its backups."""

import dataclasses
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, cast

from components import ports
from components.cluster.streams import PortStream
from operate.doctor import certificates, last_update
from operate.doctor.drift import unchanged
from operate.doctor.endpoints import unnamed
from operate.doctor.findings import Checks, Environment, Problem, Severity, error_unless
from operate.doctor.pod_problems import GRACE, Workload, moved, pod_problems, pods_of, ready
from operate.view import Object, age, at, condition, labelled, listed, mapped, written

from . import postgres_inside, postgres_volumes
from .cluster import CLUSTER
from .postgres_cluster import (
    CLUSTERS,
    LABEL,
    declared_cluster,
    instances,
    place,
    primaries,
    restoring,
)

CHECKS = Checks()

check = CHECKS.check

_LAG = 256 * 1024 * 1024
"""Bytes of WAL that a replica may be behind. Patroni tells positions only every 10 s."""

_BACKUP_HOURS = 12
"""Hours after which a scheduled backup must have succeeded."""

_BACKUP_DAYS = 8
"""Days without any scheduled backup; the longest schedule by default is a week."""


CHECKS.append(unchanged("postgres.unchanged", {"PostgresCluster": CLUSTERS}))


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
async def _created(environment: Environment) -> list[Problem]:
    view = environment.view
    namespace, name = place(environment)
    cluster = await view.named(CLUSTERS, namespace, name)
    if cluster is None:
        return [await last_update.missing(environment, declared_cluster(environment))]
    failed = _failed_restore(environment, cluster)
    if failed:
        return [failed]
    number = await restoring(environment)
    if number is not None:
        text = f"PostgreSQL is restored (shlink:postgres.restore, number {number})"
        remedy = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
        progress = Severity.PROGRESS
        return [Problem(text, "postgres-not-created", remedy, severity=progress)]
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


def _failed_restore(environment: Environment, cluster: Object) -> Problem | None:
    """PGO tries a restore seven times, and the database is down meanwhile."""
    status = mapped(cluster, "status", "pgbackrest", "restore")
    if not status.get("failed") or status.get("succeeded"):
        return None
    namespace, name = place(environment)
    return Problem(
        f"PostgreSQL: restore {status.get('id')} has failed {status['failed']} times, "
        "and the database is down until one succeeds",
        "postgres-restore-failed",
        environment.kubectl_in(namespace, f"logs job/{name}-pgbackrest-restore --tail=20"),
    )


async def _last_warning(environment: Environment, namespace: str, name: str) -> str:
    """What PGO says of the cluster, when it is recent."""
    for event in reversed(await environment.view.objects("v1/events", namespace)):
        about = mapped(event, "involvedObject")
        if about.get("name") == name and event.get("type") == "Warning":
            message = str(event.get("message", "")).splitlines()
            return f": {event.get('reason')}: {message[0][:200] if message else ''}"
    return ""


@check("postgres.patroni", "Patroni looks after the instances", after=("postgres.created",))
async def _patroni_acts(environment: Environment) -> list[Problem]:
    """Paused, it neither restarts nor fails over."""
    pods = await pods_of(environment.view, instances(environment))
    paused = [pod["metadata"]["name"] for pod in pods if _patroni(pod).get("pause")]
    if not paused:
        return []
    namespace, _ = place(environment)
    text = "PostgreSQL: Patroni is paused: it restarts nothing and does not fail over"
    remedy = environment.kubectl_in(namespace, f"exec {paused[0]} -c database -- patronictl resume")
    warning = Severity.WARNING
    return [Problem(text, "postgres-paused", remedy, severity=warning, may_explain=True)]


def _patroni(pod: Object) -> Mapping[str, Any]:
    text = mapped(pod, "metadata", "annotations").get("status", "{}")
    try:
        state = json.loads(text)
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
async def _running(environment: Environment) -> list[Problem]:
    workload = instances(environment)
    namespace, name = place(environment)
    cluster = await environment.view.named(CLUSTERS, namespace, name)
    if cluster is not None:
        # PGO makes what the object asks for, which may not be what the file asks for yet.
        sets = listed(cluster, "spec", "instances")
        replicas = sum(int(item.get("replicas", 1)) for item in sets)
        workload = dataclasses.replace(workload, replicas=replicas)
    problems = await pod_problems(environment, workload)
    pods = await pods_of(environment.view, workload)
    for pod, problem in _start_failed(environment, pods).items():
        # Patroni says more of this pod than the kubelet does.
        others = [item for item in problems if f"pod {pod} is not Ready" not in item.message]
        problems = [problem, *others]
    if not pods and not problems:
        text = "PostgreSQL: no pod exists"
        warning = await _last_warning(environment, namespace, name)
        remedy = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
        problems.append(Problem(f"{text}{warning}", "postgres-not-created", remedy))
    return problems


def _start_failed(environment: Environment, pods: Sequence[Object]) -> dict[str, Problem]:
    """Replicas, by name, that Patroni can't start beside a primary that runs.

    Patroni tries for ever: a replica that can't be rewound has to be copied anew.
    """
    namespace, cluster = place(environment)
    leaders = [pod for pod in pods if ready(pod) and _leads(pod)]
    failed: dict[str, Problem] = {}
    for pod in pods:
        state = _patroni(pod).get("state")
        since = condition(pod, "Ready")
        waited = age(environment.view, since.get("lastTransitionTime") if since else None)
        if not leaders or state != "start failed" or ready(pod) or waited <= GRACE:
            continue
        name, leader = pod["metadata"]["name"], leaders[0]["metadata"]["name"]
        copy = f"exec {leader} -c database -- patronictl reinit {cluster}-ha {name} --force"
        failed[name] = Problem(
            f"PostgreSQL: replica {name} can't follow the primary {leader} (Patroni: start failed)",
            "postgres-replica-behind",
            environment.kubectl_in(namespace, copy),
        )
    return failed


def _leads(pod: Object) -> bool:
    return _patroni(pod).get("role") in ("master", "primary")


@check(
    "postgres.primary",
    "there is one primary",
    after=("postgres.running", "postgres.patroni", "postgres.unchanged"),
)
async def _primary(environment: Environment) -> list[Problem]:
    workload = instances(environment)
    namespace, name = place(environment)
    pods = await pods_of(environment.view, workload)
    leaders = await primaries(environment)
    if len(leaders) == 1:
        return []
    moving = any(moved(environment.view, pod) for pod in pods)
    names = ", ".join(pod["metadata"]["name"] for pod in leaders) or "none"
    command = f"get pods -L {LABEL}/role -l {LABEL}/cluster={name}"
    return [
        Problem(
            f"PostgreSQL has no single Ready primary: {names} of {len(pods)} pods",
            "postgres-no-primary",
            environment.kubectl_in(namespace, command),
            severity=error_unless(changing=moving),
        )
    ]


@check(
    "postgres.names",
    "PostgreSQL's Service leads to the primary",
    after=("postgres.primary", "postgres.unchanged"),
)
async def _names(environment: Environment) -> list[Problem]:
    """Patroni keeps its endpoint."""
    namespace, name = place(environment)
    leaders = await primaries(environment)
    if len(leaders) != 1:
        return []
    service = f"{name}-ha"
    missing = await unnamed(environment.view, namespace, service, leaders, by_address=True)
    if not missing:
        return []
    # Patroni writes the endpoint a moment after the label.
    changed = condition(leaders[0], "Ready") or {}
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
async def _certificate(environment: Environment) -> list[Problem]:
    return await certificates.problems(
        environment,
        await primaries(environment),
        title="PostgreSQL",
        port=ports.POSTGRES,
        name=environment.declared.outputs.database_host,
        server="postgres.settings",
        opening=_ask_for_tls,
    )


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
async def _pooler(environment: Environment) -> list[Problem]:
    manifest = declared_cluster(environment)
    declared = mapped(manifest, "spec", "proxy", "pgBouncer")
    if not declared:
        return []
    namespace, name = place(environment)
    cluster = await environment.view.named(CLUSTERS, namespace, name)
    asked = mapped(cluster or {}, "spec", "proxy", "pgBouncer")
    if not asked and not (await last_update.applied(environment)).as_declared(manifest):
        return []
    deployment = f"{name}-pgbouncer"
    workload = Workload(
        title="PgBouncer",
        namespace=namespace,
        labels={f"{LABEL}/cluster": name, f"{LABEL}/role": "pgbouncer"},
        owners=(deployment,),
        replicas=int((asked or declared)["replicas"]),
        secrets=("cluster.objects",),
    )
    problems = await pod_problems(environment, workload)
    pods = await pods_of(environment.view, workload)
    if problems:
        return problems
    if not pods:
        text = f"PgBouncer: no pod exists{await _last_warning(environment, namespace, name)}"
        remedy = environment.kubectl_in(namespace, f"describe deployment {deployment}")
        return [Problem(text, "pooler-not-ready", remedy)]
    return await certificates.problems(
        environment,
        pods,
        title="PgBouncer",
        port=ports.POSTGRES,
        name=f"{deployment}.{namespace}.svc",
        server="postgres.created",
        opening=_ask_for_tls,
    )


@check(
    "postgres.replicas", "the replicas follow it", after=("postgres.primary", "postgres.unchanged")
)
async def _replicas(environment: Environment) -> list[Problem]:
    """Patroni writes each member's state into its pod."""
    workload = instances(environment)
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
        if member is not leaders[0]:
            differences += _differences(name, member, leaders[0])
    if not differences:
        return []
    namespace, cluster = place(environment)
    command = f"get pods -l {LABEL}/cluster={cluster}"
    # After a failover a replica follows the new primary a moment later.
    pods = await pods_of(environment.view, workload)
    moving = any(moved(environment.view, pod) for pod in pods)
    return [
        Problem(
            f"PostgreSQL replicas: {'; '.join(differences)}",
            "postgres-replica-behind",
            environment.kubectl_in(namespace, command),
            severity=Severity.PROGRESS if moving else Severity.WARNING,
        )
    ]


def _differences(name: str, member: Mapping[str, Any], leader: Mapping[str, Any]) -> list[str]:
    """What keeps a member from following the leader."""
    if member.get("replication_state", "streaming") != "streaming":
        return [f"{name} receives no changes ({member['replication_state']})"]
    if "xlog_location" not in member:
        return []
    if member.get("timeline") != leader.get("timeline"):
        return [f"{name} is on another timeline than the primary"]
    behind = int(leader.get("xlog_location", 0)) - int(member["xlog_location"])
    return [f"{name} is {behind / 1024 / 1024:.0f} MiB behind"] if behind > _LAG else []


@check(
    "postgres.repository",
    "the backup repositories can be written",
    after=(
        "postgres.primary",
        "cluster.volumes",
        "postgres.volumes",
        "postgres.unchanged",
    ),
)
async def _repository(environment: Environment) -> list[Problem]:
    namespace, name = place(environment)
    cluster = await environment.view.named(CLUSTERS, namespace, name)
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
async def _backups(environment: Environment) -> list[Problem]:
    view = environment.view
    namespace, name = place(environment)
    problems: list[Problem] = []
    for job in await view.objects("batch/v1/cronjobs", namespace):
        if not labelled(job, {f"{LABEL}/cluster": name}):
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
        command = f"get jobs,pods -l {LABEL}/cluster={name}"
        remedy = environment.kubectl_in(namespace, command)
        problems.append(Problem(text, "postgres-backup-old", remedy))
    return problems[:1]

"""PostgreSQL: the cluster that PGO makes, its primary and replicas, and its backups."""

import json
from collections.abc import Mapping
from typing import Any, cast

from operate.findings import Check, Environment, Problem, Severity, error_unless
from operate.pods import GRACE, Workload, pod_problems, pods_of, ready
from operate.view import Object, age, at, condition, labelled, labels_of, listed, mapped

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
            )
        ]
    described = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
    behind = cluster.get("status", {}).get("observedGeneration", 0) < cluster["metadata"].get(
        "generation", 1
    )
    if behind or not at(cluster, "status", "instances"):
        young = age(view, cluster["metadata"]["creationTimestamp"]) < GRACE
        text = "PGO has not acted on the latest change of the PostgresCluster"
        warning = await _last_warning(environment, namespace, name)
        return [
            Problem(
                f"{text}{warning}",
                "postgres-not-created",
                described,
                severity=error_unless(changing=young),
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


async def _primary(environment: Environment) -> list[Problem]:
    workload = _workload(environment)
    namespace, name = _name(environment)
    pods = await pods_of(environment.view, workload)
    primaries: list[Object] = []
    for pod in pods:
        role = labels_of(pod).get(f"{_LABEL}/role")
        if role in ("master", "primary") and ready(pod):
            primaries.append(pod)
    if len(primaries) == 1:
        return []
    young = any(age(environment.view, pod["metadata"]["creationTimestamp"]) < GRACE for pod in pods)
    names = ", ".join(pod["metadata"]["name"] for pod in primaries) or "none"
    command = f"get pods -L {_LABEL}/role -l {_LABEL}/cluster={name}"
    return [
        Problem(
            f"PostgreSQL has no single Ready primary: {names} of {len(pods)} pods",
            "postgres-no-primary",
            environment.kubectl_in(namespace, command),
            severity=error_unless(changing=young and bool(pods)),
        )
    ]


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
    young = age(environment.view, cluster["metadata"]["creationTimestamp"]) < 2 * GRACE
    severity = Severity.PROGRESS if young else Severity.ERROR
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


CHECKS = (
    Check(
        name="postgres.created",
        description="PGO has made the database cluster that is declared",
        depends_on=(*CLUSTER, "cluster.kinds", "cluster.policies", "operators.available"),
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
        name="postgres.backups",
        description="scheduled backups succeed",
        depends_on=("postgres.repository",),
        look=_backups,
    ),
)

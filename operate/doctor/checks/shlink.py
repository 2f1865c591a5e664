"""Shlink: the migration, its pods and what they wait for, how it reaches Redis, its addresses."""

import dataclasses
import re
from collections.abc import AsyncIterator, Mapping, Sequence

from components.network.flows import GEOLITE, SERVER, SHLINK, WEB_CLIENT
from operate.doctor import as_declared, drift
from operate.doctor.endpoints import any_ready, endpoints
from operate.doctor.findings import (
    CLUSTER,
    Checks,
    Environment,
    Problem,
    Severity,
    error_unless,
    skip,
)
from operate.doctor.last_update import last_update
from operate.doctor.pod_problems import GRACE, Workload, deployment_problems, pod_problems
from operate.view import (
    ForbiddenError,
    LookError,
    Object,
    age,
    at,
    condition,
    labelled,
    listed,
    mapped,
    names,
    place,
)

from . import postgres_inside
from .postgres_cluster import restoring

CHECKS = Checks()

check = CHECKS.check

_RESTORE_SECONDS = 900.0
"""Seconds in which an update that restores the database starts Shlink again, once nothing is
restored any more."""

_STARTUP = 330.0
"""Seconds of the startup probe, 60 times 5, and some more."""

_SERVERS = (
    "secrets.unchanged",
    "postgres.unchanged",
    "redis.unchanged",
    "secrets.synced",
    "postgres.primary",
    "postgres.names",
    "postgres.certificate",
    "postgres.settings",
    "postgres.grant",
    "postgres.tables",
    "postgres.pooler",
    "redis.master",
    "redis.names",
    "redis.sentinels",
    "cluster.policies",
    "cluster.dns",
    "cluster.names",
)
"""What a start of Shlink needs."""

_STEPS: tuple[tuple[str, str], ...] = (
    ("Initializing database", "creating the database (db:create)"),
    ("Updating database", "migrating the database (db:migrate)"),
    ("Generating proxies", "generating proxies"),
    ("Clearing entities cache", "clearing the cache"),
    ("RoadRunner server started", "the server has started"),
)
"""What the start of Shlink prints, in its order: shlink-installer's config.php and RoadRunner."""

# What Shlink's log says, and what that means. Only our own sentence is ever printed.
_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"permission denied for schema",
        "its user may not create tables in schema public: the grant is missing",
        "postgres-grant-missing",
    ),
    (
        r"password authentication failed",
        "PostgreSQL refuses its password",
        "postgres-password-refused",
    ),
    (r"WRONGPASS|NOAUTH", "Redis refuses its password", "redis-password-refused"),
    (
        r"Error as array|Response\\\\?Error",
        "it speaks to a Sentinel as if that were Redis",
        "shlink-redis-mode",
    ),
    (
        r"No sentinel server available|SENTINEL",
        "no Sentinel tells it the master",
        "redis-no-master",
    ),
    (
        r"could not translate host name|getaddrinfo|Name does not resolve",
        "a server's name does not resolve",
        "name-does-not-resolve",
    ),
    (
        r"certificate verify failed|SSL error|no pg_hba.conf entry",
        "PostgreSQL's certificate or encryption is refused",
        "postgres-certificate-refused",
    ),
    (
        r"[Cc]onnection refused|timed out|timeout expired",
        "a server can't be reached",
        "network-policy-missing",
    ),
)

_SCALER_CONDITIONS = (
    ("AbleToScale", "False", "it can't change the number of pods"),
    ("ScalingActive", "False", "it gets no measurements, so the number of pods stays as it is"),
    ("ScalingLimited", "True", "the load asks for more pods than shlink:app.maxReplicas"),
)
"""Conditions and the status of each that is a finding, the gravest first
(kubernetes/pkg/controller/podautoscaler/horizontal.go)."""

_SCALER_WELL = {"ScalingDisabled", "TooFewReplicas", "ScaleUpLimit", "ScaleDownLimit"}
"""Reasons of conditions that are as they should be: it is stopped on purpose, there is little to
do, or it takes its steps one by one."""

_NO_METRICS = "could not find the requested resource"

_MEMORY = "app.resources.memoryLimit"
"""The setting of what a pod of Shlink may use."""

_REPLICAS = ("spec", "replicas")

_ROUTE = "shlink-route"

_PASSING = ("network-policy-missing", "redis-no-master")
"""Pages of what a log tells during the restart of a server too."""


def _deployment(environment: Environment) -> Object:
    deployment = environment.declared.named("Deployment", SERVER.name)
    if deployment is None:
        raise LookError("no Deployment of Shlink is declared")
    return deployment


CHECKS.append(
    as_declared.unchanged("shlink.unchanged", "Deployment", "Service", "Ingress", "HTTPRoute")
)


@check("shlink.redis-mode", "Shlink is told how Redis runs", after=CLUSTER)
async def _redis_mode(environment: Environment) -> AsyncIterator[Problem]:
    """With a single entry Shlink ignores the Sentinel setting (shlink-common, RedisFactory)."""
    deployment = await as_declared.actual(environment, _deployment(environment)) or {}
    for container in listed(deployment, "spec", "template", "spec", "containers")[:1]:
        variables = {entry["name"]: entry.get("value") for entry in listed(container, "env")}
        servers = str(variables.get("REDIS_SERVERS") or "").split(",")
        if "REDIS_SENTINEL_SERVICE" in variables and len(servers) == 1:
            text = (
                "Shlink is told one Sentinel in REDIS_SERVERS; with fewer than two it takes the "
                "Sentinel for Redis itself"
            )
            yield Problem(text, "shlink-redis-mode")


@check(
    "shlink.migrated",
    "the migration of the database succeeded",
    after=(*CLUSTER, "cluster.nodes", "shlink.unchanged", "shlink.redis-mode", *_SERVERS),
)
async def _migration_done(environment: Environment) -> AsyncIterator[Problem]:
    jobs = [job for job in environment.declared.of_kind("Job") if place(job)[0] == SHLINK]
    for manifest in jobs[:1]:
        job = await as_declared.actual(environment, manifest)
        if job is not None:
            for problem in await _of_migration(environment, manifest, job):
                yield problem


async def _of_migration(
    environment: Environment, manifest: Object, job: Object
) -> Sequence[Problem]:
    namespace, name = place(job)
    if (condition(job, "Complete") or {}).get("status") == "True":
        return ()
    failed = condition(job, "Failed") or {}
    if failed.get("status") == "True":
        return [await _failure(environment, job, str(failed.get("reason", "")))]
    workload = Workload(
        title="Shlink's migration",
        namespace=namespace,
        labels=manifest["spec"]["template"]["metadata"]["labels"],
        owners=(name,),
        replicas=0,
        memory_setting=_MEMORY,
        secrets=("secrets.synced",),
        unchanged="shlink.unchanged",
    )
    problems = await pod_problems(environment, workload)
    running = age(environment.view, job["metadata"]["creationTimestamp"])
    if problems:
        waiting = [problem for problem in problems if problem.anchor != "pod-evicted"]
        return waiting or [await _tried_again(environment, job, young=running < GRACE)]
    text, page, severity = (
        "Shlink's migration is running",
        "shlink-migration-failed",
        Severity.PROGRESS,
    )
    remedy = environment.kubectl_in(namespace, f"logs job/{name} --follow")
    if running > 2 * GRACE:
        text = f"Shlink's migration has not finished after {2 * GRACE:.0f} s"
        severity = Severity.ERROR
        remedy = environment.kubectl_in(namespace, f"logs job/{name} --tail=30")
    return [Problem(text, page, remedy, severity=severity)]


async def _tried_again(environment: Environment, job: Object, *, young: bool) -> Problem:
    """A pod of the Job failed, and the next one is tried. It may have met a server's restart."""
    problem = await _failure(environment, job, "a pod failed, the next one is tried")
    named = problem.anchor not in ("shlink-migration-failed", *_PASSING)
    return dataclasses.replace(problem, severity=error_unless(changing=young and not named))


async def _failure(environment: Environment, job: Object, reason: str) -> Problem:
    namespace, name = place(job)
    cause = _cause(await _logs(environment, {"job-name": name}))
    if cause:
        text, anchor = cause
        return Problem(f"Shlink's migration failed: {text}", anchor)
    remedy = environment.kubectl_in(namespace, f"logs job/{name} --tail=50")
    return Problem(f"Shlink's migration failed ({reason})", "shlink-migration-failed", remedy)


async def _logs(environment: Environment, labels: Mapping[str, str]) -> list[str]:
    """The ends of the logs of the two newest pods with these labels."""
    view = environment.view
    pods = [pod for pod in await view.objects("v1/pods", SHLINK) if labelled(pod, labels)]
    pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    logs: list[str] = []
    for pod in pods[:2]:
        for status in listed(pod, "status", "containerStatuses"):
            waiting = "waiting" in mapped(status, "state")
            query = f"container={status['name']}&tailLines=200&previous={str(waiting).lower()}"
            try:
                reply = await view.reply(f"v1/pods/{pod['metadata']['name']}/log?{query}", SHLINK)
            except LookError:
                continue
            logs.append(str(reply.body))
    return logs


def _cause(logs: Sequence[str]) -> tuple[str, str] | None:
    """The cause that a log names, in our words, and its page; its text may hold what is secret."""
    for log in logs:
        for pattern, text, anchor in _CAUSES:
            if re.search(pattern, log):
                return text, anchor
    return None


def _step(logs: Sequence[str]) -> str:
    """The last step that a start has reached, in our words; empty if no log has one."""
    for log in logs:
        reached = [step for text, step in _STEPS if text in log]
        if reached:
            return reached[-1]
    return ""


@check(
    "shlink.running",
    "Shlink's pods are Ready",
    after=("shlink.migrated", "cluster.objects", "cluster.strays", "shlink.unchanged", *_SERVERS),
)
async def _running(environment: Environment) -> AsyncIterator[Problem]:
    manifest = _deployment(environment)
    deployment = await as_declared.actual(environment, manifest)
    if deployment is None:
        yield await as_declared.missing(environment, manifest, "up")
        return
    replicas = int(deployment["spec"].get("replicas", 1))
    declared = int(manifest["spec"].get("replicas") or 1)
    if replicas == 0 and declared > 0:
        if await _stopped_by_hand(environment, deployment, manifest):
            yield await _stopped(environment, deployment, declared)
        return
    workload = Workload.of_deployment(
        deployment,
        "Shlink",
        memory_setting=_MEMORY,
        secrets=("secrets.synced",),
        unchanged="shlink.unchanged",
        grace=_STARTUP,
    )
    problems = await pod_problems(environment, workload)
    for problem in problems:
        yield await _explained(environment, workload, problem)
    if not problems and not at(deployment, "status", "availableReplicas"):
        text = f"Shlink: none of its {replicas} pods is available"
        command = f"describe deployment {SERVER.name}"
        young = age(environment.view, deployment["metadata"]["creationTimestamp"]) < _STARTUP
        remedy, severity = environment.kubectl_in(SHLINK, command), error_unless(changing=young)
        yield Problem(text, "pod-not-ready", remedy, severity=severity)


async def _stopped_by_hand(environment: Environment, deployment: Object, manifest: Object) -> bool:
    """Otherwise the last update stopped it, and the next one starts it."""
    applied = (await last_update(environment)).is_applied(manifest)
    return applied or drift.edited(deployment, _REPLICAS)


async def _stopped(environment: Environment, deployment: Object, replicas: int) -> Problem:
    command = f"scale deployment {SERVER.name} --replicas={replicas}"
    remedy = environment.kubectl_in(SHLINK, command)
    # A restore stops Shlink, and the update goes on after it.
    young = drift.commanded(environment.view, deployment, _REPLICAS) < _RESTORE_SECONDS
    severity = error_unless(changing=young or await restoring(environment) is not None)
    page = "shlink-scaled-to-0"
    return Problem("Shlink is scaled to 0", page, remedy, severity=severity, causes=CLUSTER)


async def _explained(environment: Environment, workload: Workload, problem: Problem) -> Problem:
    """A pod's problem, with the cause that its log names or the step that it has reached."""
    if problem.anchor not in ("container-crashes", "pod-not-ready"):
        return problem
    logs = await _logs(environment, workload.labels)
    cause = _cause(logs)
    if cause and problem.severity is Severity.ERROR:
        text, anchor = cause
        return Problem(f"Shlink does not start: {text}", anchor)
    step = _step(logs)
    message = f"{problem.message}; its start has reached: {step}" if step else problem.message
    return dataclasses.replace(problem, message=message)


check(
    "shlink.api-key",
    "Shlink accepts this environment's API key",
    after=("postgres.primary", "postgres.logins", "postgres.tables", "shlink.migrated"),
)(postgres_inside.api_key)


@check(
    "shlink.geolite",
    "GeoLite's database is served to Shlink",
    after=(*CLUSTER, "cluster.nodes", "secrets.synced"),
)
async def _geolite(environment: Environment) -> AsyncIterator[Problem]:
    """Without it visits have no place, and no more."""
    async for problem in _beside(environment, GEOLITE.name, "GeoLite", "pod-not-ready"):
        severity = problem.severity
        if severity is Severity.ERROR:
            severity = Severity.WARNING
        yield dataclasses.replace(problem, severity=severity)


async def _beside(
    environment: Environment, name: str, title: str, page: str
) -> AsyncIterator[Problem]:
    """What is wrong with a Deployment without which Shlink serves."""
    manifest = environment.declared.named("Deployment", name)
    if manifest is None:
        return
    deployment = await as_declared.actual(environment, manifest)
    if deployment is None:
        yield await as_declared.missing(environment, manifest, "up")
        return
    workload = Workload.of_deployment(
        deployment, title, secrets=("secrets.synced",), unchanged="shlink.unchanged"
    )
    for problem in await deployment_problems(environment, deployment, workload, page):
        yield problem


@check(
    "shlink.autoscaler",
    "the autoscaler measures and decides",
    after=("shlink.running", "cluster.reserves"),
)
async def _autoscaler(environment: Environment) -> AsyncIterator[Problem]:
    for manifest in environment.declared.of_kind("HorizontalPodAutoscaler"):
        scaler = await as_declared.actual(environment, manifest)
        problem = _of_scaler(environment, scaler) if scaler else None
        if problem:
            yield problem


def _of_scaler(environment: Environment, scaler: Object) -> Problem | None:
    """Shlink serves in any case, with as many pods as there are: these are warnings."""
    namespace, name = place(scaler)
    remedy = environment.kubectl_in(namespace, f"describe hpa {name}")
    since = scaler["metadata"]["creationTimestamp"]
    text, page = "its controller has not looked at it yet", "shlink-not-scaling"
    if listed(scaler, "status", "conditions"):
        text = ""
    for kind, wrong, meaning in _SCALER_CONDITIONS:
        entry = condition(scaler, kind)
        if entry is None or entry["status"] != wrong or entry.get("reason") in _SCALER_WELL:
            continue
        text, since = f"{meaning} ({entry.get('reason', '')})", entry.get("lastTransitionTime")
        if _NO_METRICS in str(entry.get("message", "")):
            text = f"{meaning}: this cluster serves no metrics.k8s.io, so it has no metrics-server"
        if kind == "ScalingLimited":
            page = "shlink-at-its-maximum"
        break
    if not text:
        return None
    young = age(environment.view, since) < GRACE
    severity = Severity.PROGRESS if young else Severity.WARNING
    return Problem(f"Shlink's autoscaler: {text}", page, remedy, severity=severity)


@check(
    "shlink.web-client",
    "Shlink's web client runs",
    after=(*CLUSTER, "cluster.nodes", "shlink.unchanged"),
)
async def _web_client(environment: Environment) -> AsyncIterator[Problem]:
    """Nothing depends on it but the people who use it."""
    title, page = "Shlink's web client", "web-client-down"
    async for problem in _beside(environment, WEB_CLIENT.name, title, page):
        yield problem


@check(
    "shlink.reached",
    "Shlink's Service and route lead to it",
    after=("shlink.running", "shlink.web-client", "cluster.objects", "shlink.unchanged"),
)
async def _reached(environment: Environment) -> AsyncIterator[Problem]:
    deployment = await as_declared.actual(environment, _deployment(environment))
    for service in environment.declared.of_kind("Service"):
        if place(service)[0] == SHLINK:
            async for problem in _service(environment, service, deployment):
                yield problem
    for kind in ("Ingress", "HTTPRoute"):
        for manifest in environment.declared.of_kind(kind):
            route = await as_declared.actual(environment, manifest)
            if route is None:
                missing = await as_declared.missing(environment, manifest)
                yield dataclasses.replace(missing, causes=CLUSTER)
                continue
            for problem in (
                _route_accepted(environment, kind, route),
                await _class(environment, route),
            ):
                if problem:
                    yield problem


async def _service(
    environment: Environment, manifest: Object, deployment: Object | None
) -> AsyncIterator[Problem]:
    view, (namespace, name) = environment.view, place(manifest)
    service = await as_declared.actual(environment, manifest)
    if service is None:
        # In a first `up` it comes after the pods; whatever keeps them is the cause then.
        missing = await as_declared.missing(environment, manifest)
        created = at(deployment or {}, "metadata", "creationTimestamp")
        if missing.severity is Severity.ERROR and created and age(view, created) < _STARTUP:
            missing = dataclasses.replace(missing, severity=Severity.PROGRESS)
        yield missing
        return
    stopped = name == SERVER.name and at(deployment or {}, "spec", "replicas") == 0
    # The checks of their pods tell what is wrong with them.
    if name == GEOLITE.name or stopped or any_ready(await endpoints(view, namespace, name)):
        return
    text = f"no Ready pod stands behind Service {namespace}/{name}"
    remedy = environment.kubectl_in(namespace, f"describe service {name}")
    # A Service may be there before its pods.
    young = age(view, service["metadata"]["creationTimestamp"]) < _STARTUP
    severity = error_unless(changing=young)
    yield Problem(text, "shlink-no-endpoints", remedy, severity=severity)


async def _class(environment: Environment, route: Object) -> Problem | None:
    """The class that an Ingress names exists, so that a controller can take it up."""
    name = at(route, "spec", "ingressClassName")
    if name is None:
        return None
    try:
        classes = await environment.view.objects("networking.k8s.io/v1/ingressclasses")
    except ForbiddenError as error:
        return skip(f"{error}; deploy/rbac/doctor.yaml grants it")
    if name in names(classes):
        return None
    text = f"Ingress {route['metadata']['name']} names the class {name}, which does not exist"
    remedy = f"{environment.kubectl} get ingressclass"
    return Problem(text, _ROUTE, remedy, causes=(*CLUSTER, "shlink.unchanged"))


def _route_accepted(environment: Environment, kind: str, route: Object) -> Problem | None:
    namespace, name = place(route)
    remedy = environment.kubectl_in(namespace, f"describe {kind.lower()} {name}")
    young = age(environment.view, route["metadata"]["creationTimestamp"]) < GRACE
    if kind == "Ingress":
        if young or listed(route, "status", "loadBalancer", "ingress"):
            return None
        text = f"Ingress {name} has no address: no controller has taken it up"
        severity = Severity.WARNING
    else:
        parents = listed(route, "status", "parents")
        accepted = any(condition({"status": parent}, "Accepted") for parent in parents)
        refused: list[Object] = []
        for parent in parents:
            refused += [entry for entry in listed(parent, "conditions") if _refuses(entry)]
        if accepted and not refused:
            return None
        reason = refused[0].get("reason", "") if refused else "no gateway has looked at it"
        text, severity = f"HTTPRoute {name} is not accepted: {reason}", error_unless(changing=young)
    causes = (*CLUSTER, "cluster.kinds")
    return Problem(text, _ROUTE, remedy, severity=severity, causes=causes)


def _refuses(entry: Object) -> bool:
    """Whether a gateway's condition keeps the route from working."""
    return entry["type"] in ("Accepted", "ResolvedRefs") and entry["status"] != "True"

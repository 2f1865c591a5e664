"""Shlink: the migration, its pods and what they wait for, how it reaches Redis, its addresses."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from components.network.flows import GEOLITE, WEB_CLIENT
from operate.doctor import drift, last_update
from operate.doctor.drift import unchanged
from operate.doctor.findings import Checks, Environment, Problem, Severity, error_unless, skip
from operate.doctor.pod_problems import GRACE, Workload, pod_problems
from operate.view import (
    ForbiddenError,
    LookError,
    Object,
    age,
    at,
    condition,
    labels_of,
    listed,
    mapped,
)

from . import postgres_inside
from .cluster import CLUSTER, deployment_problems
from .postgres_cluster import restoring

CHECKS = Checks()

check = CHECKS.check

_BESIDE = (WEB_CLIENT.name, GEOLITE.name)
"""Deployments without which Shlink serves."""

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

_SCALERS = "autoscaling/v2/horizontalpodautoscalers"

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

_PASSING = ("network-policy-missing", "redis-no-master")
"""Pages of what a log tells during the restart of a server too."""


def _deployment(environment: Environment) -> Object:
    for deployment in environment.declared.of_kind("Deployment"):
        if deployment["metadata"]["name"] not in _BESIDE:
            return deployment
    raise LookError("no Deployment of Shlink is declared")


def _migration(environment: Environment) -> Object | None:
    namespace = _deployment(environment)["metadata"]["namespace"]
    for job in environment.declared.of_kind("Job"):
        if job["metadata"]["namespace"] == namespace:
            return job
    return None


CHECKS.append(
    unchanged(
        "shlink.unchanged",
        {
            "Deployment": "apps/v1/deployments",
            "Service": "v1/services",
            "Ingress": "networking.k8s.io/v1/ingresses",
            "HTTPRoute": "gateway.networking.k8s.io/v1/httproutes",
        },
    )
)


@check("shlink.redis-mode", "Shlink is told how Redis runs", after=CLUSTER)
async def _redis_mode(environment: Environment) -> list[Problem]:
    """With a single entry Shlink ignores the Sentinel setting (shlink-common, RedisFactory)."""
    manifest = _deployment(environment)
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    deployment = await environment.view.named("apps/v1/deployments", namespace, name)
    if deployment is None:
        return []
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    variables: dict[str, Any] = {}
    for variable in listed(container, "env"):
        variables[variable["name"]] = variable.get("value")
    if "REDIS_SENTINEL_SERVICE" not in variables:
        return []
    servers = str(variables.get("REDIS_SERVERS") or "").split(",")
    if len(servers) > 1:
        return []
    text = (
        "Shlink is told one Sentinel in REDIS_SERVERS; with fewer than two it takes the "
        "Sentinel for Redis itself"
    )
    return [Problem(text, "shlink-redis-mode", environment.make("refresh"))]


@check(
    "shlink.migrated",
    "the migration of the database succeeded",
    after=(
        *CLUSTER,
        "cluster.nodes",
        "shlink.unchanged",
        "shlink.redis-mode",
        *_SERVERS,
    ),
)
async def _migrated(environment: Environment) -> list[Problem]:
    manifest = _migration(environment)
    if manifest is None:
        return []
    view = environment.view
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    job = await view.named("batch/v1/jobs", namespace, name)
    complete = condition(job, "Complete") if job else None
    if job is None or (complete is not None and complete["status"] == "True"):
        return []
    failed = condition(job, "Failed")
    if failed is not None and failed["status"] == "True":
        return [await _failure(environment, job, str(failed.get("reason", "")))]
    workload = Workload(
        title="Shlink's migration",
        namespace=namespace,
        labels=manifest["spec"]["template"]["metadata"]["labels"],
        owners=(name,),
        replicas=0,
        memory_setting="shlink:app.resources.memoryLimit",
        secrets=("secrets.synced",),
        unchanged="shlink.unchanged",
    )
    problems = await pod_problems(environment, workload)
    running = age(view, job["metadata"]["creationTimestamp"])
    if problems:
        return [problem for problem in problems if problem.anchor != "pod-evicted"] or [
            await _tried_again(environment, job, young=running < GRACE)
        ]
    if running > 2 * GRACE:
        text = f"Shlink's migration has not finished after {2 * GRACE:.0f} s"
        remedy = environment.kubectl_in(namespace, f"logs job/{name} --tail=30")
        return [Problem(text, "shlink-migration-failed", remedy)]
    text = "Shlink's migration is running"
    remedy = environment.kubectl_in(namespace, f"logs job/{name} --follow")
    return [Problem(text, "shlink-migration-failed", remedy, severity=Severity.PROGRESS)]


async def _tried_again(environment: Environment, job: Object, *, young: bool) -> Problem:
    """A pod of the Job failed, and the next one is tried. It may have met a server's restart."""
    problem = await _failure(environment, job, "a pod failed, the next one is tried")
    named = problem.anchor not in ("shlink-migration-failed", *_PASSING)
    return dataclasses.replace(problem, severity=error_unless(changing=young and not named))


async def _failure(environment: Environment, job: Object, reason: str) -> Problem:
    namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
    labels = {"job-name": name}
    cause = await _told_by_log(environment, namespace, labels)
    if cause:
        text, anchor = cause
        return Problem(f"Shlink's migration failed: {text}", anchor, environment.make("refresh"))
    remedy = environment.kubectl_in(namespace, f"logs job/{name} --tail=50")
    return Problem(f"Shlink's migration failed ({reason})", "shlink-migration-failed", remedy)


async def _told_by_log(
    environment: Environment, namespace: str, labels: Mapping[str, str]
) -> tuple[str, str] | None:
    """The cause that the newest pod's log names, in our words; its text may hold what is secret."""
    for log in await _logs(environment, namespace, labels):
        cause = _cause(log)
        if cause:
            return cause
    return None


async def _step(environment: Environment, namespace: str, labels: Mapping[str, str]) -> str:
    """The step that the newest pod's start has reached, in our words; empty if its log has none."""
    for log in await _logs(environment, namespace, labels):
        reached = [step for text, step in _STEPS if text in log]
        if reached:
            return reached[-1]
    return ""


async def _logs(environment: Environment, namespace: str, labels: Mapping[str, str]) -> list[str]:
    """The ends of the logs of the two newest pods with these labels."""
    view = environment.view
    pods: list[Object] = []
    for pod in await view.objects("v1/pods", namespace):
        own = labels_of(pod)
        if all(own.get(key) == value for key, value in labels.items()):
            pods.append(pod)
    pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    logs: list[str] = []
    for pod in pods[:2]:
        for status in listed(pod, "status", "containerStatuses"):
            waiting = "waiting" in mapped(status, "state")
            query = f"container={status['name']}&tailLines=200&previous={str(waiting).lower()}"
            try:
                reply = await view.reply(
                    f"v1/pods/{pod['metadata']['name']}/log?{query}", namespace
                )
            except LookError:
                continue
            logs.append(str(reply.body))
    return logs


def _cause(log: str) -> tuple[str, str] | None:
    for pattern, text, anchor in _CAUSES:
        if re.search(pattern, log):
            return text, anchor
    return None


@check(
    "shlink.running",
    "Shlink's pods are Ready",
    after=(
        "shlink.migrated",
        "cluster.objects",
        "cluster.strays",
        "shlink.unchanged",
        *_SERVERS,
    ),
)
async def _running(environment: Environment) -> list[Problem]:
    manifest = _deployment(environment)
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    deployment = await environment.view.named("apps/v1/deployments", namespace, name)
    if deployment is None:
        return [await last_update.missing(environment, manifest, "up")]
    replicas = int(deployment["spec"].get("replicas", 1))
    declared = int(manifest["spec"].get("replicas") or 1)
    if replicas == 0 and declared > 0:
        before = await last_update.applied(environment)
        path = ("spec", "replicas")
        if not drift.edited(deployment, path) and not before.as_declared(manifest):
            # The last update stopped it, and the next one starts it.
            return []
        command = f"scale deployment {name} --replicas={declared}"
        remedy = environment.kubectl_in(namespace, command)
        # A restore stops Shlink, and the update goes on after it.
        young = drift.commanded(environment.view, deployment, path) < _RESTORE_SECONDS
        restore = young or await restoring(environment) is not None
        return [
            Problem(
                "Shlink is scaled to 0",
                "shlink-scaled-to-0",
                remedy,
                severity=error_unless(changing=restore),
                causes=CLUSTER,
            )
        ]
    workload = Workload(
        title="Shlink",
        namespace=namespace,
        labels=manifest["spec"]["selector"]["matchLabels"],
        owners=(name,),
        replicas=replicas,
        memory_setting="shlink:app.resources.memoryLimit",
        secrets=("secrets.synced",),
        unchanged="shlink.unchanged",
        grace=_STARTUP,
    )
    problems = await pod_problems(environment, workload)
    explained: list[Problem] = []
    for problem in problems:
        if problem.anchor in ("container-crashes", "pod-not-ready"):
            cause = await _told_by_log(environment, namespace, workload.labels)
            if cause and problem.severity is Severity.ERROR:
                text, anchor = cause
                explained.append(
                    Problem(f"Shlink does not start: {text}", anchor, environment.make("refresh"))
                )
                continue
            step = await _step(environment, namespace, workload.labels)
            if step:
                message = f"{problem.message}; its start has reached: {step}"
                explained.append(dataclasses.replace(problem, message=message))
                continue
        explained.append(problem)
    available = int(at(deployment, "status", "availableReplicas") or 0)
    if available == 0 and not explained:
        text = f"Shlink: none of its {replicas} pods is available"
        remedy = environment.kubectl_in(namespace, f"describe deployment {name}")
        young = age(environment.view, deployment["metadata"]["creationTimestamp"]) < _STARTUP
        severity = Severity.PROGRESS if young else Severity.ERROR
        explained.append(Problem(text, "pod-not-ready", remedy, severity=severity))
    return explained


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
async def _places(environment: Environment) -> list[Problem]:
    """Without it visits have no place, and no more."""
    manifest = environment.declared.named("Deployment", GEOLITE.name)
    if manifest is None:
        return []
    deployment = await environment.view.named(
        "apps/v1/deployments", GEOLITE.namespace, GEOLITE.name
    )
    if deployment is None:
        problem = await last_update.missing(environment, manifest, "up")
        if problem.severity is Severity.ERROR:
            problem = dataclasses.replace(problem, severity=Severity.WARNING)
        return [problem]
    workload = Workload(
        title="GeoLite",
        namespace=GEOLITE.namespace,
        labels=GEOLITE.labels,
        owners=(GEOLITE.name,),
        replicas=1,
        secrets=("secrets.synced",),
        unchanged="shlink.unchanged",
    )
    problems: list[Problem] = []
    for problem in await pod_problems(environment, workload):
        severity = problem.severity
        if severity is Severity.ERROR:
            severity = Severity.WARNING
        problems.append(dataclasses.replace(problem, severity=severity))
    return problems


@check(
    "shlink.autoscaler",
    "the autoscaler measures and decides",
    after=("shlink.running", "cluster.reserves"),
)
async def _scales(environment: Environment) -> list[Problem]:
    problems: list[Problem] = []
    for manifest in environment.declared.of_kind("HorizontalPodAutoscaler"):
        namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
        scaler = await environment.view.named(_SCALERS, namespace, name)
        if scaler is not None:
            problems += _of_scaler(environment, scaler)
    return problems


def _of_scaler(environment: Environment, scaler: Object) -> list[Problem]:
    """Shlink serves in any case, with as many pods as there are: these are warnings."""
    namespace, name = scaler["metadata"]["namespace"], scaler["metadata"]["name"]
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
        return []
    young = age(environment.view, since) < GRACE
    severity = Severity.PROGRESS if young else Severity.WARNING
    return [Problem(f"Shlink's autoscaler: {text}", page, remedy, severity=severity)]


@check(
    "shlink.web-client",
    "Shlink's web client runs",
    after=(*CLUSTER, "cluster.nodes", "shlink.unchanged"),
)
async def _web_client(environment: Environment) -> list[Problem]:
    """Nothing depends on it but the people who use it."""
    manifest = environment.declared.named("Deployment", WEB_CLIENT.name)
    if manifest is None:
        return []
    namespace = manifest["metadata"]["namespace"]
    deployment = await environment.view.named("apps/v1/deployments", namespace, WEB_CLIENT.name)
    if deployment is None:
        return [await last_update.missing(environment, manifest, "up")]
    return await deployment_problems(
        environment,
        deployment,
        title="Shlink's web client",
        unchanged="shlink.unchanged",
        page="web-client-down",
    )


@check(
    "shlink.reached",
    "Shlink's Service and route lead to it",
    after=(
        "shlink.running",
        "shlink.web-client",
        "cluster.objects",
        "shlink.unchanged",
    ),
)
async def _reached(environment: Environment) -> list[Problem]:
    view = environment.view
    manifest = _deployment(environment)
    namespace = manifest["metadata"]["namespace"]
    deployment = await view.named("apps/v1/deployments", namespace, manifest["metadata"]["name"])
    stopped = deployment is not None and deployment["spec"].get("replicas") == 0
    problems: list[Problem] = []
    for service in environment.declared.of_kind("Service"):
        name = service["metadata"]["name"]
        if service["metadata"]["namespace"] != namespace:
            continue
        actual = await view.named("v1/services", namespace, name)
        if actual is None:
            # In a first `up` it comes after the pods; whatever keeps them is the cause then.
            created = deployment["metadata"]["creationTimestamp"] if deployment else None
            young = deployment is not None and age(view, created) < _STARTUP
            problem = await last_update.missing(environment, service)
            if young and problem.severity is Severity.ERROR:
                problem = dataclasses.replace(problem, severity=Severity.PROGRESS)
            problems.append(problem)
        elif name == GEOLITE.name or (stopped and name == manifest["metadata"]["name"]):
            # The checks of their pods tell what is wrong with them.
            continue
        elif not await _endpoints(environment, namespace, name):
            text = f"no Ready pod stands behind Service {namespace}/{name}"
            remedy = environment.kubectl_in(namespace, f"describe service {name}")
            # A Service may be there before its pods.
            new = age(view, actual["metadata"]["creationTimestamp"]) < _STARTUP
            severity = error_unless(changing=new)
            problems.append(Problem(text, "shlink-no-endpoints", remedy, severity=severity))
    for kind, resource in (
        ("Ingress", "networking.k8s.io/v1/ingresses"),
        ("HTTPRoute", "gateway.networking.k8s.io/v1/httproutes"),
    ):
        for route in environment.declared.of_kind(kind):
            actual = await last_update.find(environment, resource, route)
            if actual is None:
                problem = await last_update.missing(environment, route)
                problems.append(dataclasses.replace(problem, causes=CLUSTER))
            else:
                problems += _route(environment, kind, actual)
                problems += await _class(environment, actual)
    return problems


async def _class(environment: Environment, route: Object) -> list[Problem]:
    """The class that an Ingress names exists, so that a controller can take it up."""
    name = at(route, "spec", "ingressClassName")
    if name is None:
        return []
    try:
        known = await environment.view.objects("networking.k8s.io/v1/ingressclasses")
    except ForbiddenError as error:
        return [skip(f"{error}; deploy/rbac/doctor.yaml grants it")]
    if name in [item["metadata"]["name"] for item in known]:
        return []
    text = f"Ingress {route['metadata']['name']} names the class {name}, which does not exist"
    remedy = f"{environment.kubectl} get ingressclass"
    return [Problem(text, "shlink-route", remedy, causes=(*CLUSTER, "shlink.unchanged"))]


def _refuses(entry: Object) -> bool:
    """Whether a gateway's condition keeps the route from working."""
    return entry["type"] in ("Accepted", "ResolvedRefs") and entry["status"] != "True"


async def _endpoints(environment: Environment, namespace: str, service: str) -> bool:
    slices = await environment.view.objects("discovery.k8s.io/v1/endpointslices", namespace)
    for piece in slices:
        labels = labels_of(piece)
        if labels.get("kubernetes.io/service-name") != service:
            continue
        for endpoint in listed(piece, "endpoints"):
            if mapped(endpoint, "conditions").get("ready", True):
                return True
    return False


def _route(environment: Environment, kind: str, actual: Object) -> list[Problem]:
    namespace, name = actual["metadata"]["namespace"], actual["metadata"]["name"]
    described = environment.kubectl_in(namespace, f"describe {kind.lower()} {name}")
    young = age(environment.view, actual["metadata"]["creationTimestamp"]) < GRACE
    if kind == "Ingress":
        published = actual.get("status", {}).get("loadBalancer", {}).get("ingress")
        if published or young:
            return []
        text = f"Ingress {name} has no address: no controller has taken it up"
        level = Severity.WARNING
    else:
        parents = listed(actual, "status", "parents")
        accepted = any(condition({"status": parent}, "Accepted") for parent in parents)
        refused: list[Object] = []
        for parent in parents:
            refused += [entry for entry in listed(parent, "conditions") if _refuses(entry)]
        if accepted and not refused:
            return []
        reason = refused[0].get("reason", "") if refused else "no gateway has looked at it"
        text = f"HTTPRoute {name} is not accepted: {reason}"
        level = Severity.PROGRESS if young else Severity.ERROR
    causes = (*CLUSTER, "cluster.kinds")
    return [Problem(text, "shlink-route", described, severity=level, causes=causes)]

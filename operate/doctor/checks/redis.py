"""Redis behind Sentinel: what redis-operator makes, and that there is one master with a name.

Redis itself asks for a password, which doctor never reads. Its exporter and the sentinels do not.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass

from components import ports
from components.redis.component import MASTER
from components.settings.types import amount
from operate.doctor import last_update
from operate.doctor.drift import unchanged
from operate.doctor.endpoints import unnamed
from operate.doctor.findings import Checks, Environment, Problem, Severity, error_unless, skip
from operate.doctor.inside import tunnel
from operate.doctor.pod_problems import (
    GRACE,
    Workload,
    container_runs,
    moved,
    pod_problems,
    pods_of,
    ready,
)
from operate.view import (
    ForbiddenError,
    LookError,
    NoAnswerError,
    Object,
    SkippedError,
    age,
    at,
    labels_of,
    listed,
    mapped,
    written,
)

from .cluster import CLUSTER

CHECKS = Checks()

check = CHECKS.check

_FAILOVERS = "databases.spotahome.com/v1/redisfailovers"

_ROLE = "redisfailovers-role"

_MEMORY_SHARE = 0.85
"""Of the container's memory limit; the alert's threshold too. `maxmemory` is 60 % of it."""

_DEFAULT_REPLICAS = 3
"""What redis-operator makes where the object names no number."""

_START_SECONDS = 60.0
"""Seconds in which a new server may load its data."""

_REFUSALS = {
    "NOREPLICAS": "somebody has set min-replicas-to-write",
    "MISCONF": "somebody has set stop-writes-on-bgsave-error, and it can't save",
}
"""Errors that no server gives as the program starts it, and what was set by hand then."""

_PING_SECONDS = 1.0
"""Seconds for an answer to PING; beside those of the exporter, a look's patience holds both."""

_PROXY_SECONDS = 2.0
"""Seconds for an answer through the API server's proxy, which some networks fence out."""


def _declared(environment: Environment) -> Object | None:
    """The RedisFailover, where Redis runs in this cluster."""
    declared = environment.declared.of_kind("RedisFailover")
    return declared[0] if declared else None


async def _asked(environment: Environment) -> Object | None:
    """The RedisFailover as redis-operator sees it, or as an update has applied it.

    None: Redis does not run in this cluster, or no update has made it yet.
    """
    manifest = _declared(environment)
    if manifest is None:
        return None
    failover = await last_update.find(environment, _FAILOVERS, manifest)
    metadata = manifest["metadata"]
    before = await last_update.applied(environment)
    if failover is None and before.has("RedisFailover", metadata["namespace"], metadata["name"]):
        return manifest
    return failover


def _workload(manifest: Object, component: str) -> Workload:
    metadata = manifest["metadata"]
    title, part, prefix, setting = "Sentinel", "sentinel", "rfs", "sentinelResources"
    if component == "redis":
        title, part, prefix, setting = "Redis", "redis", "rfr", "resources"
    return Workload(
        title=title,
        namespace=metadata["namespace"],
        labels={
            "app.kubernetes.io/name": metadata["name"],
            "app.kubernetes.io/component": component,
        },
        owners=(f"{prefix}-{metadata['name']}",),
        replicas=int(mapped(manifest, "spec", part).get("replicas", _DEFAULT_REPLICAS)),
        memory_setting=f"shlink:redis.{setting}.memoryLimit",
        secrets=("cluster.objects",),
        unchanged="redis.unchanged",
    )


CHECKS.append(unchanged("redis.unchanged", {"RedisFailover": _FAILOVERS}))


@check(
    "redis.created",
    "redis-operator has made what is declared",
    after=(
        *CLUSTER,
        "cluster.kinds",
        "cluster.policies",
        "operators.available",
        "redis.unchanged",
    ),
)
async def _created(environment: Environment) -> list[Problem]:
    manifest = _declared(environment)
    if manifest is None:
        return []
    view = environment.view
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    failover = await last_update.find(environment, _FAILOVERS, manifest)
    if failover is None:
        return [await last_update.missing(environment, manifest)]
    servers = await view.named("apps/v1/statefulsets", namespace, f"rfr-{name}")
    sentinels = await view.named("apps/v1/deployments", namespace, f"rfs-{name}")
    problems: list[Problem] = []
    if servers is None or sentinels is None:
        young = age(view, failover["metadata"]["creationTimestamp"]) < GRACE
        problems.append(
            Problem(
                "redis-operator has not made what the RedisFailover asks for",
                "redis-not-created",
                environment.kubectl_in(namespace, "logs deployment/redis-operator --tail=30"),
                severity=error_unless(changing=young),
            )
        )
    return problems


@check(
    "redis.answers",
    "every Redis server answers its exporter",
    after=(*CLUSTER, "redis.created", "redis.unchanged"),
)
async def _answers(environment: Environment) -> list[Problem]:
    """The exporter's password is that of the pod, Ready or not."""
    manifest = await _asked(environment)
    if manifest is None:
        return []
    view, metadata = environment.view, manifest["metadata"]
    pods = await pods_of(view, _workload(manifest, "redis"))
    # A rotation gives the servers their new password before it restarts them, one by one.
    asked = written(view, manifest)
    rolling = any(moved(view, pod) for pod in pods)
    rotating = asked < GRACE or (rolling and asked < len(pods) * GRACE)
    containers = ("redis", "redis-exporter")
    running = [pod for pod in pods if all(container_runs(pod, name) for name in containers)]
    told = await asyncio.gather(*(_exported(environment, pod) for pod in running))
    problems: list[Problem] = []
    for pod, server in zip(running, told, strict=True):
        # An exporter waits longer for a server that hangs than doctor waits for the exporter.
        silent = isinstance(server, Problem)
        if not silent and server.value("redis_up") != 0:
            continue
        heard = await _heard(environment, pod)
        if silent and heard != b"":
            continue
        name = pod["metadata"]["name"]
        young = age(view, pod["metadata"]["creationTimestamp"]) < _START_SECONDS
        text, page = f"Redis: {name} does not answer its own exporter", "redis-does-not-answer"
        # The exporter tells of a refusal no more than that it has none (1.74); the server does.
        if heard and heard.startswith(b"-NOAUTH"):
            text = f"Redis: {name} refuses its own exporter's password"
            page = "redis-password-refused"
        # A new server has the Secret's password and none of what was set by hand; no update
        # notices either.
        remedy = environment.kubectl_in(metadata["namespace"], f"delete pod {name}")
        severity = error_unless(changing=rotating or young)
        problems.append(Problem(text, page, remedy, severity=severity))
    return problems


async def _heard(environment: Environment, pod: Object) -> bytes | None:
    """What a server answers to a client without a password: a refusal, if it is well.

    Empty: it takes the connection and says nothing. None: it can't be asked.
    """
    metadata = pod["metadata"]
    try:
        async with tunnel(
            environment.view, metadata["namespace"], metadata["name"], ports.REDIS
        ) as connection:
            await connection.send(b"PING\r\n")
            try:
                return await asyncio.wait_for(connection.receive(), _PING_SECONDS)
            except TimeoutError:
                return b""
    except (NoAnswerError, SkippedError):
        return None


@check(
    "redis.running",
    "Redis and Sentinel are Ready",
    after=(
        *CLUSTER,
        "cluster.nodes",
        "cluster.objects",
        "cluster.volumes",
        "cluster.policies",
        "redis.created",
        "redis.answers",
        "redis.unchanged",
    ),
)
async def _running(environment: Environment) -> list[Problem]:
    manifest = await _asked(environment)
    if manifest is None:
        return []
    problems: list[Problem] = []
    for component in ("redis", "sentinel"):
        workload = _workload(manifest, component)
        own = await pod_problems(environment, workload)
        problems += own
        if not own and not await pods_of(environment.view, workload):
            text = f"{workload.title}: no pod exists"
            remedy = environment.kubectl_in(workload.namespace, "get statefulsets,deployments")
            problems.append(Problem(text, "redis-not-created", remedy))
    return problems


@check(
    "redis.master",
    "Redis has one master",
    after=("redis.running", "operators.available", "redis.unchanged"),
)
async def _master(environment: Environment) -> list[Problem]:
    manifest = await _asked(environment)
    if manifest is None:
        return []
    workload = _workload(manifest, "redis")
    pods = await pods_of(environment.view, workload)
    masters = [pod["metadata"]["name"] for pod in pods if labels_of(pod).get(_ROLE) == "master"]
    if len(masters) == 1 or not pods:
        return []
    moving = any(moved(environment.view, pod) for pod in pods)
    names = ", ".join(masters) or "none"
    return [
        Problem(
            f"Redis: one pod must have the operator's label of the master, but: {names}",
            "redis-no-master",
            environment.kubectl_in(workload.namespace, f"get pods -L {_ROLE}"),
            severity=error_unless(changing=moving),
        )
    ]


@check(
    "redis.names",
    "the Services of Redis and Sentinel lead to every pod",
    after=("redis.created", "redis.running", "redis.unchanged"),
)
async def _names(environment: Environment) -> list[Problem]:
    manifest = await _asked(environment)
    if manifest is None:
        return []
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    services = await environment.view.objects("v1/services", namespace)
    there = {service["metadata"]["name"] for service in services}
    remedy = environment.kubectl_in(namespace, "rollout restart deployment redis-operator")
    missing = sorted({f"rfs-{name}", f"rfr-{name}"} - there)
    if missing:
        text = f"Redis: missing Services: {', '.join(missing)}"
        return [Problem(text, "redis-no-names", remedy)]
    problems: list[Problem] = []
    for component, service in (("redis", f"rfr-{name}"), ("sentinel", f"rfs-{name}")):
        pods = await _settled(environment, _workload(manifest, component))
        unknown = await unnamed(environment.view, namespace, service, pods)
        if unknown:
            text = f"Redis: Service {service} does not lead to {', '.join(unknown)}"
            described = environment.kubectl_in(namespace, f"describe service {service}")
            problems.append(Problem(text, "redis-no-names", described))
    return problems


async def _settled(environment: Environment, workload: Workload) -> list[Object]:
    """Pods that have been Ready for a while, so that whoever watches them has seen it."""
    pods = await pods_of(environment.view, workload)
    return [pod for pod in pods if ready(pod) and not moved(environment.view, pod)]


@check(
    "redis.sentinels",
    "the sentinels agree on the master",
    after=("redis.master", "redis.running", "redis.unchanged"),
)
async def _sentinels(environment: Environment) -> list[Problem]:
    manifest = await _asked(environment)
    if manifest is None:
        return []
    view = environment.view
    servers = await pods_of(view, _workload(manifest, "redis"))
    sentinels = await _settled(environment, _workload(manifest, "sentinel"))
    answers = await asyncio.gather(*(_named_master(environment, pod) for pod in sentinels))
    addresses = {str(at(pod, "status", "podIP")): pod["metadata"]["name"] for pod in servers}
    named: dict[str, list[str]] = {}
    skipped: list[Problem] = []
    for pod, answer in zip(sentinels, answers, strict=True):
        name = pod["metadata"]["name"]
        if isinstance(answer, NoAnswerError):
            skipped.append(skip(f"sentinel {name}: {answer}"))
        else:
            named.setdefault(addresses.get(answer, answer), []).append(name)
    labelled_masters = [
        pod["metadata"]["name"] for pod in servers if labels_of(pod).get(_ROLE) == "master"
    ]
    if len(named) <= 1 and set(named) <= set(labelled_masters):
        return skipped
    told = "; ".join(f"{', '.join(pods)}: {master}" for master, pods in sorted(named.items()))
    label = ", ".join(labelled_masters) or "none"
    moving = any(moved(environment.view, pod) for pod in servers)
    return [
        Problem(
            f"the sentinels do not agree with the label of the master ({label}): {told}",
            "redis-sentinels-disagree",
            environment.kubectl_in(
                manifest["metadata"]["namespace"], f"get pods -o wide -L {_ROLE}"
            ),
            severity=error_unless(changing=moving),
        )
    ]


async def _named_master(environment: Environment, pod: Object) -> str | NoAnswerError:
    """The address that a sentinel names; empty where it knows of none."""
    metadata = pod["metadata"]
    try:
        async with tunnel(
            environment.view, metadata["namespace"], metadata["name"], ports.SENTINEL
        ) as connection:
            await connection.send(f"SENTINEL get-master-addr-by-name {MASTER}\r\n".encode())
            answer = b""
            # An array of two strings, or nil: https://redis.io/docs/latest/develop/reference/protocol-spec/
            while answer.count(b"\r\n") < _lines(answer):
                answer += await connection.receive()
    except NoAnswerError as error:
        return error
    lines = answer.decode(errors="replace").split("\r\n")
    return lines[2] if len(lines) > 2 else ""  # noqa: PLR2004 -- count, length, address


def _lines(answer: bytes) -> int:
    """Lines of the whole answer, by its beginning."""
    return 5 if not answer or answer.startswith(b"*2") else 1


@check(
    "redis.servers",
    "every Redis server answers, takes writes and has memory left",
    after=("redis.master", "redis.running", "redis.unchanged"),
)
async def _servers(environment: Environment) -> list[Problem]:
    manifest = await _asked(environment)
    if manifest is None:
        return []
    servers = await pods_of(environment.view, _workload(manifest, "redis"))
    # The operator looks every 30 s; until then a replica may ask a master that is gone.
    moving = any(moved(environment.view, pod) for pod in servers)
    pods = await _settled(environment, _workload(manifest, "redis"))
    told = await asyncio.gather(*(_exported(environment, pod) for pod in pods))
    problems: list[Problem] = []
    masters: list[str] = []
    for pod, server in zip(pods, told, strict=True):
        if isinstance(server, Problem):
            problems.append(server)
            continue
        problems += _of_server(environment, pod, server, moving=moving)
        if server.label("role") == "master":
            masters.append(pod["metadata"]["name"])
    if len(masters) > 1:
        namespace = manifest["metadata"]["namespace"]
        text = f"Redis: several servers are a master and take writes: {', '.join(masters)}"
        remedy = environment.kubectl_in(namespace, f"get pods -L {_ROLE}")
        severity = error_unless(changing=moving)
        problems.append(Problem(text, "redis-no-master", remedy, severity=severity))
    return problems


def _of_server(
    environment: Environment, pod: Object, server: "_Exported", *, moving: bool
) -> Iterator[Problem]:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    logs = environment.kubectl_in(namespace, f"logs {name} -c redis --tail=20")
    yield from _memory(environment, pod, server)
    if server.value("redis_master_link_up") == 0:
        text = f"Redis: replica {name} does not reach its master"
        severity = error_unless(changing=moving)
        yield Problem(text, "redis-replica-alone", logs, severity=severity)
    for error, reason in _REFUSALS.items():
        if server.refusals(error):
            text = f"Redis: {name} has refused writes since its start ({error}): {reason}"
            remedy = environment.kubectl_in(namespace, f"delete pod {name}")
            warning = Severity.WARNING
            yield Problem(text, "redis-refuses-writes", remedy, severity=warning)
    if server.value("redis_rdb_last_bgsave_status") == 0:
        text = f"Redis: {name} can't save its data: its volume is full, or not writable"
        yield Problem(text, "redis-not-saved", logs, severity=Severity.WARNING)


def _memory(environment: Environment, pod: Object, server: "_Exported") -> Iterator[Problem]:
    """How near a server is to the kernel's limit, and to its own where it evicts nothing."""
    name = pod["metadata"]["name"]
    stack = environment.declared.stack
    remedy = f"pulumi config set --stack {stack} --path shlink:redis.resources.memoryLimit 1Gi"
    limit = 0.0
    for container in listed(pod, "spec", "containers"):
        bound = at(container, "resources", "limits", "memory")
        if container["name"] == "redis" and bound:
            limit = float(amount(str(bound)))
    used = server.value("redis_memory_used_rss_bytes") or 0
    if used > _MEMORY_SHARE * limit:
        text = f"Redis: {name} uses {used / limit:.0%} of its memory limit"
        yield Problem(text, "redis-memory", remedy, severity=Severity.WARNING)
    most, holds = server.value("redis_memory_max_bytes"), server.value("redis_memory_used_bytes")
    if server.label("maxmemory_policy") == "noeviction" and most and holds and holds >= most:
        text = f"Redis: {name} is full, evicts nothing (noeviction) and refuses every write"
        yield Problem(text, "redis-memory", environment.make("refresh"))


@dataclass(frozen=True)
class _Exported:
    """What a server's exporter tells (redis_exporter 1.74)."""

    text: str

    def value(self, name: str) -> float | None:
        """A metric; None where it is not told."""
        values = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", self.text, re.MULTILINE)
        return float(values[-1]) if values else None

    def refusals(self, error: str) -> float:
        """How often it has answered with an error of this name since its start."""
        return self.value(rf'redis_errors_total\{{err="{error}"\}}') or 0

    def label(self, name: str) -> str:
        """A label of `redis_instance_info`; empty where it is not told."""
        pattern = rf'^redis_instance_info\{{.*\b{name}="([^"]*)"'
        values = re.findall(pattern, self.text, re.MULTILINE)
        return str(values[-1]) if values else ""


async def _exported(environment: Environment, pod: Object) -> _Exported | Problem:
    """What a pod's exporter tells of its server, through the API server's proxy."""
    metadata = pod["metadata"]
    place = f"v1/pods/{metadata['name']}:{ports.REDIS_EXPORTER}/proxy/metrics"
    try:
        reply = await environment.view.reply(place, metadata["namespace"], patience=_PROXY_SECONDS)
    except ForbiddenError:
        raise
    except LookError as error:
        return skip(str(error))
    told = _Exported(str(reply.body))
    if told.value("redis_up") is None:
        return skip(f"the exporter of {metadata['name']} tells nothing ({reply.status})")
    return told

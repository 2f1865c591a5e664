"""Redis behind Sentinel: what redis-operator makes, and that there is one master with a name.

Redis itself asks for a password, which doctor never reads. Its exporter and the sentinels do not.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum

from components import ports
from components.monitoring.thresholds import MEMORY_SHARE
from components.network.flows import REDIS_SERVERS, SENTINELS
from components.redis.component import MASTER
from components.settings.types import amount
from operate.doctor import as_declared
from operate.doctor.endpoints import unnamed
from operate.doctor.findings import (
    CLUSTER,
    Checks,
    Environment,
    Problem,
    Severity,
    error_unless,
    skip,
)
from operate.doctor.inside import tunnel
from operate.doctor.last_update import last_update
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
    AbsentError,
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
    names,
    place,
    written,
)

CHECKS = Checks()

check = CHECKS.check

_ROLE = "redisfailovers-role"

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


class _Ping(Enum):
    """How a server answers a client without a password."""

    REFUSED = "as it should"
    SILENT = "it takes the connection and says nothing"
    NOT_ASKED = "it can't be asked"
    OTHER = "in another way"


def _declared(environment: Environment) -> Object:
    """The RedisFailover. Raises AbsentError: Redis does not run in this cluster."""
    declared = environment.declared.of_kind("RedisFailover")
    if not declared:
        raise AbsentError("Redis does not run in this cluster")
    return declared[0]


async def _failover(environment: Environment) -> Object:
    """The RedisFailover as redis-operator sees it, or as an update has applied it.

    Raises AbsentError: Redis does not run in this cluster, or no update has made it yet.
    """
    manifest = _declared(environment)
    failover = await as_declared.actual(environment, manifest)
    update = await last_update(environment)
    if failover is None and not update.has("RedisFailover", *place(manifest)):
        raise AbsentError("no update has made Redis yet")
    return failover or manifest


def _servers_of(failover: Object) -> Workload:
    return _workload(failover, "redis", "Redis", "rfr", "resources")


def _sentinels_of(failover: Object) -> Workload:
    return _workload(failover, "sentinel", "Sentinel", "rfs", "sentinelResources")


def _workload(failover: Object, part: str, title: str, prefix: str, setting: str) -> Workload:
    namespace, name = place(failover)
    pods = REDIS_SERVERS if part == "redis" else SENTINELS
    return Workload(
        title=title,
        namespace=namespace,
        labels=pods.labels,
        owners=(f"{prefix}-{name}",),
        replicas=int(mapped(failover, "spec", part).get("replicas", _DEFAULT_REPLICAS)),
        memory_setting=f"redis.{setting}.memoryLimit",
        secrets=("cluster.objects",),
        unchanged="redis.unchanged",
    )


def _is_labelled_master(pod: Object) -> bool:
    return labels_of(pod).get(_ROLE) == "master"


CHECKS.append(as_declared.unchanged("redis.unchanged", "RedisFailover"))


@check(
    "redis.created",
    "redis-operator has made what is declared",
    after=(*CLUSTER, "cluster.kinds", "cluster.policies", "operators.available", "redis.unchanged"),
)
async def _created(environment: Environment) -> AsyncIterator[Problem]:
    view, manifest = environment.view, _declared(environment)
    namespace, name = place(manifest)
    failover = await as_declared.actual(environment, manifest)
    if failover is None:
        yield await as_declared.missing(environment, manifest)
        return
    servers = await view.named("apps/v1/statefulsets", namespace, f"rfr-{name}")
    sentinels = await view.named("apps/v1/deployments", namespace, f"rfs-{name}")
    if servers is None or sentinels is None:
        young = age(view, failover["metadata"]["creationTimestamp"]) < GRACE
        text = "redis-operator has not made what the RedisFailover asks for"
        logs = environment.kubectl_in(namespace, "logs deployment/redis-operator --tail=30")
        yield Problem(text, "redis-not-created", logs, severity=error_unless(changing=young))


@check(
    "redis.answers",
    "every Redis server answers its exporter",
    after=(*CLUSTER, "redis.created", "redis.unchanged"),
)
async def _answers(environment: Environment) -> AsyncIterator[Problem]:
    """The exporter's password is that of the pod, Ready or not."""
    view, failover = environment.view, await _failover(environment)
    pods = await pods_of(view, _servers_of(failover))
    # A rotation gives the servers their new password before it restarts them, one by one.
    changed = written(view, failover)
    rolling = any(moved(view, pod) for pod in pods)
    rotating = changed < GRACE or (rolling and changed < len(pods) * GRACE)
    exporting = [pod for pod in pods if container_runs(pod, "redis-exporter")]
    running = [pod for pod in exporting if container_runs(pod, "redis")]
    exported = await asyncio.gather(*(_exported(environment, pod) for pod in running))
    for pod, server in zip(running, exported, strict=True):
        # An exporter waits longer for a server that hangs than doctor waits for the exporter.
        silent = isinstance(server, Problem)
        if not silent and server.value("redis_up") != 0:
            continue
        answer = await _ping(environment, pod)
        if silent and answer is not _Ping.SILENT:
            continue
        namespace, name = place(pod)
        young = age(view, pod["metadata"]["creationTimestamp"]) < _START_SECONDS
        text, page = f"Redis: {name} does not answer its own exporter", "redis-does-not-answer"
        # The exporter shows of a refusal no more than that it has none (1.74); the server does.
        if answer is _Ping.REFUSED:
            text = f"Redis: {name} refuses its own exporter's password"
            page = "redis-password-refused"
        # A new server has the Secret's password and none of what was set by hand; no update
        # notices either.
        remedy = environment.kubectl_in(namespace, f"delete pod {name}")
        yield Problem(text, page, remedy, severity=error_unless(changing=rotating or young))


async def _ping(environment: Environment, pod: Object) -> _Ping:
    try:
        async with tunnel(environment.view, *place(pod), ports.REDIS) as connection:
            await connection.send(b"PING\r\n")
            try:
                answer = await asyncio.wait_for(connection.receive(), _PING_SECONDS)
            except TimeoutError:
                return _Ping.SILENT
    except (NoAnswerError, SkippedError):
        return _Ping.NOT_ASKED
    return _Ping.REFUSED if answer.startswith(b"-NOAUTH") else _Ping.OTHER


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
async def _running(environment: Environment) -> AsyncIterator[Problem]:
    failover = await _failover(environment)
    for workload in (_servers_of(failover), _sentinels_of(failover)):
        problems = await pod_problems(environment, workload)
        for problem in problems:
            yield problem
        if not problems and not await pods_of(environment.view, workload):
            text = f"{workload.title}: no pod exists"
            remedy = environment.kubectl_in(workload.namespace, "get statefulsets,deployments")
            yield Problem(text, "redis-not-created", remedy)


@check(
    "redis.master",
    "Redis has one master",
    after=("redis.running", "operators.available", "redis.unchanged"),
)
async def _master(environment: Environment) -> AsyncIterator[Problem]:
    workload = _servers_of(await _failover(environment))
    pods = await pods_of(environment.view, workload)
    masters = names(filter(_is_labelled_master, pods))
    if pods and len(masters) != 1:
        moving = any(moved(environment.view, pod) for pod in pods)
        shown = ", ".join(masters) or "none"
        text = f"Redis: one pod must have the operator's label of the master, but: {shown}"
        remedy = environment.kubectl_in(workload.namespace, f"get pods -L {_ROLE}")
        yield Problem(text, "redis-no-master", remedy, severity=error_unless(changing=moving))


@check(
    "redis.names",
    "the Services of Redis and Sentinel lead to every pod",
    after=("redis.created", "redis.running", "redis.unchanged"),
)
async def _names(environment: Environment) -> AsyncIterator[Problem]:
    failover = await _failover(environment)
    namespace, name = place(failover)
    services = names(await environment.view.objects("v1/services", namespace))
    missing = sorted({f"rfs-{name}", f"rfr-{name}"} - set(services))
    if missing:
        text = f"Redis: missing Services: {', '.join(missing)}"
        remedy = environment.kubectl_in(namespace, "rollout restart deployment redis-operator")
        yield Problem(text, "redis-no-names", remedy)
        return
    for workload in (_servers_of(failover), _sentinels_of(failover)):
        (service,) = workload.owners
        pods = await _settled(environment, workload)
        unknown = await unnamed(environment.view, namespace, service, pods)
        if unknown:
            text = f"Redis: Service {service} does not lead to {', '.join(unknown)}"
            remedy = environment.kubectl_in(namespace, f"describe service {service}")
            yield Problem(text, "redis-no-names", remedy)


async def _settled(environment: Environment, workload: Workload) -> list[Object]:
    """Pods that have been Ready for a while, so that whoever watches them has seen it."""
    pods = await pods_of(environment.view, workload)
    return [pod for pod in pods if ready(pod) and not moved(environment.view, pod)]


@check(
    "redis.sentinels",
    "the sentinels agree on the master",
    after=("redis.master", "redis.running", "redis.unchanged"),
)
async def _sentinels(environment: Environment) -> AsyncIterator[Problem]:
    view, failover = environment.view, await _failover(environment)
    servers = await pods_of(view, _servers_of(failover))
    sentinels = await _settled(environment, _sentinels_of(failover))
    answers = await asyncio.gather(*(_named_master(environment, pod) for pod in sentinels))
    addresses = {str(at(pod, "status", "podIP")): pod["metadata"]["name"] for pod in servers}
    # By the master that they name.
    groups: dict[str, list[str]] = {}
    silent: list[Problem] = []
    for name, answer in zip(names(sentinels), answers, strict=True):
        if isinstance(answer, NoAnswerError):
            silent.append(skip(f"sentinel {name}: {answer}"))
        else:
            groups.setdefault(addresses.get(answer, answer), []).append(name)
    masters = names(filter(_is_labelled_master, servers))
    if len(groups) <= 1 and set(groups) <= set(masters):
        for problem in silent:
            yield problem
        return
    votes = "; ".join(f"{', '.join(pods)}: {master}" for master, pods in sorted(groups.items()))
    label = ", ".join(masters) or "none"
    moving = any(moved(view, pod) for pod in servers)
    yield Problem(
        f"the sentinels do not agree with the label of the master ({label}): {votes}",
        "redis-sentinels-disagree",
        environment.kubectl_in(place(failover)[0], f"get pods -o wide -L {_ROLE}"),
        severity=error_unless(changing=moving),
    )


async def _named_master(environment: Environment, pod: Object) -> str | NoAnswerError:
    """The address that a sentinel names; empty where it knows of none."""
    try:
        async with tunnel(environment.view, *place(pod), ports.SENTINEL) as connection:
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
async def _servers(environment: Environment) -> AsyncIterator[Problem]:
    workload = _servers_of(await _failover(environment))
    servers = await pods_of(environment.view, workload)
    # The operator looks every 30 s; until then a replica may ask a master that is gone.
    moving = any(moved(environment.view, pod) for pod in servers)
    pods = await _settled(environment, workload)
    exported = await asyncio.gather(*(_exported(environment, pod) for pod in pods))
    masters: list[str] = []
    for pod, server in zip(pods, exported, strict=True):
        if isinstance(server, Problem):
            yield server
            continue
        for problem in _of_server(environment, pod, server, moving=moving):
            yield problem
        if server.label("role") == "master":
            masters.append(pod["metadata"]["name"])
    if len(masters) > 1:
        text = f"Redis: several servers are a master and take writes: {', '.join(masters)}"
        remedy = environment.kubectl_in(workload.namespace, f"get pods -L {_ROLE}")
        yield Problem(text, "redis-no-master", remedy, severity=error_unless(changing=moving))


def _of_server(
    environment: Environment, pod: Object, server: "_Exported", *, moving: bool
) -> Iterator[Problem]:
    namespace, name = place(pod)
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
    remedy = environment.setting("redis.resources.memoryLimit", "1Gi")
    limit = 0.0
    for container in listed(pod, "spec", "containers"):
        bound = at(container, "resources", "limits", "memory")
        if container["name"] == "redis" and bound:
            limit = float(amount(str(bound)))
    used = server.value("redis_memory_used_rss_bytes") or 0
    if used > MEMORY_SHARE * limit:
        text = f"Redis: {name} uses {used / limit:.0%} of its memory limit"
        yield Problem(text, "redis-memory", remedy, severity=Severity.WARNING)
    most, holds = server.value("redis_memory_max_bytes"), server.value("redis_memory_used_bytes")
    if server.label("maxmemory_policy") == "noeviction" and most and holds and holds >= most:
        text = f"Redis: {name} is full, evicts nothing (noeviction) and refuses every write"
        yield Problem(text, "redis-memory")


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
    namespace, name = place(pod)
    path = f"v1/pods/{name}:{ports.REDIS_EXPORTER}/proxy/metrics"
    try:
        reply = await environment.view.reply(path, namespace, patience=_PROXY_SECONDS)
    except ForbiddenError:
        raise
    except LookError as error:
        return skip(str(error))
    exported = _Exported(str(reply.body))
    if exported.value("redis_up") is None:
        return skip(f"the exporter of {name} tells nothing ({reply.status})")
    return exported

"""Redis: behind Sentinel by redis-operator, managed elsewhere, or none, and what clients must know.

Redis holds caches and locks: nothing that is not made again. The operator's redis.conf writes a
snapshot every 15 minutes at most and at each orderly stop, and that is all that survives.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import pulumi
from pulumi_kubernetes import batch, core, meta

from .. import ports, scripts
from ..cluster.access import ClusterAccess
from ..cluster.waits import ReadinessCheck, WaitTarget, replicas_ready, wait_hook
from ..credentials.delivery import Delivery
from ..credentials.passwords import password
from ..manifests.placement import Placement
from ..manifests.pods import (
    CONTAINER_SECURITY,
    JobArgs,
    job,
    pod_security,
    requirements,
    secret_variable,
    variables,
    volume_claim,
)
from ..settings.changes import Record, refusal_hook, volume
from ..settings.platform import Resources, Volume
from ..settings.redis import ExternalRedis, database
from ..settings.types import amount
from .crds import RedisFailover, RedisFailoverSpec, RedisRestart, RedisServers, Sentinels

FAILOVER = "shlink-redis"
"""Shlink's RedisFailover; the network policies select its pods by this name."""

MASTER = "mymaster"
"""The monitored master's name, fixed by redis-operator (v1.2.4, service/generator.go)."""

REVISION_ANNOTATION = "shlink.io/revision"
"""On the RedisFailover. The operator copies it to the StatefulSet, so there it tells which
specification the operator has acted on. It is not in the pod template and restarts nothing."""

_USER = 1000

_VOLUME = Volume()

_SERVER = Resources()

_SENTINEL = Resources(memory="32Mi", memory_limit="128Mi")

_SMALL = Resources(cpu="10m", memory="32Mi", memory_limit="64Mi")

# The rest is for replication and client buffers, and for changes while a child writes a snapshot.
_MAXMEMORY_PERCENT = 60


def auth_secret_name(failover: str) -> str:
    """Name of the Secret in which redis-operator finds the password of this RedisFailover."""
    return f"{failover}-auth"


@dataclass(frozen=True)
class RedisEndpoint:
    """What a client must know to reach Redis."""

    host: pulumi.Input[str]
    """What a client connects to first: a sentinel, or the server."""
    port: int
    servers: pulumi.Input[str] | None
    """URLs; None where they hold a password and so are among the secrets."""
    sentinel_service: str | None
    """The monitored master's name; None where there is no Sentinel."""
    delivery: Delivery | None
    """`password` and `user`: of the Redis servers behind Sentinel. `servers`: the URLs with the
    password in them. None if Redis asks for no password."""
    resources: Sequence[pulumi.Resource]
    """What a client depends on."""
    ready: pulumi.ResourceHook | None
    """For a client's `before_create` and `before_update`: returns once the servers run as declared
    and accept the password. None if Redis is not of this program."""
    ca_pem: str | None = None
    """The private authority of the servers' certificates."""


def external(settings: ExternalRedis, shlink: tuple[int, ...]) -> RedisEndpoint:
    """A Redis elsewhere, as this version of Shlink is told of it.

    Outside Sentinel, Shlink takes a user and a password only inside the URL, and with a single
    sentinel it ignores the service (shlink-common, RedisFactory).
    """
    first = urlsplit(settings.servers[0])
    sentinels = settings.sentinel_service is not None
    urls = [_url(server, shlink) for server in settings.servers]
    if sentinels and len(urls) == 1:
        urls *= 2
    values: dict[str, str] = {}
    if settings.password and sentinels:
        values["password"] = settings.password.get_secret_value()
        if settings.user:
            values["user"] = settings.user
    elif settings.password:
        login = ":".join(
            quote(part, safe="")
            for part in (settings.user or "", settings.password.get_secret_value())
        )
        values["servers"] = ",".join(url.replace("://", f"://{login}@", 1) for url in urls)
    delivery = None
    if values:
        delivery = _delivery({key: pulumi.Output.secret(value) for key, value in values.items()})
    servers = None if "servers" in values else ",".join(urls)
    return RedisEndpoint(
        host=first.hostname or "",
        port=first.port or ports.REDIS,
        servers=servers,
        sentinel_service=settings.sentinel_service,
        delivery=delivery,
        resources=[],
        ready=None,
        ca_pem=settings.ca,
    )


def _url(server: str, shlink: tuple[int, ...]) -> str:
    """A server's URL, with its database as this version of Shlink reads it."""
    number = database(server)
    plain = re.sub(r"(?<=[^/:])/?(/|\?database=)[0-9]+$", "", server)
    if not number:
        return plain
    return f"{plain}?database={number}" if shlink >= (5, 0) else f"{plain}/{number}"


def _delivery(values: Mapping[str, pulumi.Output[str]]) -> Delivery:
    return Delivery(
        name="redis-credentials",
        secret="shlink-redis",  # noqa: S106 -- a name
        path="redis/shlink",
        values=values,
    )


@dataclass(frozen=True)
class RedisArgs:
    """A RedisFailover of redis-operator."""

    namespace: pulumi.Input[str]
    """Where Redis and Sentinel run."""
    operator: Sequence[pulumi.Resource]
    """redis-operator and its rights: they outlive the RedisFailover. Empty if pre-installed."""
    access: ClusterAccess
    """How the wait before a client asks the cluster."""
    image: pulumi.Input[str]
    """Redis, for servers and sentinels; it must have a shell and redis-cli."""
    exporter_image: pulumi.Input[str]
    """oliver006/redis_exporter, beside each server."""
    engine: Literal["Redis", "Valkey"] = "Redis"
    """What `image` holds. Valkey's has commands by Redis' names too, for what this program runs."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """On the RedisFailover, for an operator that picks its resources by label."""
    replicas: int = 3
    """Redis pods: one master, the others replicas. Two survive the loss of one."""
    sentinels: int = 3
    """Sentinel pods, an odd number: a majority agrees on a failover."""
    storage: Volume = _VOLUME
    """A volume per Redis pod, for its snapshot; it needs no more than the memory limit."""
    resources: Resources = _SERVER
    """Of each Redis server. The memory limit also bounds the data: 60 % of it."""
    sentinel_resources: Resources = _SENTINEL
    """Of each sentinel."""
    placement: Placement = field(default_factory=Placement)
    """On which nodes Redis, Sentinel and the Job may run."""
    rotation: int = 1
    """Number of the password: raise it by one and every server learns another one while it runs."""
    protect: bool = False
    """Refuse to delete the RedisFailover."""
    allowed_changes: frozenset[str] = frozenset()
    """Changes that are refused otherwise, after they were prepared by hand."""


class Redis(pulumi.ComponentResource):
    """Redis servers with a master that Sentinel chooses; the objects are called after `name`."""

    endpoint: RedisEndpoint
    """How clients reach it, through Sentinel."""

    def __init__(
        self, name: str, args: RedisArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:redis:Redis", name, None, opts)
        self._name, self._args = name, args
        child = pulumi.ResourceOptions(parent=self)
        current = password(f"{name}-password", args.rotation, child)
        previous = None
        if args.rotation > 1:
            previous = password(f"{name}-password", args.rotation - 1, child)

        account = core.v1.ServiceAccount(
            f"{name}-pods",
            metadata=meta.v1.ObjectMetaArgs(name=name, namespace=args.namespace),
            automount_service_account_token=False,
            opts=child,
        )
        passwords: dict[str, pulumi.Input[str]] = {"password": current}
        if previous is not None:
            passwords["previous"] = previous
        secret = core.v1.Secret(
            f"{name}-auth",
            metadata=meta.v1.ObjectMetaArgs(name=auth_secret_name(name), namespace=args.namespace),
            string_data=passwords,
            opts=child,
        )
        spec = _failover_spec(name, args, secret, account)
        revision = pulumi.Output.json_dumps(spec).apply(_digest)
        # redis-operator also copies the password into ConfigMap rfr-<name>, in plain text: whoever
        # may read that ConfigMap has it, and no role of this program but the operator's own does.
        failover = RedisFailover(
            name,
            metadata=meta.v1.ObjectMetaArgs(
                name=name,
                namespace=args.namespace,
                labels=args.labels or None,
                annotations={REVISION_ANNOTATION: revision},
            ),
            spec=spec,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[secret, account, *args.operator],
                protect=args.protect,
                hooks=pulumi.ResourceHookBinding(
                    before_update=[refusal_hook(f"{name}-guard", args.allowed_changes, recorded)]
                ),
            ),
        )
        self._failover = failover
        sentinel = pulumi.Output.concat("rfs-", name, ".", args.namespace, ".svc")
        ready = _ready(name, args, revision)
        resources: list[pulumi.Resource] = [failover]
        if previous is not None:
            opts_of_rotation = pulumi.ResourceOptions(
                parent=self,
                depends_on=[failover],
                hooks=pulumi.ResourceHookBinding(before_create=[ready]),
            )
            resources.append(_rotation(name, args, secret, sentinel, opts_of_rotation))

        # The same sentinel twice: with a single server Shlink ignores the sentinel setting and
        # speaks Redis to the sentinel. That is the guide's "Cannot use object of type
        # Predis\\Response\\Error as array".
        url = pulumi.Output.concat("tcp://", sentinel, f":{ports.SENTINEL}")
        self.endpoint = RedisEndpoint(
            host=sentinel,
            port=ports.SENTINEL,
            servers=pulumi.Output.concat(url, ",", url),
            sentinel_service=MASTER,
            delivery=_delivery({"password": current}),
            resources=resources,
            ready=ready,
        )
        self.register_outputs({"servers": self.endpoint.servers})

    def end_previous_password(self, clients: Sequence[pulumi.Resource]) -> None:
        """Restart the servers once these clients use the new password; nothing at the first one.

        The operator restarts the pods one by one, the master last, when their template changes, and
        a restarted pod knows the new password only. While clients roll as well, some wait for a
        pod that has just gone: 5 of 1,365 requests took longer than 10 s (2026-12-01).
        """
        if self._args.rotation == 1:
            return
        RedisRestart(
            f"{self._name}-restart",
            self._name,
            self._args.namespace,
            {"shlink.io/password-rotation": str(self._args.rotation)},
            pulumi.ResourceOptions(
                parent=self,
                depends_on=[self._failover, *clients],
                # The annotation goes with the RedisFailover: without it the pods would restart.
                retain_on_delete=True,
            ),
        )


def recorded(inputs: Mapping[str, Any]) -> Record:
    """The settings that a RedisFailover was made of, and that may not simply change."""
    servers = inputs["spec"]["redis"]
    claim = servers["storage"]["persistentVolumeClaim"]["spec"]
    return {"images.redis": servers["image"], **volume("redis.storage", claim)}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _ready(name: str, args: RedisArgs, revision: pulumi.Output[str]) -> pulumi.ResourceHook:
    """A RedisFailover has no status: what the operator makes of it is what can be waited for."""
    servers = WaitTarget(
        resource="statefulsets.v1.apps",
        namespace=args.namespace,
        name=f"rfr-{name}",
        not_ready=revision.apply(_servers_check),
    )
    sentinels = WaitTarget(
        resource="deployments.v1.apps",
        namespace=args.namespace,
        name=f"rfs-{name}",
        not_ready=replicas_ready,
    )
    return wait_hook(f"{name}-ready", args.access, [servers, sentinels])


def _servers_check(revision: str) -> ReadinessCheck:
    return partial(servers_ready, revision)


def servers_ready(revision: str, statefulset: Mapping[str, Any]) -> str | None:
    """For the StatefulSet of a RedisFailover: the operator acted on this revision, servers answer.

    A pod is Ready once it follows a master or is one. One may be away: after a change the operator
    restarts the pods one at a time, the master last, and a client that waited for all of them would
    keep a rotated password's predecessor until the servers no longer accept it.
    """
    annotations: Mapping[str, str] = statefulset["metadata"].get("annotations", {})
    if annotations.get(REVISION_ANNOTATION) != revision:
        return "redis-operator has not acted on the latest change yet"
    replicas = statefulset["spec"]["replicas"]
    ready = statefulset.get("status", {}).get("readyReplicas", 0)
    if ready < replicas - 1:
        return f"{ready} of {replicas} Redis pods are Ready, at least {replicas - 1} must be"
    return None


def _failover_spec(
    name: str, args: RedisArgs, secret: core.v1.Secret, account: core.v1.ServiceAccount
) -> RedisFailoverSpec:
    service_account = account.metadata.name.apply(str)
    spec: RedisFailoverSpec = {
        "redis": _servers(name, args, service_account),
        "sentinel": _sentinels(name, args, service_account),
        "auth": {"secretPath": secret.metadata.name.apply(str)},
        # The resource's own labels would be copied to its pods and roll them whenever one changes.
        "labelWhitelist": ["^$"],
    }
    if args.engine != "Redis":
        # The archived operator's CRD does not have the field.
        spec["engine"] = args.engine
    return spec


def _servers(name: str, args: RedisArgs, service_account: pulumi.Output[str]) -> RedisServers:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "redis"}
    servers: RedisServers = {
        "image": args.image,
        "imagePullPolicy": "IfNotPresent",
        # In the command line: the operator sets `customConfig` while Redis runs, so a restarted
        # server would not have it.
        "command": ["redis-server", "/redis/redis.conf", *_options(args.resources.memory_limit)],
        "customConfig": [],
        "replicas": args.replicas,
        "resources": requirements(args.resources),
        "securityContext": pod_security(_USER),
        "containerSecurityContext": CONTAINER_SECURITY,
        "serviceAccountName": service_account,
        "topologySpreadConstraints": args.placement.spread(labels),
        "storage": {
            "keepAfterDeletion": False,
            "persistentVolumeClaim": {
                "metadata": {"name": "data"},
                "spec": volume_claim(args.storage),
            },
        },
        # Without the exporter the operator deletes the headless Service rfr-<name> on every
        # reconcile, and each pod loses its DNS name. With it, the operator creates that Service.
        "exporter": {
            "enabled": True,
            "image": args.exporter_image,
            "imagePullPolicy": "IfNotPresent",
            "containerSecurityContext": CONTAINER_SECURITY,
            "resources": requirements(_SMALL),
        },
        # Before it stops, a master asks for a failover and sleeps 31 s; the default is 30.
        "terminationGracePeriod": 60,
        **args.placement.on_nodes(),
    }
    if args.placement.pull_secret:
        servers["imagePullSecrets"] = args.placement.pull_secrets()
    return servers


def _options(memory_limit: str) -> list[str]:
    """Options of redis-server beyond the operator's redis.conf.

    Shlink's cached items never expire (its default lifetime is 0), only its locks do. So a
    `volatile-*` policy would evict nothing but locks, and `noeviction` would refuse the next lock
    when the cache is full. The least recently used key is an old item: a held lock goes only once a
    whole cache's worth of items was written after it.
    """
    options = {
        "maxmemory": str(int(amount(memory_limit)) * _MAXMEMORY_PERCENT // 100),
        "maxmemory-policy": "allkeys-lru",
        # LRU is approximated by a sample; the default of 5 is further from the truth.
        "maxmemory-samples": "10",
        # A full volume must not stop the locks.
        "stop-writes-on-bgsave-error": "no",
    }
    arguments: list[str] = []
    for option, value in options.items():
        arguments += [f"--{option}", value]
    return arguments


def _sentinels(name: str, args: RedisArgs, service_account: pulumi.Output[str]) -> Sentinels:
    labels = {"app.kubernetes.io/name": name, "app.kubernetes.io/component": "sentinel"}
    sentinels: Sentinels = {
        "image": args.image,
        "imagePullPolicy": "IfNotPresent",
        "replicas": args.sentinels,
        "resources": requirements(args.sentinel_resources),
        "securityContext": pod_security(_USER),
        "containerSecurityContext": CONTAINER_SECURITY,
        "serviceAccountName": service_account,
        "topologySpreadConstraints": args.placement.spread(labels),
        # How long a master may be silent before it is replaced. After the operator's default of
        # 1 s, a busy node counts as a dead master.
        "customConfig": ["down-after-milliseconds 5000", "failover-timeout 10000"],
        "configCopy": {"containerSecurityContext": CONTAINER_SECURITY},
        **args.placement.on_nodes(),
    }
    if args.placement.pull_secret:
        sentinels["imagePullSecrets"] = args.placement.pull_secrets()
    return sentinels


def _rotation(
    name: str,
    args: RedisArgs,
    secret: core.v1.Secret,
    sentinel: pulumi.Output[str],
    opts: pulumi.ResourceOptions,
) -> batch.v1.Job:
    """Gives the running servers and sentinels the new password, except those that have it."""
    port = f".svc:{ports.REDIS}"
    servers: list[pulumi.Output[str]] = []
    for number in range(args.replicas):
        host = f"rfr-{name}-{number}.rfr-{name}."
        servers.append(pulumi.Output.concat(host, args.namespace, port))
    settings = {
        "SERVERS": pulumi.Output.all(*servers).apply(" ".join),
        "SENTINEL": pulumi.Output.concat(sentinel, f":{ports.SENTINEL}"),
        "MASTER": MASTER,
    }
    container = core.v1.ContainerArgs(
        name="rotate",
        image=args.image,
        command=["sh", "-c", scripts.read("redis_rotate.sh")],
        env=[
            *variables(settings),
            secret_variable("NEW", secret.metadata.name, "password"),
            secret_variable("OLD", secret.metadata.name, "previous"),
        ],
        security_context=CONTAINER_SECURITY,
        resources=requirements(_SMALL),
    )
    return job(
        f"{name}-rotation-{args.rotation}",
        JobArgs(
            name=f"{name}-rotation-{args.rotation}",
            namespace=args.namespace,
            labels={"app.kubernetes.io/name": f"{name}-rotation"},
            user=_USER,
            containers=[container],
            placement=args.placement,
        ),
        opts,
    )

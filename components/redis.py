"""Redis with Sentinel by redis-operator, a managed Redis elsewhere, or none; and what Shlink must be told to reach it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

import pulumi
from pulumi_kubernetes import batch, core, meta

from .cluster import ClusterAccess
from .crds import RedisFailover, RedisFailoverSpec
from .credentials import password
from .delivery import Delivery
from .network import REDIS, REDIS_ROTATION
from .pods import (
    CONTAINER_SECURITY,
    JobArgs,
    job,
    pod_security,
    requirements,
    secret_variable,
    spread,
    volume_claim,
)
from .settings import ExternalRedis, FailoverRedis, Images, Resources
from .waits import WaitTarget, replicas_ready, wait_hook

FAILOVER = "shlink-redis"
MASTER = "mymaster"
"""What redis-operator calls the monitored master."""

_USER = 1000
_SENTINEL = f"rfs-{FAILOVER}.{REDIS}.svc.cluster.local"


def auth_secret_name(failover: str) -> str:
    """Name of the Secret in which redis-operator finds the password of this RedisFailover."""
    return f"{failover}-auth"


@dataclass(frozen=True)
class RedisEndpoint:
    """What a client must know to reach Redis."""

    host: str
    """What a client connects to first."""
    port: int
    servers: str | None
    """URLs; None where they hold a password and so are among the secrets."""
    sentinel_service: str | None
    delivery: Delivery | None
    """`password`: of the Redis servers behind Sentinel. `servers`: the URLs with the password in
    them. None if Redis asks for no password."""
    usable: Sequence[pulumi.Resource]
    """What a client depends on."""


def external(settings: ExternalRedis) -> RedisEndpoint:
    """A managed Redis. Shlink takes a password only inside the URL unless it goes through Sentinel (shlink-common, RedisFactory)."""
    first = urlsplit(settings.servers[0])
    secrets: dict[str, pulumi.Output[str]] = {}
    if settings.password:
        secret = quote(settings.password.get_secret_value(), safe="")
        secrets["servers"] = pulumi.Output.secret(
            ",".join(url.replace("://", f"://:{secret}@", 1) for url in settings.servers)
        )
    return RedisEndpoint(
        host=first.hostname or "",
        port=first.port or 6379,
        servers=None if secrets else ",".join(settings.servers),
        sentinel_service=None,
        delivery=_delivery(secrets) if secrets else None,
        usable=[],
    )


def _delivery(values: Mapping[str, pulumi.Output[str]]) -> Delivery:
    return Delivery(
        name="redis-credentials",
        secret="shlink-redis",  # noqa: S106 -- a name
        path="redis/shlink",
        values=values,
    )


@dataclass(frozen=True)
class RedisArgs:
    namespace: pulumi.Input[str]
    operator: Sequence[pulumi.Resource]
    """redis-operator and its rights, when this program installs them; they must outlive the RedisFailover."""
    access: ClusterAccess
    settings: FailoverRedis
    images: Images
    rotation: int
    protect: bool


class Redis(pulumi.ComponentResource):
    """A RedisFailover whose pods are Ready, and whose password every one of them accepts."""

    endpoint: RedisEndpoint
    """Redis through Sentinel."""

    def __init__(
        self, name: str, args: RedisArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:redis:Redis", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        own = pulumi.ResourceOptions(parent=self)
        current = password(f"{name}-password", args.rotation, own)
        previous = (
            password(f"{name}-password", args.rotation - 1, own) if args.rotation > 1 else None
        )

        account = core.v1.ServiceAccount(
            f"{name}-pods",
            metadata=meta.v1.ObjectMetaArgs(name=FAILOVER, namespace=args.namespace),
            automount_service_account_token=False,
            opts=child,
        )
        secret = core.v1.Secret(
            f"{name}-auth",
            metadata=meta.v1.ObjectMetaArgs(
                name=auth_secret_name(FAILOVER), namespace=args.namespace
            ),
            string_data={"password": current, **({"previous": previous} if previous else {})},
            opts=child,
        )
        # redis-operator 1.2.4 also copies the password into ConfigMap rfr-shlink-redis, in plain text. So whoever may read
        # ConfigMaps in `redis` has it: no role of this program grants that but the operator's own (docs/security.md).
        failover = RedisFailover(
            name,
            metadata=meta.v1.ObjectMetaArgs(name=FAILOVER, namespace=args.namespace),
            spec=_failover_spec(args.settings, args.images, secret, account, args.rotation),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[secret, account, *args.operator],
                hooks=_ready(name, args),
                protect=args.protect,
            ),
        )
        usable: pulumi.Resource = failover
        if previous is not None:
            usable = _rotation(
                f"{name}-rotation-{args.rotation}",
                args,
                secret,
                pulumi.ResourceOptions(parent=self, depends_on=[failover]),
            )

        # The same sentinel twice: with a single server Shlink ignores the sentinel setting and speaks Redis to the sentinel
        # (the guide's "Cannot use object of type Predis\\Response\\Error as array").
        url = f"tcp://{_SENTINEL}:26379"
        self.endpoint = RedisEndpoint(
            host=_SENTINEL,
            port=26379,
            servers=f"{url},{url}",
            sentinel_service=MASTER,
            delivery=_delivery({"password": current}),
            usable=[usable],
        )
        self.register_outputs({"servers": self.endpoint.servers})


def _ready(name: str, args: RedisArgs) -> pulumi.ResourceHookBinding:
    """A RedisFailover has no status: what the operator makes of it is what can be waited for."""
    hook = wait_hook(
        f"{name}-ready",
        args.access,
        [
            WaitTarget("statefulsets.apps", args.namespace, f"rfr-{FAILOVER}", replicas_ready),
            WaitTarget("deployments.apps", args.namespace, f"rfs-{FAILOVER}", replicas_ready),
        ],
    )
    return pulumi.ResourceHookBinding(after_create=[hook], after_update=[hook])


def _failover_spec(
    settings: FailoverRedis,
    images: Images,
    secret: core.v1.Secret,
    account: core.v1.ServiceAccount,
    rotation: int,
) -> RedisFailoverSpec:
    labels = {"app.kubernetes.io/name": FAILOVER}
    service_account = account.metadata.name.apply(str)
    return {
        "redis": {
            "image": images.redis,
            "imagePullPolicy": "IfNotPresent",
            "replicas": settings.replicas,
            "resources": requirements(settings.resources),
            "securityContext": pod_security(_USER),
            "containerSecurityContext": CONTAINER_SECURITY,
            "serviceAccountName": service_account,
            "topologySpreadConstraints": [
                spread({**labels, "app.kubernetes.io/component": "redis"})
            ],
            "customConfig": ["appendonly yes"],
            # The operator restarts the pods one by one, the master last, when their template changes: a restarted pod knows the
            # new password only.
            "podAnnotations": {"shlink.io/password-rotation": str(rotation)},
            "storage": {
                "keepAfterDeletion": False,
                "persistentVolumeClaim": {
                    "metadata": {"name": "data"},
                    "spec": volume_claim(settings.storage),
                },
            },
            # Without the exporter the operator deletes the headless Service rfr-shlink-redis on every reconcile, and with it each
            # pod's DNS name; with it, the operator makes that Service itself.
            "exporter": {
                "enabled": True,
                "image": images.redis_exporter,
                "imagePullPolicy": "IfNotPresent",
                "containerSecurityContext": CONTAINER_SECURITY,
                "resources": requirements(Resources(cpu="10m", memory="32Mi", memory_limit="64Mi")),
            },
            # Before it stops, a master asks for a failover and sleeps 31 s; Kubernetes' default would kill it after 30.
            "terminationGracePeriod": 60,
        },
        "sentinel": {
            "image": images.redis,
            "imagePullPolicy": "IfNotPresent",
            "replicas": settings.sentinels,
            "resources": requirements(settings.sentinel_resources),
            "securityContext": pod_security(_USER),
            "containerSecurityContext": CONTAINER_SECURITY,
            "serviceAccountName": service_account,
            "topologySpreadConstraints": [
                spread({**labels, "app.kubernetes.io/component": "sentinel"})
            ],
            "customConfig": ["down-after-milliseconds 5000", "failover-timeout 10000"],
            "configCopy": {"containerSecurityContext": CONTAINER_SECURITY},
        },
        "auth": {"secretPath": secret.metadata.name.apply(str)},
        # The resource's own labels would be copied to its pods and roll them whenever one changes.
        "labelWhitelist": ["^$"],
    }


ROTATE = r"""
set -eu
# Running pods keep the password they started with, and the operator only tries the new one: without this it finds no master and
# heals nothing. Both are accepted here until the operator has restarted the pods. Values go over standard input, not the command line.
rotate() {
  host=$1 port=$2
  REDISCLI_AUTH=$NEW redis-cli --no-auth-warning -h "$host" -p "$port" ping 2>/dev/null | grep -q PONG && known=$NEW || known=$OLD
  printf '>%s' "$NEW" | REDISCLI_AUTH=$known redis-cli --no-auth-warning -e -h "$host" -p "$port" -x acl setuser default >/dev/null
  printf '%s' "$NEW" | REDISCLI_AUTH=$NEW redis-cli --no-auth-warning -e -h "$host" -p "$port" -x config set masterauth >/dev/null
  echo "redis $host:$port accepts the new password"
}
for server in $SERVERS; do rotate "${server%:*}" "${server##*:}"; done
# A sentinel knows the others but not itself: ask one, then ask the ones it names.
others() {
  redis-cli -e -h "$1" -p "$2" --csv sentinel sentinels mymaster | tr -d '"' | tr ',' '\n' |
    awk '$0=="ip"{getline;i=$0} $0=="port"{getline;print i":"$0}'
}
first=$(others "${SENTINEL%:*}" "${SENTINEL##*:}")
all=$(for one in $first; do echo "$one"; others "${one%:*}" "${one##*:}"; done | sort -u)
[ -n "$all" ] || { echo "no sentinel answers" >&2; exit 1; }
for one in $all; do
  printf '%s' "$NEW" | redis-cli -e -h "${one%:*}" -p "${one##*:}" -x sentinel set mymaster auth-pass >/dev/null
  echo "sentinel $one uses the new password"
done
"""
"""Run by the rotation Job: $SERVERS and $SENTINEL are host:port, $OLD and $NEW the passwords."""


def _rotation(
    name: str, args: RedisArgs, secret: core.v1.Secret, opts: pulumi.ResourceOptions
) -> batch.v1.Job:
    """Teaches the running Redis and Sentinel pods the new password. Repeatable: a pod that knows it already is passed over."""
    servers = [
        f"rfr-{FAILOVER}-{n}.rfr-{FAILOVER}.{REDIS}.svc.cluster.local:6379"
        for n in range(args.settings.replicas)
    ]

    return job(
        name,
        JobArgs(
            name=f"{FAILOVER}-rotation-{args.rotation}",
            labels=REDIS_ROTATION.labels,
            namespace=args.namespace,
            user=_USER,
            containers=[
                core.v1.ContainerArgs(
                    name="rotate",
                    image=args.images.redis,
                    command=["sh", "-c", ROTATE],
                    env=[
                        core.v1.EnvVarArgs(name="SERVERS", value=" ".join(servers)),
                        core.v1.EnvVarArgs(name="SENTINEL", value=f"{_SENTINEL}:26379"),
                        secret_variable("NEW", secret.metadata.name, "password"),
                        secret_variable("OLD", secret.metadata.name, "previous"),
                    ],
                    security_context=CONTAINER_SECURITY,
                    resources=requirements(
                        Resources(cpu="10m", memory="16Mi", memory_limit="64Mi")
                    ),
                )
            ],
        ),
        opts,
    )

"""Redis behind Sentinel: what redis-operator makes, and that there is one master with a name."""

from operate.findings import Check, Environment, Problem, error_unless
from operate.pods import GRACE, Workload, pod_problems, pods_of
from operate.view import Object, age, condition, labels_of

from .cluster import CLUSTER

_FAILOVERS = "databases.spotahome.com/v1/redisfailovers"
_ROLE = "redisfailovers-role"


def _declared(environment: Environment) -> Object | None:
    """The RedisFailover, where Redis runs in this cluster."""
    declared = environment.declared.of_kind("RedisFailover")
    return declared[0] if declared else None


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
        replicas=int(manifest["spec"][part]["replicas"]),
        memory_setting=f"shlink:redis.{setting}.memoryLimit",
        secrets=("cluster.objects",),
    )


async def _created(environment: Environment) -> list[Problem]:
    manifest = _declared(environment)
    if manifest is None:
        return []
    view = environment.view
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    failover = await view.named(_FAILOVERS, namespace, name)
    if failover is None:
        text = f"RedisFailover {namespace}/{name} does not exist"
        return [Problem(text, "object-missing", environment.make("refresh"))]
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


async def _running(environment: Environment) -> list[Problem]:
    manifest = _declared(environment)
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


async def _master(environment: Environment) -> list[Problem]:
    """One Redis pod carries the operator's label of a master."""
    manifest = _declared(environment)
    if manifest is None:
        return []
    workload = _workload(manifest, "redis")
    pods = await pods_of(environment.view, workload)
    masters = [pod["metadata"]["name"] for pod in pods if labels_of(pod).get(_ROLE) == "master"]
    if len(masters) == 1 or not pods:
        return []
    moving = any(_moving(environment, pod) for pod in pods)
    names = ", ".join(masters) or "none"
    return [
        Problem(
            f"Redis: one pod must be the master, but: {names}",
            "redis-no-master",
            environment.kubectl_in(workload.namespace, f"get pods -L {_ROLE}"),
            severity=error_unless(changing=moving),
        )
    ]


def _moving(environment: Environment, pod: Object) -> bool:
    """Whether a pod is new or stopping, as in a failover: the operator looks every 30 s."""
    if "deletionTimestamp" in pod["metadata"]:
        return True
    ready = condition(pod, "Ready")
    changed = ready.get("lastTransitionTime") if ready else None
    return age(environment.view, changed or pod["metadata"]["creationTimestamp"]) < GRACE


async def _names(environment: Environment) -> list[Problem]:
    """The Services by which clients and pods find each other exist."""
    manifest = _declared(environment)
    if manifest is None:
        return []
    namespace, name = manifest["metadata"]["namespace"], manifest["metadata"]["name"]
    services = await environment.view.objects("v1/services", namespace)
    there = {service["metadata"]["name"] for service in services}
    missing = sorted({f"rfs-{name}", f"rfr-{name}"} - there)
    if not missing:
        return []
    text = f"Redis: missing Services: {', '.join(missing)}"
    remedy = environment.kubectl_in(namespace, "rollout restart deployment redis-operator")
    return [Problem(text, "redis-no-names", remedy)]


CHECKS = (
    Check(
        name="redis.created",
        description="redis-operator has made what is declared",
        depends_on=(*CLUSTER, "cluster.kinds", "cluster.policies", "operators.available"),
        look=_created,
    ),
    Check(
        name="redis.running",
        description="Redis and Sentinel are Ready",
        depends_on=(
            *CLUSTER,
            "cluster.nodes",
            "cluster.objects",
            "cluster.volumes",
            "cluster.policies",
            "redis.created",
        ),
        look=_running,
    ),
    Check(
        name="redis.master",
        description="Redis has one master",
        depends_on=("redis.running", "operators.available"),
        look=_master,
    ),
    Check(
        name="redis.names",
        description="Redis and Sentinel have their Services",
        depends_on=("redis.created",),
        look=_names,
    ),
)

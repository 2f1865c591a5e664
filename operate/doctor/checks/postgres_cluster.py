"""The database cluster that is declared, and its pods."""

from components.network.flows import DATABASE
from components.postgres.backups import RESTORE_ANNOTATION
from operate import view
from operate.doctor import as_declared
from operate.doctor.findings import Environment
from operate.doctor.pod_problems import GRACE, Workload, pods_of, ready
from operate.view import AbsentError, Object, age, labels_of, listed, mapped, written

LABEL = "postgres-operator.crunchydata.com"

LEADERS = ("master", "primary")
"""Roles of a primary, as Patroni names them."""


def declared_cluster(environment: Environment) -> Object:
    """The PostgresCluster of the program."""
    return environment.declared.of_kind("PostgresCluster")[0]


def place(environment: Environment) -> tuple[str, str]:
    """Its namespace and its name."""
    return view.place(declared_cluster(environment))


async def actual_cluster(environment: Environment) -> Object:
    """The PostgresCluster as it is in the cluster. Raises AbsentError."""
    cluster = await as_declared.actual(environment, declared_cluster(environment))
    if cluster is None:
        raise AbsentError("there is no PostgresCluster")
    return cluster


def instances(environment: Environment, cluster: Object | None = None) -> Workload:
    """The pods of its instances, as many as the file asks for, or a cluster's own object."""
    sets = listed(cluster or declared_cluster(environment), "spec", "instances")
    namespace, name = place(environment)
    return Workload(
        title="PostgreSQL",
        namespace=namespace,
        labels={**DATABASE.labels, f"{LABEL}/data": "postgres"},
        owners=(name,),
        replicas=sum(int(item.get("replicas", 1)) for item in sets),
        memory_setting="postgres.resources.memoryLimit",
        secrets=("cluster.objects",),
        unchanged="postgres.unchanged",
    )


async def restoring(environment: Environment) -> str | None:
    """The number of the restore in place that is under way, or has just ended.

    One that fails is none. The update that asked for it goes on for a while after its end.
    """
    try:
        cluster = await actual_cluster(environment)
    except AbsentError:
        return None
    number = mapped(cluster, "metadata", "annotations").get(RESTORE_ANNOTATION)
    status = mapped(cluster, "status", "pgbackrest", "restore")
    if number is None or status.get("failed"):
        return None
    if status.get("id") != number:
        return number if written(environment.view, cluster) < GRACE else None
    ended = status.get("completionTime")
    if status.get("finished") and (ended is None or age(environment.view, ended) > GRACE):
        return None
    return number


async def primaries(environment: Environment) -> list[Object]:
    """The Ready pods that Patroni has labelled as the primary."""
    pods = await pods_of(environment.view, instances(environment))
    leading = [pod for pod in pods if labels_of(pod).get(f"{LABEL}/role") in LEADERS]
    return [pod for pod in leading if ready(pod)]

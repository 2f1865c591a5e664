"""The database cluster that is declared, and its pods."""

from components.postgres.backups import RESTORE_ANNOTATION
from operate.doctor.findings import Environment
from operate.doctor.pod_problems import GRACE, Workload, pods_of, ready
from operate.view import Object, age, labels_of, mapped, written

LABEL = "postgres-operator.crunchydata.com"

CLUSTERS = f"{LABEL}/v1beta1/postgresclusters"


def declared_cluster(environment: Environment) -> Object:
    """The PostgresCluster of the program."""
    return environment.declared.of_kind("PostgresCluster")[0]


def place(environment: Environment) -> tuple[str, str]:
    """Its namespace and its name."""
    metadata = declared_cluster(environment)["metadata"]
    return metadata["namespace"], metadata["name"]


def instances(environment: Environment) -> Workload:
    """The pods of its instances."""
    manifest = declared_cluster(environment)
    namespace, cluster = place(environment)
    replicas = sum(int(item.get("replicas", 1)) for item in manifest["spec"]["instances"])
    return Workload(
        title="PostgreSQL",
        namespace=namespace,
        labels={f"{LABEL}/cluster": cluster, f"{LABEL}/data": "postgres"},
        owners=(cluster,),
        replicas=replicas,
        memory_setting="shlink:postgres.resources.memoryLimit",
        secrets=("cluster.objects",),
        unchanged="postgres.unchanged",
    )


async def restoring(environment: Environment) -> str | None:
    """The number of the restore in place that is under way, or has just ended.

    One that fails is none. The update that asked for it goes on for a while after its end.
    """
    namespace, name = place(environment)
    cluster = await environment.view.named(CLUSTERS, namespace, name)
    if cluster is None:
        return None
    asked = mapped(cluster, "metadata", "annotations").get(RESTORE_ANNOTATION)
    status = mapped(cluster, "status", "pgbackrest", "restore")
    if asked is None or status.get("failed"):
        return None
    if status.get("id") != asked:
        return asked if written(environment.view, cluster) < GRACE else None
    ended = status.get("completionTime")
    if status.get("finished") and (ended is None or age(environment.view, ended) > GRACE):
        return None
    return asked


async def primaries(environment: Environment) -> list[Object]:
    """The Ready pods that Patroni has labelled as the primary."""
    labelled: list[Object] = []
    for pod in await pods_of(environment.view, instances(environment)):
        role = labels_of(pod).get(f"{LABEL}/role")
        if role in ("master", "primary") and ready(pod):
            labelled.append(pod)
    return labelled

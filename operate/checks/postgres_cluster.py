"""The database cluster that is declared, and its pods."""

from operate.findings import Environment
from operate.pods import Workload, pods_of, ready
from operate.view import Object, labels_of

LABEL = "postgres-operator.crunchydata.com"


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


async def primaries(environment: Environment) -> list[Object]:
    """The Ready pods that Patroni has labelled as the primary."""
    labelled: list[Object] = []
    for pod in await pods_of(environment.view, instances(environment)):
        role = labels_of(pod).get(f"{LABEL}/role")
        if role in ("master", "primary") and ready(pod):
            labelled.append(pod)
    return labelled

"""What each operator adds to the pods of our custom resources, read in its pinned version's source.

A custom resource that its CRD accepts can still lead to a pod that the API server refuses, and then
no pod exists and nobody is told. So tests/real/pods.py completes our pods by this table, and
tests/real/test_pods.py has a real API server admit them. After raising a pin, read the sources
again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Manifest = Mapping[str, Any]
Addition = Callable[[Manifest], Sequence[Any]]
"""Takes the custom resource; returns the entries that its operator appends."""


@dataclass(frozen=True)
class Fact:
    """One list of a pod's spec to which an operator appends."""

    operator: str
    source: str
    """File in the operator's repository."""
    kind: str
    """The custom resource."""
    field: str
    """The list in the pod's spec. `env` means that of the first container."""
    appended: Addition


def _pgo_spread(cluster: Manifest) -> list[Any]:
    label = "postgres-operator.crunchydata.com"
    selector = {
        "matchLabels": {f"{label}/cluster": cluster["metadata"]["name"]},
        "matchExpressions": [
            {"key": f"{label}/data", "operator": "In", "values": ["postgres", "pgbackrest"]}
        ],
    }
    return [
        {
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "maxSkew": 1,
            "labelSelector": selector,
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]


def _redis_environment(failover: Manifest) -> list[Any]:
    port = failover["spec"]["redis"].get("port", 6379)
    secret = failover["spec"]["auth"]["secretPath"]
    plain = {"REDIS_ADDR": f"redis://127.0.0.1:{port}", "REDIS_PORT": f"{port}"}
    variables: list[Any] = [{"name": name, "value": value} for name, value in plain.items()]
    password = {"secretKeyRef": {"name": secret, "key": "password"}}
    return [
        *variables,
        {"name": "REDIS_USER", "value": "default"},
        {"name": "REDIS_PASSWORD", "valueFrom": password},
    ]


FACTS = [
    Fact(
        operator="PGO 6.0.3",
        source="internal/controller/postgrescluster/topology.go",
        kind="PostgresCluster",
        field="topologySpreadConstraints",
        appended=_pgo_spread,
    ),
    Fact(
        operator="redis-operator 1.2.4",
        source="operator/redisfailover/service/generator.go",
        kind="RedisFailover",
        field="env",
        appended=_redis_environment,
    ),
]


def completed_by_operator(resource: Manifest, spec: Manifest) -> dict[str, Any]:
    """A pod's spec with everything that the operator of its custom resource appends."""
    completed = dict(spec)
    for fact in FACTS:
        if fact.kind != resource["kind"]:
            continue
        entries = fact.appended(resource)
        if fact.field == "env":
            first, *sidecars = completed["containers"]
            first = {**first, "env": [*first.get("env", []), *entries]}
            completed["containers"] = [first, *sidecars]
        else:
            completed[fact.field] = [*completed.get(fact.field, []), *entries]
    return completed

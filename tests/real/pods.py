"""The pods of an environment: those that the program declares itself, and those that a chart or an operator makes of what it declares.

The second kind is put together as the chart or operator does it, with everything that the program sets and the security contexts that
it leaves to them. Their sources: vault-helm 0.32.0 (templates/server-statefulset.yaml), redis-operator v1.2.4
(operator/redisfailover/service/generator.go) and its chart, PGO 6.0.3 (internal/initialize/security.go, config/manager),
External Secrets 2.9.0 (its chart's values.yaml).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from offline.record import Recorded, plain
from tests import configurations
from tests.real.operator_facts import completed_by_operator

# What PGO gives its own pods, and External Secrets' chart its controller.
_RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_PGO = "postgres-operator.crunchydata.com"


@dataclass(frozen=True)
class Template:
    """Pods that are alike."""

    name: str
    namespace: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    replicas: int = 1

    def pods(self) -> list[dict[str, Any]]:
        """Each of them as a manifest."""
        return [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{self.name}-{n}",
                    "namespace": self.namespace,
                    "labels": dict(self.labels),
                },
                "spec": self.spec,
            }
            for n in range(self.replicas)
        ]


def templates(configuration: str) -> Iterator[Template]:
    """All pods of one configuration."""
    for one in configurations.recording(configuration).resources.values():
        inputs = plain(one.inputs)
        if one.kind in ("Job", "Deployment"):
            metadata, template = inputs["metadata"], inputs["spec"]["template"]
            replicas = inputs["spec"].get("replicas", 1)
            yield Template(
                metadata["name"],
                metadata["namespace"],
                template["metadata"]["labels"],
                template["spec"],
                replicas,
            )
        elif one.kind in _MADE:
            yield from _MADE[one.kind](one, inputs)


def distinct() -> list[tuple[str, Template]]:
    """The differing pods of all configurations, each with the first configuration that has it."""
    found: dict[str, tuple[str, Template]] = {}
    for name in configurations.NAMES:
        for one in templates(name):
            found.setdefault(
                json.dumps([one.name, one.labels, one.spec, one.replicas], sort_keys=True),
                (name, one),
            )
    return list(found.values())


def _container(name: str, image: str, security: Any, resources: Any = None) -> dict[str, Any]:
    return {
        "name": name,
        "image": image,
        "securityContext": security,
        **({"resources": resources} if resources else {}),
    }


def _vault(_: Recorded, inputs: Any) -> Iterator[Template]:
    server = inputs["values"]["server"]
    security = server["statefulSet"]["securityContext"]
    image = f"{server['image']['repository']}:{server['image']['tag']}"
    vault = _container("vault", image, security["container"], server["resources"])
    # The chart's own two besides those of the values.
    vault["volumeMounts"] = [
        {"name": "data", "mountPath": "/vault/data"},
        {"name": "home", "mountPath": "/home/vault"},
        *server["volumeMounts"],
    ]
    vault["env"] = [
        {
            "name": one["envName"],
            "valueFrom": {"secretKeyRef": {"name": one["secretName"], "key": one["secretKey"]}},
        }
        for one in server.get("extraSecretEnvironmentVars", [])
    ]
    spec: dict[str, Any] = {
        "serviceAccountName": "vault",
        "securityContext": security["pod"],
        "containers": [vault, *server.get("extraContainers", [])],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            {"name": "home", "emptyDir": {}},
            *server["volumes"],
        ],
        "terminationGracePeriodSeconds": 10,
    }
    if "topologySpreadConstraints" in server:
        spec["topologySpreadConstraints"] = server["topologySpreadConstraints"]
    labels = {
        "app.kubernetes.io/name": "vault",
        "app.kubernetes.io/instance": inputs["name"],
        "component": "server",
    }
    yield Template(
        "vault", inputs["namespace"], labels, spec, server.get("ha", {}).get("replicas", 1)
    )


def _operator(one: Recorded, inputs: Any) -> Iterator[Template]:
    values, chart, namespace = inputs["values"], inputs["name"], inputs["namespace"]
    accounts = {
        "pgo": "pgo",
        "redis-operator": values.get("serviceAccount", {}).get("name"),
        "external-secrets": "external-secrets",
    }
    # External Secrets' and PGO's charts bring contexts that pass; redis-operator's has none, so the values' are what counts.
    security = {
        "pgo": _RESTRICTED,
        "redis-operator": values.get("securityContext", {}),
        "external-secrets": {**_RESTRICTED, "runAsUser": 1000},
    }
    labels = {
        "pgo": {f"{_PGO}/control-plane": "pgo"},
        "redis-operator": {
            "app.kubernetes.io/name": "redis-operator",
            "app.kubernetes.io/instance": "redis-operator",
        },
        "external-secrets": {
            "app.kubernetes.io/name": "external-secrets",
            "app.kubernetes.io/instance": "external-secrets",
        },
    }
    resources = values["resources"]
    container = _container(
        chart,
        f"{one.name}:{inputs['version']}",
        security[chart],
        resources.get("controller", resources),
    )
    yield Template(
        f"operator-{chart}",
        namespace,
        labels[chart],
        {"serviceAccountName": accounts[chart], "containers": [container]},
    )


def _redis(_: Recorded, inputs: Any) -> Iterator[Template]:
    name, namespace, spec = (
        inputs["metadata"]["name"],
        inputs["metadata"]["namespace"],
        inputs["spec"],
    )
    redis, sentinel = spec["redis"], spec["sentinel"]

    def half(given: Any, containers: list[Any], inits: list[Any]) -> dict[str, Any]:
        return {
            "securityContext": given["securityContext"],
            "serviceAccountName": given["serviceAccountName"],
            "topologySpreadConstraints": given["topologySpreadConstraints"],
            "containers": containers,
            "initContainers": inits,
        }

    def labels(component: str) -> dict[str, str]:
        return {
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/name": name,
            "app.kubernetes.io/part-of": "redis-failover",
            "app.kubernetes.io/managed-by": "redis-operator",
            "redisfailovers.databases.spotahome.com/name": name,
        }

    server = _container(
        "redis", redis["image"], redis["containerSecurityContext"], redis["resources"]
    )
    exporter = redis["exporter"]
    beside = _container(
        "redis-exporter",
        exporter["image"],
        exporter["containerSecurityContext"],
        exporter["resources"],
    )
    yield Template(
        f"rfr-{name}",
        namespace,
        labels("redis"),
        completed_by_operator(inputs, half(redis, [server, beside], [])),
        redis["replicas"],
    )
    copy = _container(
        "sentinel-config-copy",
        sentinel["image"],
        sentinel["configCopy"]["containerSecurityContext"],
    )
    watcher = _container(
        "sentinel", sentinel["image"], sentinel["containerSecurityContext"], sentinel["resources"]
    )
    yield Template(
        f"rfs-{name}",
        namespace,
        labels("sentinel"),
        half(sentinel, [watcher], [copy]),
        sentinel["replicas"],
    )


def _postgres(_: Recorded, inputs: Any) -> Iterator[Template]:
    name, namespace = inputs["metadata"]["name"], inputs["metadata"]["namespace"]
    for instance in inputs["spec"]["instances"]:
        database = _container(
            "database", inputs["spec"].get("image", "postgres"), _RESTRICTED, instance["resources"]
        )
        spec = {
            "securityContext": {"fsGroup": 26, "fsGroupChangePolicy": "OnRootMismatch"},
            "topologySpreadConstraints": instance.get("topologySpreadConstraints", []),
            "automountServiceAccountToken": False,
            "containers": [database],
        }
        labels = {
            f"{_PGO}/cluster": name,
            f"{_PGO}/instance-set": instance["name"],
            f"{_PGO}/data": "postgres",
        }
        yield Template(
            f"{name}-{instance['name']}",
            namespace,
            labels,
            completed_by_operator(inputs, spec),
            instance["replicas"],
        )
    host = _container("pgbackrest", "pgbackrest", _RESTRICTED)
    labels = {
        f"{_PGO}/cluster": name,
        f"{_PGO}/data": "pgbackrest",
        f"{_PGO}/pgbackrest": "",
        f"{_PGO}/pgbackrest-dedicated": "",
    }
    repo_host = inputs["spec"]["backups"]["pgbackrest"].get("repoHost", {})
    host_spec = {
        "topologySpreadConstraints": repo_host.get("topologySpreadConstraints", []),
        "containers": [host],
    }
    yield Template(
        f"{name}-repo-host",
        namespace,
        labels,
        completed_by_operator(inputs, host_spec),
    )


_MADE = {
    "Chart": _vault,
    "Release": _operator,
    "RedisFailover": _redis,
    "PostgresCluster": _postgres,
}

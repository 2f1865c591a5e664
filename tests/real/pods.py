"""The pods of an environment, both the program's own and those that charts and operators create.

The latter are assembled here as the chart or operator does it: with everything that the program
sets, and the security contexts that it leaves to them. Sources: vault-helm 0.34.1
(templates/server-statefulset.yaml), redis-operator v1.2.4
(operator/redisfailover/service/generator.go) and its chart, PGO 6.0.3
(internal/initialize/security.go, config/manager), External Secrets 2.9.0 (its chart's values.yaml).
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
        """A manifest for each replica."""
        metadata = {"namespace": self.namespace, "labels": dict(self.labels)}
        return [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {**metadata, "name": f"{self.name}-{number}"},
                "spec": self.spec,
            }
            for number in range(self.replicas)
        ]


POD_SECTIONS: Mapping[str, frozenset[str]] = {
    "PostgresCluster": frozenset(
        {
            "spec.backups.pgbackrest.jobs",
            "spec.backups.pgbackrest.repoHost",
            "spec.backups.pgbackrest.restore",
            "spec.dataSource.pgbackrest",
            "spec.dataSource.postgresCluster",
            "spec.instances.[]",
            "spec.proxy.pgBouncer",
            "spec.userInterface.pgAdmin",
        }
    ),
    "RedisFailover": frozenset({"spec.redis", "spec.sentinel"}),
}
"""Where a custom resource says on which nodes pods may run (compared with the CRDs by
tests/real/test_crds.py)."""
_PLACEMENT = ("nodeSelector", "affinity", "tolerations", "priorityClassName")


def _placed(fields: Any) -> dict[str, Any]:
    """What charts and operators copy to their pods, by the pods' own names."""
    return {name: fields[name] for name in _PLACEMENT if fields.get(name)}


def _pull_secrets(fields: Any) -> dict[str, Any]:
    secrets = fields.get("imagePullSecrets")
    return {"imagePullSecrets": secrets} if secrets else {}


def templates(configuration: str) -> Iterator[Template]:
    """All pods of one configuration."""
    for resource in configurations.recording(configuration).resources.values():
        inputs = plain(resource.inputs)
        if resource.kind in ("Job", "Deployment"):
            metadata, template = inputs["metadata"], inputs["spec"]["template"]
            yield Template(
                name=metadata["name"],
                namespace=metadata["namespace"],
                labels=template["metadata"]["labels"],
                spec=template["spec"],
                replicas=inputs["spec"].get("replicas", 1),
            )
        elif resource.kind in BY_KIND:
            yield from BY_KIND[resource.kind](resource, inputs)


def distinct() -> list[tuple[str, Template]]:
    """The pods of all configurations without repetition, each with the first that has it."""
    distinct_pods: dict[str, tuple[str, Template]] = {}
    for configuration in configurations.NAMES:
        for pods in templates(configuration):
            key = json.dumps([pods.name, pods.labels, pods.spec, pods.replicas], sort_keys=True)
            distinct_pods.setdefault(key, (configuration, pods))
    return list(distinct_pods.values())


def _container(name: str, image: str, security: Any, resources: Any = None) -> dict[str, Any]:
    container = {"name": name, "image": image, "securityContext": security}
    if resources:
        container["resources"] = resources
    return container


def _vault(_: Recorded, inputs: Any) -> Iterator[Template]:
    server = inputs["values"]["server"]
    security = server["statefulSet"]["securityContext"]
    image = f"{server['image']['repository']}:{server['image']['tag']}"
    vault = _container("vault", image, security["container"], server["resources"])
    # The chart mounts these two itself, and then those of the values.
    vault["volumeMounts"] = [
        {"name": "data", "mountPath": "/vault/data"},
        {"name": "home", "mountPath": "/home/vault"},
        *server["volumeMounts"],
    ]
    vault["env"] = [
        {
            "name": variable["envName"],
            "valueFrom": {
                "secretKeyRef": {"name": variable["secretName"], "key": variable["secretKey"]}
            },
        }
        for variable in server.get("extraSecretEnvironmentVars", [])
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
        **_placed(server),
        **_pull_secrets(inputs["values"]["global"]),
    }
    if "topologySpreadConstraints" in server:
        spec["topologySpreadConstraints"] = server["topologySpreadConstraints"]
    labels = {
        "app.kubernetes.io/name": "vault",
        "app.kubernetes.io/instance": inputs["name"],
        "component": "server",
    }
    yield Template(
        name="vault",
        namespace=inputs["namespace"],
        labels=labels,
        spec=spec,
        replicas=server.get("ha", {}).get("replicas", 1),
    )


def _operator(release: Recorded, inputs: Any) -> Iterator[Template]:
    values, chart, namespace = inputs["values"], inputs["name"], inputs["namespace"]
    accounts = {
        "pgo": "pgo",
        "redis-operator": values.get("serviceAccount", {}).get("name"),
        "external-secrets": "external-secrets",
    }
    # The charts of External Secrets and PGO set contexts that pass; redis-operator's sets none.
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
        name=chart,
        image=f"{release.name}:{inputs['version']}",
        security=security[chart],
        resources=resources.get("controller", resources),
    )
    # Each chart has a key of its own for it; redis-operator's makes no Secret when one is named.
    pull_secrets = {
        "pgo": values.get("imagePullSecretNames", []),
        "redis-operator": values.get("imageCredentials", {}).get("existsSecrets", []),
        "external-secrets": [item["name"] for item in values.get("imagePullSecrets", [])],
    }
    # The fork's chart brings the CRD only.
    if values.get("replicas") != 0:
        yield Template(
            name=f"operator-{chart}",
            namespace=namespace,
            labels=labels[chart],
            spec={
                "serviceAccountName": accounts[chart],
                "containers": [container],
                "imagePullSecrets": [{"name": name} for name in pull_secrets[chart]],
                **_placed(values),
            },
        )


def _redis(_: Recorded, inputs: Any) -> Iterator[Template]:
    name, namespace = inputs["metadata"]["name"], inputs["metadata"]["namespace"]
    redis, sentinel = inputs["spec"]["redis"], inputs["spec"]["sentinel"]

    def half(settings: Any, containers: list[Any], inits: list[Any]) -> dict[str, Any]:
        return {
            "securityContext": settings["securityContext"],
            "serviceAccountName": settings["serviceAccountName"],
            "topologySpreadConstraints": settings["topologySpreadConstraints"],
            "containers": containers,
            "initContainers": inits,
            **_placed(settings),
            **_pull_secrets(settings),
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
    exporter = _container(
        "redis-exporter",
        redis["exporter"]["image"],
        redis["exporter"]["containerSecurityContext"],
        redis["exporter"]["resources"],
    )
    yield Template(
        name=f"rfr-{name}",
        namespace=namespace,
        labels=labels("redis"),
        spec=completed_by_operator(inputs, half(redis, [server, exporter], [])),
        replicas=redis["replicas"],
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
        name=f"rfs-{name}",
        namespace=namespace,
        labels=labels("sentinel"),
        spec=half(sentinel, [watcher], [copy]),
        replicas=sentinel["replicas"],
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
            **_placed(instance),
            **_pull_secrets(inputs["spec"]),
        }
        labels = {
            f"{_PGO}/cluster": name,
            f"{_PGO}/instance-set": instance["name"],
            f"{_PGO}/data": "postgres",
        }
        yield Template(
            name=f"{name}-{instance['name']}",
            namespace=namespace,
            labels=labels,
            spec=completed_by_operator(inputs, spec),
            replicas=instance["replicas"],
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
        **_placed(repo_host),
        **_pull_secrets(inputs["spec"]),
    }
    yield Template(
        name=f"{name}-repo-host",
        namespace=namespace,
        labels=labels,
        spec=completed_by_operator(inputs, host_spec),
    )
    yield from _backup_jobs(inputs)
    yield from _pooler(inputs)


def _pooler(inputs: Any) -> Iterator[Template]:
    """PgBouncer: internal/pgbouncer/reconcile.go, controller/postgrescluster/pgbouncer.go."""
    name, spec = inputs["metadata"]["name"], inputs["spec"]
    fields = spec.get("proxy", {}).get("pgBouncer")
    if fields is None:
        return
    image = fields.get("image", "pgbouncer")
    watcher = fields["sidecars"]["pgbouncerConfig"]["resources"]
    labels = {f"{_PGO}/cluster": name, f"{_PGO}/role": "pgbouncer"}
    # PGO's own, as topology.go has them for every Deployment.
    spread = [
        {
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "maxSkew": 1,
            "labelSelector": {"matchLabels": labels},
        }
        for key in ("kubernetes.io/hostname", "topology.kubernetes.io/zone")
    ]
    yield Template(
        name=f"{name}-pgbouncer",
        namespace=inputs["metadata"]["namespace"],
        labels=labels,
        spec={
            "topologySpreadConstraints": spread,
            "automountServiceAccountToken": False,
            "securityContext": {"fsGroup": 2, "fsGroupChangePolicy": "OnRootMismatch"},
            "containers": [
                _container("pgbouncer", image, _RESTRICTED, fields["resources"]),
                _container("pgbouncer-config", image, _RESTRICTED, watcher),
            ],
            **_placed(fields),
            **_pull_secrets(spec),
        },
        replicas=fields["replicas"],
    )


def _backup_jobs(inputs: Any) -> Iterator[Template]:
    """Backups, and a restore before the first instance or in place of what is there."""
    name, spec = inputs["metadata"]["name"], inputs["spec"]
    pgbackrest = spec["backups"]["pgbackrest"]
    jobs = {
        "backup": pgbackrest.get("jobs"),
        "restore": pgbackrest.get("restore"),
        "data-source": spec.get("dataSource", {}).get("pgbackrest"),
    }
    for purpose, fields in jobs.items():
        if fields is not None:
            container = _container("pgbackrest", "pgbackrest", _RESTRICTED, fields["resources"])
            yield Template(
                name=f"{name}-{purpose}",
                namespace=inputs["metadata"]["namespace"],
                labels={f"{_PGO}/cluster": name},
                spec={
                    "restartPolicy": "Never",
                    "containers": [container],
                    **_placed(fields),
                    **_pull_secrets(spec),
                },
            )


BY_KIND = {
    "Chart": _vault,
    "Release": _operator,
    "RedisFailover": _redis,
    "PostgresCluster": _postgres,
}

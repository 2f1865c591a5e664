"""An environment that exists only in memory: the objects of a healthy cluster, and how they break.

Built from what the program declares, and from what each operator makes of it. `Api` answers like a
kr8s client, so doctor reads it by the same code as a real cluster.
"""

import base64
import contextlib
import copy
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import urlsplit

import httpx

from operate.declared import Declared
from tests.certificates import made
from tests.streams import (
    Closed,
    Command,
    Hung,
    Plain,
    Port,
    RedisSentinel,
    TlsServer,
    Unauthenticated,
    vault_login,
)

PGO = "postgres-operator.crunchydata.com"
PLURALS = {
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "ServiceAccount": "serviceaccounts",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "Service": "services",
    "ConfigMap": "configmaps",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "Job": "jobs",
    "Deployment": "deployments",
    "StatefulSet": "statefulsets",
    "Ingress": "ingresses",
    "IngressClass": "ingressclasses",
    "HTTPRoute": "httproutes",
    "SecretStore": "secretstores",
    "ExternalSecret": "externalsecrets",
    "PostgresCluster": "postgresclusters",
    "RedisFailover": "redisfailovers",
    "Pod": "pods",
    "Node": "nodes",
    "Event": "events",
    "CronJob": "cronjobs",
    "EndpointSlice": "endpointslices",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "StorageClass": "storageclasses",
    "CustomResourceDefinition": "customresourcedefinitions",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
}


PRIMARY: dict[str, Any] = {
    "failing": False,
    "waiting": 0,
    "archiving": True,
    "read_only": False,
    "free": 80,
    "databases": {"shlink": True},
    "logins": {"shlink": ""},
    "system": [],
    "own": [],
    "holders": [],
    "slots": [],
    "role": True,
    "may_create": True,
    "tables": dict.fromkeys(
        ("api_keys", "domains", "migrations", "short_urls", "tags", "visits"), ""
    ),
    "known": True,
    "valid": True,
    "before": True,
    "any": True,
}
"""What a healthy primary tells of itself."""


def ago(seconds: float) -> str:
    """A moment in Kubernetes' notation."""
    moment = datetime.now(tz=UTC) - timedelta(seconds=seconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class World:
    """Everything that the API server would tell, and what stands behind its proxy."""

    declared: Declared
    objects: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    health: dict[str, dict[str, Any] | None] = field(
        default_factory=dict[str, "dict[str, Any] | None"]
    )
    """What Vault answers at sys/health, by pod; None: the proxy gets no answer."""
    logs: dict[str, str] = field(default_factory=dict[str, str])
    """By pod."""
    unserved: set[str] = field(default_factory=set[str])
    """Kinds whose CustomResourceDefinition is missing."""
    forbidden: set[str] = field(default_factory=set[str])
    """Plural names that may not be read."""
    forbidden_inside: set[str] = field(default_factory=set[str])
    """Subresources of pods, `exec` and `portforward`, that this login may not use."""
    shown: dict[str, str] = field(default_factory=dict[str, str])
    """The certificate that a pod shows, by tests.certificates' names. `good` if not listed."""
    psql: dict[str, Any] | None = field(default_factory=lambda: copy.deepcopy(PRIMARY))
    """What the primary tells by psql; None: it fails."""
    resolved: str = "0"
    """What a pod's `getent` ends with, as it asks the cluster's DNS."""
    hung: set[str] = field(default_factory=set[str])
    """Pods whose servers do not answer, nor their exporters where `metrics` has nothing of them."""
    used: dict[str, int] = field(default_factory=dict[str, int])
    """How full a volume of PostgreSQL's pods is, in percent, by its mount."""
    refusal: str = ""
    """What Vault answers to a login of the store: `400 invalid role name`. Empty: as it should."""
    sentinels: dict[str, str] = field(default_factory=dict[str, str])
    """The master's address that a sentinel names, by pod; the first Redis pod's elsewhere."""
    metrics: dict[str, str] = field(default_factory=dict[str, str])
    """Lines of a Redis pod's exporter, by pod, after the healthy ones."""
    conditions: dict[str, list[dict[str, Any]]] = field(
        default_factory=dict[str, "list[dict[str, Any]]"]
    )
    """Of Deployments, by name."""
    version: str = "v1.36.3"
    reviews_refused: str = ""
    """What a webhook that is down answers to each question about this login's rights."""
    unauthorized: bool = False
    """Whether the API server does not know this login any more."""
    silent: bool = False
    """Whether the API server never answers."""
    asked: list[str] = field(default_factory=list[str])
    """Every path that was asked for."""

    def find(self, kind: str, name: str) -> dict[str, Any]:
        """The object whose name is this or begins so."""
        for item in self.of(kind):
            if item["metadata"]["name"] == name:
                return item
        for item in self.of(kind):
            if item["metadata"]["name"].startswith(name):
                return item
        raise LookupError(f"no {kind} {name}")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.objects if item["kind"] == kind]

    def remove(self, kind: str, prefix: str) -> None:
        """Delete the objects of a kind whose names begin so."""
        kept = [
            item
            for item in self.objects
            if item["kind"] != kind or not item["metadata"]["name"].startswith(prefix)
        ]
        assert len(kept) < len(self.objects), f"no {kind} {prefix}"
        self.objects = kept

    def event(self, kind: str, name: str, namespace: str, reason: str, message: str) -> None:
        """Something that a controller told a minute ago."""
        self.objects.append(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": f"{name}.{len(self.objects)}",
                    "namespace": namespace,
                    "creationTimestamp": ago(60),
                },
                "involvedObject": {"kind": kind, "name": name},
                "type": "Warning",
                "reason": reason,
                "message": message,
                "lastTimestamp": ago(60),
            }
        )

    def edit(self, item: dict[str, Any], path: str, value: Any) -> None:
        """Somebody edits a field with kubectl, and the API server records that."""
        keys = path.split(".")
        holder: Any = item
        fields: dict[str, Any] = {}
        record = {"manager": "kubectl-edit", "operation": "Update", "time": ago(300)}
        managed = item["metadata"].setdefault("managedFields", [])
        managed.append({**record, "fieldsV1": fields})
        for key in keys[:-1]:
            if isinstance(holder, list):
                items = cast("list[dict[str, Any]]", holder)
                holder = next(entry for entry in items if entry["name"] == key)
                key_in_record = f"k:{json.dumps({'name': key})}"
            else:
                holder = cast("dict[str, Any]", holder).setdefault(key, {})
                key_in_record = f"f:{key}"
            fields = fields.setdefault(key_in_record, {})
        holder[keys[-1]] = value
        fields[f"f:{keys[-1]}"] = {}

    def pods(self, prefix: str) -> list[dict[str, Any]]:
        return [item for item in self.of("Pod") if item["metadata"]["name"].startswith(prefix)]

    def not_ready(self, prefix: str, seconds: float = 3600) -> None:
        """The pods run and are not Ready."""
        for pod in self.pods(prefix):
            pod["status"]["conditions"] = [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "False", "lastTransitionTime": ago(seconds)},
            ]
            for status in pod["status"]["containerStatuses"]:
                status["ready"] = False
        self.count()

    def waiting(self, prefix: str, reason: str, message: str = "", seconds: float = 3600) -> None:
        """The pods' first container waits for this reason."""
        self.not_ready(prefix, seconds)
        for pod in self.pods(prefix):
            pod["status"]["phase"] = "Pending"
            status = pod["status"]["containerStatuses"][0]
            status["state"] = {"waiting": {"reason": reason, "message": message}}

    def crashed(self, prefix: str, reason: str = "Error", code: int = 1) -> None:
        """The pods' first container ends again and again."""
        self.waiting(prefix, "CrashLoopBackOff")
        for pod in self.pods(prefix):
            status = pod["status"]["containerStatuses"][0]
            ended = {"reason": reason, "exitCode": code, "finishedAt": ago(120)}
            status |= {"restartCount": 7, "lastState": {"terminated": ended}}

    def unscheduled(self, prefix: str, message: str, seconds: float = 3600) -> None:
        """No node takes the pods."""
        self.not_ready(prefix, seconds)
        for pod in self.pods(prefix):
            pod["metadata"]["creationTimestamp"] = ago(seconds)
            pod["spec"].pop("nodeName", None)
            pod["status"] = {
                "phase": "Pending",
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": message,
                    }
                ],
            }

    def waits(self, prefix: str, container: str, seconds: float = 3600) -> None:
        """The pods stand in an init container."""
        self.not_ready(prefix, seconds)
        for pod in self.pods(prefix):
            pod["status"]["phase"] = "Pending"
            running = {"running": {"startedAt": ago(seconds)}}
            pod["status"]["initContainerStatuses"] = [
                {"name": container, "started": True, "state": running, "ready": False}
            ]

    def condition(self, kind: str, name: str, status: str, reason: str, message: str) -> None:
        """The Ready condition of a custom resource."""
        entry = {"type": "Ready", "status": status, "reason": reason, "message": message}
        entry["lastTransitionTime"] = ago(3600)
        self.find(kind, name)["status"]["conditions"] = [entry]

    def count(self) -> None:
        """Controllers count the pods that are Ready, and endpoints follow."""
        for item in [*self.of("Deployment"), *self.of("StatefulSet")]:
            labels = item["spec"]["selector"]["matchLabels"]
            pods = [
                pod
                for pod in self.of("Pod")
                if pod["metadata"]["namespace"] == item["metadata"]["namespace"]
                and labels.items() <= pod["metadata"]["labels"].items()
            ]
            number = len([pod for pod in pods if is_ready(pod)])
            item["status"] = {
                "observedGeneration": 1,
                "replicas": len(pods),
                "updatedReplicas": len(pods),
                "readyReplicas": number,
                "availableReplicas": number,
                "conditions": self.conditions.get(item["metadata"]["name"], []),
            }
        for item in self.of("EndpointSlice"):
            prefix = item["metadata"]["annotations"]["pods"]
            item["endpoints"] = [
                {
                    "conditions": {"ready": is_ready(pod)},
                    "addresses": [pod["status"].get("podIP", "")],
                    "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"]},
                }
                for pod in self.pods(prefix)
            ]


def by_program(item: dict[str, Any], seconds: float = 86400) -> None:
    """The API server's record of who wrote an object: the program, and nobody else."""
    manager = {"manager": "pulumi-kubernetes-1a2b3c4d", "operation": "Apply", "time": ago(seconds)}
    written = {key: value for key, value in item.items() if key in ("metadata", "spec", "rules")}
    item["metadata"]["managedFields"] = [{**manager, "fieldsV1": _recorded(written)}]


def _recorded(value: Any) -> dict[str, Any]:
    """Fields as the API server records them: items of a list by their names, else the list."""
    fields: dict[str, Any] = {}
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            fields[f"f:{key}"] = _recorded(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            if isinstance(item, Mapping) and "name" in item:
                named = cast("Mapping[str, Any]", item)
                fields[f"k:{json.dumps({'name': named['name']})}"] = _recorded(named)
    return fields


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Whether a pod's status says Ready."""
    for entry in pod["status"].get("conditions", []):
        if entry["type"] == "Ready":
            return entry["status"] == "True"
    return False


def slices(world: World, namespace: str, service: str, pods: str) -> None:
    """The EndpointSlice of a Service that leads to the pods whose names begin so."""
    world.objects.append(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{service}-abc",
                "namespace": namespace,
                "labels": {"kubernetes.io/service-name": service},
                "annotations": {"pods": pods},
            },
            "addressType": "IPv4",
            "endpoints": [],
        }
    )


def healthy(declared: Declared) -> World:
    """A cluster in which everything that is declared has been running for a day."""
    world = World(declared)
    for manifest in declared.manifests:
        item = copy.deepcopy(dict(manifest))
        item["metadata"] = {**item["metadata"], "creationTimestamp": ago(86400), "generation": 1}
        item["metadata"].setdefault("labels", {})
        world.objects.append(item)
    _nodes(world)
    _peers(world)
    for release in declared.operators:
        _operator(world, release.name, release.namespace)
    _vault(world)
    _secrets(world)
    _postgres(world)
    _redis(world)
    _shlink(world)
    world.count()
    return world


def _nodes(world: World) -> None:
    for item in world.of("Namespace"):
        item["status"] = {"phase": "Active"}
    conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]
    world.objects.append(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": "node-1"},
            "status": {"conditions": conditions},
        }
    )


def _peers(world: World) -> None:
    """The cluster's DNS, and the namespaces of the cluster itself, of gateways and monitoring."""
    for name in ("kube-system", "change-me", "monitoring"):
        world.objects.append(
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": {}, "creationTimestamp": ago(86400)},
                "status": {"phase": "Active"},
            }
        )
    pod(world, "kube-system", "coredns-5c8", {"k8s-app": "kube-dns"}, "coredns")
    slices(world, "kube-system", "kube-dns", "coredns-")
    world.find("EndpointSlice", "kube-dns")["ports"] = [{"name": "dns", "port": 53}]


def pod(
    world: World, namespace: str, name: str, labels: Mapping[str, str], *containers: str
) -> dict[str, Any]:
    """A pod that has been Ready for a day."""
    item: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"{namespace}-{name}",
            "labels": dict(labels),
            "annotations": {},
            "creationTimestamp": ago(86400),
        },
        "spec": {"nodeName": "node-1"},
        "status": {
            "phase": "Running",
            "podIP": f"10.244.0.{len(world.of('Pod')) + 2}",
            "startTime": ago(86400),
            "conditions": [
                {"type": "PodScheduled", "status": "True"},
                {"type": "Ready", "status": "True", "lastTransitionTime": ago(86000)},
            ],
            "containerStatuses": [_container(container) for container in containers],
        },
    }
    world.objects.append(item)
    return item


def _container(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "image": f"registry.example/{name}:1.0",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": ago(86000)}},
        "lastState": {},
    }


def _controller(
    world: World,
    kind: str,
    namespace: str,
    name: str,
    *,
    labels: Mapping[str, str],
    replicas: int,
) -> dict[str, Any]:
    item: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {},
            "annotations": {},
            "generation": 1,
            "creationTimestamp": ago(86400),
        },
        "spec": {"replicas": replicas, "selector": {"matchLabels": dict(labels)}},
    }
    world.objects.append(item)
    return item


def _operator(world: World, release: str, namespace: str) -> None:
    labels = {"app.kubernetes.io/name": release, "app.kubernetes.io/instance": release}
    # The fork's chart has no pods: the program declares its Deployment.
    forked = world.declared.named("Deployment", f"{release}-fork") is not None
    item = _controller(
        world, "Deployment", namespace, release, labels=labels, replicas=int(not forked)
    )
    item["metadata"]["annotations"]["meta.helm.sh/release-name"] = release
    pod(world, namespace, f"{release}-5d9c7b6f4-x2x2x", labels, release)


def _vault(world: World) -> None:
    install, settings = world.declared.vault, world.declared.settings.vault
    labels = {
        "app.kubernetes.io/name": "vault",
        "app.kubernetes.io/instance": install.name,
        "component": "server",
    }
    replicas = settings.replicas if settings.mode == "ha" else 1
    _controller(world, "StatefulSet", install.namespace, "vault", labels=labels, replicas=replicas)
    for number in range(replicas):
        name = f"vault-{number}"
        active = {"vault-active": "true" if number == 0 else "false"}
        own = {**labels, **active} if settings.mode == "ha" else labels
        pod(world, install.namespace, name, own, "vault", "unseal")
        world.health[name] = {"initialized": True, "sealed": False, "standby": number > 0}
        _claim(world, install.namespace, f"data-{name}")
    slices(world, install.namespace, "vault", "vault-")
    _service(world, install.namespace, "vault")
    if settings.mode == "ha":
        slices(world, install.namespace, "vault-active", "vault-0")
        _service(world, install.namespace, "vault-active")
    for job in world.of("Job"):
        job["status"] = {"conditions": [{"type": "Complete", "status": "True"}]}


def _claim(world: World, namespace: str, name: str) -> None:
    world.objects.append(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": ago(86400)},
            "spec": {},
            "status": {"phase": "Bound"},
        }
    )


def _secrets(world: World) -> None:
    for kind in ("SecretStore", "ExternalSecret"):
        for item in world.of(kind):
            item["status"] = {
                "conditions": [{"type": "Ready", "status": "True", "reason": "Valid"}]
            }
            if kind == "SecretStore":
                bundle = base64.b64encode(made().read("authority").encode()).decode()
                item["spec"]["provider"]["vault"]["caBundle"] = bundle
            if kind == "ExternalSecret":
                item["status"] |= {"refreshTime": ago(600), "syncedResourceVersion": "1-29fa"}


def _postgres(world: World) -> None:
    for cluster in world.of("PostgresCluster"):
        namespace, name = cluster["metadata"]["namespace"], cluster["metadata"]["name"]
        replicas = cluster["spec"]["instances"][0]["replicas"]
        labels = {f"{PGO}/cluster": name, f"{PGO}/data": "postgres"}
        for number in range(replicas):
            role = "master" if number == 0 else "replica"
            instance = f"{name}-instance1-{'abcd'[number]}xyz-0"
            own = {**labels, f"{PGO}/role": role}
            item = pod(world, namespace, instance, own, "database", "replication-cert-copy")
            state = {"role": role, "state": "running", "timeline": 1, "xlog_location": 100_000_000}
            item["metadata"]["annotations"]["status"] = json.dumps(state)
            _claim(world, namespace, f"{instance[:-2]}-pgdata")
        slices(world, namespace, f"{name}-ha", f"{name}-instance1-axyz")
        _service(world, namespace, f"{name}-ha")
        _claim(world, namespace, f"{name}-repo1")
        pod(world, namespace, f"{name}-repo-host-0", {f"{PGO}/cluster": name}, "pgbackrest")
        condition = {"status": "True", "reason": "Ready", "message": ""}
        condition["lastTransitionTime"] = ago(86000)
        cluster["status"] = {
            "observedGeneration": 1,
            "usersRevision": "7c",
            "instances": [{"name": "instance1", "replicas": replicas, "readyReplicas": replicas}],
            "pgbackrest": {"repos": [{"name": "repo1", "stanzaCreated": True, "bound": True}]},
            "conditions": [
                {"type": kind, **condition}
                for kind in ("PGBackRestRepoHostReady", "PGBackRestReplicaCreate")
            ],
        }
        _schedules(world, namespace, name)
        pooler = cluster["spec"].get("proxy", {}).get("pgBouncer")
        for letter in "abcd"[: pooler["replicas"] if pooler else 0]:
            labels = {f"{PGO}/cluster": name, f"{PGO}/role": "pgbouncer"}
            own = f"{name}-pgbouncer-5d{letter}"
            pod(world, namespace, own, labels, "pgbouncer", "pgbouncer-config")


def _schedules(world: World, namespace: str, name: str) -> None:
    for kind in ("full", "diff"):
        world.objects.append(
            {
                "apiVersion": "batch/v1",
                "kind": "CronJob",
                "metadata": {
                    "name": f"{name}-repo1-{kind}",
                    "namespace": namespace,
                    "labels": {f"{PGO}/cluster": name},
                    "creationTimestamp": ago(86400 * 9),
                },
                "spec": {"suspend": False},
                "status": {"lastScheduleTime": ago(40_000), "lastSuccessfulTime": ago(39_900)},
            }
        )


def _redis(world: World) -> None:
    for failover in world.of("RedisFailover"):
        namespace, name = failover["metadata"]["namespace"], failover["metadata"]["name"]
        spec = failover["spec"]
        base = {"app.kubernetes.io/name": name}
        servers = {**base, "app.kubernetes.io/component": "redis"}
        sentinels = {**base, "app.kubernetes.io/component": "sentinel"}
        replicas = spec["redis"]["replicas"]
        _controller(
            world, "StatefulSet", namespace, f"rfr-{name}", labels=servers, replicas=replicas
        )
        for number in range(replicas):
            role = {"redisfailovers-role": "master" if number == 0 else "slave"}
            server = f"rfr-{name}-{number}"
            limits = {"resources": spec["redis"]["resources"]}
            pod(world, namespace, server, servers | role, "redis", "redis-exporter")["spec"] |= {
                "containers": [{"name": "redis", **limits}]
            }
            _claim(world, namespace, f"data-rfr-{name}-{number}")
        number = spec["sentinel"]["replicas"]
        _controller(
            world, "Deployment", namespace, f"rfs-{name}", labels=sentinels, replicas=number
        )
        for letter in "abcdefghi"[:number]:
            pod(world, namespace, f"rfs-{name}-6f{letter}", sentinels, "sentinel")
        for service in (f"rfs-{name}", f"rfr-{name}"):
            slices(world, namespace, service, f"{service}-")
            _service(world, namespace, service)


def _service(world: World, namespace: str, name: str) -> None:
    """A Service that an operator makes."""
    world.objects.append(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {},
        }
    )


def _shlink(world: World) -> None:
    for deployment in [
        item for item in world.of("Deployment") if item["metadata"]["name"] == "shlink"
    ]:
        namespace = deployment["metadata"]["namespace"]
        labels = deployment["spec"]["selector"]["matchLabels"]
        # An autoscaler's number is not declared.
        for number in range(deployment["spec"].setdefault("replicas", 1)):
            pod(world, namespace, f"shlink-7f8b-{number}", labels, "shlink")
        for service in world.of("Service"):
            if service["spec"].get("selector") == labels:
                slices(world, namespace, service["metadata"]["name"], "shlink-7f8b")
    for client in world.of("Deployment"):
        name, namespace = client["metadata"]["name"], client["metadata"]["namespace"]
        if name == "shlink-web-client":
            labels = client["spec"]["selector"]["matchLabels"]
            pod(world, namespace, f"{name}-5c-0", labels, name)
            slices(world, namespace, name, f"{name}-5c")
    for scaler in world.of("HorizontalPodAutoscaler"):
        scaled(scaler, ScalingActive="True", AbleToScale="True", ScalingLimited="False")
    for ingress in world.of("Ingress"):
        name = ingress["spec"].get("ingressClassName")
        world.objects.append(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "IngressClass",
                "metadata": {"name": name},
            }
        )
        ingress["status"] = {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}
    for route in world.of("HTTPRoute"):
        conditions = [
            {"type": "Accepted", "status": "True"},
            {"type": "ResolvedRefs", "status": "True"},
        ]
        route["status"] = {"parents": [{"conditions": conditions}]}


def scaled(
    scaler: dict[str, Any], reason: str = "Any", message: str = "", **conditions: str
) -> None:
    """Conditions of an autoscaler, an hour old."""
    entry = {"reason": reason, "message": message, "lastTransitionTime": ago(3600)}
    kinds = [{"type": kind, "status": status, **entry} for kind, status in conditions.items()]
    scaler["status"] = {"conditions": kinds}


class Api:
    """A kr8s client whose API server is a World. Its paths are those of Kubernetes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._session = None

    @contextlib.asynccontextmanager
    async def call_api(
        self,
        method: str,
        *,
        version: str,
        base: str,
        namespace: str | None,
        url: str,
        raise_for_status: bool,
        **more: Any,
    ) -> AsyncGenerator[httpx.Response]:
        assert not raise_for_status
        scope = f"namespaces/{namespace}/" if namespace else ""
        path = "/".join(part for part in (base, version, scope + url) if part)
        self.world.asked.append(f"{method} {path}")
        if self.world.silent:
            raise httpx.ConnectTimeout("")
        if self.world.unauthorized:
            yield httpx.Response(401, json={"kind": "Status"})
        else:
            yield self.answer(method, path, more.get("json"))

    def answer(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """What the API server answers."""
        if method == "POST" and path.endswith("/selfsubjectaccessreviews"):
            return self._reviewed(body["spec"]["resourceAttributes"])
        assert (method, body) == ("GET", None), "doctor only reads"
        parts = [part for part in urlsplit(path).path.split("/") if part]
        assert "secrets" not in parts, "doctor reads no Secret"
        if parts == ["version"]:
            return httpx.Response(200, json={"gitVersion": self.world.version})
        if parts[0] == "api":
            version, place = parts[1], parts[2:]
        else:
            version, place = "/".join(parts[1:3]), parts[3:]
        namespace = ""
        if len(place) > 2 and place[0] == "namespaces":
            namespace, place = place[1], place[2:]
        if not place:
            return self._served(version)
        plural, *subresource = place
        if plural in self.world.forbidden:
            return httpx.Response(403, json={"kind": "Status"})
        if subresource:
            return self._below(plural, *subresource)
        return self._listed(version, plural, namespace)

    def _reviewed(self, attributes: Mapping[str, str]) -> httpx.Response:
        """Whether this login may do something."""
        if self.world.reviews_refused:
            status = {"kind": "Status", "status": "Failure"}
            return httpx.Response(500, json={**status, "message": self.world.reviews_refused})
        allowed = attributes["resource"] not in self.world.forbidden
        if attributes.get("subresource") in self.world.forbidden_inside:
            allowed = False
        return httpx.Response(201, json={"status": {"allowed": allowed}})

    def _below(self, plural: str, name: str, *subresource: str) -> httpx.Response:
        """What stands behind a pod, or an object of the cluster's own kinds."""
        if subresource:
            return self._behind(name, *subresource)
        for item in self.world.objects:
            if (PLURALS.get(item["kind"]), item["metadata"]["name"]) == (plural, name):
                return httpx.Response(200, json=item)
        return httpx.Response(404, json={"kind": "Status"})

    def _served(self, version: str) -> httpx.Response:
        kinds = {
            item["kind"] for item in self.world.declared.manifests if item["apiVersion"] == version
        }
        known = sorted(kinds - self.world.unserved)
        if not known:
            return httpx.Response(404, json={"kind": "Status"})
        return httpx.Response(200, json={"resources": [{"kind": kind} for kind in known]})

    def _behind(self, target: str, subresource: str, *_: str) -> httpx.Response:
        """A pod's log, or what answers behind the API server's proxy."""
        name = target.removeprefix("https:").partition(":")[0]
        if subresource == "log":
            return httpx.Response(200, text=self.world.logs.get(name, ""))
        if target.endswith(":9121") and name in self.world.hung - self.world.metrics.keys():
            return httpx.Response(503, json={"kind": "Status", "code": 503})
        if target.endswith(":9121"):
            return httpx.Response(200, text=self._metrics(name))
        health = self.world.health.get(name)
        if health is None:
            return httpx.Response(503, json={"kind": "Status", "code": 503})
        status = 503 if health["sealed"] else 200
        return httpx.Response(status, json=health)

    def _metrics(self, pod: str) -> str:
        """What redis_exporter tells: a server's memory, and a replica's link."""
        lines = ["redis_up 1", "redis_memory_used_rss_bytes 1.2e+07"]
        if not pod.endswith("-0"):
            lines.append('redis_master_link_up{master_host="10.244.0.9",master_port="6379"} 1')
        return "\n".join([*lines, self.world.metrics.get(pod, "")])

    @contextlib.asynccontextmanager
    async def open_websocket(
        self, *, namespace: str, url: str, params: Mapping[str, Any], subprotocols: list[str]
    ) -> AsyncGenerator[Any]:
        """A stream to a pod: a command, or a server behind one of its ports."""
        assert subprotocols == ["v4.channel.k8s.io"]
        _, pod, subresource = url.split("/")
        assert subresource not in self.world.forbidden_inside
        if subresource == "exec":
            self.world.asked.append(f"WEBSOCKET {namespace}/{pod} {params['command'][-1]}")
            yield Command(self._printed(params["command"]))
        elif pod in self.world.hung:
            yield Closed() if pod in self.world.metrics else Hung()
        else:
            yield Port(int(params["ports"]), self._server(pod, int(params["ports"])))

    def _printed(self, command: list[str]) -> str | None:
        """What a command in a pod of the database prints; None: it fails."""
        if "getent" in command[-1]:
            return self.world.resolved
        if command[-1].startswith("df "):
            volumes = {"/pgdata": 40, **self.world.used}
            lines = [f"/dev/sdb 10 4 6 {share}% {where}" for where, share in volumes.items()]
            return "\n".join(["Filesystem Mounted on", *lines])
        psql = self.world.psql
        return None if psql is None else json.dumps(psql, indent=1)

    def _server(self, pod: str, port: int) -> Any:
        if port == 6379:
            return Unauthenticated()
        if port == 26379:
            masters = self.world.pods("rfr-shlink-redis-0")
            first = masters[0]["status"]["podIP"] if masters else ""
            return RedisSentinel(self.world.sentinels.get(pod, first))
        shown = self.world.shown.get(pod, "good")
        if shown == "none":
            return Plain()

        def vault(request: bytes) -> bytes:
            return vault_login(request, self.world.refusal)

        return TlsServer(made().server(shown), starts_plain=port == 5432, http=vault)

    def _listed(self, version: str, plural: str, namespace: str) -> httpx.Response:
        kinds = [kind for kind, name in PLURALS.items() if name == plural]
        if not kinds or kinds[0] in self.world.unserved:
            return httpx.Response(404, json={"kind": "Status"})
        items: list[dict[str, Any]] = []
        for item in self.world.of(kinds[0]):
            assert item["apiVersion"] == version, f"{plural} are asked for at {version}"
            if item["metadata"].get("namespace", "") == namespace or not namespace:
                items.append(item)
        return httpx.Response(200, json={"items": items})


Fault = Callable[[World], object]


def broken(declared: Declared, faults: Iterable[Fault]) -> World:
    """A healthy environment in which something was broken."""
    world = healthy(declared)
    for fault in faults:
        fault(world)
    world.count()
    return world

"""The rotation of Redis' password as a pod, where NetworkPolicies are enforced.

Needs a scratch node that runs containers. It must have an image with redis-server, redis-cli and a
shell under the name that the program uses. Debian's packages will do.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.manifests.pods import CONTAINER_SECURITY
from components.redis.component import MASTER
from offline.record import plain
from tests import configurations
from tests.real.cluster import Cluster

_VARIABLE = "SHLINK_TEST_NODE"
_NAMESPACE = "redis"
_CONFIGURATION = "redis-rotated"
pytestmark = pytest.mark.skipif(
    not os.environ.get(_VARIABLE),
    reason=f"no node to run pods on: {_VARIABLE} names no kubeconfig of a scratch node, "
    "e.g. of `../shared/lab/node up`; never one that is in use",
)
_SENTINEL = """
cat > /data/sentinel.conf <<END
sentinel resolve-hostnames yes
sentinel monitor $MASTER rfr-shlink-redis-0.rfr-shlink-redis.redis.svc 6379 2
sentinel auth-pass $MASTER $OLD
END
exec redis-server /data/sentinel.conf --sentinel
"""
_SENTINELS_AGREE = (
    f"redis-cli -p 26379 sentinel master {MASTER} | grep -A1 num-other-sentinels | grep -qx 2"
)


def _recorded(*kinds: str) -> list[Any]:
    """What the program registers in the namespace of Redis."""
    resources = configurations.recording(_CONFIGURATION).resources.values()
    objects = [
        plain(item.inputs) for item in resources if item.is_kubernetes_object and item.kind in kinds
    ]
    return [
        item
        for item in objects
        if _NAMESPACE in (item["metadata"].get("namespace"), item["metadata"]["name"])
    ]


def _failover() -> Any:
    recording = configurations.recording(_CONFIGURATION)
    return plain(recording.one("RedisFailover", "shlink-redis").inputs)["spec"]


def _workload(
    kind: str, name: str, component: str, container: Mapping[str, Any], volumes: Sequence[Any]
) -> dict[str, Any]:
    """As redis-operator makes it, with what counts here: names, labels and security contexts."""
    labels = {"app.kubernetes.io/name": "shlink-redis", "app.kubernetes.io/component": component}
    half = _failover()["redis" if component == "redis" else "sentinel"]
    spec: dict[str, Any] = {
        "replicas": 3,
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "securityContext": half["securityContext"],
                "serviceAccountName": half["serviceAccountName"],
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": component,
                        "image": half["image"],
                        "imagePullPolicy": half["imagePullPolicy"],
                        "securityContext": half["containerSecurityContext"],
                        "workingDir": "/data",
                        **container,
                    }
                ],
                "volumes": [{"name": "data", "emptyDir": {}}, *volumes],
            },
        },
    }
    if kind == "StatefulSet":
        spec |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    metadata = {"name": name, "namespace": _NAMESPACE}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


def _service(name: str, component: str, port: int, **spec: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "shlink-redis", "app.kubernetes.io/component": component}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": _NAMESPACE},
        "spec": {"selector": labels, "ports": [{"port": port}], **spec},
    }


def _servers(password: str) -> list[dict[str, Any]]:
    configuration = f"port 6379\nprotected-mode no\nrequirepass {password}\nmasterauth {password}\n"
    data = {"name": "data", "mountPath": "/data"}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "rfr-shlink-redis", "namespace": _NAMESPACE},
            "data": {"redis.conf": configuration},
        },
        _service("rfr-shlink-redis", "redis", 6379, clusterIP="None"),
        _service("rfs-shlink-redis", "sentinel", 26379),
        _workload(
            "StatefulSet",
            "rfr-shlink-redis",
            "redis",
            {
                "command": _failover()["redis"]["command"],
                "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
                "volumeMounts": [data, {"name": "conf", "mountPath": "/redis"}],
            },
            [{"name": "conf", "configMap": {"name": "rfr-shlink-redis"}}],
        ),
        _workload(
            "Deployment",
            "rfs-shlink-redis",
            "sentinel",
            {
                "command": ["sh", "-c", _SENTINEL],
                "env": [{"name": "MASTER", "value": MASTER}, {"name": "OLD", "value": password}],
                "readinessProbe": {
                    "exec": {"command": ["sh", "-c", _SENTINELS_AGREE]},
                    "periodSeconds": 2,
                },
                "volumeMounts": [data],
            },
            [],
        ),
    ]


@pytest.fixture(scope="module")
def node() -> Iterator[Cluster]:
    """A scratch node with the namespace of Redis, its policies and three servers and sentinels."""
    cluster = Cluster(Path(os.environ[_VARIABLE]))
    namespaces = _recorded("Namespace")
    cluster.must(namespaces)
    cluster.must(_recorded("ServiceAccount", "Secret", "NetworkPolicy"))
    servers = _servers(_recorded("Secret")[0]["stringData"]["previous"])
    cluster.must(servers)
    for workload in servers[-2:]:
        cluster.until(_ready(cluster, workload), f"{cluster.path(workload)} is not ready", 180)
    yield cluster
    cluster.delete(namespaces)
    cluster.gone(namespaces[0], 120)
    cluster.close()


def _ready(node: Cluster, workload: Mapping[str, Any]) -> Callable[[], bool]:
    def check() -> bool:
        return node.call("GET", node.path(workload)).body["status"].get("readyReplicas") == 3

    return check


def _phase(node: Cluster, selector: str) -> tuple[str, str]:
    """Phase and log of the newest pod."""
    pods = node.call("GET", f"/api/v1/namespaces/{_NAMESPACE}/pods", labelSelector=selector)
    if not pods.body["items"]:
        return "", ""
    pod = max(pods.body["items"], key=lambda item: item["metadata"]["creationTimestamp"])
    log = node.call("GET", f"{node.path({**pod, 'apiVersion': 'v1', 'kind': 'Pod'})}/log")
    return pod["status"]["phase"], str(log.body.get("message", ""))


def test_the_rotation_succeeds_at_its_first_try(node: Cluster) -> None:
    """A new pod's address may be refused at first; each further try would be a new pod again."""
    (job,) = _recorded("Job")
    node.must([job])
    deadline = time.monotonic() + 120
    phase, log = "", ""
    while phase not in ("Succeeded", "Failed"):
        assert time.monotonic() < deadline, f"the rotation is still {phase or 'absent'}:\n{log}"
        phase, log = _phase(node, f"batch.kubernetes.io/job-name={job['metadata']['name']}")
        time.sleep(1)
    assert phase == "Succeeded", log
    assert log.count("accepts the new password") == 3
    assert log.count("uses the new password") == 3


def test_a_stranger_in_the_namespace_reaches_no_sentinel(node: Cluster) -> None:
    """The policies are in force, so the success above is one through them."""
    stranger = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "stranger", "namespace": _NAMESPACE, "labels": {"app": "stranger"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": _failover()["redis"]["securityContext"],
            "containers": [
                {
                    "name": "ask",
                    "image": _failover()["redis"]["image"],
                    "imagePullPolicy": "IfNotPresent",
                    "securityContext": CONTAINER_SECURITY,
                    "command": ["timeout", "10", "redis-cli", "-h", "rfs-shlink-redis.redis.svc"],
                    "args": ["-p", "26379", "ping"],
                }
            ],
        },
    }
    node.must([stranger])
    node.until(lambda: _phase(node, "app=stranger")[0] in ("Succeeded", "Failed"), "no end", 60)
    phase, log = _phase(node, "app=stranger")
    assert phase == "Failed", log
    assert "PONG" not in log

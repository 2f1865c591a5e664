"""Doctor against a real API server: real schemas, controllers, scheduler, admission and authoriser.

No container runs: what a kubelet would tell of a pod is written into its status here.
"""

import asyncio
import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.cluster.access import ClusterAccess
from components.settings.environment import parse
from offline.record import ROOT
from operate.declared import Declared, of_recording
from operate.doctor.examine import HEALTHY, Report, examine
from operate.doctor.findings import Severity
from tests import configurations, world
from tests.real import test_rights as rights
from tests.real.cluster import Call, Cluster
from tests.test_doctor import BEYOND_READING

ACCOUNT = {
    "apiVersion": "v1",
    "kind": "ServiceAccount",
    "metadata": {"name": "doctor", "namespace": "default"},
}
LATER = timedelta(minutes=15)
"""Doctor looks as if it were later, so that nothing counts as still starting."""
_MERGE = "application/merge-patch+json"
DNS: dict[str, Any] = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {
        "name": "kube-dns-of-tests",
        "namespace": "kube-system",
        "labels": {"kubernetes.io/service-name": "kube-dns"},
    },
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["192.0.2.53"], "conditions": {"ready": True}}],
    "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}],
}
"""Where the cluster's DNS would answer; this cluster has none."""
_REDIS = {"app.kubernetes.io/name": "shlink-redis"}
_SELECTORS = {
    "rfr-shlink-redis": {**_REDIS, "app.kubernetes.io/component": "redis"},
    "rfs-shlink-redis": {**_REDIS, "app.kubernetes.io/component": "sentinel"},
    "shlink-db-ha": {"postgres-operator.crunchydata.com/role": "master"},
    "vault": {"app.kubernetes.io/name": "vault", "component": "server"},
}
"""Of the Services that operators and charts make."""


@pytest.fixture(scope="module")
def declared() -> Declared:
    recording = configurations.recording("defaults")
    return of_recording(recording, *parse(configurations.configuration("defaults")))


@pytest.fixture(scope="module")
def roles(cluster: Cluster, environment: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    """The roles of deploy/rbac, bound to an account as well, so that doctor can log in as it."""
    assert environment
    objects: list[Any] = [ACCOUNT]
    for name in ("doctor", "doctor-inside", "smoke", "drill", "import-links"):
        objects += yaml.safe_load_all((ROOT / f"deploy/rbac/{name}.yaml").read_text())
    for item in objects:
        role = item["metadata"]["name"]
        if item["kind"].endswith("Binding") and "doctor" in role and "inside" not in role:
            subject = {"kind": "ServiceAccount", "name": "doctor", "namespace": "default"}
            item["subjects"].append(subject)
    cluster.must(objects)
    yield objects
    cluster.delete(objects)


@pytest.fixture(scope="module")
def access(
    cluster: Cluster,
    roles: Sequence[Any],
    tmp_path_factory: pytest.TempPathFactory,
    declared: Declared,
) -> ClusterAccess:
    """The scratch cluster, logged in with doctor's rights and no others."""
    assert roles
    path = "/api/v1/namespaces/default/serviceaccounts/doctor/token"
    spec: dict[str, Any] = {}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    token = cluster.call("POST", path, request).body["status"]["token"]
    document = yaml.safe_load(_kubeconfig().read_text())
    for entry in document["clusters"]:
        authority = entry["cluster"].get("certificate-authority")
        if authority:
            entry["cluster"]["certificate-authority"] = str(_kubeconfig().parent / authority)
    for entry in document["users"]:
        entry["user"] = {"token": token}
    file = tmp_path_factory.mktemp("doctor") / "kubeconfig"
    file.write_text(yaml.safe_dump(document))
    assert declared.cluster.context
    return ClusterAccess(document["current-context"], str(file))


def _kubeconfig() -> Path:
    return Path(os.environ["SHLINK_TEST_KUBECONFIG"])


@pytest.fixture(scope="module")
def running(cluster: Cluster, declared: Declared, roles: Sequence[Any]) -> Iterator[None]:
    """A whole environment: what is declared, what the operators make of it, and their statuses."""
    assert roles
    objects = _objects(declared)
    try:
        _start(cluster, objects)
        yield
    finally:
        cluster.delete(objects)
        # At once: nothing runs in the pods, and their nodes take their time.
        cluster.until(lambda: not _emptied(cluster, declared.namespaces), "pods are left", 60)


def _start(cluster: Cluster, objects: Sequence[Mapping[str, Any]]) -> None:
    """Create everything, write the statuses, and wait until the pods are Ready."""
    without_status = [dict(item) for item in objects]
    for manifest in without_status:
        manifest.pop("status", None)
    cluster.must(without_status)
    for item in objects:
        if "status" in item:
            _status(cluster, item)
    _settled(cluster)


def _objects(declared: Declared) -> list[dict[str, Any]]:
    """The healthy world of the unit tests as manifests that the API server takes.

    Left out: what a controller makes of them, and what the session's environment has already.
    """
    healthy = world.healthy(declared)
    made_elsewhere = {"Pod", "Node", "EndpointSlice", "Namespace", "PersistentVolumeClaim"}
    objects: list[dict[str, Any]] = [DNS]
    for item in healthy.objects:
        if item["kind"] in made_elsewhere | {"Job"}:
            continue
        metadata = item["metadata"]
        for field in ("creationTimestamp", "generation"):
            metadata.pop(field, None)
        objects.append(item)
        if item["kind"] == "Service" and not item["spec"]:
            selector = _SELECTORS.get(item["metadata"]["name"], {"x": "y"})
            item["spec"] = {"clusterIP": "None", "selector": selector}
        if item["kind"] in ("Deployment", "StatefulSet") and "template" not in item["spec"]:
            _template(item)
        if item["kind"] == "CronJob":
            item["spec"] = {"schedule": "0 1 * * *", "suspend": False, "jobTemplate": _job()}
    objects += [_instance(pod) for pod in healthy.pods("shlink-db-instance1")]
    with_status = {"PostgresCluster", "SecretStore", "ExternalSecret", "CronJob"}
    for item in objects:
        if item["kind"] not in with_status:
            item.pop("status", None)
    return [json.loads(json.dumps(item)) for item in objects]


def _template(item: dict[str, Any]) -> None:
    labels = item["spec"]["selector"]["matchLabels"]
    item["spec"]["template"] = {"metadata": {"labels": labels}, "spec": _pod_spec()}
    if item["kind"] == "StatefulSet":
        item["spec"]["serviceName"] = item["metadata"]["name"]
    item.pop("status", None)


def _pod_spec() -> dict[str, Any]:
    security = {
        "allowPrivilegeEscalation": False,
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "main", "image": "registry.example/main:1", "securityContext": security}
    return {"containers": [container], "automountServiceAccountToken": False}


def _job() -> dict[str, Any]:
    template = {"spec": {**_pod_spec(), "restartPolicy": "Never"}}
    return {"spec": {"template": template}}


def _instance(pod: Mapping[str, Any]) -> dict[str, Any]:
    """PGO makes one StatefulSet per instance."""
    name = pod["metadata"]["name"].removesuffix("-0")
    labels = pod["metadata"]["labels"]
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": "postgres"},
        "spec": {
            "replicas": 1,
            "serviceName": name,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": _pod_spec()},
        },
    }


def _typed(item: Mapping[str, Any], version: str, kind: str) -> dict[str, Any]:
    """Items of a list lack these two."""
    return {**item, "apiVersion": version, "kind": kind}


def _status(cluster: Cluster, item: Mapping[str, Any]) -> None:
    path = f"{cluster.path(item)}/status"
    answer = cluster.calls([Call("PATCH", path, {"status": item["status"]}, _MERGE)])[0]
    assert answer.ok, answer.message


def _patch(cluster: Cluster, item: Mapping[str, Any], change: Any, subresource: str = "") -> None:
    answer = cluster.calls([Call("PATCH", cluster.path(item) + subresource, change, _MERGE)])[0]
    # Not found: a pod that its controller has replaced meanwhile. A backup's pod, started where the
    # hour makes the controller catch up on a schedule, ends by itself before it is written to.
    gone = answer.status == HTTPStatus.NOT_FOUND or "non-terminated state" in answer.message
    assert answer.ok or gone, answer.message


def _pods(cluster: Cluster, namespace: str, prefix: str) -> list[dict[str, Any]]:
    listed = cluster.call("GET", f"/api/v1/namespaces/{namespace}/pods").body["items"]
    return [
        _typed(item, "v1", "Pod") for item in listed if item["metadata"]["name"].startswith(prefix)
    ]


def _emptied(cluster: Cluster, namespaces: Sequence[str]) -> list[dict[str, Any]]:
    """Delete all pods of these namespaces; returns those that were left."""
    left: list[dict[str, Any]] = []
    for namespace in namespaces:
        left += _pods(cluster, namespace, "")
    cluster.delete(left)
    return left


def _settled(cluster: Cluster) -> None:
    """Every pod of the environment is Ready."""

    def ready() -> bool:
        _kubelet(cluster)
        expected = {"vault": 1, "postgres": 2, "redis": 7, "shlink": 3, "external-secrets": 1}
        for namespace, number in expected.items():
            pods = _pods(cluster, namespace, "")
            if len([pod for pod in pods if world.is_ready(pod)]) < number:
                return False
        return True

    cluster.until(ready, "the pods do not become Ready", 90)
    cluster.until(lambda: _services_lead(cluster), "Services do not lead to their pods", 30)


def _services_lead(cluster: Cluster) -> bool:
    """The endpoints of every Service name all its Ready pods: they follow a little later."""
    for namespace in ("vault", "postgres", "redis", "shlink", "external-secrets"):
        slices = cluster.call(
            "GET", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
        ).body["items"]
        services = cluster.call("GET", f"/api/v1/namespaces/{namespace}/services").body["items"]
        pods = _pods(cluster, namespace, "")
        for service in services:
            name, selector = service["metadata"]["name"], service["spec"].get("selector")
            named: set[str] = set()
            for piece in slices:
                if piece["metadata"]["labels"].get("kubernetes.io/service-name") == name:
                    endpoints: list[dict[str, Any]] = piece.get("endpoints") or []
                    named |= {endpoint["targetRef"]["name"] for endpoint in endpoints}
            for pod in pods:
                labels = pod["metadata"].get("labels", {})
                selected = selector and selector.items() <= labels.items()
                if selected and world.is_ready(pod) and pod["metadata"]["name"] not in named:
                    return False
    return True


def look(declared: Declared, access: ClusterAccess) -> Report:
    return asyncio.run(examine(declared, access, confirm=0, ahead=LATER))


# Health and rights


@pytest.mark.usefixtures("running")
def test_a_healthy_environment_has_no_finding_with_the_rights_of_the_role(
    declared: Declared, access: ClusterAccess
) -> None:
    report = look(declared, access)
    assert [finding.message for finding in report.findings] == []
    assert report.exit_code == HEALTHY
    # Nothing runs in the pods, so no exporter answers either.
    assert {skip.check for skip in report.skipped} <= BEYOND_READING | {"redis.servers"}
    assert report.seconds < 10


@pytest.mark.usefixtures("roles")
def test_doctor_may_not(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    who = ("somebody", ["shlink:doctor"])
    refused = [*vars(rights)["_NOBODY"]]
    for place in rights.NAMESPACES:
        refused += [
            rights.Ask("get list", "core/configmaps", place),
            rights.Ask("get", "core/secrets", place, "any"),
            rights.Ask("create get", "core/pods/portforward", place),
            rights.Ask("create get", "core/pods/exec", place),
            rights.Ask("get", "core/pods/proxy", place, "another:8200"),
            rights.Ask("update patch delete", "core/pods", place),
            rights.Ask("update patch delete", "apps/deployments", place),
        ]
    for place in ("vault", "postgres", "redis", "external-secrets"):
        refused.append(rights.Ask("get", "core/pods/log", place))
    refused.append(rights.Ask("get", "core/pods/proxy", "vault", "vault-0:8201"))
    refused.append(rights.Ask("get", "core/pods/proxy", "redis", "rfr-shlink-redis-0:6379"))
    refused.append(rights.Ask("create", "core/pods/proxy", "vault", "vault-0:8200"))
    exceeds = vars(rights)["_differs"](cluster, who, refused, expected=False)
    assert not exceeds, "\n".join(exceeds)
    record_property("checks", sum(len(ask.verbs.split()) for ask in refused))


@pytest.mark.usefixtures("roles")
def test_the_role_beyond_reading_may_look_inside_and_change_nothing(cluster: Cluster) -> None:
    who = ("somebody", ["shlink:doctor-inside"])
    differs = vars(rights)["_differs"]
    servers = ("vault", "postgres", "redis")
    allowed = [rights.Ask("get create", "core/pods/portforward", place) for place in servers]
    allowed.append(rights.Ask("get create", "core/pods/exec", "postgres"))
    assert not differs(cluster, who, allowed, expected=True)
    # A command in a database pod is what this role is for.
    refused = [ask for ask in vars(rights)["_NOBODY"] if ask.resource != "core/pods/exec"]
    for place in rights.NAMESPACES:
        refused.append(rights.Ask("get", "core/secrets", place, "any"))
        refused.append(rights.Ask("update patch delete", "core/pods", place))
    elsewhere = ("vault", "redis", "shlink", "external-secrets")
    refused += [rights.Ask("get create", "core/pods/exec", place) for place in elsewhere]
    assert not differs(cluster, who, refused, expected=False)


@pytest.mark.usefixtures("roles")
def test_smoke_may_read_one_secret_and_forward(cluster: Cluster) -> None:
    who = ("somebody", ["shlink:smoke"])
    differs = vars(rights)["_differs"]
    allowed = [
        rights.Ask("get", "core/secrets", "shlink", "shlink-api-key"),
        rights.Ask("list", "core/pods", "shlink"),
        rights.Ask("get create", "core/pods/portforward", "shlink"),
    ]
    assert not differs(cluster, who, allowed, expected=True)
    refused = [
        *vars(rights)["_NOBODY"],
        rights.Ask("get", "core/secrets", "shlink", "shlink-redis"),
    ]
    elsewhere = ("vault", "postgres", "redis", "external-secrets")
    refused += [rights.Ask("get create", "core/pods/portforward", place) for place in elsewhere]
    assert not differs(cluster, who, refused, expected=False)


@pytest.mark.usefixtures("roles")
def test_an_import_may_create_and_removes_its_own_job_alone(cluster: Cluster) -> None:
    who = ("somebody", ["shlink:import-links"])
    differs = vars(rights)["_differs"]
    allowed = [
        rights.Ask("create", resource, "shlink")
        for resource in ("batch/jobs", "core/secrets", "networking.k8s.io/networkpolicies")
    ]
    allowed += [
        rights.Ask("get delete", "batch/jobs", "shlink", "shlink-import"),
        rights.Ask("list", "core/namespaces"),
    ]
    assert not differs(cluster, who, allowed, expected=True)
    refused = [
        rights.Ask("get list watch update patch delete", "core/secrets", "shlink"),
        rights.Ask("create", "core/pods/exec", "shlink"),
        rights.Ask("delete", "batch/jobs", "shlink", "shlink-migration"),
        rights.Ask("delete update", "networking.k8s.io/networkpolicies", "shlink"),
    ]
    for place in ("vault", "postgres", "redis", "external-secrets"):
        refused.append(rights.Ask("create", "core/secrets", place))
        refused.append(rights.Ask("create", "batch/jobs", place))
    assert not differs(cluster, who, refused, expected=False)


@pytest.mark.usefixtures("roles")
def test_a_drill_may_delete_pods_of_the_servers_and_nothing_else(cluster: Cluster) -> None:
    """And Vault's volumes, for `make vault-renew`."""
    who = ("somebody", ["shlink:drill"])
    differs = vars(rights)["_differs"]
    places = ("vault", "postgres", "redis")
    allowed = [rights.Ask("list delete", "core/pods", place) for place in places]
    allowed.append(rights.Ask("list delete", "core/persistentvolumeclaims", "vault"))
    assert not differs(cluster, who, allowed, expected=True)
    refused = [*vars(rights)["_NOBODY"]]
    for place in rights.NAMESPACES:
        refused.append(rights.Ask("create update patch", "core/pods", place))
        if place != "vault":
            refused.append(rights.Ask("delete", "core/persistentvolumeclaims", place))
        refused.append(rights.Ask("delete", "apps/statefulsets", place))
    refused.append(rights.Ask("delete", "core/pods", "shlink"))
    assert not differs(cluster, who, refused, expected=False)


# Faults


@dataclasses.dataclass(frozen=True)
class RealFault:
    """Something that is broken in the cluster, and then mended."""

    name: str
    check: str
    anchor: str
    make: Callable[[Cluster], object]
    mend: Callable[[Cluster], object]


def _object(kind: str, version: str, namespace: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
    }


SHLINK = _object("Deployment", "apps/v1", "shlink", "shlink")
PGO = _object("Deployment", "apps/v1", "postgres", "pgo")
STORE = _object("SecretStore", "external-secrets.io/v1", "shlink", "vault-backend")
REDIS = _object("ExternalSecret", "external-secrets.io/v1", "shlink", "redis-credentials")
DATABASE = _object(
    "PostgresCluster", "postgres-operator.crunchydata.com/v1beta1", "postgres", "shlink-db"
)
SCHEDULE = _object("CronJob", "batch/v1", "postgres", "shlink-db-repo1-full")
POLICY = _object("NetworkPolicy", "networking.k8s.io/v1", "shlink", "shlink")
STORE_ROLE = _object("Role", "rbac.authorization.k8s.io/v1", "shlink", "external-secrets-sa")
TOKEN_REVIEW: dict[str, Any] = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "vault-vault-token-review"},
}
ACCOUNT_OF_STORE = _object("ServiceAccount", "v1", "shlink", "external-secrets-sa")
BUDGET = _object("PodDisruptionBudget", "policy/v1", "shlink", "shlink")
LEADER = _object("Service", "v1", "postgres", "shlink-db-ha")
SENTINELS = _object("Service", "v1", "redis", "rfs-shlink-redis")
FRONT = _object("Service", "v1", "shlink", "shlink")
HEADLESS = _object("Service", "v1", "redis", "rfr-shlink-redis")
QUOTA = {**_object("ResourceQuota", "v1", "redis", "none"), "spec": {"hard": {"pods": "0"}}}
CLAIM = {
    **_object("PersistentVolumeClaim", "v1", "vault", "data-vault-0"),
    "spec": {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "does-not-exist",
        "resources": {"requests": {"storage": "1Gi"}},
    },
}


def _condition(item: dict[str, Any], status: str, message: str) -> Callable[[Cluster], None]:
    entry = {"type": "Ready", "status": status, "reason": "Told", "message": message}
    change = {"status": {"conditions": [{**entry, "lastTransitionTime": world.ago(60)}]}}
    return lambda cluster: _patch(cluster, item, change, "/status")


def _waiting(namespace: str, prefix: str, reason: str, message: str) -> Callable[[Cluster], None]:
    """As the kubelet tells it."""

    def make(cluster: Cluster) -> None:
        pod = _pods(cluster, namespace, prefix)[0]
        state = {"waiting": {"reason": reason, "message": message}}
        _container(cluster, pod, state=state)

    return make


def _killed(cluster: Cluster) -> None:
    pod = _pods(cluster, "vault", "vault-0")[0]
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": world.ago(30)}
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    _container(cluster, pod, state=waiting, lastState={"terminated": ended}, restartCount=4)


def _container(cluster: Cluster, pod: Mapping[str, Any], **fields: Any) -> None:
    statuses = [
        {**status, "ready": False, **fields}
        for status in pod["status"].get("containerStatuses", [])
    ]
    conditions = [
        {**entry, "status": "False" if entry["type"] == "Ready" else entry["status"]}
        for entry in pod["status"]["conditions"]
    ]
    change = {"status": {"containerStatuses": statuses, "conditions": conditions}}
    _patch(cluster, pod, change, "/status")


def _again(namespace: str, prefix: str) -> Callable[[Cluster], None]:
    """Delete the pods, so that their controller makes new ones."""

    def mend(cluster: Cluster) -> None:
        cluster.delete(_pods(cluster, namespace, prefix))

    return mend


def _spec(item: dict[str, Any], change: Any) -> Callable[[Cluster], None]:
    return lambda cluster: _patch(cluster, item, {"spec": change})


def _deleted(item: dict[str, Any]) -> Callable[[Cluster], None]:
    return lambda cluster: cluster.delete([item])


def _made(item: dict[str, Any]) -> Callable[[Cluster], object]:
    return lambda cluster: cluster.must([item])


def _redeclared(kind: str, name: str) -> Callable[[Cluster], object]:
    """Apply an object of the environment again."""

    def mend(cluster: Cluster) -> None:
        recording = configurations.recording("defaults")
        declared = of_recording(recording, *parse(configurations.configuration("defaults")))
        for item in _objects(declared):
            place = (item["kind"], item["metadata"]["name"])
            if place == (kind, name) and item["metadata"].get("namespace") != "vault":
                cluster.must([item])

    return mend


def _quota(cluster: Cluster) -> None:
    cluster.must([QUOTA])
    cluster.delete(_pods(cluster, "redis", "rfr-shlink-redis-2"))


def _no_quota(cluster: Cluster) -> None:
    cluster.delete([QUOTA])


def _unrestricted(cluster: Cluster) -> None:
    """Pod Security refuses the pods that this template asks for."""
    container = {"name": "main", "image": "x:1"}
    _patch(cluster, PGO, {"spec": {"template": {"spec": {"containers": [container]}}}})
    cluster.delete(_pods(cluster, "postgres", "pgo-"))


def _restricted(cluster: Cluster) -> None:
    cluster.delete([PGO])
    cluster.gone(PGO)
    _redeclared("Deployment", "pgo")(cluster)


def _resynced(cluster: Cluster) -> None:
    """Declared again, and delivered by the controller."""
    _redeclared("ExternalSecret", "redis-credentials")(cluster)
    synced = {"syncedResourceVersion": "1-29fa", "refreshTime": world.ago(1)}
    _patch(cluster, REDIS, {"status": synced}, "/status")
    _condition(REDIS, "True", "")(cluster)


def _servers(urls: str) -> Callable[[Cluster], None]:
    """What Shlink is told of Redis."""

    def make(cluster: Cluster) -> None:
        deployment = cluster.call("GET", cluster.path(SHLINK)).body
        containers = deployment["spec"]["template"]["spec"]["containers"]
        variables = [
            variable
            for variable in containers[0].get("env", [])
            if not variable["name"].startswith("REDIS_SERVERS")
        ]
        variables.append({"name": "REDIS_SERVERS", "value": urls})
        containers[0]["env"] = variables
        _patch(cluster, SHLINK, {"spec": {"template": {"spec": {"containers": containers}}}})

    return make


def _both(*acts: Callable[[Cluster], object]) -> Callable[[Cluster], None]:
    def act(cluster: Cluster) -> None:
        for each in acts:
            each(cluster)

    return act


def _answers(*, ready: bool) -> Callable[[Cluster], object]:
    """Whether the cluster's DNS does."""
    endpoints = [{**DNS["endpoints"][0], "conditions": {"ready": ready}}]
    return lambda cluster: cluster.must([{**DNS, "endpoints": endpoints}])


def _image(cluster: Cluster) -> None:
    """Somebody edits the image of Shlink."""
    deployment = cluster.call("GET", cluster.path(SHLINK)).body
    containers = deployment["spec"]["template"]["spec"]["containers"]
    containers[0]["image"] = "registry.example/shlink:nope"
    _patch(cluster, SHLINK, {"spec": {"template": {"spec": {"containers": containers}}}})


_SECRET = 'secret "shlink-api-key" not found'
_ELSEWHERE = {"selector": {"app.kubernetes.io/component": "nothing"}}
FAULTS = [
    RealFault("no DNS", "cluster.dns", "name-does-not-resolve", _answers(ready=False), _made(DNS)),
    RealFault(
        "token review not allowed",
        "cluster.objects",
        "object-missing",
        _deleted(TOKEN_REVIEW),
        _redeclared("ClusterRoleBinding", "vault-vault-token-review"),
    ),
    RealFault(
        "rights of the store edited",
        "cluster.objects",
        "not-as-declared",
        _both(
            _condition(STORE, "False", "forbidden"),
            lambda cluster: _patch(cluster, STORE_ROLE, {"rules": []}),
        ),
        _both(_condition(STORE, "True", ""), _redeclared("Role", "external-secrets-sa")),
    ),
    RealFault(
        "role of the store edited",
        "secrets.unchanged",
        "not-as-declared",
        _both(
            _condition(STORE, "False", "invalid role name"),
            _spec(STORE, {"provider": {"vault": {"auth": {"kubernetes": {"role": "x"}}}}}),
        ),
        _both(_condition(STORE, "True", ""), _redeclared("SecretStore", "vault-backend")),
    ),
    RealFault(
        "certificate of the database edited",
        "postgres.unchanged",
        "not-as-declared",
        _both(
            _spec(DATABASE, {"customTLSSecret": {"name": "other"}}),
            _waiting("postgres", "shlink-db-", "CreateContainerConfigError", "not found"),
        ),
        _both(_redeclared("PostgresCluster", "shlink-db"), _again("postgres", "shlink-db-")),
    ),
    RealFault(
        "image of shlink edited",
        "shlink.unchanged",
        "not-as-declared",
        _both(_image, _waiting("shlink", "shlink-", "ImagePullBackOff", "")),
        _both(_redeclared("Deployment", "shlink"), _again("shlink", "shlink-")),
    ),
    RealFault(
        "service account deleted",
        "cluster.objects",
        "object-missing",
        _deleted(ACCOUNT_OF_STORE),
        _redeclared("ServiceAccount", "external-secrets-sa"),
    ),
    RealFault(
        "disruption budget deleted",
        "cluster.reserves",
        "object-missing",
        _deleted(BUDGET),
        _redeclared("PodDisruptionBudget", "shlink"),
    ),
    RealFault(
        "certificate of vault refused",
        "secrets.store",
        "certificate-refused",
        _condition(STORE, "False", "tls: x509: certificate has expired"),
        _condition(STORE, "True", ""),
    ),
    RealFault(
        "external secret deleted",
        "secrets.synced",
        "object-missing",
        _deleted(REDIS),
        _resynced,
    ),
    RealFault(
        "primary without its service",
        "postgres.names",
        "postgres-no-names",
        _spec(LEADER, {"selector": {"postgres-operator.crunchydata.com/role": "nothing"}}),
        _spec(LEADER, {"selector": _SELECTORS["shlink-db-ha"]}),
    ),
    RealFault(
        "redis pods without names",
        "redis.names",
        "redis-no-names",
        _spec(HEADLESS, _ELSEWHERE),
        _spec(HEADLESS, {"selector": _SELECTORS["rfr-shlink-redis"]}),
    ),
    RealFault(
        "sentinels without a service",
        "redis.names",
        "redis-no-names",
        _deleted(SENTINELS),
        _redeclared("Service", "rfs-shlink-redis"),
    ),
    RealFault(
        "shlink without its service",
        "shlink.reached",
        "object-missing",
        _deleted(FRONT),
        _redeclared("Service", "shlink"),
    ),
    RealFault(
        "service of shlink leads nowhere",
        "shlink.unchanged",
        "not-as-declared",
        _spec(FRONT, _ELSEWHERE),
        _spec(FRONT, {"selector": {"app.kubernetes.io/component": None}}),
    ),
    RealFault(
        "one sentinel",
        "shlink.redis-mode",
        "shlink-redis-mode",
        _servers("tcp://rfs-shlink-redis.redis.svc:26379"),
        _redeclared("Deployment", "shlink"),
    ),
    RealFault(
        "network policy deleted",
        "cluster.policies",
        "network-policy-missing",
        _deleted(POLICY),
        _redeclared("NetworkPolicy", "shlink"),
    ),
    RealFault(
        "network policy edited",
        "cluster.policies",
        "network-policy-changed",
        _spec(POLICY, {"egress": []}),
        _redeclared("NetworkPolicy", "shlink"),
    ),
    RealFault(
        "no storage class", "cluster.volumes", "volume-not-bound", _made(CLAIM), _deleted(CLAIM)
    ),
    RealFault(
        "operator scaled to 0",
        "operators.available",
        "operator-down",
        _spec(PGO, {"replicas": 0}),
        _spec(PGO, {"replicas": 1}),
    ),
    RealFault(
        "Pod Security refuses an operator that somebody edited",
        "operators.unchanged",
        "not-as-declared",
        _unrestricted,
        _restricted,
    ),
    RealFault(
        "vault out of memory", "vault.running", "out-of-memory", _killed, _again("vault", "vault-0")
    ),
    RealFault(
        "wrong role in vault",
        "secrets.store",
        "secret-store-not-ready",
        _condition(STORE, "False", "invalid role name"),
        _condition(STORE, "True", ""),
    ),
    RealFault(
        "path missing in vault",
        "secrets.synced",
        "secret-not-synced",
        _condition(REDIS, "False", "Secret does not exist"),
        _condition(REDIS, "True", ""),
    ),
    RealFault(
        "database image",
        "postgres.running",
        "image-not-pulled",
        _waiting("postgres", "shlink-db-", "ImagePullBackOff", ""),
        _again("postgres", "shlink-db-"),
    ),
    RealFault(
        "database shut down",
        "postgres.created",
        "postgres-stopped",
        _spec(DATABASE, {"shutdown": True}),
        _spec(DATABASE, {"shutdown": None}),
    ),
    RealFault(
        "backups suspended",
        "postgres.backups",
        "postgres-backup-old",
        _spec(SCHEDULE, {"suspend": True}),
        _spec(SCHEDULE, {"suspend": False}),
    ),
    RealFault("quota", "redis.running", "pod-refused", _quota, _no_quota),
    RealFault(
        "no headless service",
        "redis.names",
        "redis-no-names",
        _deleted(HEADLESS),
        _redeclared("Service", "rfr-shlink-redis"),
    ),
    RealFault(
        "no node takes shlink, which somebody edited",
        "shlink.unchanged",
        "not-as-declared",
        _spec(SHLINK, {"template": {"spec": {"nodeSelector": {"disk": "none"}}}}),
        _both(
            _spec(SHLINK, {"template": {"spec": {"nodeSelector": None}}}),
            _redeclared("Deployment", "shlink"),
        ),
    ),
    RealFault(
        "secret missing",
        "shlink.running",
        "secret-not-found",
        _waiting("shlink", "shlink-", "CreateContainerConfigError", _SECRET),
        _again("shlink", "shlink-"),
    ),
    RealFault(
        "shlink scaled to 0",
        "shlink.running",
        "shlink-scaled-to-0",
        _spec(SHLINK, {"replicas": 0}),
        _redeclared("Deployment", "shlink"),
    ),
]


@pytest.mark.usefixtures("running")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_first_finding_is_the_cause(
    fault: RealFault, cluster: Cluster, declared: Declared, access: ClusterAccess
) -> None:
    """Made for real, found, mended, and not found any more."""
    expected = (fault.check, f"docs/runbook.md#{fault.anchor}")

    told = ""

    def first() -> tuple[str, str] | None:
        nonlocal told
        _kubelet(cluster)
        findings = look(declared, access).findings
        told = findings[0].message if findings else ""
        return (findings[0].check, findings[0].runbook) if findings else None

    def healed() -> bool:
        _kubelet(cluster)
        return all(
            finding.severity is not Severity.ERROR for finding in look(declared, access).findings
        )

    fault.make(cluster)
    try:
        with contextlib.suppress(TimeoutError):
            cluster.until(lambda: first() == expected, "not found", 40)
        assert first() == expected, told
    finally:
        fault.mend(cluster)
    cluster.until(healed, "still found after it was mended", 60)


def _kubelet(cluster: Cluster) -> None:
    """What kubelets and operators would do: new pods run and get a role, stopped ones go."""
    for namespace in rights.NAMESPACES:
        for pod in _pods(cluster, namespace, ""):
            if "deletionTimestamp" in pod["metadata"]:
                cluster.delete([pod])
            elif "nodeName" in pod["spec"] and "containerStatuses" not in pod["status"]:
                _run(cluster, pod)
    database = cluster.call("GET", cluster.path(DATABASE)).body
    if "metadata" in database and database["metadata"].get("generation"):
        seen = {"status": {"observedGeneration": database["metadata"]["generation"]}}
        _patch(cluster, DATABASE, seen, "/status")
    for pod in _pods(cluster, "redis", "rfr-"):
        if "redisfailovers-role" not in pod["metadata"]["labels"]:
            role = "master" if pod["metadata"]["name"].endswith("-0") else "slave"
            _patch(cluster, pod, {"metadata": {"labels": {"redisfailovers-role": role}}})


def _run(cluster: Cluster, pod: Mapping[str, Any]) -> None:
    """The pod's containers run and are Ready."""
    containers = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": True,
            "started": True,
            "restartCount": 0,
            "state": {"running": {"startedAt": world.ago(1)}},
        }
        for container in pod["spec"]["containers"]
    ]
    moment = world.ago(1)
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": moment}
        for kind in ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    ]
    # Endpoints are made of addresses; this one leads nowhere (RFC 5737).
    address = "192.0.2.10"
    status = {
        "phase": "Running",
        "startTime": moment,
        "conditions": conditions,
        "podIP": address,
        "podIPs": [{"ip": address}],
    }
    _patch(cluster, pod, {"status": {**status, "containerStatuses": containers}}, "/status")

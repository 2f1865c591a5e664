"""The rights of the program's ServiceAccounts and of deploy/rbac's groups, by a real authoriser."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from pulumi.runtime.mocks import MockMonitor

from offline.record import ROOT, plain, record
from tests import configurations
from tests.real.cluster import Answer, Call, Cluster

_RBAC = ("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
NAMESPACES = ("vault", "external-secrets", "postgres", "redis", "shlink")


@dataclass(frozen=True)
class Ask:
    """Verbs, separated by spaces, on a resource."""

    verbs: str
    resource: str
    """`group/resource/subresource`; `core` is the group of Pods and Secrets."""
    namespace: str = ""
    """Empty for the whole cluster."""
    name: str = ""

    def reviews(self, user: str, groups: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        group, resource, *subresource = self.resource.split("/")
        for verb in self.verbs.split():
            attributes = {
                "verb": verb,
                "group": "" if group == "core" else group,
                "resource": resource,
                "subresource": "".join(subresource),
                "namespace": self.namespace,
                "name": self.name,
            }
            yield {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {
                    "user": user,
                    "groups": [*groups, "system:authenticated"],
                    "resourceAttributes": attributes,
                },
            }


def _each(
    verbs: str, resource: str, namespaces: Iterable[str] = NAMESPACES, name: str = ""
) -> list[Ask]:
    """The same verbs in each namespace."""
    return [Ask(verbs, resource, namespace, name) for namespace in namespaces]


def _verbs(asked: Iterable[Ask]) -> int:
    """How many checks these are."""
    return sum(len(ask.verbs.split()) for ask in asked)


def _account(namespace: str, name: str) -> tuple[str, list[str]]:
    """A ServiceAccount's user name and groups."""
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}"]
    return f"system:serviceaccount:{namespace}:{name}", groups


def _differs(
    cluster: Cluster, who: tuple[str, Sequence[str]], asked: Iterable[Ask], *, expected: bool
) -> list[str]:
    """What is allowed and should not be, or the other way round."""
    reviews: list[Mapping[str, Any]] = []
    for ask in asked:
        reviews += ask.reviews(*who)
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    answers = cluster.calls(Call("POST", path, review) for review in reviews)
    differences: list[str] = []
    for review, answer in zip(reviews, answers, strict=True):
        if bool(answer.body["status"]["allowed"]) != expected:
            attributes = review["spec"]["resourceAttributes"].values()
            differences.append(f"{who[0]}: {' '.join(filter(None, attributes))}")
    return differences


@pytest.fixture(scope="module")
def roles(cluster: Cluster, environment: Mapping[str, Any]) -> Iterator[None]:
    """All roles and bindings that the program declares with the defaults."""
    assert environment
    recorded = configurations.recording("defaults").resources.values()
    objects = [
        plain(resource.inputs)
        for resource in recorded
        if resource.is_kubernetes_object and resource.kind in _RBAC
    ]
    cluster.must(objects)
    # The authoriser learns of a role a moment later.
    first = [Ask("get", "core/secrets", "vault", "vault-unseal-keys")]
    cluster.until(
        lambda: not _differs(cluster, _account("vault", "vault"), first, expected=True),
        "the roles do not take effect",
    )
    yield
    cluster.delete(objects)


MAY: Mapping[tuple[str, str], Sequence[Ask]] = {
    ("vault", "vault"): [Ask("get", "core/secrets", "vault", "vault-unseal-keys")],
    ("vault", "vault-init"): [Ask("get update", "core/secrets", "vault", "vault-unseal-keys")],
    ("external-secrets", "external-secrets"): [
        Ask("create", "core/serviceaccounts/token", "shlink", "external-secrets-sa")
    ],
    # From the source of redis-operator v1.2.4: service/k8s/*.go, and kooper's leader election.
    ("redis", "redis-operator"): [
        Ask("list watch", "databases.spotahome.com/redisfailovers"),
        Ask("update", "databases.spotahome.com/redisfailovers/finalizers", "redis"),
        Ask("get", "core/secrets", "redis", "shlink-redis-auth"),
        Ask("get create update delete", "core/services", "redis"),
        Ask("get create update", "core/configmaps", "redis"),
        Ask("get create update", "coordination.k8s.io/leases", "redis"),
        Ask("get list patch delete", "core/pods", "redis"),
        Ask("get create update", "apps/statefulsets", "redis"),
        Ask("get create update", "apps/deployments", "redis"),
        Ask("get create update", "policy/poddisruptionbudgets", "redis"),
    ],
    ("redis", "shlink-redis"): [],
    ("shlink", "external-secrets-sa"): [],
    ("shlink", "default"): [],
    ("postgres", "default"): [],
    ("redis", "default"): [],
}
_NOBODY = [
    Ask("list watch create delete deletecollection", "core/secrets"),
    *_each(
        "list watch create delete deletecollection",
        "core/secrets",
        (*NAMESPACES, "kube-system", "default"),
    ),
    *_each("get update patch", "core/secrets", (*NAMESPACES, "kube-system"), "another"),
    Ask("get", "core/secrets", "vault", "vault-login"),
    Ask("get", "core/secrets", "postgres", "shlink-db-pguser-postgres"),
    Ask("get", "core/secrets", "shlink", "shlink-db-pguser-shlink"),
    Ask("create", "core/serviceaccounts/token", "kube-system", "default"),
    Ask("create", "core/serviceaccounts/token", "shlink", "default"),
    Ask("create", "core/serviceaccounts/token", "vault", "vault"),
    *_each("create", "core/pods/exec"),
    *_each("create", "core/pods"),
    *_each("create update patch bind escalate", "rbac.authorization.k8s.io/roles"),
    Ask("create update patch bind escalate", "rbac.authorization.k8s.io/clusterroles"),
    Ask("create", "rbac.authorization.k8s.io/clusterrolebindings"),
    Ask("impersonate", "core/users"),
    Ask("delete", "core/namespaces"),
    Ask("get", "core/nodes/proxy"),
    Ask("*", "*/*"),
]
MAY_NOT: Mapping[tuple[str, str], Sequence[Ask]] = {
    ("vault", "vault"): [Ask("update patch delete", "core/secrets", "vault", "vault-unseal-keys")],
    ("vault", "vault-init"): [Ask("patch delete", "core/secrets", "vault", "vault-unseal-keys")],
    ("external-secrets", "external-secrets"): [
        Ask("create", "core/serviceaccounts/token", "external-secrets", "external-secrets")
    ],
    ("redis", "redis-operator"): [
        *_each(
            "get list create update delete",
            "core/services",
            ("shlink", "postgres", "kube-system"),
        ),
        *_each("get list delete patch", "core/pods", ("shlink", "vault", "kube-system")),
        *_each("get create update", "apps/statefulsets", ("vault", "postgres")),
        Ask("update patch", "core/secrets", "redis", "shlink-redis-auth"),
        Ask("get", "core/secrets", "shlink", "shlink-redis-auth"),
    ],
    ("redis", "shlink-redis"): [
        Ask("get list", "core/pods", "redis"),
        Ask("get list", "core/configmaps", "redis"),
    ],
    ("shlink", "external-secrets-sa"): [Ask("get list", "core/configmaps", "shlink")],
    ("shlink", "default"): [Ask("get list", "core/pods", "shlink")],
}


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("account", MAY, ids="/".join)
def test_account(
    cluster: Cluster, account: tuple[str, str], record_property: Callable[[str, object], None]
) -> None:
    """It may do what its row in MAY lists, and nothing of MAY_NOT or _NOBODY."""
    who, forbidden = _account(*account), [*_NOBODY, *MAY_NOT.get(account, [])]
    lacks = _differs(cluster, who, MAY[account], expected=True)
    exceeds = _differs(cluster, who, forbidden, expected=False)
    assert not lacks, "must be allowed:\n" + "\n".join(lacks)
    assert not exceeds, "must be refused:\n" + "\n".join(exceeds)
    record_property("checks", _verbs([*MAY[account], *forbidden]))


def test_every_bound_account_is_asked_about() -> None:
    """A new binding needs a row above."""
    for name, manifest in configurations.objects():
        if manifest["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        for subject in manifest["subjects"]:
            account = (subject["namespace"], subject["name"])
            # In `platform` are operators that the program does not install.
            assert account in MAY or subject["namespace"] == "platform", f"{name}: {account}"


def _manifests(name: str) -> list[Any]:
    return list(yaml.safe_load_all((Path(ROOT) / "deploy" / "rbac" / f"{name}.yaml").read_text()))


@pytest.fixture(scope="module")
def people(cluster: Cluster, environment: Mapping[str, Any]) -> Iterator[None]:
    """The manifests of deploy/rbac, as they are."""
    assert environment
    names = ("preview", "deploy", "forward", "drift")
    objects = [item for name in names for item in _manifests(name)]
    cluster.must(objects)
    preview, deploy = ("p", ["shlink:preview"]), ("d", ["shlink:deploy"])
    services, secrets = (
        [Ask("get", "core/services", "shlink")],
        [Ask("get", "core/secrets", "shlink")],
    )

    def effective() -> bool:
        lacks = _differs(cluster, preview, services, expected=True)
        return not lacks and not _differs(cluster, deploy, secrets, expected=True)

    cluster.until(effective, "deploy/rbac does not take effect")
    yield
    cluster.delete(objects)


# A scratch API server has no CRD for these; the authoriser can be asked all the same.
_NOT_SERVED = {
    "HTTPRoute": "gateway.networking.k8s.io/httproutes",
    "CiliumNetworkPolicy": "cilium.io/ciliumnetworkpolicies",
    "PodMonitor": "monitoring.coreos.com/podmonitors",
    "PrometheusRule": "monitoring.coreos.com/prometheusrules",
    "BackendConfig": "cloud.google.com/backendconfigs",
    "HealthCheckPolicy": "networking.gke.io/healthcheckpolicies",
}


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("resource", _NOT_SERVED.values())
def test_kinds_that_only_some_clusters_serve(cluster: Cluster, resource: str) -> None:
    """Previews may read them, deployments may change them."""
    assert not _differs(cluster, ("p", ["shlink:preview"]), _each("get", resource), expected=True)
    changes = [Ask("get create update patch delete list watch", resource, "shlink")]
    assert not _differs(cluster, ("d", ["shlink:deploy"]), changes, expected=True)


def _everything() -> list[Mapping[str, Any]]:
    """Each distinct object that the program declares, and the kinds that Vault's chart adds."""
    labels = {"a": "b"}
    stateful = {
        "serviceName": "vault",
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "vault", "image": "vault"}]},
        },
    }
    return [
        *(item for _, item in configurations.objects() if item["kind"] not in _NOT_SERVED),
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "vault", "namespace": "vault"},
            "spec": stateful,
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "vault-config", "namespace": "vault"},
        },
    ]


def _as(cluster: Cluster, group: str, calls: Iterable[Call]) -> list[Answer]:
    headers = {"Impersonate-User": "somebody", "Impersonate-Group": group}
    return cluster.calls(replace(call, headers=headers) for call in calls)


def _create(cluster: Cluster, manifest: Mapping[str, Any]) -> Call:
    folder = cluster.folder(
        manifest["apiVersion"], manifest["kind"], manifest["metadata"].get("namespace")
    )
    return Call("POST", folder, manifest, params={"dryRun": "All"})


@pytest.mark.usefixtures("people")
def test_preview_gets_everything_but_secrets_and_lists_nothing(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    """So a preview works with these rights alone."""
    objects = _everything()
    reads = _as(cluster, "shlink:preview", [Call("GET", cluster.path(item)) for item in objects])
    folders = sorted({cluster.path(item).rpartition("/")[0] for item in objects})
    lists = _as(cluster, "shlink:preview", [Call("GET", folder) for folder in folders])
    for item, read in zip(objects, reads, strict=True):
        forbidden = item["kind"] == "Secret"
        assert (read.status == 403) == forbidden, f"{item['kind']}: {read.message}"
    assert {answer.status for answer in lists} == {403}
    # pulumi-kubernetes does without the dry run when it is refused.
    tried = _as(cluster, "shlink:preview", [_create(cluster, item) for item in objects])
    assert {answer.status for answer in tried} == {403}
    record_property("checks", 2 * len(objects) + len(folders))


@pytest.mark.usefixtures("people")
def test_drift_reads_everything_and_changes_nothing(cluster: Cluster) -> None:
    objects = _everything()
    reads = _as(cluster, "shlink:drift", [Call("GET", cluster.path(item)) for item in objects])
    refused = [answer.message for answer in reads if answer.status == 403]
    assert refused == []
    tried = _as(cluster, "shlink:drift", [_create(cluster, item) for item in objects])
    assert {answer.status for answer in tried} == {403}
    everybody = ("d", ["shlink:drift"])
    writes = [Ask("update patch delete", f"core/{kind}", "shlink") for kind in ("secrets", "pods")]
    assert not _differs(cluster, everybody, writes, expected=False)


@pytest.mark.usefixtures("people")
def test_the_password_of_redis_is_not_read_by_who_previews(cluster: Cluster) -> None:
    """redis-operator copies it into a ConfigMap, in plain text."""
    copied = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "rfr-shlink-redis", "namespace": "redis"},
        "data": {"redis.conf": "requirepass secret"},
    }
    cluster.must([copied])
    path = cluster.path(copied)
    assert cluster.call("GET", path).ok
    folder = path.rpartition("/")[0]
    calls = [
        Call("GET", path),
        Call("GET", folder),
        Call("GET", folder, params={"watch": "true"}),
        Call("GET", "/api/v1/configmaps"),
    ]
    answers = _as(cluster, "shlink:preview", calls)
    cluster.delete([copied])
    assert [answer.status for answer in answers] == [403] * 4


@pytest.mark.parametrize("configuration", ["defaults", "vault-transit", "redis-rotated"])
def test_the_program_reads_nothing_from_the_cluster(configuration: str) -> None:
    """A preview with these rights would fail: `Secret.get` and imports read, even in a preview."""
    read: list[str] = []

    def refuse(_: MockMonitor, request: Any) -> None:
        read.append(f"{request.type} {request.name}")
        raise AssertionError(f"the program reads {read}")

    with mock.patch.object(MockMonitor, "ReadResource", refuse), contextlib.suppress(Exception):
        record("test", configurations.configuration(configuration))
    assert not read


@pytest.mark.usefixtures("people")
def test_preview_may_not(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    """It reads no Secret and no ConfigMap, and changes nothing."""
    refused = [
        *_NOBODY,
        *_each("get", "core/secrets", name="any"),
        *_each("list watch", "core/configmaps"),
        *_each("get", "core/configmaps", name="any"),
        Ask("get list watch", "core/configmaps"),
        Ask("get", "apps/deployments", "kube-system", "any"),
        Ask("get", "core/namespaces", "", "kube-system"),
        Ask("get", "rbac.authorization.k8s.io/clusterroles", "", "cluster-admin"),
        *_each("create get", "core/pods/portforward"),
        *_each("create update patch delete", "core/configmaps"),
        *_each("create update patch delete", "apps/deployments"),
    ]
    assert not _differs(cluster, ("somebody", ["shlink:preview"]), refused, expected=False)
    record_property("checks", _verbs(refused))


@pytest.mark.usefixtures("people")
def test_deploy_makes_everything(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    """A creation in a dry run, so that admission checks it too.

    Admission is what stops those who hand out rights that they lack.
    """
    objects = _everything()
    answers = _as(cluster, "shlink:deploy", [_create(cluster, item) for item in objects])
    forbidden = [
        f"{item['kind']}: {answer.message}"
        for item, answer in zip(objects, answers, strict=True)
        if answer.status == 403
    ]
    assert not forbidden, "\n".join(forbidden)
    changes = {_change(cluster, item) for item in objects}
    watches = {Ask("list watch", change.resource, change.namespace) for change in changes}
    asked = [*changes, *watches, *_HELM, *_AWAITS]
    asked += _each("get create", "core/pods/portforward", ("vault", "postgres"))
    lacks = _differs(cluster, ("somebody", ["shlink:deploy"]), asked, expected=True)
    assert not lacks, "\n".join(lacks)
    record_property("checks", len(objects) + _verbs(asked))


def _change(cluster: Cluster, manifest: Mapping[str, Any]) -> Ask:
    api_version, metadata = manifest["apiVersion"], manifest["metadata"]
    group = api_version.rpartition("/")[0] or "core"
    return Ask(
        verbs="get update patch delete",
        resource=f"{group}/{cluster.plural(api_version, manifest['kind'])}",
        namespace=metadata.get("namespace", ""),
        name=metadata["name"],
    )


_CRDS = "apiextensions.k8s.io/customresourcedefinitions"
# Helm installs the operators' charts: its releases are Secrets, its CRDs and roles the cluster's.
_HELM = [
    *_each(
        "create get list update delete", "core/secrets", ("external-secrets", "postgres", "redis")
    ),
    Ask("create get list watch", _CRDS),
    Ask("get update patch delete", _CRDS, name="externalsecrets.external-secrets.io"),
    Ask("get update patch delete", _CRDS, name="secretstores.external-secrets.io"),
    Ask("get update patch delete", _CRDS, name="passwords.generators.external-secrets.io"),
    *_each("bind escalate", "rbac.authorization.k8s.io/roles"),
]
# What pulumi-kubernetes watches until a workload is ready.
_AWAITS = [
    *_each("list watch", "core/pods"),
    *_each("list watch", "core/events"),
    *_each("list watch", "core/endpoints"),
    *_each("list watch", "apps/replicasets"),
    *_each("list watch", "discovery.k8s.io/endpointslices"),
]


@pytest.mark.usefixtures("people")
def test_deploy_may_not(cluster: Cluster) -> None:
    """It enters no pod, becomes nobody else and changes nothing of the cluster's own."""
    refused = [
        *_each("create get", "core/pods/exec"),
        *_each("create get", "core/pods/attach"),
        *_each("create get", "core/pods/ephemeralcontainers"),
        *_each("create delete", "core/pods"),
        *_each("create", "core/serviceaccounts/token"),
        Ask("get update patch delete", "core/namespaces", "kube-system", "kube-system"),
        Ask("get update patch delete", "core/namespaces", "default", "default"),
        Ask("impersonate", "core/users"),
        Ask("impersonate", "core/groups"),
        Ask("create update delete", "core/nodes"),
        Ask("get create", "core/nodes/proxy"),
        Ask("create update", "admissionregistration.k8s.io/validatingwebhookconfigurations"),
        Ask("create update", "admissionregistration.k8s.io/mutatingwebhookconfigurations"),
        Ask("update", "certificates.k8s.io/certificatesigningrequests/approval"),
        Ask("escalate", "rbac.authorization.k8s.io/clusterroles"),
        Ask("bind", "rbac.authorization.k8s.io/clusterroles", "", "cluster-admin"),
        Ask("update patch delete", "rbac.authorization.k8s.io/clusterroles", "", "admin"),
        Ask(
            "update patch delete", _CRDS, name="postgresclusters.postgres-operator.crunchydata.com"
        ),
        Ask("update patch delete", _CRDS, name="redisfailovers.databases.spotahome.com"),
        Ask("*", "*/*"),
    ]
    assert not _differs(cluster, ("somebody", ["shlink:deploy"]), refused, expected=False)


def _cluster_role(name: str, rule: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": [rule],
    }


def _cluster_binding(role: str) -> dict[str, Any]:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "another"},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "apiGroup": group, "name": "somebody"}],
    }


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize(
    "manifest",
    [
        _cluster_binding("cluster-admin"),
        _cluster_role(
            "shlink-redis-operator", {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}
        ),
        _cluster_role("another", {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
    ],
    ids=["bind cluster-admin", "widen the operator's role", "a role of everything"],
)
def test_deploy_hands_out_no_cluster_wide_right_that_it_lacks(
    cluster: Cluster, manifest: Mapping[str, Any]
) -> None:
    """Admission answers: the rules against escalation are not in the authoriser."""
    (answer,) = _as(cluster, "shlink:deploy", [_create(cluster, manifest)])
    assert answer.status == 403, answer.message


@pytest.mark.usefixtures("people")
def test_forward(cluster: Cluster) -> None:
    """It forwards to Vault and PostgreSQL and does nothing else."""
    who = ("somebody", ["shlink:forward"])
    targets = ("vault", "postgres")
    elsewhere = ("redis", "shlink", "external-secrets", "kube-system", "")
    allowed = [
        *_each("list", "core/pods", targets),
        *_each("get create", "core/pods/portforward", targets),
    ]
    assert not _differs(cluster, who, allowed, expected=True)
    refused = [
        *_NOBODY,
        *_each("get create", "core/pods/portforward", elsewhere),
        *_each("list", "core/pods", elsewhere),
        *_each("get create update patch delete", "core/configmaps"),
        *_each("create delete", "core/pods", targets),
        *_each("get create", "core/pods/exec", targets),
        *_each("get create", "core/pods/attach", targets),
    ]
    assert not _differs(cluster, who, refused, expected=False)


def test_a_token_is_made_for_vault_alone() -> None:
    """Each SecretStore's token has an audience that its role in Vault demands.

    Elsewhere a leaked token opens nothing.
    """
    recording = configurations.recording("defaults")
    roles: dict[str, Any] = {}
    for resource in recording.of_kind("AuthBackendRole"):
        role = plain(resource.inputs)
        roles[role["roleName"]] = role
    stores = [plain(store.inputs) for store in recording.of_kind("SecretStore")]
    assert stores
    for store in stores:
        login = store["spec"]["provider"]["vault"]["auth"]["kubernetes"]
        role = roles[login["role"]]
        assert [role["audience"]] == login["serviceAccountRef"]["audiences"] == ["vault"]
        assert role["boundServiceAccountNames"] == [login["serviceAccountRef"]["name"]]
        assert role["boundServiceAccountNamespaces"] == [store["metadata"]["namespace"]]

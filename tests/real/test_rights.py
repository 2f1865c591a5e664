"""Who may do what, asked of the real authoriser: the program's ServiceAccounts, and the people and runners of deploy/rbac."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """A verb on a resource (`group/resource/subresource`, group `core` for the first ones); no namespace: the whole cluster."""

    verbs: str
    resource: str
    namespace: str = ""
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


def _account(namespace: str, name: str) -> tuple[str, list[str]]:
    return f"system:serviceaccount:{namespace}:{name}", [
        "system:serviceaccounts",
        f"system:serviceaccounts:{namespace}",
    ]


def _ask(
    cluster: Cluster, who: tuple[str, Sequence[str]], asked: Sequence[Ask]
) -> list[tuple[str, bool]]:
    reviews = [one for ask in asked for one in ask.reviews(*who)]
    answers = cluster.calls(
        Call("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", one) for one in reviews
    )
    return [
        (
            " ".join(
                f"{value}" for value in review["spec"]["resourceAttributes"].values() if value
            ),
            bool(answer.body["status"]["allowed"]),
        )
        for review, answer in zip(reviews, answers, strict=True)
    ]


def _differs(
    cluster: Cluster, who: tuple[str, Sequence[str]], asked: Sequence[Ask], *, expected: bool
) -> list[str]:
    return [
        f"{who[0]}: {what}" for what, allowed in _ask(cluster, who, asked) if allowed != expected
    ]


@pytest.fixture(scope="module")
def roles(cluster: Cluster, environment: Mapping[str, Any]) -> Iterator[None]:
    """All roles and bindings that the program declares with the defaults."""
    assert environment
    recorded = configurations.recording("defaults").resources.values()
    objects = [
        plain(one.inputs) for one in recorded if one.is_kubernetes_object and one.kind in _RBAC
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
    # redis-operator v1.2.4, by its source: service/k8s/*.go and the leader election of its framework (kooper).
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
    *(
        Ask("list watch create delete deletecollection", "core/secrets", namespace)
        for namespace in (*NAMESPACES, "kube-system", "default")
    ),
    *(
        Ask("get update patch", "core/secrets", namespace, "another")
        for namespace in (*NAMESPACES, "kube-system")
    ),
    Ask("get", "core/secrets", "vault", "vault-login"),
    Ask("get", "core/secrets", "postgres", "shlink-db-pguser-postgres"),
    Ask("get", "core/secrets", "shlink", "shlink-db-pguser-shlink"),
    Ask("create", "core/serviceaccounts/token", "kube-system", "default"),
    Ask("create", "core/serviceaccounts/token", "shlink", "default"),
    Ask("create", "core/serviceaccounts/token", "vault", "vault"),
    *(Ask("create", "core/pods/exec", namespace) for namespace in NAMESPACES),
    *(Ask("create", "core/pods", namespace) for namespace in NAMESPACES),
    *(
        Ask("create update patch bind escalate", "rbac.authorization.k8s.io/roles", namespace)
        for namespace in NAMESPACES
    ),
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
        *(
            Ask("get list create update delete", "core/services", other)
            for other in ("shlink", "postgres", "kube-system")
        ),
        *(
            Ask("get list delete patch", "core/pods", other)
            for other in ("shlink", "vault", "kube-system")
        ),
        *(Ask("get create update", "apps/statefulsets", other) for other in ("vault", "postgres")),
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
    who, forbidden = _account(*account), [*_NOBODY, *MAY_NOT.get(account, [])]
    lacks = _differs(cluster, who, MAY[account], expected=True)
    exceeds = _differs(cluster, who, forbidden, expected=False)
    assert not lacks, "must be allowed:\n" + "\n".join(lacks)
    assert not exceeds, "must be refused:\n" + "\n".join(exceeds)
    record_property("checks", sum(len(one.verbs.split()) for one in (*MAY[account], *forbidden)))


def test_every_bound_account_is_asked_about() -> None:
    """A new binding needs a row above."""
    bound = {
        (subject["namespace"], subject["name"])
        for name in configurations.NAMES
        for one in configurations.recording(name).resources.values()
        if one.kind in ("RoleBinding", "ClusterRoleBinding")
        for subject in plain(one.inputs)["subjects"]
        if subject["namespace"] != "platform"  # the operators of another
    }
    assert bound <= set(MAY), bound - set(MAY)


def _manifests(name: str) -> list[Any]:
    return list(yaml.safe_load_all((Path(ROOT) / "deploy" / "rbac" / f"{name}.yaml").read_text()))


@pytest.fixture(scope="module")
def people(cluster: Cluster, environment: Mapping[str, Any]) -> Iterator[None]:
    """The manifests of deploy/rbac, as they are."""
    assert environment
    objects = [one for name in ("preview", "deploy", "forward") for one in _manifests(name)]
    cluster.must(objects)
    waiting = [
        (("p", ["shlink:preview"]), "core/services"),
        (("d", ["shlink:deploy"]), "core/secrets"),
    ]
    cluster.until(
        lambda: (
            not [
                fault
                for who, what in waiting
                for fault in _differs(cluster, who, [Ask("get", what, "shlink")], expected=True)
            ]
        ),
        "deploy/rbac does not take effect",
    )
    yield
    cluster.delete(objects)


# A scratch API server has no CRD for these; the authoriser can be asked all the same.
_NOT_SERVED = {
    "HTTPRoute": "gateway.networking.k8s.io/httproutes",
    "CiliumNetworkPolicy": "cilium.io/ciliumnetworkpolicies",
    "PodMonitor": "monitoring.coreos.com/podmonitors",
    "PrometheusRule": "monitoring.coreos.com/prometheusrules",
}


@pytest.mark.usefixtures("people")
@pytest.mark.parametrize("resource", _NOT_SERVED.values())
def test_kinds_that_only_some_clusters_serve(cluster: Cluster, resource: str) -> None:
    every_namespace = [Ask("get", resource, namespace) for namespace in NAMESPACES]
    assert not _differs(cluster, ("p", ["shlink:preview"]), every_namespace, expected=True)
    changes = [Ask("get create update patch delete list watch", resource, "shlink")]
    assert not _differs(cluster, ("d", ["shlink:deploy"]), changes, expected=True)


def _everything(*, charts: bool = True) -> dict[str, Mapping[str, Any]]:
    """Each differing object that the program declares, by its content; Vault's chart adds these kinds to them."""
    found = [
        plain(one.inputs)
        for name in configurations.NAMES
        for one in configurations.recording(name).resources.values()
        if one.is_kubernetes_object and one.kind not in _NOT_SERVED
    ]
    if charts:
        metadata = {"name": "vault", "namespace": "vault"}
        container = {"name": "one", "image": "one"}
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}
        stateful = {
            "serviceName": "vault",
            "selector": {"matchLabels": {"a": "b"}},
            "template": template,
        }
        found += [
            {
                "apiVersion": "apps/v1",
                "kind": "StatefulSet",
                "metadata": metadata,
                "spec": stateful,
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {**metadata, "name": "vault-config"},
            },
        ]
    return {json.dumps(one, sort_keys=True): one for one in found}


def _as(cluster: Cluster, group: str, calls: Sequence[Call]) -> list[Answer]:
    headers = {"Impersonate-User": "somebody", "Impersonate-Group": group}
    return cluster.calls(
        Call(one.method, one.path, one.body, one.content_type, one.params, headers) for one in calls
    )


def _create(cluster: Cluster, manifest: Mapping[str, Any]) -> Call:
    folder = cluster.folder(
        manifest["apiVersion"], manifest["kind"], manifest["metadata"].get("namespace")
    )
    return Call("POST", folder, manifest, params={"dryRun": "All"})


@pytest.mark.usefixtures("people")
def test_preview_gets_everything_but_secrets_and_lists_nothing(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    objects = list(_everything().values())
    reads = _as(cluster, "shlink:preview", [Call("GET", cluster.path(item)) for item in objects])
    folders = sorted({cluster.path(item).rpartition("/")[0] for item in objects})
    lists = _as(cluster, "shlink:preview", [Call("GET", folder) for folder in folders])
    for item, read in zip(objects, reads, strict=True):
        forbidden = item["kind"] == "Secret"
        assert (read.status == 403) == forbidden, f"{item['kind']}: {read.message}"
    assert {answer.status for answer in lists} == {403}
    # A refused dry run is what pulumi-kubernetes falls back from.
    tried = _as(cluster, "shlink:preview", [_create(cluster, item) for item in objects])
    assert {answer.status for answer in tried} == {403}
    record_property("checks", 2 * len(objects) + len(folders))


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
    answers = _as(
        cluster,
        "shlink:preview",
        [
            Call("GET", path),
            Call("GET", path.rpartition("/")[0]),
            Call("GET", path.rpartition("/")[0], params={"watch": "true"}),
            Call("GET", "/api/v1/configmaps"),
        ],
    )
    cluster.delete([copied])
    assert [answer.status for answer in answers] == [403] * 4


@pytest.mark.parametrize("configuration", ["defaults", "vault-transit", "redis-rotated"])
def test_the_program_reads_nothing_from_the_cluster(configuration: str) -> None:
    """Or a preview with these rights would fail: `Secret.get` is really read by each one, and so is an import of anything."""
    read: list[str] = []

    def refuse(_: MockMonitor, request: Any) -> None:
        read.append(f"{request.type} {request.name}")
        raise AssertionError(f"the program reads {read}")

    with mock.patch.object(MockMonitor, "ReadResource", refuse), contextlib.suppress(Exception):
        record("test", configurations.configuration(configuration))
    assert not read


@pytest.mark.usefixtures("people")
def test_preview_may_not(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    refused = [
        *_NOBODY,
        *(Ask("get", "core/secrets", namespace, "any") for namespace in NAMESPACES),
        *(Ask("list watch", "core/configmaps", namespace) for namespace in NAMESPACES),
        *(Ask("get", "core/configmaps", namespace, "any") for namespace in NAMESPACES),
        Ask("get list watch", "core/configmaps"),
        Ask("get", "apps/deployments", "kube-system", "any"),
        Ask("get", "core/namespaces", "", "kube-system"),
        Ask("get", "rbac.authorization.k8s.io/clusterroles", "", "cluster-admin"),
        *(Ask("create get", "core/pods/portforward", namespace) for namespace in NAMESPACES),
        *(
            Ask("create update patch delete", "core/configmaps", namespace)
            for namespace in NAMESPACES
        ),
        *(
            Ask("create update patch delete", "apps/deployments", namespace)
            for namespace in NAMESPACES
        ),
    ]
    assert not _differs(cluster, ("somebody", ["shlink:preview"]), refused, expected=False)
    record_property("checks", sum(len(one.verbs.split()) for one in refused))


@pytest.mark.usefixtures("people")
def test_deploy_makes_everything(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    """A real creation in a dry run, so that admission is asked too: who hands out rights that it lacks is stopped there."""
    objects = list(_everything().values())
    answers = _as(cluster, "shlink:deploy", [_create(cluster, one) for one in objects])
    forbidden = [
        f"{one['kind']}: {answer.message}"
        for one, answer in zip(objects, answers, strict=True)
        if answer.status == 403
    ]
    assert not forbidden, "\n".join(forbidden)
    who = ("somebody", ["shlink:deploy"])
    changes = [
        Ask(
            "get update patch delete",
            f"{one['apiVersion'].rpartition('/')[0] or 'core'}/{_plural(cluster, one)}",
            one["metadata"].get("namespace", ""),
            one["metadata"]["name"],
        )
        for one in objects
    ]
    watches = [Ask("list watch", one.resource, one.namespace) for one in changes]
    # As Helm does for the operators' charts: its releases are Secrets, and its CRDs and roles are the cluster's.
    helm = [
        *(
            Ask("create get list update delete", "core/secrets", namespace)
            for namespace in ("external-secrets", "postgres", "redis")
        ),
        Ask("create get list watch", "apiextensions.k8s.io/customresourcedefinitions"),
        *(
            Ask(
                "get update patch delete", "apiextensions.k8s.io/customresourcedefinitions", "", crd
            )
            for crd in (
                "externalsecrets.external-secrets.io",
                "secretstores.external-secrets.io",
                "passwords.generators.external-secrets.io",
            )
        ),
        *(
            Ask("bind escalate", "rbac.authorization.k8s.io/roles", namespace)
            for namespace in NAMESPACES
        ),
    ]
    awaits = [
        Ask("list watch", resource, namespace)
        for resource in (
            "core/pods",
            "core/events",
            "core/endpoints",
            "apps/replicasets",
            "discovery.k8s.io/endpointslices",
        )
        for namespace in NAMESPACES
    ]
    forwards = [
        Ask("get create", "core/pods/portforward", namespace) for namespace in ("vault", "postgres")
    ]
    asked = [*set(changes), *set(watches), *helm, *awaits, *forwards]
    lacks = _differs(cluster, who, asked, expected=True)
    assert not lacks, "\n".join(lacks)
    record_property("checks", len(objects) + sum(len(one.verbs.split()) for one in asked))


def _plural(cluster: Cluster, manifest: Mapping[str, Any]) -> str:
    return cluster.plural(manifest["apiVersion"], manifest["kind"])


@pytest.mark.usefixtures("people")
def test_deploy_may_not(cluster: Cluster) -> None:
    refused = [
        *(
            Ask("create get", f"core/pods/{what}", namespace)
            for what in ("exec", "attach", "ephemeralcontainers")
            for namespace in NAMESPACES
        ),
        *(Ask("create delete", "core/pods", namespace) for namespace in NAMESPACES),
        *(Ask("create", "core/serviceaccounts/token", namespace) for namespace in NAMESPACES),
        *(
            Ask("get update patch delete", "core/namespaces", other, other)
            for other in ("kube-system", "default")
        ),
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
        *(
            Ask("update patch delete", "apiextensions.k8s.io/customresourcedefinitions", "", crd)
            for crd in (
                "postgresclusters.postgres-operator.crunchydata.com",
                "redisfailovers.databases.spotahome.com",
            )
        ),
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
    """Asked of admission itself: the rules against escalation are not in the authoriser."""
    (answer,) = _as(cluster, "shlink:deploy", [_create(cluster, manifest)])
    assert answer.status == 403, answer.message


@pytest.mark.usefixtures("people")
def test_forward(cluster: Cluster) -> None:
    who = ("somebody", ["shlink:forward"])
    inside = [
        ask
        for place in ("vault", "postgres")
        for ask in (
            Ask("list", "core/pods", place),
            Ask("get create", "core/pods/portforward", place),
        )
    ]
    assert not _differs(cluster, who, inside, expected=True)
    refused = [
        *_NOBODY,
        *(
            Ask("get create", "core/pods/portforward", place)
            for place in ("redis", "shlink", "external-secrets", "kube-system", "")
        ),
        *(
            Ask("list", "core/pods", place)
            for place in ("redis", "shlink", "external-secrets", "kube-system", "")
        ),
        *(Ask("get create update patch delete", "core/configmaps", place) for place in NAMESPACES),
        *(Ask("create delete", "core/pods", place) for place in ("vault", "postgres")),
        *(
            Ask("get create", f"core/pods/{what}", place)
            for what in ("exec", "attach")
            for place in ("vault", "postgres")
        ),
    ]
    assert not _differs(cluster, who, refused, expected=False)


def test_a_token_is_made_for_vault_alone() -> None:
    """The SecretStore asks for a token with an audience, and Vault's role demands that one: it opens nothing where it leaks."""
    recording = configurations.recording("defaults")
    login = plain(recording.one("SecretStore", "vault-backend").inputs)["spec"]["provider"][
        "vault"
    ]["auth"]["kubernetes"]
    role = plain(recording.of_kind("AuthBackendRole")[0].inputs)
    assert [role["audience"]] == login["serviceAccountRef"]["audiences"] == ["vault"]
    assert role["boundServiceAccountNames"] == [login["serviceAccountRef"]["name"]]
    assert role["boundServiceAccountNamespaces"] == ["shlink"]

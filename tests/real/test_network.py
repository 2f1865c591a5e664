"""The flow table of an environment, written down a second time and held against the NetworkPolicies as the API server has them.

What is asked is asked of real namespaces, and of the labels that real pods have after admission. See tests/netpol.py for the rules.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from offline.record import plain
from tests import configurations
from tests.netpol import End, Labels, allowed
from tests.real.cluster import Call, Cluster
from tests.real.pods import templates

API_SERVER, INTERNET, METADATA, NODE = "10.96.0.1", "203.0.113.7", "169.254.169.254", "10.0.0.5"
_ADDRESSES = {
    "api server": API_SERVER,
    "internet": INTERNET,
    "metadata": METADATA,
    "node": NODE,
    "managed redis": "10.1.2.3",
}
# Pods that are none of this program's.
_OTHERS: Mapping[str, tuple[str, Labels]] = {
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
    "prometheus": ("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    "ingress controller": ("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}),
    "gateway": ("envoy", {"app": "envoy"}),
    "platform": ("platform", {"app.kubernetes.io/name": "whatever"}),
    "stranger": ("default", {"app": "stranger"}),
    # Names are not enough: the namespace counts too.
    "impostor": ("default", {"app.kubernetes.io/name": "shlink"}),
    "stranger in vault": ("vault", {"app": "stranger"}),
    "stranger in postgres": ("postgres", {"app": "stranger"}),
    "stranger in redis": ("redis", {"app": "stranger"}),
    "stranger in shlink": ("shlink", {"app": "stranger"}),
}
_VAULT, _INIT, _ESO, _PGO, _RO = (
    "vault",
    "vault-init",
    "operator-external-secrets",
    "operator-pgo",
    "operator-redis-operator",
)
_DB, _REPO, _REDIS, _SENTINEL = (
    "shlink-db-instance1",
    "shlink-db-repo-host",
    "rfr-shlink-redis",
    "rfs-shlink-redis",
)
_SHLINK, _MIGRATION, _ROTATION = "shlink", "shlink-migration", "shlink-redis-rotation-2"
_EVERYONE = (_VAULT, _INIT, _ESO, _PGO, _RO, _DB, _REPO, _REDIS, _SENTINEL, _SHLINK, _MIGRATION)

Row = tuple[str, str, Sequence[int]]


@dataclass(frozen=True)
class Scene:
    """What one configuration allows and refuses: source, target, ports."""

    allowed: Sequence[Row]
    refused: Sequence[Row]


# Domain facts, section H, without what this program leaves out: the webhook and the cert controller of External Secrets.
_ALLOWED: list[Row] = [
    *((one, "api server", [443]) for one in (_VAULT, _INIT, _ESO, _PGO, _RO, _DB, _REPO)),
    (_ESO, _VAULT, [8200]),
    (_INIT, _VAULT, [8200]),
    (_VAULT, _VAULT, [8200, 8201]),
    *((one, other, [5432, 8008, 8432]) for one in (_DB, _REPO) for other in (_DB, _REPO)),
    *((one, _DB, [5432]) for one in (_SHLINK, _MIGRATION)),
    *((one, _REDIS, [6379]) for one in (_RO, _SENTINEL, _REDIS, _SHLINK)),
    *((one, _SENTINEL, [26379]) for one in (_RO, _SENTINEL, _SHLINK)),
]
_REFUSED: list[Row] = [
    *((one, "internet", [80, 25, 8080]) for one in _EVERYONE),
    *((one, "metadata", [80]) for one in _EVERYONE),
    *((one, "node", [22, 10250]) for one in _EVERYONE),
    *((one, "api server", [443, 6443]) for one in (_SHLINK, _MIGRATION, _REDIS, _SENTINEL)),
    *((one, "internet", [443]) for one in (_SHLINK, _MIGRATION, _REDIS, _SENTINEL)),
    *(
        (one, _VAULT, [8200, 8201])
        for one in (_SHLINK, _MIGRATION, _DB, _REDIS, _SENTINEL, _PGO, _RO)
    ),
    (_ESO, _VAULT, [8201]),
    (_INIT, _VAULT, [8201]),
    *((one, _DB, [5432]) for one in (_ESO, _VAULT, _INIT, _REDIS, _SENTINEL, _RO)),
    *((one, _DB, [8008, 8432, 9187]) for one in (_SHLINK, _MIGRATION)),
    *((one, _REDIS, [6379]) for one in (_ESO, _VAULT, _DB, _PGO)),
    (_SHLINK, _REDIS, [9121]),
    *(
        (one, _SHLINK, [8080])
        for one in (
            _ESO,
            _VAULT,
            _DB,
            _REDIS,
            _MIGRATION,
            "ingress controller",
            "gateway",
            "prometheus",
        )
    ),
    *(
        ("prometheus", target, ports)
        for target, ports in ((_VAULT, [8200]), (_DB, [9187]), (_REDIS, [9121]))
    ),
    *(
        (one, target, ports)
        for one in (
            "stranger",
            "impostor",
            "stranger in vault",
            "stranger in postgres",
            "stranger in redis",
            "stranger in shlink",
        )
        for target, ports in (
            (_VAULT, [8200, 8201]),
            (_DB, [5432, 8008]),
            (_REDIS, [6379]),
            (_SENTINEL, [26379]),
            (_SHLINK, [8080]),
        )
    ),
    # A pod that nobody planned for, in a namespace of this environment, gets DNS and nothing else.
    *(
        (one, "internet", [443])
        for one in (
            "stranger in vault",
            "stranger in postgres",
            "stranger in redis",
            "stranger in shlink",
        )
    ),
    *((one, _SHLINK, [22]) for one in ("ingress controller", "stranger")),
]
SCENES: Mapping[str, Scene] = {
    "defaults": Scene(_ALLOWED, _REFUSED),
    "api-server-narrow": Scene(
        _ALLOWED, [*((one, "internet", [443]) for one in _EVERYONE), (_VAULT, "api server", [6443])]
    ),
    "redis-rotated": Scene(
        [(_ROTATION, _REDIS, [6379]), (_ROTATION, _SENTINEL, [26379])],
        [(_ROTATION, _DB, [5432]), (_ROTATION, "api server", [443])],
    ),
    "redis-external-open": Scene(
        [(_SHLINK, "managed redis", [6379])],
        [
            (_SHLINK, "node", [6379]),
            (_SHLINK, "internet", [6379]),
            (_SHLINK, "managed redis", [22]),
            (_DB, "managed redis", [6379]),
        ],
    ),
    "redis-external": Scene([(_SHLINK, "internet", [6380])], [(_SHLINK, "internet", [6379])]),
    "redis-none": Scene(
        [(_SHLINK, _DB, [5432])],
        [(_SHLINK, "internet", [6379]), (_SHLINK, "stranger in redis", [6379])],
    ),
    "monitoring": Scene(
        [
            ("prometheus", _VAULT, [8200]),
            ("prometheus", _DB, [9187]),
            ("prometheus", _REDIS, [9121]),
        ],
        [
            ("prometheus", _DB, [5432]),
            ("prometheus", _REDIS, [6379]),
            ("prometheus", _SHLINK, [8080]),
            ("stranger", _REDIS, [9121]),
        ],
    ),
    "ingress": Scene(
        [("ingress controller", _SHLINK, [8080])],
        [("ingress controller", _DB, [5432]), ("stranger", _SHLINK, [8080])],
    ),
    "gateway": Scene(
        [("gateway", _SHLINK, [8080])],
        [("gateway", _VAULT, [8200]), ("ingress controller", _SHLINK, [8080])],
    ),
    "backups-s3": Scene(
        [(_DB, "internet", [443]), (_REPO, "internet", [443])], [(_SHLINK, "internet", [443])]
    ),
    "vault-awskms": Scene(
        [(_VAULT, "internet", [443])], [(_VAULT, "internet", [80]), (_SHLINK, "internet", [443])]
    ),
    "vault-transit": Scene([(_VAULT, "internet", [8200])], [(_INIT, "internet", [8200])]),
    "app": Scene(
        [(_SHLINK, "internet", [80, 443])],
        [
            (_SHLINK, "metadata", [80, 443]),
            (_SHLINK, "node", [80, 443]),
            (_SHLINK, "api server", [443]),
            (_MIGRATION, "internet", [443]),
        ],
    ),
    "operators-there": Scene(
        [("platform", _VAULT, [8200]), ("platform", _REDIS, [6379])],
        [("platform", _DB, [5432]), ("stranger", _VAULT, [8200])],
    ),
}


@pytest.fixture
def policies(
    request: pytest.FixtureRequest, cluster: Cluster, environment: Mapping[str, Any]
) -> Iterator[list[Mapping[str, Any]]]:
    """The NetworkPolicies of a configuration: applied, then listed."""
    recorded = configurations.recording(request.param).of_kind("NetworkPolicy")
    applied = [plain(one.inputs) for one in recorded]
    cluster.must(applied)
    folders = [
        cluster.folder("networking.k8s.io/v1", "NetworkPolicy", name) for name in environment
    ]
    yield [one for folder in folders for one in cluster.call("GET", folder).body["items"]]
    cluster.delete(applied)


@pytest.fixture(scope="module")
def namespaces(cluster: Cluster, environment: Mapping[str, Any]) -> Iterator[Mapping[str, Labels]]:
    """All of the cluster's, with those of the other pods."""
    others = (
        {namespace for namespace, _ in _OTHERS.values()}
        - set(environment)
        - {"default", "kube-system"}
    )
    made = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in others
    ]
    cluster.must(made)
    yield {
        one["metadata"]["name"]: one["metadata"]["labels"]
        for one in cluster.call("GET", "/api/v1/namespaces").body["items"]
    }
    cluster.delete(made)
    for one in made:
        cluster.gone(one)


def _ends(cluster: Cluster, configuration: str) -> dict[str, End]:
    """Everything that a row may name; the pods with the labels that the API server would give them."""
    wanted = {one.name: one.pods()[0] for one in templates(configuration)}
    plain_spec = {
        "containers": [{"name": "one", "image": "one", "securityContext": _SECURITY}],
        "automountServiceAccountToken": False,
    }
    for pod in wanted.values():  # its spec is test_pods' business; here it would need accounts
        pod["spec"] = plain_spec
    answers = cluster.calls(
        Call(
            "POST",
            cluster.folder("v1", "Pod", pod["metadata"]["namespace"]),
            pod,
            params={"dryRun": "All"},
        )
        for pod in wanted.values()
    )
    assert all(answer.ok for answer in answers), [answer.message for answer in answers]
    pods = {
        name: (answer.body["metadata"]["namespace"], answer.body["metadata"]["labels"])
        for name, answer in zip(wanted, answers, strict=True)
    }
    return {**_ADDRESSES, **_OTHERS, **pods}


_SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.mark.parametrize(
    ("policies", "configuration"),
    [(name, name) for name in SCENES],
    indirect=["policies"],
    ids=list(SCENES),
)
def test_flows(
    cluster: Cluster,
    policies: list[Mapping[str, Any]],
    namespaces: Mapping[str, Labels],
    configuration: str,
    record_property: Callable[[str, object], None],
) -> None:
    ends, scene = _ends(cluster, configuration), SCENES[configuration]
    wrong: list[str] = []
    asked = 0
    for rows, expected in ((scene.allowed, True), (scene.refused, False)):
        for source, target, ports in rows:
            for port in ports:
                asked += 1
                if allowed(policies, namespaces, ends[source], ends[target], port) != expected:
                    wrong.append(
                        f"{source} -> {target}:{port} should be {'allowed' if expected else 'refused'}"
                    )
    assert not wrong, "\n".join(wrong)
    record_property("checks", asked)


@pytest.mark.parametrize("policies", ["defaults"], indirect=True)
def test_every_pod_reaches_dns(
    cluster: Cluster, policies: list[Mapping[str, Any]], namespaces: Mapping[str, Labels]
) -> None:
    ends = _ends(cluster, "defaults")
    for name in (*_EVERYONE, "stranger in shlink"):
        assert all(
            allowed(policies, namespaces, ends[name], ends["dns"], 53, protocol=protocol)
            for protocol in ("UDP", "TCP")
        ), name
        assert not allowed(policies, namespaces, ends[name], ends["dns"], 443), name
        assert not allowed(policies, namespaces, ends[name], ends["stranger"], 53), name

"""Every connection that an environment may open, written down once for both rings of tests.

`tests/test_network.py` holds the declared NetworkPolicies against it, `tests/real/test_network.py`
those that an API server has stored, with the labels that its admission gives to pods. Whatever is
in no row must be refused.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

from components.network.flows import NAMESPACES
from tests.netpol import End, Labels, allowed

# Ends: pods by name, and below them addresses, other people's pods and strangers inside.
VAULT, INIT, ESO, PGO, RO = (
    "vault",
    "vault-init",
    "operator-external-secrets",
    "operator-pgo",
    "operator-redis-operator",
)
DB, REPO, BACKUP, REDIS, SENTINEL, ROTATION = (
    "shlink-db-instance1",
    "shlink-db-repo-host",
    "shlink-db-backup",
    "rfr-shlink-redis",
    "rfs-shlink-redis",
    "rotation",
)
SHLINK, MIGRATION = "shlink", "shlink-migration"
GEOLITE = "shlink-geolite"
POOLER = "shlink-db-pgbouncer"
DRILL = "shlink-db-drill"
"""Every pod of the copy that `make restore-drill` makes."""
API, INTERNET, METADATA, NODE, MANAGED = (
    "10.96.0.1",
    "203.0.113.7",
    "169.254.169.254",
    "10.0.0.5",
    "10.1.2.3",
)
ADDRESSES = (API, INTERNET, METADATA, NODE, MANAGED)
OUTSIDE: Mapping[str, tuple[str, Labels]] = {
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
    "prometheus": ("monitoring", {"app.kubernetes.io/name": "prometheus"}),
    "ingress": ("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}),
    "gateway": ("envoy", {"app": "envoy"}),
    "platform": ("platform", {"app": "operator"}),
    "impostor": ("default", {"app.kubernetes.io/name": "shlink"}),
}
STRANGERS = {f"stranger in {name}": (name, {"app": "stranger"}) for name in NAMESPACES}
PORTS = (
    22,
    53,
    80,
    443,
    5432,
    6379,
    6380,
    6443,
    8008,
    8080,
    8200,
    8201,
    8432,
    9121,
    9187,
    10250,
    26379,
)

Row = tuple[Iterable[str], Iterable[str], Sequence[int]]
Connection = tuple[str, str, int]

_NOT_API = [address for address in ADDRESSES if address != API]
# The repository's host and the backups' Jobs bear the cluster's label too.
_DATABASE = (DB, REPO, BACKUP)
_API_CLIENTS = (VAULT, INIT, ESO, PGO, RO, DRILL, *_DATABASE)
_REDIS_CLIENTS = (RO, SENTINEL, REDIS, SHLINK)
DEFAULTS: Sequence[Row] = [
    ((*_API_CLIENTS, SHLINK, MIGRATION, REDIS, SENTINEL, *STRANGERS), ["dns"], [53]),
    # Where the API server answers is not known by default, so it is any address on its two ports.
    (_API_CLIENTS, ADDRESSES, [443, 6443]),
    ((INIT, ESO), [VAULT], [8200]),
    ([VAULT], [VAULT], [8200, 8201]),
    (_DATABASE, _DATABASE, [5432, 8008, 8432]),
    ([DRILL], [DRILL], [5432, 8008, 8432]),
    # It reads the live repository, and nothing else of the database.
    ([DRILL], _DATABASE, [8432]),
    ((SHLINK, MIGRATION), _DATABASE, [5432]),
    (_REDIS_CLIENTS, [REDIS], [6379]),
    (_REDIS_CLIENTS, [SENTINEL], [26379]),
]
# By switch: what it adds, and what it removes.
SWITCHES: Mapping[str, tuple[Sequence[Row], Sequence[Row]]] = {
    "defaults": ([], []),
    "redis-rotated": (
        [
            ([ROTATION], ["dns"], [53]),
            ([ROTATION], [REDIS], [6379]),
            ([ROTATION], [SENTINEL], [26379]),
        ],
        [],
    ),
    "redis-external-open": ([((SHLINK,), [MANAGED], [6379])], []),
    "redis-external": ([((SHLINK,), ADDRESSES, [6380])], []),
    "redis-none": ([], []),
    "monitoring": (
        [
            (["prometheus"], [VAULT], [8200]),
            (["prometheus"], _DATABASE, [9187]),
            (["prometheus"], [REDIS], [9121]),
        ],
        [],
    ),
    "ingress": ([(["ingress"], [SHLINK], [8080])], []),
    "gateway": ([(["gateway"], [SHLINK], [8080])], []),
    # PgBouncer bears the cluster's label too, and has no other connection of the database.
    "pooler": (
        [
            ([POOLER], ["dns"], [53]),
            ([SHLINK], [POOLER], [5432]),
            ([POOLER], _DATABASE, [5432]),
        ],
        [],
    ),
    # A key service and a bucket answer on 443, where the API server may be anyway.
    "backups-s3": ([], []),
    # The node's role, for a cluster without workload identity.
    "vault-awskms": ([([VAULT], [METADATA], [80])], []),
    "vault-transit": ([([VAULT], ADDRESSES, [8200])], []),
    "app": (
        [
            ([SHLINK], [INTERNET], [80, 443]),
            ([GEOLITE], ["dns"], [53]),
            ([GEOLITE], [INTERNET], [443]),
            ([SHLINK], [GEOLITE], [8080]),
        ],
        [],
    ),
    "api-server-narrow": (
        [],
        [
            (_API_CLIENTS, ADDRESSES, [6443]),
            (_API_CLIENTS, _NOT_API, [443]),
        ],
    ),
    "operators-there": (
        [
            (["platform"], [VAULT], [8200]),
            (["platform"], [REDIS], [6379]),
            (["platform"], [SENTINEL], [26379]),
        ],
        # The namespace is the platform's, and so are its policies.
        [(["stranger in external-secrets"], ["dns"], [53])],
    ),
}
_NAMESPACES_OUTSIDE = [namespace for namespace, _ in OUTSIDE.values()]
NAMESPACE_LABELS: Mapping[str, Labels] = {
    name: {"kubernetes.io/metadata.name": name} for name in (*NAMESPACES, *_NAMESPACES_OUTSIDE)
}


def all_ends(pods: Mapping[str, End]) -> dict[str, End]:
    """Everything that a row may name, in a configuration with these pods."""
    addresses: dict[str, End] = {address: address for address in ADDRESSES}
    drill = {DRILL: ("postgres", {"postgres-operator.crunchydata.com/cluster": DRILL})}
    return {**pods, **drill, **STRANGERS, **OUTSIDE, **addresses}


def expected(configuration: str, ends: Mapping[str, End]) -> set[Connection]:
    """What the table allows in a configuration. Rows about ends that it has not are left out."""
    added, removed = SWITCHES[configuration]
    return (_expand(DEFAULTS, ends) - _expand(removed, ends)) | _expand(added, ends)


def possible(
    policies: Sequence[Mapping[str, Any]], namespaces: Mapping[str, Labels], ends: Mapping[str, End]
) -> set[Connection]:
    """What the policies let through, of all connections with an end in the environment."""
    governed = {policy["metadata"]["namespace"] for policy in policies}
    inside = {name for name, end in ends.items() if end[0] in governed}
    connections: set[Connection] = set()
    for source, target, port in product(ends, ends, PORTS):
        if source in ADDRESSES or not {source, target} & inside:
            continue
        if allowed(policies, namespaces, ends[source], ends[target], port):
            connections.add((source, target, port))
    return connections


def role_of_pod(name: str) -> str:
    """The end that a pod is: a rotation's Job has its number in its name."""
    return ROTATION if name.startswith("shlink-redis-rotation") else name


def _expand(rows: Iterable[Row], ends: Mapping[str, End]) -> set[Connection]:
    connections: set[Connection] = set()
    for row in rows:
        for source, target, port in product(*row):
            if source in ends and target in ends:
                connections.add((source, target, port))
    return connections

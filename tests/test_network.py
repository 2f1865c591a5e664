"""The NetworkPolicies as a whole: for each pair of ends and each port, whether a connection is possible, and nothing besides.

The labels are those of the pods that the program, the charts and the operators make; the rules are in tests/netpol.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import pytest

from components.network import NAMESPACES
from offline.record import Recording, object_name, plain
from tests import configurations
from tests.conftest import REPRESENTATIVE, Program, before
from tests.netpol import End, Labels, allowed
from tests.real.pods import templates

# Ends.
VAULT, INIT, ESO, PGO, RO = (
    "vault",
    "vault-init",
    "operator-external-secrets",
    "operator-pgo",
    "operator-redis-operator",
)
DB, REPO, REDIS, SENTINEL, ROTATION = (
    "shlink-db-instance1",
    "shlink-db-repo-host",
    "rfr-shlink-redis",
    "rfs-shlink-redis",
    "rotation",
)
SHLINK, MIGRATION = "shlink", "shlink-migration"
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

_API_CLIENTS = (VAULT, INIT, ESO, PGO, RO, DB, REPO)
_REDIS_CLIENTS = (RO, SENTINEL, REDIS, SHLINK)
DEFAULTS: Sequence[Row] = [
    ((*_API_CLIENTS, SHLINK, MIGRATION, REDIS, SENTINEL, *STRANGERS), ["dns"], [53]),
    # Where the API server answers is not known by default, so it is any address on its two ports.
    (_API_CLIENTS, ADDRESSES, [443, 6443]),
    ((INIT, ESO), [VAULT], [8200]),
    ([VAULT], [VAULT], [8200, 8201]),
    ((DB, REPO), (DB, REPO), [5432, 8008, 8432]),
    # The repository host bears the cluster's label too.
    ((SHLINK, MIGRATION), (DB, REPO), [5432]),
    (_REDIS_CLIENTS, [REDIS], [6379]),
    (_REDIS_CLIENTS, [SENTINEL], [26379]),
]
# Switch: what is possible besides, and what is not any more.
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
            (["prometheus"], (DB, REPO), [9187]),
            (["prometheus"], [REDIS], [9121]),
        ],
        [],
    ),
    "ingress": ([(["ingress"], [SHLINK], [8080])], []),
    "gateway": ([(["gateway"], [SHLINK], [8080])], []),
    "vault-transit": ([([VAULT], ADDRESSES, [8200])], []),
    "app": ([([SHLINK], [INTERNET], [80, 443])], []),
    "api-server-narrow": (
        [],
        [
            (_API_CLIENTS, ADDRESSES, [6443]),
            (_API_CLIENTS, [one for one in ADDRESSES if one != API], [443]),
        ],
    ),
    "operators-there": (
        [
            (["platform"], [VAULT], [8200]),
            (["platform"], [REDIS], [6379]),
            (["platform"], [SENTINEL], [26379]),
        ],
        [],
    ),
}
_NAMESPACES: Mapping[str, Labels] = {
    name: {"kubernetes.io/metadata.name": name}
    for name in (*NAMESPACES, *(namespace for namespace, _ in OUTSIDE.values()))
}


def expand(rows: Iterable[Row], ends: Mapping[str, End]) -> set[Connection]:
    """The single connections; those whose ends are not there are left out."""
    return {one for row in rows for one in product(*row) if one[0] in ends and one[1] in ends}


def inhabitants(configuration: str) -> dict[str, End]:
    found: dict[str, End] = {
        one.name: (one.namespace, one.labels) for one in templates(configuration)
    }
    return {
        ROTATION if name.startswith("shlink-redis-rotation") else name: end
        for name, end in found.items()
    } | STRANGERS


def possible(
    configuration: str, inside: Mapping[str, End], ends: Mapping[str, End]
) -> set[Connection]:
    """Every connection with at least one end in the environment that its policies let through."""
    policies = [
        plain(one.inputs)
        for one in configurations.recording(configuration).of_kind("NetworkPolicy")
    ]
    return {
        (source, target, port)
        for source, target in product(ends, ends)
        if (source in inside or target in inside) and source not in ADDRESSES
        for port in PORTS
        if allowed(policies, _NAMESPACES, ends[source], ends[target], port)
    }


@pytest.mark.parametrize("configuration", SWITCHES)
def test_exactly_the_flows_of_the_table_are_possible(configuration: str) -> None:
    inside = inhabitants(configuration)
    ends: dict[str, End] = {**inside, **OUTSIDE, **{one: one for one in ADDRESSES}}
    added, removed = SWITCHES[configuration]
    expected = (expand(DEFAULTS, ends) - expand(removed, ends)) | expand(added, ends)
    found = possible(configuration, inside, ends)
    assert sorted(found - expected) == [], "possible, and in no row"
    assert sorted(expected - found) == [], "in the table, and not possible"


def test_services_elsewhere_are_reached_even_where_the_api_server_is_known(
    program: Program,
) -> None:
    narrow = {"apiServer": [f"{API}/32"], "apiServerPorts": [6443]}
    settings = {
        **configurations.SWITCHES["backups-s3"],
        **configurations.SWITCHES["vault-standalone-sealed"],
        "network": narrow,
    }
    policies = [plain(one.inputs) for one in program(**settings).of_kind("NetworkPolicy")]
    ends = inhabitants("defaults")
    assert {
        name for name, end in ends.items() if allowed(policies, _NAMESPACES, end, INTERNET, 443)
    } == {VAULT, DB, REPO}
    assert not any(allowed(policies, _NAMESPACES, end, INTERNET, 80) for end in ends.values())


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_every_pod_finds_dns_there_and_nowhere_else(protocol: str) -> None:
    policies = [
        plain(one.inputs) for one in configurations.recording("defaults").of_kind("NetworkPolicy")
    ]
    for name, end in inhabitants("defaults").items():
        assert allowed(policies, _NAMESPACES, end, OUTSIDE["dns"], 53, protocol=protocol), name
        assert not allowed(
            policies, _NAMESPACES, end, OUTSIDE["impostor"], 53, protocol=protocol
        ), name
        assert not allowed(policies, _NAMESPACES, end, INTERNET, 53, protocol=protocol), name


@pytest.mark.parametrize(
    "address", ["10.20.30.40", "100.100.100.200", "169.254.169.254", "172.20.0.1", "192.168.1.1"]
)
def test_titles_are_fetched_from_nowhere_private(address: str) -> None:
    # Shlink opens addresses that strangers give it: a cloud's metadata service must not be one of them.
    policies = [
        plain(one.inputs) for one in configurations.recording("app").of_kind("NetworkPolicy")
    ]
    server = inhabitants("app")[SHLINK]
    assert allowed(policies, _NAMESPACES, server, INTERNET, 80)
    assert not any(allowed(policies, _NAMESPACES, server, address, port) for port in PORTS)


@pytest.mark.parametrize("configuration", REPRESENTATIVE)
def test_every_namespace_denies_by_default_and_enforces_restricted(configuration: str) -> None:
    recording = configurations.recording(configuration)
    spaces = {
        object_name(one): one.inputs["metadata"]["labels"]
        for one in recording.of_kind("Namespace")
        if one.custom
    }
    assert set(spaces) == set(NAMESPACES)
    assert {labels["pod-security.kubernetes.io/enforce"] for labels in spaces.values()} == {
        "restricted"
    }
    denying = {
        one.inputs["metadata"]["namespace"]
        for one in recording.of_kind("NetworkPolicy")
        if not one.inputs["spec"]["podSelector"]
        and {"Ingress", "Egress"} <= set(one.inputs["spec"]["policyTypes"])
    }
    assert denying == set(NAMESPACES)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("PostgresCluster", "shlink-db"),
        ("RedisFailover", "shlink-redis"),
        ("SecretStore", "vault-backend"),
        ("ExternalSecret", "postgres-credentials"),
        ("Chart", "vault"),
        ("Deployment", "shlink"),
        ("Release", "pgo"),
    ],
)
def test_the_rules_of_its_namespace_outlive_a_resource(
    dev: Recording, kind: str, name: str
) -> None:
    inputs = plain(dev.one(kind, name).inputs)
    namespace = inputs.get("namespace") or inputs["metadata"]["namespace"]
    rules = {
        (one.kind, one.name)
        for one in dev.of_kind("NetworkPolicy") + dev.of_kind("Namespace")
        if one.custom and namespace in (object_name(one), one.inputs["metadata"].get("namespace"))
    }
    assert len(rules) >= 3
    assert rules <= before(dev, kind, name)


def policies(name: str) -> list[Any]:
    recording = configurations.recording(name)
    return [plain(policy.inputs) for policy in recording.of_kind("NetworkPolicy")]


SHLINK_POD: End = ("shlink", {"app.kubernetes.io/name": "shlink"})
SOLVER: End = ("shlink", {"acme.cert-manager.io/http01-solver": "true"})


@pytest.mark.parametrize(
    ("source", "reached"),
    [
        (("traefik", {"app": "traefik"}), True),
        (("traefik-internal", {"app": "traefik"}), True),
        # A load balancer with target type ip, or a controller on the host's network.
        ("10.0.0.5", True),
        ("10.0.1.5", False),
        (("ingress-nginx", {"app": "nginx"}), False),
    ],
)
def test_the_route_may_begin_in_several_namespaces_and_at_addresses(
    source: End, *, reached: bool
) -> None:
    labels = {
        name: {"kubernetes.io/metadata.name": name}
        for name in (*NAMESPACES, "traefik", "traefik-internal", "ingress-nginx")
    }
    rules = policies("unusual-network")
    assert allowed(rules, labels, source, SHLINK_POD, 8080) is reached
    # cert-manager's pod for the route's certificate runs beside Shlink.
    assert allowed(rules, labels, source, SOLVER, 8089) is reached
    assert not allowed(rules, labels, source, SOLVER, 8080)


def test_without_cert_manager_nothing_is_open_for_its_pod() -> None:
    labels = {name: {"kubernetes.io/metadata.name": name} for name in (*NAMESPACES, "envoy")}
    assert not allowed(policies("gateway"), labels, ("envoy", {"app": "envoy"}), SOLVER, 8089)


@pytest.mark.parametrize("port", [53, 5353])
@pytest.mark.parametrize("target", ["169.254.20.10", ("kube-system", {"k8s-app": "kube-dns"})])
def test_names_are_resolved_where_this_cluster_does_it(target: End, port: int) -> None:
    labels = {name: {"kubernetes.io/metadata.name": name} for name in (*NAMESPACES, "kube-system")}
    rules = policies("unusual-network")
    for protocol in ("UDP", "TCP"):
        assert allowed(rules, labels, SHLINK_POD, target, port, protocol=protocol)
    if isinstance(target, str):
        assert not allowed(policies("defaults"), labels, SHLINK_POD, target, port, protocol="UDP")


def test_on_cilium_the_api_server_is_reached_by_name_and_by_no_address() -> None:
    recording = configurations.recording("cilium")
    clients = {
        (plain(policy.inputs)["metadata"]["namespace"], policy.name.rpartition("-api-server")[0])
        for policy in recording.of_kind("CiliumNetworkPolicy")
    }
    assert {namespace for namespace, _ in clients} == {
        "vault",
        "external-secrets",
        "postgres",
        "redis",
    }
    for policy in recording.of_kind("CiliumNetworkPolicy"):
        spec = plain(policy.inputs)["spec"]
        assert spec["endpointSelector"]["matchLabels"]
        assert spec["egress"][0]["toEntities"] == ["kube-apiserver"]
        listed = spec["egress"][0]["toPorts"][0]["ports"]
        assert [entry["port"] for entry in listed] == ["443", "6443"]
    assert "ipBlock" not in str(policies("cilium"))
    # Whoever uses the API server is created after the way to it, and deleted before it.
    assert ("CiliumNetworkPolicy", "namespace-postgres-pgo-api-server") in before(
        recording, "Release", "pgo"
    )


def test_an_api_server_at_any_address_is_warned_of() -> None:
    def warned(name: str) -> bool:
        return any("apiServer" in text for text in configurations.recording(name).messages)

    assert warned("defaults")
    assert not warned("api-server-narrow")
    assert not warned("cilium")


@pytest.mark.parametrize(
    ("name", "identity"),
    [
        ("vault-awskms", [("169.254.170.23", 80), ("169.254.169.254", 80)]),
        (
            "vault-gcpckms",
            [("169.254.169.254", 80), ("169.254.169.254", 8080), ("169.254.169.252", 988)],
        ),
        ("vault-azurekeyvault", [("169.254.169.254", 80)]),
        ("vault-transit", []),
    ],
)
def test_vault_reaches_its_key_service_and_where_its_identity_comes_from(
    name: str, identity: list[tuple[str, int]]
) -> None:
    labels = {space: {"kubernetes.io/metadata.name": space} for space in NAMESPACES}
    vault: End = ("vault", {"app.kubernetes.io/name": "vault", "component": "server"})
    rules = policies(name)
    for address, port in identity:
        assert allowed(rules, labels, vault, address, port)
    if not identity:
        assert not allowed(rules, labels, vault, "169.254.169.254", 80)
    assert not allowed(rules, labels, SHLINK_POD, "169.254.169.254", 80)


def test_titles_are_fetched_over_ipv6_too_but_never_inside() -> None:
    labels = {space: {"kubernetes.io/metadata.name": space} for space in NAMESPACES}
    rules = policies("app")
    assert allowed(rules, labels, SHLINK_POD, "2001:db8::7", 443)
    for address in ("fd00:ec2::254", "fe80::1", "64:ff9b::a00:5"):
        assert not allowed(rules, labels, SHLINK_POD, address, 443)

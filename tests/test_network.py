"""The NetworkPolicies as a whole: for each pair of ends and each port, whether they can connect.

The labels are those of the pods that the program, the charts and the operators make. What should
be possible is in tests/flow_table.py, the rules are in tests/netpol.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from components.network.flows import NAMESPACES
from components.postgres.backups import IP_VERSION
from components.program.identity import Sight
from offline.record import Recorded, Recording, object_name, plain, record
from tests import configurations
from tests.conftest import REPRESENTATIVE, Program, before, configuration, manifest
from tests.flow_table import (
    API,
    BACKUP,
    DB,
    ESO,
    INTERNET,
    NAMESPACE_LABELS,
    OUTSIDE,
    PGO,
    PORTS,
    REDIS,
    REPO,
    RO,
    SENTINEL,
    SHLINK,
    STRANGERS,
    SWITCHES,
    VAULT,
    all_ends,
    expected,
    possible,
    role_of_pod,
)
from tests.netpol import End, allowed
from tests.real.pods import templates


def pods(configuration: str) -> dict[str, End]:
    """The pods of a configuration, by the name that the table has for them."""
    return {
        role_of_pod(template.name): (template.namespace, template.labels)
        for template in templates(configuration)
    }


def policies_of(recording: Recording) -> Sequence[Mapping[str, Any]]:
    return [plain(resource.inputs) for resource in recording.of_kind("NetworkPolicy")]


@pytest.mark.parametrize("configuration", SWITCHES)
def test_exactly_the_flows_of_the_table_are_possible(configuration: str) -> None:
    """Each row of the table is possible, and no connection beside them."""
    ends = all_ends(pods(configuration))
    policies = policies_of(configurations.recording(configuration))
    connections = possible(policies, NAMESPACE_LABELS, ends)
    table = expected(configuration, ends)
    assert sorted(connections - table) == [], "possible, and in no row"
    assert sorted(table - connections) == [], "in the table, and not possible"


def test_services_elsewhere_are_reached_even_where_the_api_server_is_known(
    program: Program,
) -> None:
    narrow = {"apiServer": [f"{API}/32"], "apiServerPorts": [6443]}
    settings = {
        **configurations.SWITCHES["backups-s3"],
        **configurations.SWITCHES["vault-standalone-sealed"],
        "network": narrow,
    }
    policies = policies_of(program(**settings))
    ends = {**pods("defaults"), **STRANGERS}
    reaching = {
        name
        for name, end in ends.items()
        if allowed(policies, NAMESPACE_LABELS, end, INTERNET, 443)
    }
    assert reaching == {VAULT, DB, REPO, BACKUP}
    assert not any(allowed(policies, NAMESPACE_LABELS, end, INTERNET, 80) for end in ends.values())


def test_an_operator_that_was_there_is_not_cut_off_in_a_namespace_of_ours(program: Program) -> None:
    """A lab that was taken over: PGO in `postgres`, redis-operator in `redis`."""
    operators = {
        "externalSecrets": {"install": False, "namespace": "external-secrets"},
        "pgo": {"install": False, "namespace": "postgres"},
        "redisOperator": {"install": False, "namespace": "redis"},
    }
    recording = program(operators=operators)
    policies = policies_of(recording)
    ends = {**pods("defaults"), **STRANGERS}
    clients = {
        name
        for name, end in ends.items()
        if end[0] in {"postgres", "redis"} and allowed(policies, NAMESPACE_LABELS, end, API, 443)
    }
    assert clients == {PGO, RO, DB, REPO, BACKUP}
    for server, port in ((REDIS, 6379), (SENTINEL, 26379)):
        reaching = {
            name
            for name, end in ends.items()
            if allowed(policies, NAMESPACE_LABELS, end, ends[server], port)
        }
        assert reaching == {RO, REDIS, SENTINEL, SHLINK}
    # The shared controller reaches Vault; nothing else of its namespace is this program's concern.
    assert allowed(policies, NAMESPACE_LABELS, ends[ESO], ends[VAULT], 8200)
    places = {
        plain(resource.inputs)["metadata"]["namespace"] for resource in _namespaced(recording)
    }
    assert "external-secrets" not in places | {
        object_name(item) for item in recording.of_kind("Namespace")
    }


def _namespaced(recording: Recording) -> list[Recorded]:
    objects = [item for item in recording.resources.values() if item.is_kubernetes_object]
    return [item for item in objects if "namespace" in item.inputs["metadata"]]


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_every_pod_finds_dns_there_and_nowhere_else(protocol: str) -> None:
    policies = policies_of(configurations.recording("defaults"))

    def reaches(end: End, server: End) -> bool:
        return allowed(policies, NAMESPACE_LABELS, end, server, 53, protocol=protocol)

    for name, end in {**pods("defaults"), **STRANGERS}.items():
        assert reaches(end, OUTSIDE["dns"]), name
        assert not reaches(end, OUTSIDE["impostor"]), name
        assert not reaches(end, INTERNET), name


@pytest.mark.parametrize(
    "address", ["10.20.30.40", "100.100.100.200", "169.254.169.254", "172.20.0.1", "192.168.1.1"]
)
def test_titles_are_fetched_from_nowhere_private(address: str) -> None:
    """Shlink opens addresses of strangers: a cloud's metadata service must not be among them."""
    policies = policies_of(configurations.recording("app"))
    server = {**pods("app"), **STRANGERS}[SHLINK]
    assert allowed(policies, NAMESPACE_LABELS, server, INTERNET, 80)
    assert not any(allowed(policies, NAMESPACE_LABELS, server, address, port) for port in PORTS)


@pytest.mark.parametrize("configuration", REPRESENTATIVE)
def test_every_namespace_denies_by_default_and_enforces_restricted(configuration: str) -> None:
    recording = configurations.recording(configuration)
    spaces = {
        object_name(namespace): namespace.inputs["metadata"]["labels"]
        for namespace in recording.of_kind("Namespace")
        if namespace.custom
    }
    own = set(NAMESPACES)
    if configuration == "operators-there":
        # Its operator is the platform's, and so is the namespace.
        own.remove("external-secrets")
    assert set(spaces) == own
    for labels in spaces.values():
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    denying: set[str] = set()
    for policy in policies_of(recording):
        spec = policy["spec"]
        if not spec["podSelector"] and {"Ingress", "Egress"} <= set(spec["policyTypes"]):
            denying.add(policy["metadata"]["namespace"])
    assert denying == own


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
    rules: set[tuple[str, str]] = set()
    for rule in dev.of_kind("NetworkPolicy") + dev.of_kind("Namespace"):
        if not rule.custom:
            continue
        if namespace in (object_name(rule), rule.inputs["metadata"].get("namespace")):
            rules.add((rule.kind, rule.name))
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


def test_the_api_server_is_open_where_the_cluster_shows_it_and_nowhere_else() -> None:
    seen = Sight("here", {}, api_server=["10.96.0.1/32", "fd00::1/128"])
    recording = record("test", configuration({}), sight=seen)
    open_, labels = policies_of(recording), NAMESPACE_LABELS
    pgo: End = ("postgres", {"postgres-operator.crunchydata.com/control-plane": "pgo"})
    assert allowed(open_, labels, pgo, "10.96.0.1", 443)
    assert allowed(open_, labels, pgo, "fd00::1", 6443)
    assert not allowed(open_, labels, pgo, "198.51.100.7", 443)
    assert recording.messages == []


def test_a_run_that_does_not_see_the_cluster_keeps_what_one_before_saw() -> None:
    """The engine answers with the state's record; a preview without a cluster has no difference."""
    seen = Sight("here", {}, api_server=["10.96.0.1/32"])
    kept = record("test", configuration({}), sight=seen).one("Stash", "settings")
    assert plain(kept.inputs)["input"]["kubernetes.apiServer"] == ["10.96.0.1/32"]
    assert kept.ignore_changes == ()
    blind = record("test", configuration({})).one("Stash", "settings")
    assert 'input["kubernetes.apiServer"]' in blind.ignore_changes


@pytest.mark.parametrize(
    ("address", "version"), [("10.96.0.1/32", "IPv4"), ("fd00::1/128", "IPv6")]
)
def test_pgbackrest_listens_on_the_family_of_the_pods(address: str, version: str) -> None:
    seen = Sight("here", {}, api_server=[address])
    recording = record("test", configuration({}), sight=seen)
    cluster = manifest(recording, "PostgresCluster", "shlink-db")
    assert cluster["metadata"]["annotations"][IP_VERSION] == version


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


# What an environment adds by itself

_SPACES = {
    space: {"kubernetes.io/metadata.name": space}
    for space in (*NAMESPACES, "broker", "tunnel", "minio", "id", "monitoring")
}


def added(program: Program, **settings: Any) -> list[Any]:
    return list(policies_of(program(**settings)))


def test_an_integration_opens_the_way_to_itself_alone(program: Program) -> None:
    broker = {"host": "mq.broker.svc", "user": "u", "password": "p", "tls": True}
    rules = added(
        program, app={"rabbitmq": {**broker, "namespace": "broker", "labels": {"a": "b"}}}
    )
    assert allowed(rules, _SPACES, SHLINK_POD, ("broker", {"a": "b"}), 5671)
    assert not allowed(rules, _SPACES, SHLINK_POD, ("broker", {"a": "c"}), 5671)
    assert not allowed(rules, _SPACES, SHLINK_POD, ("broker", {"a": "b"}), 5672)
    assert not allowed(rules, _SPACES, SHLINK_POD, "198.51.100.7", 5671)
    outside = added(program, app={"rabbitmq": {**broker, "cidrs": ["198.51.100.0/24"]}})
    assert allowed(outside, _SPACES, SHLINK_POD, "198.51.100.7", 5671)
    assert not allowed(outside, _SPACES, SHLINK_POD, "203.0.113.7", 5671)


def test_clients_reach_shlink_and_nothing_else(program: Program) -> None:
    clients = [
        {"namespace": "tunnel", "labels": {"app": "cloudflared"}},
        {"namespace": "shlink", "labels": {"app": "release"}},
    ]
    app = {"domain": "s.example.org", "route": {"type": "none"}, "clients": clients}
    rules = added(program, app=app)
    assert allowed(rules, _SPACES, ("tunnel", {"app": "cloudflared"}), SHLINK_POD, 8080)
    assert not allowed(rules, _SPACES, ("tunnel", {"app": "other"}), SHLINK_POD, 8080)
    assert not allowed(rules, _SPACES, ("tunnel", {"app": "cloudflared"}), SHLINK_POD, 2112)
    # Its own namespace denies by default, so the way out of it is open too.
    assert allowed(rules, _SPACES, ("shlink", {"app": "release"}), SHLINK_POD, 8080)
    assert not allowed(rules, _SPACES, ("shlink", {"app": "release"}), "198.51.100.7", 443)


def test_a_server_in_this_cluster_is_named_by_its_namespace(program: Program) -> None:
    minio = {
        "type": "s3",
        "bucket": "backups",
        "endpoint": "minio.minio.svc",
        "region": "any-1",
        "key": "k",
        "keySecret": "s",
        "namespace": "minio",
        "podPorts": [9000],
    }
    people = {
        "type": "oidc",
        "discoveryUrl": "https://keycloak.id.svc:8443/realms/a",
        "clientId": "vault",
        "clientSecret": "s",
        "viewers": ["a"],
        "namespace": "id",
    }
    rules = added(
        program,
        network={"apiServer": ["10.96.0.1/32"]},
        postgres={"backups": {"repositories": {"repo2": minio}}},
        vault={"people": people},
        redis={"mode": "external", "servers": ["tcp://r.broker.svc:6379"], "namespace": "broker"},
    )
    database = ("postgres", {"postgres-operator.crunchydata.com/cluster": "shlink-db"})
    vault = ("vault", {"app.kubernetes.io/name": "vault", "component": "server"})
    every: dict[str, str] = {}
    for source, target, port in (
        (database, ("minio", every), 9000),
        (vault, ("id", every), 8443),
        (SHLINK_POD, ("broker", every), 6379),
    ):
        assert allowed(rules, _SPACES, source, target, port)
        assert not allowed(rules, _SPACES, source, "198.51.100.7", port)
    assert not allowed(rules, _SPACES, database, ("minio", {}), 443)


def test_titles_are_fetched_from_nowhere_in_the_cluster(program: Program) -> None:
    rules = added(
        program,
        app={"resolveTitles": True},
        network={"clusterCidrs": ["2001:db8:7::/48", "198.51.100.0/24"]},
    )
    assert allowed(rules, _SPACES, SHLINK_POD, "2001:db8:8::1", 443)
    closed = ("2001:db8:7::1", "198.51.100.9", "198.18.0.1", "240.0.0.1", "192.0.0.8", "0.0.0.1")
    for address in (*closed, "2002:a00::1", "64:ff9b:1::1"):
        assert not allowed(rules, _SPACES, SHLINK_POD, address, 443), address


def test_ciliums_own_gateway_is_let_in_as_what_it_is(program: Program) -> None:
    route = {"type": "gateway", "name": "public", "namespace": "gateways"}
    recording = program(
        app={"domain": "s.example.org", "route": route}, network={"policies": "cilium"}
    )
    policy = plain(recording.one("CiliumNetworkPolicy", "shlink-gateway").inputs)["spec"]
    assert policy["endpointSelector"]["matchLabels"] == SHLINK_POD[1]
    assert policy["ingress"] == [
        {
            "fromEntities": ["ingress"],
            "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}]}],
        }
    ]


def test_a_load_balancer_of_its_own_lets_in_its_visitors(program: Program) -> None:
    route = {"type": "service", "sourceRanges": ["198.51.100.0/24"]}
    recording = program(app={"domain": "s.example.org", "https": True, "route": route})
    service = plain(recording.one("Service", "shlink-public").inputs)["spec"]
    assert (service["type"], service["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert service["loadBalancerSourceRanges"] == ["198.51.100.0/24"]
    assert service["ports"][0]["port"] == 443
    rules = list(policies_of(recording))
    assert allowed(rules, _SPACES, "198.51.100.7", SHLINK_POD, 8080)
    assert not allowed(rules, _SPACES, "203.0.113.7", SHLINK_POD, 8080)


def test_namespaces_bear_an_owners_labels_and_a_limit_where_a_quota_demands_it(
    program: Program,
) -> None:
    placement = {
        "namespaceLabels": {"owner": "links"},
        "namespaceAnnotations": {"backup": "daily"},
        "cpuLimit": "2",
    }
    recording = program(placement=placement)
    for item in recording.of_kind("Namespace"):
        if not item.custom:
            continue
        metadata = item.inputs["metadata"]
        assert metadata["labels"]["owner"] == "links"
        assert metadata["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        assert metadata["labels"]["istio-injection"] == "disabled"
        assert metadata["annotations"]["linkerd.io/inject"] == "disabled"
        assert metadata["annotations"]["backup"] == "daily"
    limits = recording.of_kind("LimitRange")
    assert {item.inputs["metadata"]["namespace"] for item in limits} == set(NAMESPACES)
    assert limits[0].inputs["spec"]["limits"][0]["default"] == {"cpu": "2"}
    # The pods come after it: it counts for new ones only.
    assert ("LimitRange", "namespace-shlink-limits") in before(recording, "Deployment", "shlink")


def test_what_leaves_the_cluster_goes_through_its_proxy_alone(program: Program) -> None:
    proxy = {"url": "http://proxy.example.org:3128", "cidrs": ["198.51.100.7/32"]}
    recording = program(
        app={"resolveTitles": True, "geoliteLicenseKey": "key"},
        network={"proxy": proxy, "apiServer": ["10.96.0.1/32"]},
        vault=configurations.SWITCHES["vault-awskms"]["vault"],
    )
    rules = list(policies_of(recording))
    geolite = ("shlink", {"app.kubernetes.io/name": "shlink-geolite"})
    vault = ("vault", {"app.kubernetes.io/name": "vault", "component": "server"})
    for pod in (SHLINK_POD, geolite, vault):
        assert allowed(rules, _SPACES, pod, "198.51.100.7", 3128)
        assert not allowed(rules, _SPACES, pod, "203.0.113.7", 3128)
    for pod in (SHLINK_POD, geolite):
        assert not allowed(rules, _SPACES, pod, "203.0.113.7", 443)
    pod = plain(recording.one("Deployment", "shlink").inputs)["spec"]["template"]["spec"]
    values = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}
    assert values["HTTPS_PROXY"] == "http://proxy.example.org:3128"
    assert ".svc" in values["NO_PROXY"]
    chart = plain(recording.one("Chart", "vault").inputs)["values"]["server"]
    assert ".vault-internal" in chart["extraEnvironmentVars"]["NO_PROXY"]

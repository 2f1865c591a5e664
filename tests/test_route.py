"""What leads to Shlink from outside: hosts, certificates, and where /rest answers."""

from typing import Any

import pytest

from components import scripts
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import Fault, Program, manifest
from tests.test_network import SHLINK_POD, allowed, policies

CLOSED = "shlink-closed"


def ingress(name: str) -> Any:
    return manifest(configurations.recording(name), "Ingress", "shlink")["spec"]


def paths(rule: Any) -> list[tuple[str, str]]:
    """Path and Service of an Ingress' rule."""
    return [(path["path"], path["backend"]["service"]["name"]) for path in rule["http"]["paths"]]


def test_nothing_leads_to_shlink_unless_it_is_said(dev: Recording) -> None:
    assert dev.of_kind("Ingress") == dev.of_kind("HTTPRoute") == []


def test_an_ingress(program: Program) -> None:
    ingress = manifest(configurations.recording("ingress"), "Ingress", "shlink")
    assert ingress["metadata"]["annotations"] == {
        "cert-manager.io/cluster-issuer": "letsencrypt",
        "pulumi.com/skipAwait": "true",
    }
    backend = {"service": {"name": "shlink", "port": {"name": "http"}}}
    assert ingress["spec"] == {
        "ingressClassName": "nginx",
        "tls": [{"hosts": ["s.example.org"], "secretName": "shlink-tls"}],
        "rules": [
            {
                "host": "s.example.org",
                "http": {"paths": [{"path": "/s", "pathType": "Prefix", "backend": backend}]},
            }
        ],
    }
    route = {"type": "ingress", "className": "nginx", "controllerNamespace": "ingress"}
    bare = manifest(
        program(app={"domain": "s.example.org:8443", "route": route}), "Ingress", "shlink"
    )["spec"]
    assert "tls" not in bare
    assert (bare["rules"][0]["host"], bare["rules"][0]["http"]["paths"][0]["path"]) == (
        "s.example.org",
        "/",
    )


def test_a_gateway(program: Program) -> None:
    route = manifest(configurations.recording("gateway"), "HTTPRoute", "shlink")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"]["parentRefs"] == [
        {"name": "public", "namespace": "gateways", "sectionName": "https"}
    ]
    assert route["spec"]["hostnames"] == ["s.example.org"]
    assert route["spec"]["rules"] == [{"backendRefs": [{"name": "shlink", "port": 8080}]}]
    route = {
        "type": "gateway",
        "name": "public",
        "namespace": "gateways",
        "controllerNamespace": "envoy",
    }
    parents = manifest(
        program(app={"domain": "s.example.org", "route": route}), "HTTPRoute", "shlink"
    )["spec"]["parentRefs"]
    assert parents == [{"name": "public", "namespace": "gateways"}]


# Load balancers of clouds: what asks whether Shlink is well must not become a visit.


def test_amazons_load_balancer_asks_for_health_and_takes_https(program: Program) -> None:
    route = {
        "type": "ingress",
        "className": "alb",
        "controllerAddresses": ["10.0.0.0/24"],
        "annotations": {"alb.ingress.kubernetes.io/scheme": "internal"},
    }
    app = {"domain": "s.example.org", "https": True, "basePath": "/s", "route": route}
    ingress = manifest(program(app=app), "Ingress", "shlink")
    annotations = ingress["metadata"]["annotations"]
    assert ingress["spec"]["ingressClassName"] == "alb"
    prefix = "alb.ingress.kubernetes.io/"
    assert annotations[f"{prefix}healthcheck-path"] == "/s/rest/health"
    assert annotations[f"{prefix}listen-ports"] == '[{"HTTP": 80}, {"HTTPS": 443}]'
    assert annotations[f"{prefix}ssl-redirect"] == "443"
    assert annotations[f"{prefix}scheme"] == "internal"


def test_amazons_load_balancer_is_open_to_the_internet_by_nobodys_oversight(fault: Fault) -> None:
    route = {"type": "ingress", "className": "alb", "controllerAddresses": ["10.0.0.0/24"]}
    message = fault(app={"domain": "s.example.org", "route": route})
    assert "alb.ingress.kubernetes.io/scheme is missing" in message


def test_googles_ingress_has_the_annotation_in_place_of_the_class(program: Program) -> None:
    route = {"type": "ingress", "className": "gce"}
    recording = program(app={"domain": "s.example.org", "basePath": "/s", "route": route})
    ingress = manifest(recording, "Ingress", "shlink")
    assert ingress["metadata"]["annotations"]["kubernetes.io/ingress.class"] == "gce"
    assert "ingressClassName" not in ingress["spec"]
    config = manifest(recording, "BackendConfig", "shlink")["spec"]
    assert config["healthCheck"]["requestPath"] == "/s/rest/health"
    service = manifest(recording, "Service", "shlink")["metadata"]["annotations"]
    assert service["cloud.google.com/backend-config"] == '{"default": "shlink"}'
    labels = {space: {"kubernetes.io/metadata.name": space} for space in ("shlink",)}
    rules = [plain(policy.inputs) for policy in recording.of_kind("NetworkPolicy")]
    assert allowed(rules, labels, "35.191.0.7", SHLINK_POD, 8080)


def test_googles_gateway_gets_a_policy_for_its_health_check(program: Program) -> None:
    route = {
        "type": "gateway",
        "name": "external",
        "namespace": "infra",
        "controllerAddresses": ["35.191.0.0/16", "130.211.0.0/22"],
        "annotations": {"external-dns.alpha.kubernetes.io/ttl": "60"},
    }
    recording = program(app={"domain": "s.example.org", "https": True, "route": route})
    policy = manifest(recording, "HealthCheckPolicy", "shlink")["spec"]
    config = policy["default"]["config"]
    assert config["httpHealthCheck"]["requestPath"] == "/rest/health"
    assert policy["targetRef"] == {"group": "", "kind": "Service", "name": "shlink"}
    annotations = manifest(recording, "HTTPRoute", "shlink")["metadata"]["annotations"]
    assert annotations == {"external-dns.alpha.kubernetes.io/ttl": "60"}


# Several domains


def test_every_domain_is_routed_and_has_its_certificate() -> None:
    spec = ingress("ingress-domains")
    hosts = [rule["host"] for rule in spec["rules"]]
    assert sorted(hosts) == [
        "api.example.org",
        "links.example.org",
        "s.example.net",
        "s.example.org",
    ]
    assert spec["tls"] == [
        {
            "hosts": ["s.example.org", "api.example.org", "links.example.org"],
            "secretName": "shlink-tls",
        },
        {"hosts": ["s.example.net"], "secretName": "net-tls"},
    ]


def test_a_gateways_route_attaches_to_each_listener() -> None:
    """Every listener serves those of the route's hosts that it takes."""
    route = manifest(configurations.recording("gateway-domains"), "HTTPRoute", "shlink")
    listeners = [parent["sectionName"] for parent in route["spec"]["parentRefs"]]
    assert listeners == ["org", "net"]


def test_further_domains_are_no_setting_of_shlink() -> None:
    """Shlink finds a short URL by the authority of the request (ShortUrlIdentifier, 4.6.0)."""
    environment = str(manifest(configurations.recording("ingress-domains"), "Deployment", "shlink"))
    assert "s.example.org" in environment
    assert "s.example.net" not in environment


# Where /rest answers


def test_rest_answers_on_its_host_and_ends_nowhere_on_the_others() -> None:
    for rule in ingress("ingress-domains")["rules"]:
        expected = [("/s/rest", CLOSED), ("/s", "shlink")]
        if rule["host"] == "api.example.org":
            expected = [("/s", "shlink")]
        if rule["host"] == "links.example.org":
            expected = [("/", "shlink-web-client")]
        assert paths(rule) == expected, rule["host"]


@pytest.mark.parametrize(
    ("name", "closed", "open_hosts"),
    [
        ("gateway-domains", ["s.example.net"], ["s.example.org"]),
        ("rest-nowhere", ["s.example.org"], []),
    ],
)
def test_a_gateway_has_a_route_for_the_hosts_without_rest(
    name: str, closed: list[str], open_hosts: list[str]
) -> None:
    recording = configurations.recording(name)
    route = manifest(recording, "HTTPRoute", "shlink")["spec"]
    assert route["hostnames"] == closed
    rules = {
        rule["matches"][0]["path"]["value"]: rule["backendRefs"][0]["name"]
        for rule in route["rules"]
    }
    assert rules == {"/rest": CLOSED, "/": "shlink"}
    rest_routes = [item for item in recording.of_kind("HTTPRoute") if item.name == "shlink-rest"]
    assert [list(item.inputs["spec"]["hostnames"]) for item in rest_routes] == [
        [host] for host in open_hosts
    ]


def test_the_closed_path_ends_in_shlinks_own_pods_at_a_port_without_a_server() -> None:
    """Without pods behind it Traefik would leave the path out, and `/` would take its requests."""
    recording = configurations.recording("ingress-domains")
    closed = manifest(recording, "Service", CLOSED)["spec"]
    assert closed["selector"] == manifest(recording, "Service", "shlink")["spec"]["selector"]
    [port] = closed["ports"]
    assert (port["name"], port["port"], port["targetPort"]) == ("http", 8080, 9)
    pod = manifest(recording, "Deployment", "shlink")["spec"]["template"]["spec"]
    served = [entry["containerPort"] for item in pod["containers"] for entry in item["ports"]]
    assert 9 not in served


@pytest.mark.parametrize(("name", "expected"), [("rest-nowhere", True), ("gateway", False)])
def test_the_controller_is_refused_at_once_and_not_dropped(name: str, *, expected: bool) -> None:
    labels = {space: {"kubernetes.io/metadata.name": space} for space in ("shlink", "envoy")}
    controller = ("envoy", {"app": "envoy"})
    assert allowed(policies(name), labels, controller, SHLINK_POD, 9) is expected


def test_nothing_is_closed_by_default() -> None:
    for name in ("ingress", "gateway", "defaults"):
        services = configurations.recording(name).of_kind("Service")
        assert all(item.name != CLOSED for item in services)


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ({"rest": "api.example.org"}, "route.rest: api.example.org is no host of this route"),
        ({"domains": ["s.example.org"]}, "route.domains: s.example.org is `domain` already"),
        ({"domains": ["a.example", "a.example"]}, "domains: a.example is there twice"),
        ({"domains": ["a.example:8443"]}, "without a port"),
        ({"domains": ["10.0.0.7"]}, "a host name in small letters"),
        ({"rest": "none"}, "everywhere, nowhere"),
        ({"webClient": "s.example.org"}, "route.webClient: s.example.org is a domain of short"),
        ({"webClient": "a.example", "rest": "nowhere"}, "the browser calls /rest itself"),
        ({"tlsSecrets": {"a.example": "a"}}, "route.tlsSecrets: a.example is no host"),
    ],
)
def test_a_route_that_contradicts_itself_is_refused(
    fault: Fault, route: dict[str, Any], message: str
) -> None:
    plain = {"type": "ingress", "className": "nginx", "controllerNamespace": "ingress"}
    assert message in fault(app={"domain": "s.example.org", "https": True, "route": plain | route})


# The web client

WEB_CLIENT_POD = ("shlink", {"app.kubernetes.io/name": "shlink-web-client"})


def web_client(kind: str) -> Any:
    return manifest(configurations.recording("gateway-domains"), kind, "shlink-web-client")


def test_the_web_client_has_a_host_of_its_own() -> None:
    assert web_client("HTTPRoute")["spec"]["hostnames"] == ["links.example.org"]
    rule = web_client("HTTPRoute")["spec"]["rules"][0]
    assert rule == {"backendRefs": [{"name": "shlink-web-client", "port": 8080}]}


def test_the_web_client_holds_no_api_key() -> None:
    """Its image would write SHLINK_SERVER_API_KEY to a file that anybody may read."""
    spec = web_client("Deployment")["spec"]["template"]["spec"]
    assert "env" not in spec["containers"][0]
    assert "envFrom" not in spec["containers"][0]
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp"]
    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False


def test_the_web_client_listens_where_the_images_own_file_does_not() -> None:
    (container,) = web_client("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["command"][-1] == scripts.read("web_client.sh")


def test_the_web_client_is_reached_by_the_route_and_reaches_nothing() -> None:
    spaces = ("shlink", "envoy", "postgres", "redis", "vault")
    labels = {space: {"kubernetes.io/metadata.name": space} for space in spaces}
    rules = policies("gateway-domains")
    assert allowed(rules, labels, ("envoy", {"app": "envoy"}), WEB_CLIENT_POD, 8080)
    assert not allowed(rules, labels, SHLINK_POD, WEB_CLIENT_POD, 8080)
    assert not allowed(rules, labels, WEB_CLIENT_POD, SHLINK_POD, 8080)
    assert not allowed(rules, labels, WEB_CLIENT_POD, "198.51.100.7", 443)


def test_there_is_no_web_client_unless_its_host_is_set() -> None:
    for name in ("defaults", "ingress", "gateway"):
        deployments = configurations.recording(name).of_kind("Deployment")
        assert [item.name for item in deployments if item.name == "shlink-web-client"] == []

"""What leads to Shlink from outside: an Ingress, or HTTPRoutes of the Gateway API.

A host is closed to `/rest` by a Service of its own for that path, whose port nothing listens on:
every controller then answers 502 or 503. Neither kind of route has a portable way to refuse a path,
and a Service without pods would not do: Traefik drops such a path from the Ingress, and `/` takes
its requests (https://doc.traefik.io/traefik/providers/kubernetes-ingress/#allowemptyservices).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import core, meta, networking

from .. import ports
from ..network.flows import ANYWHERE, SERVER
from ..settings.shlink import (
    ALB,
    GKE_CLASSES,
    GOOGLE_ADDRESSES,
    GatewayRoute,
    Ingress,
    ServiceRoute,
    ShlinkSettings,
)
from .crds import (
    BackendConfig,
    BackendConfigSpec,
    HealthCheckPolicy,
    HealthCheckPolicySpec,
    HTTPRoute,
    HTTPRouteRule,
    ParentReference,
)

_NO_WAIT = "pulumi.com/skipAwait"


@dataclass(frozen=True)
class RouteArgs:
    """Whose route it is."""

    namespace: pulumi.Input[str]
    """Where the Service is, and so the route."""
    settings: ShlinkSettings
    """`shlink:app` of the stack's file."""
    labels: Mapping[str, str]
    """Of every object of the route."""


@dataclass(frozen=True)
class _Path:
    """Requests whose path begins with `prefix`, or all of them, go to a Service."""

    prefix: str | None
    service: str


@dataclass(frozen=True)
class _Hosts:
    """Hosts that are treated alike."""

    name: str
    hosts: Sequence[str]
    paths: Sequence[_Path]


def route(name: str, args: RouteArgs, opts: pulumi.ResourceOptions) -> None:
    """Lead to Service `name` as `route` says; nothing unless it is set."""
    settings = args.settings
    if isinstance(settings.route, ServiceRoute):
        _service(name, args, settings.route, opts)
    if settings.controlled_route is None:
        return
    if settings.controlled_route.rest != "everywhere":
        core.v1.Service(
            _closed(name),
            metadata=_metadata(_closed(name), args),
            spec=core.v1.ServiceSpecArgs(
                selector=SERVER.labels,
                ports=[
                    core.v1.ServicePortArgs(
                        name="http", port=ports.SHLINK, target_port=ports.CLOSED
                    )
                ],
            ),
            opts=opts,
        )
    groups = _groups(name, settings)
    if isinstance(settings.controlled_route, Ingress):
        _ingress(name, args, settings.controlled_route, groups, opts)
        return
    for group in groups:
        _http_route(group, args, settings.controlled_route, opts)


def service_annotations(name: str, settings: ShlinkSettings) -> dict[str, str] | None:
    """What Google's Ingress reads on the Service: containers as backends, and how to check them."""
    if not _is_google(settings.route) or not isinstance(settings.route, Ingress):
        return None
    return {
        "cloud.google.com/neg": '{"ingress": true}',
        "cloud.google.com/backend-config": json.dumps({"default": name}),
    }


def health_check(name: str, args: RouteArgs, opts: pulumi.ResourceOptions) -> None:
    """What tells Google's load balancers where to ask: by default `/`, which counts as a visit."""
    if not _is_google(args.settings.route):
        return
    path = _health_path(args.settings)
    if isinstance(args.settings.route, Ingress):
        backend: BackendConfigSpec = {
            "healthCheck": {"type": "HTTP", "requestPath": path, "port": ports.SHLINK}
        }
        BackendConfig(name, metadata=_metadata(name, args), spec=backend, opts=opts)
        return
    policy: HealthCheckPolicySpec = {
        "default": {
            "config": {
                "type": "HTTP",
                "httpHealthCheck": {"requestPath": path, "port": ports.SHLINK},
            }
        },
        "targetRef": {"group": "", "kind": "Service", "name": name},
    }
    HealthCheckPolicy(name, metadata=_metadata(name, args), spec=policy, opts=opts)


def _is_google(route: object) -> bool:
    """Whether Google's load balancers, which connect from these networks alone, lead to Shlink."""
    if not isinstance(route, Ingress | GatewayRoute):
        return False
    if isinstance(route, Ingress):
        return route.class_name in GKE_CLASSES
    return bool(set(route.controller_addresses) & set(GOOGLE_ADDRESSES))


def _health_path(settings: ShlinkSettings) -> str:
    return f"{settings.base_path or ''}/rest/health"


def _service(
    name: str, args: RouteArgs, settings: ServiceRoute, opts: pulumi.ResourceOptions
) -> None:
    """A load balancer's Service. Nothing waits for its address: see `_ingress`."""
    metadata = _metadata(f"{name}-public", args)
    metadata.annotations = {_NO_WAIT: "true", **settings.annotations}
    ranges = None
    if settings.service_type == "LoadBalancer" and settings.source_ranges != ANYWHERE.cidrs:
        ranges = settings.source_ranges
    port = settings.port or (ports.HTTPS if args.settings.https else ports.HTTP)
    core.v1.Service(
        f"{name}-public",
        metadata=metadata,
        spec=core.v1.ServiceSpecArgs(
            type=settings.service_type,
            selector=SERVER.labels,
            # Visitors keep their address, for the policies and for where a visit came from.
            external_traffic_policy="Local",
            ip_family_policy="PreferDualStack",
            load_balancer_class=settings.load_balancer_class,
            load_balancer_source_ranges=ranges,
            ports=[
                core.v1.ServicePortArgs(
                    name="http", port=port, target_port="http", node_port=settings.node_port
                )
            ],
        ),
        opts=opts,
    )


def web_client(name: str) -> str:
    """The name of the web client's Service."""
    return f"{name}-web-client"


def _closed(name: str) -> str:
    return f"{name}-closed"


def _metadata(name: str, args: RouteArgs) -> meta.v1.ObjectMetaArgs:
    return meta.v1.ObjectMetaArgs(name=name, namespace=args.namespace, labels=args.labels)


def _groups(name: str, settings: ShlinkSettings) -> list[_Hosts]:
    """Every host of the route, with where its paths lead."""
    route = settings.controlled_route
    if route is None:
        return []
    hosts = [settings.domain.partition(":")[0], *route.domains]
    everything = _Path(settings.base_path, name)
    rest = route.rest
    page: list[_Hosts] = []
    if route.web_client:
        client = web_client(name)
        page.append(_Hosts(client, [route.web_client], [_Path(None, client)]))
    if rest == "everywhere":
        return [_Hosts(name, hosts, [everything]), *page]
    without_rest = _Path(f"{settings.base_path or ''}/rest", _closed(name))
    closed = [host for host in hosts if host != rest]
    groups: list[_Hosts] = []
    if closed:
        groups.append(_Hosts(name, closed, [without_rest, everything]))
    if rest in hosts:
        groups.append(_Hosts(f"{name}-rest", [rest], [everything]))
    return [*groups, *page]


def _ingress(
    name: str,
    args: RouteArgs,
    settings: Ingress,
    groups: Sequence[_Hosts],
    opts: pulumi.ResourceOptions,
) -> None:
    rules: list[networking.v1.IngressRuleArgs] = []
    hosts: list[str] = []
    for group in groups:
        hosts += group.hosts
        paths = [_ingress_path(path) for path in group.paths]
        http = networking.v1.HTTPIngressRuleValueArgs(paths=paths)
        rules += [networking.v1.IngressRuleArgs(host=host, http=http) for host in group.hosts]
    metadata = _metadata(name, args)
    metadata.annotations = _annotations(settings, args.settings)
    named_class = None if settings.class_name in GKE_CLASSES else settings.class_name
    networking.v1.Ingress(
        name,
        metadata=metadata,
        spec=networking.v1.IngressSpecArgs(
            ingress_class_name=named_class,
            rules=rules,
            # Kubernetes drops an empty list, which would show as a difference in a later diff.
            tls=_certificates(settings, hosts) or None,
        ),
        opts=opts,
    )


def _annotations(settings: Ingress, app: ShlinkSettings) -> dict[str, str]:
    """The program's, and over them those of the file.

    Whether the controller publishes an address is not waited for: with a NodePort, on the host's
    network or behind a tunnel it never does, and links work all the same.
    """
    own = {_NO_WAIT: "true"}
    if settings.class_name in GKE_CLASSES:
        own["kubernetes.io/ingress.class"] = settings.class_name
    if settings.class_name == "alb":
        # It asks `/` by default, which is an error and a visit. Certificates are found by host.
        listeners: list[dict[str, int]] = [{"HTTP": ports.HTTP}]
        if app.https:
            listeners.append({"HTTPS": ports.HTTPS})
            own[f"{ALB}ssl-redirect"] = str(ports.HTTPS)
        own[f"{ALB}healthcheck-path"] = _health_path(app)
        own[f"{ALB}target-type"] = "ip"
        own[f"{ALB}listen-ports"] = json.dumps(listeners)
    return {**own, **settings.annotations}


def _ingress_path(path: _Path) -> networking.v1.HTTPIngressPathArgs:
    service = networking.v1.IngressServiceBackendArgs(
        name=path.service, port=networking.v1.ServiceBackendPortArgs(name="http")
    )
    return networking.v1.HTTPIngressPathArgs(
        path=path.prefix or "/",
        path_type="Prefix",
        backend=networking.v1.IngressBackendArgs(service=service),
    )


def _certificates(settings: Ingress, hosts: Sequence[str]) -> list[networking.v1.IngressTLSArgs]:
    """Each Secret once, with the hosts of its certificate."""
    of_secret: dict[str, list[str]] = {}
    for host in hosts:
        secret = settings.tls_secrets.get(host, settings.tls_secret)
        if secret:
            of_secret.setdefault(secret, []).append(host)
    return [
        networking.v1.IngressTLSArgs(hosts=hosts, secret_name=secret)
        for secret, hosts in of_secret.items()
    ]


def _http_route(
    group: _Hosts, args: RouteArgs, settings: GatewayRoute, opts: pulumi.ResourceOptions
) -> None:
    parents: list[ParentReference] = [
        {"name": settings.name, "namespace": settings.namespace, "sectionName": listener}
        for listener in settings.section_name
    ]
    metadata = _metadata(group.name, args)
    metadata.annotations = settings.annotations or None
    gateway: ParentReference = {"name": settings.name, "namespace": settings.namespace}
    HTTPRoute(
        group.name,
        metadata=metadata,
        spec={
            "parentRefs": parents or [gateway],
            "hostnames": list(group.hosts),
            "rules": [_http_rule(path, alone=len(group.paths) == 1) for path in group.paths],
        },
        opts=opts,
    )


def _http_rule(path: _Path, *, alone: bool) -> HTTPRouteRule:
    """A rule for a path. A rule that is `alone` takes every request of its hosts."""
    rule: HTTPRouteRule = {"backendRefs": [{"name": path.service, "port": ports.SHLINK}]}
    if not alone:
        rule["matches"] = [{"path": {"type": "PathPrefix", "value": path.prefix or "/"}}]
    return rule

"""What leads to Shlink from outside: an Ingress, or HTTPRoutes of the Gateway API.

A host is closed to `/rest` by a Service of its own for that path, whose port nothing listens on:
every controller then answers 502 or 503. Neither kind of route has a portable way to refuse a path,
and a Service without pods would not do: Traefik drops such a path from the Ingress, and `/` takes
its requests (https://doc.traefik.io/traefik/providers/kubernetes-ingress/#allowemptyservices).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import core, meta, networking

from .. import ports
from ..network.flows import SERVER
from ..settings.shlink import GatewayRoute, Ingress, ShlinkSettings
from .crds import HTTPRoute, HTTPRouteRule, ParentReference


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
    if settings.route is None:
        return
    if settings.route.rest != "everywhere":
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
    if isinstance(settings.route, Ingress):
        _ingress(name, args, settings.route, groups, opts)
        return
    for group in groups:
        _http_route(group, args, settings.route, opts)


def web_client(name: str) -> str:
    """The name of the web client's Service."""
    return f"{name}-web-client"


def _closed(name: str) -> str:
    return f"{name}-closed"


def _metadata(name: str, args: RouteArgs) -> meta.v1.ObjectMetaArgs:
    return meta.v1.ObjectMetaArgs(name=name, namespace=args.namespace, labels=args.labels)


def _groups(name: str, settings: ShlinkSettings) -> list[_Hosts]:
    """Every host of the route, with where its paths lead."""
    if settings.route is None:
        return []
    hosts = [settings.domain.partition(":")[0], *settings.route.domains]
    everything = _Path(settings.base_path, name)
    rest = settings.route.rest
    page: list[_Hosts] = []
    if settings.route.web_client:
        client = web_client(name)
        page.append(_Hosts(client, [settings.route.web_client], [_Path(None, client)]))
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
    metadata.annotations = settings.annotations or None
    networking.v1.Ingress(
        name,
        metadata=metadata,
        spec=networking.v1.IngressSpecArgs(
            ingress_class_name=settings.class_name,
            rules=rules,
            # Kubernetes drops an empty list, which would show as a difference in a later diff.
            tls=_certificates(settings, hosts) or None,
        ),
        opts=opts,
    )


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
    gateway: ParentReference = {"name": settings.name, "namespace": settings.namespace}
    HTTPRoute(
        group.name,
        metadata=_metadata(group.name, args),
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

"""What an environment may set about Shlink: its sizes, variables and routes."""

import re
from typing import Annotated, Any, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from . import variables
from .images import ImageReference
from .integrations import Egress, Integration, Matomo, Mercure, RabbitMq
from .platform import Resources
from .types import (
    EXPECTED,
    AnnotationName,
    AnnotationText,
    Cidr,
    Client,
    Host,
    Listeners,
    Model,
    Name,
    Names,
    ObjectName,
    PathPrefix,
    PhpMemory,
    RemotePort,
    RestHost,
    RouteHost,
    Secret,
    Timezone,
    TrustedProxies,
    text,
)
from .variables import Version

Plain = Annotated[
    str,
    Field(
        pattern=r"^[A-Z][A-Z0-9_]{0,127}$",
        json_schema_extra={
            EXPECTED: "capital letters, digits and underscores, as in ANONYMIZE_REMOTE_ADDR"
        },
    ),
]

PlainVariable = Annotated[Plain, AfterValidator(variables.plain_name)]

SecretVariable = Annotated[Plain, AfterValidator(variables.not_free)]


def _environment_text(value: Any) -> Any:
    """A variable's text. `pulumi config set --path` makes a boolean of true and a number of 3."""
    if isinstance(value, bool):
        return str(value).lower()
    return text(value)


EnvironmentText = Annotated[
    str, Field(min_length=1, max_length=32768), BeforeValidator(_environment_text)
]


ALB = "alb.ingress.kubernetes.io/"
"""Begins what Amazon's controller reads:
https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/ingress/annotations/"""

GKE_CLASSES = ("gce", "gce-internal")
"""Of Google's controller. It ignores `ingressClassName` and reads the older annotation."""

GOOGLE_ADDRESSES = ("35.191.0.0/16", "130.211.0.0/22")
"""From where Google's load balancers and their health checks connect."""


class Route(Model):
    """What leads to Shlink from outside, and from where its connections come."""

    controller_namespace: Names = Field(
        default=[],
        description="Namespace of the ingress controller's or gateway's pods; a list if several.",
    )
    controller_addresses: list[Cidr] = Field(
        default=[],
        description="Networks that connections come from when no pod of a namespace makes them: "
        "load balancers with target type ip, controllers on the host's network.",
    )

    domains: list[RouteHost] = Field(
        default=[],
        description="Further domains of short URLs beside `domain`. Shlink tells them apart by "
        "the Host header and needs no setting for them.",
    )
    rest: RestHost = Field(
        default="everywhere",
        description="Where /rest answers from outside: on every domain, `nowhere`, or on one of "
        "them alone. Elsewhere the way ends in an error of the controller (502 or 503). Inside "
        "the cluster it answers on Shlink's Service.",
    )

    web_client: RouteHost | None = Field(
        default=None,
        description="Host of Shlink's web client, a page on which people work with the API. It "
        "holds no API key: each person types one, and the browser keeps it.",
    )

    @property
    def encrypted(self) -> bool:
        """Whether it is known to take https."""
        return False

    @property
    def controller_namespaces(self) -> list[str]:
        """The namespaces as a list."""
        return self.controller_namespace

    @property
    def asks_cert_manager(self) -> bool:
        """Whether cert-manager gets the route's certificate, perhaps by a pod beside Shlink."""
        return False

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        twice = sorted({host for host in self.domains if self.domains.count(host) > 1})
        if twice:
            raise ValueError(f"domains: {twice[0]} is there twice; allowed: once")
        return self


class Ingress(Route):
    """An Ingress for Shlink."""

    type: Literal["ingress"]
    class_name: ObjectName = Field(description="Of the ingress controller.")
    tls_secret: ObjectName | None = Field(
        default=None,
        description="TLS Secret in namespace `shlink`, for every host that has none of its own.",
    )
    tls_secrets: dict[RouteHost, ObjectName] = Field(
        default={},
        description="TLS Secrets of single hosts, by host: a certificate each, so that a domain "
        "whose renewal fails takes no other with it.",
    )
    annotations: dict[AnnotationName, AnnotationText] = Field(
        default={},
        description="Of the Ingress. They come before what the program sets for the classes `alb` "
        "and `gce` (docs/clusters.md).",
    )

    @model_validator(mode="before")
    @classmethod
    def _googles_addresses(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        route = cast("dict[str, Any]", values)
        if route.get("className") not in GKE_CLASSES or "controllerNamespace" in route:
            return route
        return {"controllerAddresses": [*GOOGLE_ADDRESSES], **route}

    @model_validator(mode="after")
    def _seen_from_where_it_is_meant(self) -> Self:
        """Amazon's controller makes it internal by default, and replaces it for another scheme."""
        scheme = f"{ALB}scheme"
        if self.class_name == "alb" and scheme not in self.annotations:
            raise ValueError(
                f"annotations: {scheme} is missing, with className alb; allowed: internet-facing, "
                "or internal for the VPC alone"
            )
        return self

    @property
    def encrypted(self) -> bool:
        """Whether it is known to take https."""
        return bool(
            self.tls_secret
            or self.tls_secrets
            or f"{ALB}certificate-arn" in self.annotations
            or "networking.gke.io/managed-certificates" in self.annotations
        )

    @property
    def asks_cert_manager(self) -> bool:
        """Its annotations name an issuer, so HTTP-01 may be solved in Shlink's namespace."""
        return any(name.startswith("cert-manager.io/") for name in self.annotations)


class GatewayRoute(Route):
    """An HTTPRoute for Shlink."""

    type: Literal["gateway"]
    name: ObjectName = Field(description="Gateway.")
    namespace: Name = Field(description="Namespace of the Gateway, for the parentRef.")
    section_name: Listeners = Field(
        default=[],
        description="Listener, or a list of them if the hosts have listeners with certificates "
        "of their own; every listener that takes the host when left out.",
    )
    annotations: dict[AnnotationName, AnnotationText] = Field(
        default={}, description="Of the HTTPRoute, such as external-dns reads."
    )


class ServiceRoute(Model):
    """A Service of its own, with no controller between a visitor and Shlink."""

    type: Literal["service"]
    service_type: Literal["LoadBalancer", "NodePort"] = Field(
        default="LoadBalancer", description="A load balancer of the cloud, or a port of each node."
    )
    port: RemotePort | None = Field(
        default=None, description="Port of the Service; 443 with `https`, otherwise 80."
    )
    node_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the nodes; Kubernetes chooses one."
    )
    source_ranges: list[Cidr] = Field(
        default=["0.0.0.0/0", "::/0"],
        min_length=1,
        description="From where visitors may come. The Service keeps their addresses "
        "(externalTrafficPolicy: Local), so the NetworkPolicy sees them.",
    )
    controller_addresses: list[Cidr] = Field(
        default=[], description="Networks of a load balancer that connects in its own name."
    )
    load_balancer_class: AnnotationName | None = Field(
        default=None, description="Which implementation takes it; the cluster's default otherwise."
    )
    annotations: dict[AnnotationName, AnnotationText] = Field(
        default={}, description="Of the Service, such as a cloud's certificate."
    )


class NoRoute(Model):
    """Nothing of this program's: pods among `clients` lead to it, such as a tunnel's."""

    type: Literal["none"]


class ShlinkSettings(Model):
    """Shlink."""

    domain: Host = Field(default="localhost:8080", description="Default domain of short URLs.")
    https: bool = Field(default=False, description="Whether short URLs begin with https.")
    base_path: PathPrefix | None = Field(default=None, description="Path prefix, e.g. /s.")
    replicas: int = Field(
        default=3, ge=0, le=50, description="Pods. 0 stops Shlink, as a restore needs it."
    )
    max_replicas: int | None = Field(
        default=None,
        ge=1,
        le=50,
        description="Pods under load: a HorizontalPodAutoscaler keeps from `replicas` up to this "
        "many, so that on average they use 70 % of `resources.cpu`. Needs metrics-server.",
    )
    web_workers: int = Field(
        default=4,
        ge=1,
        le=64,
        description="RoadRunner's web workers a pod; each may hold a database connection.",
    )
    task_workers: int = Field(
        default=2, ge=1, le=64, description="RoadRunner's task workers a pod; likewise."
    )
    memory_limit: PhpMemory = Field(default="256M", description="PHP's memory limit of one worker.")
    resources: Resources = Resources(cpu="100m", memory="256Mi", memory_limit="512Mi")
    timezone: Timezone = Field(default="UTC", description="Time zone, by its IANA name.")
    logs_format: Literal["console", "json"] = "json"
    verbosity: Literal[0, 1, 2, 3] = Field(
        default=0, description="The console's SHELL_VERBOSITY, for the server only."
    )
    geolite_license_key: Secret | None = Field(
        default=None,
        description="MaxMind licence for visit locations: one pod downloads the database for all, "
        "and may reach the internet on 443.",
    )
    resolve_titles: bool = Field(
        default=False, description="Fetch the title of each long URL: opens egress on 80 and 443."
    )
    trusted_proxies: TrustedProxies = Field(
        default=[],
        description="Proxies whose X-Forwarded-For is believed: their addresses, networks of IPv4, "
        "or how many of them stand in a row. Name no network that visitors are in: their own "
        "address is then taken for a proxy's.",
    )
    environment: Annotated[
        dict[PlainVariable, EnvironmentText], BeforeValidator(variables.typed)
    ] = Field(
        default={},
        json_schema_extra=variables.extend,
        description="More of Shlink's variables, in plain text. A secret goes to "
        "`secretEnvironment`.",
    )
    secret_environment: Annotated[
        dict[SecretVariable, Secret], BeforeValidator(variables.typed)
    ] = Field(
        default={},
        description="More of Shlink's variables whose values are secret (a password of RabbitMQ, "
        "a token of Matomo): delivered through Vault like every other password.",
    )
    pub_sub: bool = Field(
        default=False,
        description="Publish each visit to Redis, for programs of yours that subscribe there. "
        "Dear on busy links: each redirect then counts all visits of its link.",
    )
    rabbitmq: RabbitMq | None = None
    mercure: Mercure | None = None
    matomo: Matomo | None = None
    egress: list[Egress] = Field(
        default=[], description="Further servers that Shlink may reach, such as webhooks."
    )
    clients: list[Client] = Field(
        default=[], description="Pods of this cluster that may call Shlink, API and short URLs."
    )
    route: (
        Annotated[
            Ingress | GatewayRoute | ServiceRoute | NoRoute,
            Field(discriminator="type"),
        ]
        | None
    ) = Field(default=None, description="How it is reached from outside.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        twice = sorted(self.environment.keys() & self.secret_environment.keys())
        if twice:
            raise ValueError(
                f"environment.{twice[0]}: is in `secretEnvironment` too; allowed: one of the two"
            )
        origin = self.environment.get("CORS_ALLOW_ORIGIN", "*")
        if origin == "*" and self.environment.get("CORS_ALLOW_CREDENTIALS") == "true":
            raise ValueError(
                "environment.CORS_ALLOW_CREDENTIALS: is true for every origin, which browsers "
                "refuse; allowed: CORS_ALLOW_ORIGIN with origins or <origin>"
            )
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"maxReplicas: {self.max_replicas} is less than `replicas`, {self.replicas}; "
                "allowed: that or more"
            )
        host = self.domain.partition(":")[0]
        if self.route and not re.fullmatch(r"[a-z0-9.-]*[a-z][a-z0-9.-]*", host):
            raise ValueError(
                f'domain: "{self.domain}" can\'t be routed to; '
                "allowed with `route`: a host name in small letters, no address"
            )
        if self.route and (host == "localhost" or host.endswith(".localhost")):
            raise ValueError(
                f'domain: "{self.domain}" is the machine of whoever follows a short URL; '
                "allowed with `route`: the host that leads here, such as s.example.org"
            )
        if isinstance(self.route, NoRoute) and not self.clients:
            raise ValueError(
                "clients: is missing; with route.type none only pods that it names reach Shlink"
            )
        if isinstance(self.route, Route):
            _route_hosts(self.route, [host, *self.route.domains])
            if self.route.encrypted and not self.https:
                raise ValueError(
                    "https: false makes links with http, but the route has a certificate; "
                    "allowed with it: https: true"
                )
        self._answered()
        return self

    def _answered(self) -> None:
        """Refuse an integration that is set twice, or that no way leads to."""
        variables_set = {**self.environment, **self.secret_environment}
        for name, group in (("RABBITMQ", "rabbitmq"), ("MERCURE", "mercure"), ("MATOMO", "matomo")):
            own = sorted(key for key in variables_set if key.startswith(f"{name}_"))
            if own and group in self.integrations:
                raise ValueError(
                    f"environment.{own[0]}: is set by `{group}`; allowed: one of the two"
                )
            enabled = self.environment.get(f"{name}_ENABLED", "false") not in ("false", "0")
            if enabled and not self.egress:
                raise ValueError(
                    f"environment.{name}_ENABLED: the network policies leave no way there; allowed "
                    f"in its place: the group `{group}`, which opens one (or `egress`)"
                )

    @property
    def integrations(self) -> dict[str, Integration]:
        """The servers that are told of visits, by the setting's name."""
        every: dict[str, Integration | None] = {
            "rabbitmq": self.rabbitmq,
            "mercure": self.mercure,
            "matomo": self.matomo,
        }
        return {name: server for name, server in every.items() if server is not None}

    @property
    def controlled_route(self) -> "Ingress | GatewayRoute | None":
        """The route through a controller, if there is one."""
        return self.route if isinstance(self.route, Route) else None

    @property
    def secret_variables(self) -> dict[str, SecretStr]:
        """Every variable of Shlink whose value is secret."""
        values = dict(self.secret_environment)
        for server in self.integrations.values():
            values |= server.secrets()
        return values

    def unknown_variables(self, version: Version | None) -> tuple[list[str], list[str]]:
        """Faults and warnings about variables that this version of Shlink does not read."""
        faults: list[str] = []
        warnings: list[str] = []
        groups = {"environment": self.environment, "secretEnvironment": self.secret_environment}
        for key, group in groups.items():
            unknown, doubtful = variables.unknown_to(version, list(group))
            faults += [f"{key}.{fault}" for fault in unknown]
            warnings += [f"{key}.{doubt}" for doubt in doubtful]
        return faults + variables.without_effect(version, self), warnings

    @property
    def autoscaled(self) -> bool:
        """Whether a HorizontalPodAutoscaler decides how many pods run. 0 replicas stop Shlink."""
        return self.max_replicas is not None and self.replicas > 0

    @property
    def autoscaled_from(self) -> int | None:
        """The least number of pods with a HorizontalPodAutoscaler; None without one."""
        return self.replicas if self.autoscaled else None

    @property
    def most_replicas(self) -> int:
        """How many pods may run, but for a rollout's additional one."""
        return self.max_replicas if self.max_replicas and self.autoscaled else self.replicas


def _route_hosts(route: Ingress | GatewayRoute, hosts: list[str]) -> None:
    """Refuse a route that names a host which it does not lead to, or one host twice."""
    if hosts[0] in route.domains:
        raise ValueError(
            f"route.domains: {hosts[0]} is `domain` already; allowed: further domains only"
        )
    allowed = ", ".join(hosts)
    if route.rest not in ("everywhere", "nowhere", *hosts):
        raise ValueError(
            f"route.rest: {route.rest} is no host of this route; allowed: everywhere, nowhere, "
            f"{allowed}; or add it to route.domains"
        )
    if route.web_client in hosts:
        raise ValueError(
            f"route.webClient: {route.web_client} is a domain of short URLs; allowed: another host"
        )
    if route.web_client and route.rest == "nowhere":
        raise ValueError(
            "route.webClient: is set, but route.rest is nowhere, and the browser calls /rest "
            f"itself; allowed with it: everywhere, {allowed}"
        )
    if route.web_client:
        hosts = [*hosts, route.web_client]
    if isinstance(route, Ingress):
        unknown = sorted(route.tls_secrets.keys() - set(hosts))
        if unknown:
            raise ValueError(
                f"route.tlsSecrets: {unknown[0]} is no host of this route; "
                f"allowed: {', '.join(hosts)}"
            )


def known_version(image: str) -> tuple[int, int, int] | None:
    """The version in the tag of Shlink's image; None if it has none."""
    tag = ImageReference.parse(image).tag or ""
    match = re.search(r"([0-9]+)\.([0-9]+)(?:\.([0-9]+))?", tag)
    if match is None:
        return None
    major, minor, patch = (int(number or 0) for number in match.groups())
    return (major, minor, patch)


def shlink_version(image: str) -> tuple[int, int, int]:
    """The same, and a bare digest counts as new enough."""
    return known_version(image) or (4, 6, 0)

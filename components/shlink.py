"""Shlink: one migration Job, then the replicas behind a Service, and what leads to them from outside."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import apps, core, meta, networking, policy

from . import ports
from .crds import HTTPRoute, ParentReference
from .delivery import SecretRef
from .network import MIGRATION, SERVER, SHLINK
from .pods import (
    CONTAINER_SECURITY,
    job,
    pod_security,
    requirements,
    secret_variable,
    spread,
)
from .postgres import DatabaseEndpoint
from .redis import RedisEndpoint
from .settings import Images, Ingress, Resources, ShlinkSettings, shlink_version

PORT = ports.SHLINK
API_KEY = "api-key"
"""The key of the first API key in its Secret."""
GEOLITE_LICENSE = "geolite-license-key"

_USER = 1001
# The image's entrypoint migrates, and starts the server only where SHLINK_RUNTIME says `rr`. Given the key, its installer would pass
# it on in a command line that a verbose console prints, and would succeed where creating the key fails.
_MIGRATE = """env -u INITIAL_API_KEY sh ./docker-entrypoint.sh
exec php bin/cli api-key:initial "$INITIAL_API_KEY" --no-interaction
"""
_WAIT = "until nc -z -w 2 $HOST $PORT; do echo waiting for $HOST:$PORT; sleep 2; done"
_VERSION_ANNOTATION = "shlink.io/secret-version."


@dataclass(frozen=True)
class ShlinkArgs:
    namespace: pulumi.Input[str]
    settings: ShlinkSettings
    images: Images
    database: DatabaseEndpoint
    database_secret: SecretRef
    redis: RedisEndpoint | None
    redis_secret: SecretRef | None
    api_key: SecretRef
    geolite: SecretRef | None


class Shlink(pulumi.ComponentResource):
    """Shlink answering on its Service."""

    internal_url: str
    """Inside the cluster."""
    external_url: str
    """Where short URLs point."""
    version: str
    """Shlink's own."""

    def __init__(
        self, name: str, args: ShlinkArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:shlink:Shlink", name, None, opts)
        settings = args.settings
        child = pulumi.ResourceOptions(parent=self)
        metadata = meta.v1.ObjectMetaArgs(
            name="shlink", namespace=args.namespace, labels=SERVER.labels
        )

        connections = [args.database_secret, *([args.redis_secret] if args.redis_secret else [])]
        usable: list[pulumi.Resource] = [*args.database.usable]
        usable += args.redis.usable if args.redis else []
        # Its own pod, so that replicas never race for the schema: without Redis their lock is a local one. It also proves that the
        # password in the Secret is the one in the database before any replica is replaced.
        migration = job(
            f"{name}-migration",
            "shlink-migration",
            MIGRATION,
            namespace=args.namespace,
            user=_USER,
            containers=[
                _container(
                    "migration",
                    args,
                    [
                        core.v1.EnvVarArgs(name="SHLINK_RUNTIME", value="none"),
                        core.v1.EnvVarArgs(name="SKIP_INITIAL_GEOLITE_DOWNLOAD", value="true"),
                        secret_variable("INITIAL_API_KEY", args.api_key.name, API_KEY),
                    ],
                    _MIGRATE,
                )
            ],
            opts=_after(child, [*connections, args.api_key], usable),
            init_containers=_waits(args),
            volumes=_volumes(),
            annotations=_versions(connections),
        )

        server = _container("shlink", args, _server_variables(args))
        server.ports = [core.v1.ContainerPortArgs(name="http", container_port=PORT)]
        health = core.v1.HTTPGetActionArgs(
            path=f"{settings.base_path or ''}/rest/health", port="http"
        )
        # /rest/health asks the database. As a liveness probe it would restart every replica whenever the database is away.
        server.startup_probe = core.v1.ProbeArgs(
            http_get=health, period_seconds=5, failure_threshold=60, timeout_seconds=5
        )
        server.readiness_probe = core.v1.ProbeArgs(
            http_get=health, period_seconds=10, failure_threshold=3, timeout_seconds=5
        )
        server.liveness_probe = core.v1.ProbeArgs(
            tcp_socket=core.v1.TCPSocketActionArgs(port="http"),
            period_seconds=10,
            failure_threshold=6,
            timeout_seconds=5,
        )
        # Endpoints learn of a stopping pod a little later than the pod does.
        server.lifecycle = core.v1.LifecycleArgs(
            pre_stop=core.v1.LifecycleHandlerArgs(
                exec_=core.v1.ExecActionArgs(command=["sleep", "5"])
            )
        )
        secrets = [*connections, *([args.geolite] if args.geolite else [])]
        deployment = apps.v1.Deployment(
            name,
            metadata=metadata,
            spec=apps.v1.DeploymentSpecArgs(
                replicas=settings.replicas,
                selector=meta.v1.LabelSelectorArgs(match_labels=SERVER.labels),
                strategy=apps.v1.DeploymentStrategyArgs(
                    type="RollingUpdate",
                    rolling_update=apps.v1.RollingUpdateDeploymentArgs(
                        max_surge=1, max_unavailable=0
                    ),
                ),
                template=core.v1.PodTemplateSpecArgs(
                    metadata=meta.v1.ObjectMetaArgs(
                        labels=SERVER.labels, annotations=_versions(secrets)
                    ),
                    spec=core.v1.PodSpecArgs(
                        automount_service_account_token=False,
                        # The variables that Kubernetes adds for each Service would be SHLINK_*, as Shlink's own are.
                        enable_service_links=False,
                        security_context=pod_security(_USER),
                        topology_spread_constraints=[_spread()],
                        init_containers=_waits(args),
                        containers=[server],
                        volumes=_volumes(),
                    ),
                ),
            ),
            opts=_after(child, secrets, [migration]),
        )
        service = core.v1.Service(
            name,
            metadata=metadata,
            spec=core.v1.ServiceSpecArgs(
                selector=SERVER.labels,
                ports=[core.v1.ServicePortArgs(name="http", port=PORT, target_port="http")],
            ),
            opts=pulumi.ResourceOptions.merge(
                child, pulumi.ResourceOptions(depends_on=[deployment])
            ),
        )
        policy.v1.PodDisruptionBudget(
            name,
            metadata=metadata,
            spec=policy.v1.PodDisruptionBudgetSpecArgs(
                max_unavailable=1, selector=meta.v1.LabelSelectorArgs(match_labels=SERVER.labels)
            ),
            opts=child,
        )
        _route(
            name,
            settings,
            metadata,
            pulumi.ResourceOptions.merge(child, pulumi.ResourceOptions(depends_on=[service])),
        )

        path = settings.base_path or ""
        self.internal_url = f"http://shlink.{SHLINK}.svc.cluster.local:{PORT}{path}"
        self.external_url = f"{'https' if settings.https else 'http'}://{settings.domain}{path}"
        self.version = ".".join(map(str, shlink_version(args.images.shlink)))
        self.register_outputs(
            {"internal_url": self.internal_url, "external_url": self.external_url}
        )


def _container(
    container: str, args: ShlinkArgs, variables: list[core.v1.EnvVarArgs], script: str | None = None
) -> core.v1.ContainerArgs:
    """Shlink's image with its connections; the image's own entrypoint, or a script."""
    return core.v1.ContainerArgs(
        name=container,
        image=args.images.shlink,
        command=["sh", "-ec", script] if script else None,
        env=[*_connections(args), *variables],
        security_context=CONTAINER_SECURITY,
        resources=requirements(args.settings.resources),
        volume_mounts=[
            core.v1.VolumeMountArgs(name="data", mount_path="/etc/shlink/data"),
            core.v1.VolumeMountArgs(name="tmp", mount_path="/tmp"),  # noqa: S108 -- an emptyDir of the pod, not a shared folder
        ],
    )


def _connections(args: ShlinkArgs) -> list[core.v1.EnvVarArgs]:
    """Where PostgreSQL and Redis are. What is unused is left out: to Shlink an empty value counts as set."""
    plain: dict[str, pulumi.Input[str]] = {
        "DB_DRIVER": "postgres",
        "DB_HOST": args.database.host,
        "DB_PORT": str(args.database.port),
        "DB_NAME": args.database.database,
        "DB_USE_ENCRYPTION": "true",  # PGO refuses a connection without TLS
        # Shlink 4.6.0 hands that setting to the driver where PostgreSQL's doesn't look; libpq looks here.
        "PGSSLMODE": "require",
        "TIMEZONE": args.settings.timezone,
    }
    secrets = [
        secret_variable("DB_USER", args.database_secret.name, "user"),
        secret_variable("DB_PASSWORD", args.database_secret.name, "password"),
    ]
    if args.redis:
        plain |= {"REDIS_PUB_SUB_ENABLED": "true"}
        plain |= {"REDIS_SERVERS": args.redis.servers} if args.redis.servers else {}
        plain |= (
            {"REDIS_SENTINEL_SERVICE": args.redis.sentinel_service}
            if args.redis.sentinel_service
            else {}
        )
    if args.redis_secret:
        variables = {"password": "REDIS_SERVERS_PASSWORD", "servers": "REDIS_SERVERS"}
        secrets += [
            secret_variable(variables[key], args.redis_secret.name, key)
            for key in args.redis_secret.keys
        ]
    return [*_variables(plain), *secrets]


def _server_variables(args: ShlinkArgs) -> list[core.v1.EnvVarArgs]:
    settings = args.settings
    plain = {
        "DEFAULT_DOMAIN": settings.domain,
        "IS_HTTPS_ENABLED": str(settings.https).lower(),
        # RoadRunner would size its pools by the node's processors, not by the container's limit.
        "WEB_WORKER_NUM": str(settings.web_workers),
        "TASK_WORKER_NUM": str(settings.task_workers),
        "MEMORY_LIMIT": settings.memory_limit,
        "LOGS_FORMAT": settings.logs_format,
        # On by default in Shlink; where egress is closed it costs 3 s for each link.
        "AUTO_RESOLVE_TITLES": str(settings.resolve_titles).lower(),
        "BASE_PATH": settings.base_path or "",
        "SHELL_VERBOSITY": str(settings.verbosity) if settings.verbosity else "",
        "TRUSTED_PROXIES": ",".join(settings.trusted_proxies),
        **settings.environment,
    }
    geolite = (
        [secret_variable("GEOLITE_LICENSE_KEY", args.geolite.name, GEOLITE_LICENSE)]
        if args.geolite
        else []
    )
    return [*_variables({key: value for key, value in plain.items() if value}), *geolite]


def _variables(values: Mapping[str, pulumi.Input[str]]) -> list[core.v1.EnvVarArgs]:
    return [core.v1.EnvVarArgs(name=key, value=value) for key, value in values.items()]


def _waits(args: ShlinkArgs) -> list[core.v1.ContainerArgs]:
    """A pod that starts before its servers answer waits, instead of crashing in a loop that slows down each time."""
    targets: list[tuple[str, pulumi.Input[str], int]] = [
        ("postgres", args.database.host, args.database.port)
    ]
    targets += [("redis", args.redis.host, args.redis.port)] if args.redis else []
    return [
        core.v1.ContainerArgs(
            name=f"wait-for-{what}",
            image=args.images.shlink,
            command=["sh", "-c", _WAIT],
            env=_variables({"HOST": host, "PORT": str(port)}),
            security_context=CONTAINER_SECURITY,
            resources=requirements(Resources(cpu="10m", memory="16Mi", memory_limit="32Mi")),
        )
        for what, host, port in targets
    ]


def _volumes() -> list[core.v1.VolumeArgs]:
    return [
        core.v1.VolumeArgs(name=volume, empty_dir=core.v1.EmptyDirVolumeSourceArgs())
        for volume in ("data", "tmp")
    ]


def _spread() -> core.v1.TopologySpreadConstraintArgs:
    wanted = spread(SERVER.labels)
    return core.v1.TopologySpreadConstraintArgs(
        max_skew=wanted["maxSkew"],
        topology_key=wanted["topologyKey"],
        when_unsatisfiable=wanted["whenUnsatisfiable"],
        label_selector=meta.v1.LabelSelectorArgs(match_labels=SERVER.labels),
    )


def _versions(secrets: list[SecretRef]) -> dict[str, pulumi.Input[str]]:
    """A changed secret changes the pod template, and so reaches the pods."""
    return {f"{_VERSION_ANNOTATION}{one.name}": one.version for one in secrets}


def _after(
    opts: pulumi.ResourceOptions, secrets: list[SecretRef], resources: list[pulumi.Resource]
) -> pulumi.ResourceOptions:
    """Only when these resources are there and these Secrets hold the version that the pods are made for.

    A hook before, not after the ExternalSecret: a failed one is tried again by the next `up`.
    """
    synced = [one.synced for one in secrets]
    return pulumi.ResourceOptions.merge(
        opts,
        pulumi.ResourceOptions(
            depends_on=[*resources, *(one.resource for one in secrets)],
            hooks=pulumi.ResourceHookBinding(before_create=synced, before_update=synced),
        ),
    )


def _route(
    name: str,
    settings: ShlinkSettings,
    metadata: meta.v1.ObjectMetaArgs,
    opts: pulumi.ResourceOptions,
) -> None:
    route, host = settings.route, settings.domain.partition(":")[0]
    if route is None:
        return
    if isinstance(route, Ingress):
        backend = networking.v1.IngressBackendArgs(
            service=networking.v1.IngressServiceBackendArgs(
                name="shlink", port=networking.v1.ServiceBackendPortArgs(name="http")
            )
        )
        path = networking.v1.HTTPIngressPathArgs(
            path=settings.base_path or "/", path_type="Prefix", backend=backend
        )
        networking.v1.Ingress(
            name,
            metadata=meta.v1.ObjectMetaArgs(
                name="shlink",
                namespace=metadata.namespace,
                labels=SERVER.labels,
                annotations=route.annotations,
            ),
            spec=networking.v1.IngressSpecArgs(
                ingress_class_name=route.class_name,
                rules=[
                    networking.v1.IngressRuleArgs(
                        host=host, http=networking.v1.HTTPIngressRuleValueArgs(paths=[path])
                    )
                ],
                tls=[networking.v1.IngressTLSArgs(hosts=[host], secret_name=route.tls_secret)]
                if route.tls_secret
                else None,
            ),
            opts=opts,
        )
        return
    parent: ParentReference = {"name": route.name, "namespace": route.namespace}
    if route.section_name:
        parent["sectionName"] = route.section_name
    HTTPRoute(
        name,
        metadata=metadata,
        spec={
            "parentRefs": [parent],
            "hostnames": [host],
            "rules": [{"backendRefs": [{"name": "shlink", "port": PORT}]}],
        },
        opts=opts,
    )

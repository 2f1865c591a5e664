"""Shlink: one migration Job, then replicas behind a Service; route.py leads there from outside."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import apps, autoscaling, batch, core, meta, policy

from .. import ports, scripts
from ..cluster.access import ClusterAccess
from ..cluster.jobs import JobTarget, job_hook
from ..credentials.delivery import Delivery, SecretRef
from ..credentials.passwords import password
from ..manifests.placement import Placement
from ..manifests.pods import (
    CONTAINER_SECURITY,
    JobArgs,
    job,
    pod_security,
    requirements,
    secret_variable,
    variables,
)
from ..network.flows import GEOLITE, MIGRATION, SERVER
from ..postgres.component import PASSWORD_KEY, USER_KEY, DatabaseEndpoint
from ..redis.component import RedisEndpoint
from ..settings.platform import Images, Proxy, Resources
from ..settings.shlink import ShlinkSettings, shlink_version
from ..settings.variables import from_settings
from .geolite import GEOLITE_LICENSE, GeoliteArgs, follower, geolite
from .route import RouteArgs, health_check, route, service_annotations
from .upgrade import cache_variables, fills_hashes

API_KEY = "api-key"
"""The key of the API key in its Secret."""

_USER = 1001

_DATA = "/etc/shlink/data"

_PHP_SETTINGS = "/etc/shlink-php"

_DATABASE_CA = "/etc/shlink-database-ca"

_REDIS_CA = "/etc/shlink-redis-ca"

_VERSION_ANNOTATION = "shlink.io/secret-version."

_SCALING_ANNOTATION = "shlink.io/scaled-by"

_UTILIZATION = 70
"""Percent of the processor request that a pod uses on average before another one is started."""

_RESTORE_ANNOTATION = "shlink.io/database-restore"

# RoadRunner needs up to 30 s to stop, even idle (measured on Shlink 4.6.0). Endpoints learn of a
# stopping pod a little later than the pod does, so it first waits while it still answers.
_DRAIN_SECONDS = 10

_STOP_SECONDS = _DRAIN_SECONDS + 30 + 15

_SMALL = Resources(cpu="10m", memory="16Mi", memory_limit="32Mi")

# Predis waits for an answer as long as PHP's default, 60 s, and Shlink's URLs carry no timeout of
# their own (shlink-common, RedisFactory drops the query). A hung master is then asked for a minute.
_PHP_INI = "default_socket_timeout = 3\n"


@dataclass(frozen=True)
class ShlinkSecrets:
    """The values that only Shlink knows, and their delivery into its namespace."""

    api_key: Delivery
    """The API key of this environment."""
    api_key_rotation: int
    """Number of the API key. The key before it stays valid, older ones are disabled."""
    geolite: Delivery | None
    """MaxMind's licence key."""
    environment: Delivery | None
    """Variables of the server whose values are secret."""

    @property
    def deliveries(self) -> list[Delivery]:
        """All of them, for the SecretDelivery of Shlink's namespace."""
        every = (self.api_key, self.geolite, self.environment)
        return [delivery for delivery in every if delivery is not None]


def shlink_secrets(
    settings: ShlinkSettings, api_key_rotation: int, opts: pulumi.ResourceOptions
) -> ShlinkSecrets:
    """Shlink's own secrets. A raised `api_key_rotation` makes another API key."""
    api_key = Delivery(
        name="shlink-api-key",
        secret="shlink-api-key",  # noqa: S106 -- a name
        path="shlink/api-key",
        values={API_KEY: password("shlink-api-key", api_key_rotation, opts)},
    )
    licence = None
    if settings.geolite_license_key is not None:
        license_key = settings.geolite_license_key.get_secret_value()
        licence = Delivery(
            name="shlink-geolite",
            secret="shlink-geolite",  # noqa: S106 -- a name
            path="shlink/geolite",
            values={GEOLITE_LICENSE: pulumi.Output.secret(license_key)},
        )
    environment = None
    secret_variables = settings.secret_variables
    if secret_variables:
        environment = Delivery(
            name="shlink-environment",
            secret="shlink-environment",  # noqa: S106 -- a name
            path="shlink/environment",
            values={
                name: pulumi.Output.secret(value.get_secret_value())
                for name, value in secret_variables.items()
            },
        )
    return ShlinkSecrets(
        api_key=api_key, api_key_rotation=api_key_rotation, geolite=licence, environment=environment
    )


@dataclass(frozen=True)
class ShlinkArgs:
    """What Shlink is made of."""

    namespace: pulumi.Input[str]
    """Where it runs; the delivered Secrets are there."""
    settings: ShlinkSettings
    """`shlink:app` of the stack's file."""
    images: Images
    """Where Shlink's image comes from."""
    database: DatabaseEndpoint
    """Its own database."""
    redis: RedisEndpoint | None
    """Shared caches and locks; without it they are each replica's own."""
    own: ShlinkSecrets
    """The secrets that only Shlink knows."""
    access: ClusterAccess
    """For the wait until the migration is complete: the cluster of the Kubernetes provider."""
    delivered: Mapping[str, SecretRef]
    """Every delivery of `database`, `redis` and `own` as it arrives in `namespace`, by its name."""
    placement: Placement = field(default_factory=Placement)
    """On which nodes the replicas and the Job may run."""
    proxy: Proxy | None = None
    """By which titles are fetched and GeoLite is downloaded."""
    metrics: bool = False
    """Serve RoadRunner's metrics on a port of its own, for Prometheus. A change rolls the pods."""

    @property
    def database_secret(self) -> SecretRef:
        """User and password of the database."""
        return self.delivered[self.database.delivery.name]

    @property
    def api_key(self) -> SecretRef:
        """The API key."""
        return self.delivered[self.own.api_key.name]

    def optional(self, delivery: Delivery | None) -> SecretRef | None:
        """Where an optional delivery arrives."""
        return None if delivery is None else self.delivered[delivery.name]

    @property
    def redis_secret(self) -> SecretRef | None:
        """The password of Redis, or the URLs that hold it; None if it asks for none."""
        return None if self.redis is None else self.optional(self.redis.delivery)

    @property
    def geolite(self) -> SecretRef | None:
        """The licence key, if there is one."""
        return self.optional(self.own.geolite)

    @property
    def environment(self) -> SecretRef | None:
        """Secret variables, if there are any."""
        return self.optional(self.own.environment)


class Shlink(pulumi.ComponentResource):
    """Shlink answering on its Service."""

    internal_url: pulumi.Output[str]
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
        metadata = meta.v1.ObjectMetaArgs(name=name, namespace=args.namespace, labels=SERVER.labels)
        php = core.v1.ConfigMap(
            f"{name}-php",
            metadata=meta.v1.ObjectMetaArgs(name=f"{name}-php", namespace=args.namespace),
            data={"timeouts.ini": _PHP_INI},
            opts=child,
        )
        database_ca = core.v1.ConfigMap(
            f"{name}-database-ca",
            metadata=meta.v1.ObjectMetaArgs(name=f"{name}-database-ca", namespace=args.namespace),
            data={"ca.crt": args.database.ca_pem},
            opts=child,
        )
        config_maps = {"php": php, "database-ca": database_ca}
        if args.redis and args.redis.ca_pem:
            config_maps["redis-ca"] = core.v1.ConfigMap(
                f"{name}-redis-ca",
                metadata=meta.v1.ObjectMetaArgs(name=f"{name}-redis-ca", namespace=args.namespace),
                data={"ca.crt": args.redis.ca_pem},
                opts=child,
            )
        volumes = _volumes(config_maps)
        migrated = _migrated(name, args, _migration(name, args, volumes, child), child)
        secrets = [args.database_secret, args.redis_secret, args.environment]
        if args.geolite:
            _geolite(args, args.geolite, child)
        after_redis: list[pulumi.Resource] = []
        redis_ready: list[pulumi.ResourceHook] = []
        if args.redis:
            after_redis += args.redis.resources
            redis_ready += [args.redis.ready] if args.redis.ready else []
        hooks = [*redis_ready, *args.database.started]
        # The provider then leaves the number to whoever changed it. To leave it out of the spec
        # would not do: if nobody has changed it, Kubernetes sets 1.
        unmanaged = ["spec.replicas"] if settings.autoscaled else None
        deployment = apps.v1.Deployment(
            name,
            metadata=meta.v1.ObjectMetaArgs(
                name=name,
                namespace=args.namespace,
                labels=SERVER.labels,
                annotations=_scaling(settings),
            ),
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
                        labels=SERVER.labels, annotations=_versions(secrets, args.database)
                    ),
                    spec=args.placement.place(_server_pod(args, volumes), SERVER.labels),
                ),
            ),
            opts=pulumi.ResourceOptions.merge(
                _after(child, secrets, [migrated, *after_redis], hooks),
                pulumi.ResourceOptions(ignore_changes=unmanaged),
            ),
        )
        if fills_hashes(args.images.shlink):
            _hashes(
                name, args, volumes, pulumi.ResourceOptions(parent=self, depends_on=[deployment])
            )
        if settings.autoscaled:
            _autoscaler(name, metadata, settings, deployment, child)
        route_args = RouteArgs(namespace=args.namespace, settings=settings, labels=SERVER.labels)
        health_check(name, route_args, child)
        service = core.v1.Service(
            name,
            metadata=meta.v1.ObjectMetaArgs(
                name=name,
                namespace=args.namespace,
                labels=SERVER.labels,
                annotations=service_annotations(name, settings),
            ),
            spec=core.v1.ServiceSpecArgs(
                selector=SERVER.labels,
                ports=[core.v1.ServicePortArgs(name="http", port=ports.SHLINK, target_port="http")],
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[deployment]),
        )
        policy.v1.PodDisruptionBudget(
            name,
            metadata=metadata,
            spec=policy.v1.PodDisruptionBudgetSpecArgs(
                max_unavailable=1, selector=meta.v1.LabelSelectorArgs(match_labels=SERVER.labels)
            ),
            opts=child,
        )
        route(
            name,
            route_args,
            pulumi.ResourceOptions(parent=self, depends_on=[service]),
        )

        path = settings.base_path or ""
        scheme = "https" if settings.https else "http"
        self.internal_url = pulumi.Output.concat(
            f"http://{name}.", args.namespace, f".svc:{ports.SHLINK}{path}"
        )
        self.external_url = f"{scheme}://{settings.domain}{path}"
        self.version = ".".join(map(str, shlink_version(args.images.shlink)))
        self.register_outputs(
            {"internal_url": self.internal_url, "external_url": self.external_url}
        )


def _geolite(args: ShlinkArgs, licence: SecretRef, opts: pulumi.ResourceOptions) -> None:
    """The pod that downloads GeoLite for all. Shlink does not wait for it."""
    proxy = args.proxy.url if args.proxy else None
    geolite(
        GEOLITE.name,
        GeoliteArgs(
            namespace=args.namespace,
            image=args.images.shlink,
            user=_USER,
            licence=licence.name,
            proxy=proxy,
            annotations={f"{_VERSION_ANNOTATION}{licence.name}": licence.version},
            placement=args.placement,
        ),
        _after(opts, [licence], []),
    )


def _scaling(settings: ShlinkSettings) -> Mapping[str, str] | None:
    """An annotation that differs when an autoscaler goes.

    Without a difference no update would bring `replicas` back: the state holds that number still.
    """
    return {_SCALING_ANNOTATION: "autoscaler"} if settings.autoscaled else None


def _autoscaler(
    name: str,
    metadata: meta.v1.ObjectMetaArgs,
    settings: ShlinkSettings,
    deployment: apps.v1.Deployment,
    opts: pulumi.ResourceOptions,
) -> None:
    utilization = autoscaling.v2.MetricTargetArgs(
        type="Utilization", average_utilization=_UTILIZATION
    )
    processor = autoscaling.v2.MetricSpecArgs(
        type="Resource",
        resource=autoscaling.v2.ResourceMetricSourceArgs(name="cpu", target=utilization),
    )
    autoscaling.v2.HorizontalPodAutoscaler(
        name,
        metadata=metadata,
        spec=autoscaling.v2.HorizontalPodAutoscalerSpecArgs(
            scale_target_ref=autoscaling.v2.CrossVersionObjectReferenceArgs(
                api_version="apps/v1", kind="Deployment", name=deployment.metadata.name
            ),
            min_replicas=settings.replicas,
            max_replicas=settings.max_replicas or settings.replicas,
            metrics=[processor],
        ),
        opts=opts,
    )


def _migration(
    name: str,
    args: ShlinkArgs,
    volumes: Sequence[core.v1.VolumeArgs],
    opts: pulumi.ResourceOptions,
) -> batch.v1.Job:
    """The Job that prepares the database, before any replica starts.

    It has a pod of its own, so that replicas never race for the schema, and it proves that the
    password in the Secret is the one in the database before any replica is replaced. It does not
    use Redis: a migration that was killed would leave its lock there for ten minutes.
    """
    container = _container("migration", args)
    container.command = [
        "sh",
        "-ec",
        scripts.read("shlink_migrate.sh"),
        "migrate",
        scripts.read("shlink_prepare.php"),
        scripts.read("shlink_api_key.php"),
    ]
    plain = {
        "SHLINK_RUNTIME": "none",
        "SKIP_INITIAL_GEOLITE_DOWNLOAD": "true",
        "API_KEY_ROTATION": str(args.own.api_key_rotation),
    }
    container.env = [
        *_database(args, pooled=False),
        *variables(plain),
        # Not INITIAL_API_KEY: Shlink would pass that on in a command line, and store it as a name.
        secret_variable("API_KEY", args.api_key.name, API_KEY),
    ]
    secrets = [args.database_secret, args.api_key]
    return job(
        f"{name}-migration",
        JobArgs(
            name=f"{name}-migration",
            namespace=args.namespace,
            labels=MIGRATION.labels,
            user=_USER,
            containers=[container],
            placement=args.placement,
            init_containers=[_wait(args, "postgres", args.database.host, args.database.port)],
            volumes=volumes,
            annotations=_versions(secrets, args.database),
            # With growing delays some ten minutes of failures.
            backoff_limit=6,
            timeout_seconds=None,
        ),
        _after(opts, secrets, args.database.ready),
    )


def _migrated(
    name: str, args: ShlinkArgs, migration: batch.v1.Job, opts: pulumi.ResourceOptions
) -> pulumi.Resource:
    """A resource that exists once the migration is complete. A large database takes its time."""
    job_target = JobTarget(namespace=args.namespace, name=f"{name}-migration")
    wait = job_hook(f"{name}-migrated", args.access, job_target)
    hooks = pulumi.ResourceHookBinding(before_create=[wait], before_update=[wait])
    # A preview knows that there is no uid yet, and a Stash takes no value that is missing.
    uid: pulumi.Output[str | None] = migration.metadata.uid
    return pulumi.Stash(
        f"{name}-migrated",
        input=uid.apply(lambda known: known or ""),
        opts=pulumi.ResourceOptions.merge(
            opts, pulumi.ResourceOptions(depends_on=[migration], hooks=hooks)
        ),
    )


def _hashes(
    name: str,
    args: ShlinkArgs,
    volumes: Sequence[core.v1.VolumeArgs],
    opts: pulumi.ResourceOptions,
) -> None:
    """The Job that ends an upgrade, after the last new pod is Ready. A new image repeats it."""
    container = _container("hashes", args)
    container.command = ["php", "-r", scripts.read("shlink_fill_hashes.php")]
    plain = {"SHLINK_RUNTIME": "none", "STOP_SECONDS": str(_STOP_SECONDS)}
    container.env = [*_database(args, pooled=False), *variables(plain)]
    job(
        f"{name}-hashes",
        JobArgs(
            name=f"{name}-hashes",
            namespace=args.namespace,
            labels=MIGRATION.labels,
            user=_USER,
            containers=[container],
            placement=args.placement,
            volumes=volumes,
        ),
        opts,
    )


def _server_pod(args: ShlinkArgs, volumes: Sequence[core.v1.VolumeArgs]) -> core.v1.PodSpecArgs:
    return core.v1.PodSpecArgs(
        automount_service_account_token=False,
        # Kubernetes' variables for each Service would begin with SHLINK_, like Shlink's own.
        enable_service_links=False,
        security_context=pod_security(_USER),
        termination_grace_period_seconds=_STOP_SECONDS,
        init_containers=_waits(args),
        containers=[_server(args)],
        volumes=volumes,
    )


def _server(args: ShlinkArgs) -> core.v1.ContainerArgs:
    health = core.v1.HTTPGetActionArgs(
        path=f"{args.settings.base_path or ''}/rest/health", port="http"
    )
    server = _container("shlink", args)
    server.env = _server_variables(args)
    server.ports = [core.v1.ContainerPortArgs(name="http", container_port=ports.SHLINK)]
    # /rest/health asks the database. As a liveness probe it would restart every replica whenever
    # the database is away.
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
    if args.metrics:
        # The image's entrypoint takes no options for RoadRunner, so the server starts here.
        server.command = ["sh", "-ec", scripts.read("shlink_with_metrics.sh")]
        metrics = core.v1.ContainerPortArgs(name="metrics", container_port=ports.SHLINK_METRICS)
        server.ports = [*server.ports, metrics]
        server.env = [*server.env, *variables({"METRICS_PORT": str(ports.SHLINK_METRICS)})]
    server.lifecycle = core.v1.LifecycleArgs(
        pre_stop=core.v1.LifecycleHandlerArgs(
            exec_=core.v1.ExecActionArgs(command=["sleep", str(_DRAIN_SECONDS)])
        )
    )
    return server


def _container(container: str, args: ShlinkArgs) -> core.v1.ContainerArgs:
    """Shlink's image with its writable folders; the caller adds the variables."""
    # S108: an emptyDir of the pod, not a shared folder.
    mounts = {
        "data": _DATA,
        "tmp": "/tmp",  # noqa: S108
        "php": _PHP_SETTINGS,
        "database-ca": _DATABASE_CA,
    }
    if args.redis and args.redis.ca_pem:
        mounts["redis-ca"] = _REDIS_CA
    return core.v1.ContainerArgs(
        name=container,
        image=args.images.shlink,
        security_context=CONTAINER_SECURITY,
        resources=requirements(args.settings.resources),
        volume_mounts=[
            core.v1.VolumeMountArgs(name=volume, mount_path=path) for volume, path in mounts.items()
        ],
    )


def _volumes(config_maps: Mapping[str, core.v1.ConfigMap]) -> list[core.v1.VolumeArgs]:
    empty = core.v1.EmptyDirVolumeSourceArgs()
    volumes = [core.v1.VolumeArgs(name=name, empty_dir=empty) for name in ("data", "tmp")]
    for name, config_map in config_maps.items():
        source = core.v1.ConfigMapVolumeSourceArgs(name=config_map.metadata.name)
        volumes.append(core.v1.VolumeArgs(name=name, config_map=source))
    return volumes


def _database(args: ShlinkArgs, *, pooled: bool) -> list[core.v1.EnvVarArgs]:
    """Where PostgreSQL is. What is unused is left out: to Shlink an empty value counts as set.

    `pooled`: by PgBouncer, if there is one. The migration is not: it creates tables, whose owner
    must be the role, and PgBouncer refuses libpq's options.
    """
    host = args.database.host
    # Each rotation takes another login; what they create belongs to one role.
    options = {"PGOPTIONS": f"-c role={args.database.role}"}
    if pooled and args.database.pooler_host is not None:
        host, options = args.database.pooler_host, {}
    plain: dict[str, pulumi.Input[str]] = {
        "DB_DRIVER": "postgres",
        "DB_HOST": host,
        "DB_PORT": str(args.database.port),
        "DB_NAME": args.database.database,
        "DB_USE_ENCRYPTION": "true",  # PGO refuses a connection without TLS
        # Shlink 4.6.0 hands that setting to a part of the driver that PostgreSQL's ignores; libpq
        # reads this.
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": f"{_DATABASE_CA}/ca.crt",
        **options,
        "TIMEZONE": args.settings.timezone,
        # A leading colon keeps the image's own folder of settings.
        "PHP_INI_SCAN_DIR": f":{_PHP_SETTINGS}",
    }
    return [
        *variables(plain),
        secret_variable("DB_USER", args.database_secret.name, USER_KEY),
        secret_variable("DB_PASSWORD", args.database_secret.name, PASSWORD_KEY),
    ]


def _redis(args: ShlinkArgs) -> list[core.v1.EnvVarArgs]:
    """Where Redis is; nothing without Redis."""
    if args.redis is None:
        return []
    plain: dict[str, pulumi.Input[str]] = {}
    if args.settings.pub_sub:
        plain["REDIS_PUB_SUB_ENABLED"] = "true"
    if args.redis.servers:
        plain["REDIS_SERVERS"] = args.redis.servers
    if args.redis.sentinel_service:
        plain["REDIS_SENTINEL_SERVICE"] = args.redis.sentinel_service
    if args.redis.ca_pem:
        # Shlink's URLs carry no file of an authority. OpenSSL reads this one beside its folder of
        # public ones.
        plain["SSL_CERT_FILE"] = f"{_REDIS_CA}/ca.crt"
    environment = variables(plain)
    if args.redis_secret:
        names = {
            "password": "REDIS_SERVERS_PASSWORD",
            "user": "REDIS_SERVERS_USER",
            "servers": "REDIS_SERVERS",
        }
        environment += [
            secret_variable(names[key], args.redis_secret.name, key)
            for key in args.redis_secret.keys
        ]
    return environment


def _server_variables(args: ShlinkArgs) -> list[core.v1.EnvVarArgs]:
    """All variables of the server. What the program sets is never replaced by the file's."""
    cache = cache_variables(args.images.shlink, args.settings.environment)
    own = [
        *_database(args, pooled=True),
        *_redis(args),
        *variables(from_settings(args.settings)),
        *_integrations(args.settings),
        *variables(_proxy(args)),
        *variables(cache),
        *variables({"ADDRESS": "[::]"}),  # IPv4 and IPv6; the image's own is IPv4 alone
    ]
    taken = {variable.name for variable in own}
    free = variables(
        {name: value for name, value in args.settings.environment.items() if name not in taken}
    )
    if args.environment:
        free += [
            secret_variable(variable, args.environment.name, variable)
            for variable in args.environment.keys
            if variable not in taken
        ]
    return [*own, *free]


def _proxy(args: ShlinkArgs) -> dict[str, str]:
    if args.proxy is None:
        return {}
    return args.proxy.variables([server.host for server in args.settings.integrations.values()])


def _integrations(settings: ShlinkSettings) -> list[core.v1.EnvVarArgs]:
    plain: dict[str, pulumi.Input[str]] = {}
    for server in settings.integrations.values():
        plain |= server.plain()
    return variables(plain)


def _waits(args: ShlinkArgs) -> list[core.v1.ContainerArgs]:
    """A pod that starts before its servers answer waits, instead of crashing in a slowing loop."""
    host = args.database.pooler_host or args.database.host
    waits = [_wait(args, "postgres", host, args.database.port)]
    if args.geolite:
        # First: it fetches while the others wait.
        waits.insert(0, follower(GEOLITE.name, args.images.shlink, "data"))
    if args.redis:
        waits.append(_wait(args, "redis", args.redis.host, args.redis.port))
    return waits


def _wait(
    args: ShlinkArgs, server: str, host: pulumi.Input[str], port: int
) -> core.v1.ContainerArgs:
    return core.v1.ContainerArgs(
        name=f"wait-for-{server}",
        image=args.images.shlink,
        command=["sh", "-c", scripts.read("wait_for_port.sh")],
        env=variables({"HOST": host, "PORT": str(port)}),
        security_context=CONTAINER_SECURITY,
        resources=requirements(_SMALL),
    )


def _versions(
    secrets: Sequence[SecretRef | None], database: DatabaseEndpoint
) -> Mapping[str, pulumi.Input[str]]:
    """Annotations with each Secret's version: a changed value changes the template, and pods roll.

    A restored database may need migrations again, and what pods remember of it is wrong.
    """
    annotations: dict[str, pulumi.Input[str]] = {
        f"{_VERSION_ANNOTATION}{secret.name}": secret.version
        for secret in secrets
        if secret is not None
    }
    if database.restore:
        annotations[_RESTORE_ANNOTATION] = str(database.restore)
    return annotations


def _after(
    opts: pulumi.ResourceOptions,
    secrets: Sequence[SecretRef | None],
    resources: Sequence[pulumi.Resource],
    ready: Sequence[pulumi.ResourceHook] = (),
) -> pulumi.ResourceOptions:
    """Wait for these resources and hooks, and until the Secrets hold the version the pods need."""
    delivered = [secret for secret in secrets if secret is not None]
    hooks = [*(secret.synced for secret in delivered), *ready]
    return pulumi.ResourceOptions.merge(
        opts,
        pulumi.ResourceOptions(
            depends_on=[*resources, *(secret.resource for secret in delivered)],
            hooks=pulumi.ResourceHookBinding(before_create=hooks, before_update=hooks),
        ),
    )

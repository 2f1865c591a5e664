"""Deploys one Shlink environment: load the settings, create each layer, export the outputs."""

import gc

import pulumi

from components import outputs
from components.cluster import access as cluster
from components.credentials.tls import Authority, AuthorityArgs
from components.external_secrets.component import SecretDelivery, SecretDeliveryArgs
from components.manifests.placement import Placement
from components.monitoring.component import Monitoring, MonitoringArgs
from components.network.flows import POSTGRES, REDIS, SHLINK, VAULT, own_namespaces
from components.network.namespaces import namespaces
from components.operators.install import operators
from components.postgres.component import DatabaseUser, Postgres, PostgresArgs
from components.postgres.restore import Workload
from components.program import changes, engine, identity, interrupts, reach
from components.program.inventory import Inventory
from components.redis.component import FAILOVER, Redis, RedisArgs, external
from components.settings.environment import load
from components.settings.redis import ExternalRedis, FailoverRedis
from components.settings.shlink import shlink_version
from components.shlink.component import API_KEY, Shlink, ShlinkArgs, shlink_secrets
from components.shlink.web_client import WebClient, WebClientArgs
from components.vault.args import VaultArgs
from components.vault.component import Vault

# The SDKs stay until the end: without this line every collection looks at all of them again.
gc.freeze()
interrupts.quiet()
engine.warn_if_untried()

target, settings = load()
environment = identity.Environment()
inventory = Inventory()
placement = Placement.from_settings(settings)
access = cluster.access(target)
forwarded = reach.servers(target, settings, project=pulumi.get_project(), stack=pulumi.get_stack())
sight = identity.look_first(access)
record = changes.guard(target, settings, sight)
verified = identity.verified(record, environment, own_namespaces(settings), sight)
provider = cluster.provider(target, after=verified)
opts = pulumi.ResourceOptions(providers=[provider])

api_server = changes.api_server(record)
spaces = namespaces(settings, opts, api_server=api_server)
installed = operators(settings, spaces, opts)

authority = Authority("authority", AuthorityArgs(rotation=settings.rotation.certificates), opts)
vault = Vault(
    "vault",
    VaultArgs.from_settings(
        settings,
        namespace=spaces[VAULT].name,
        authority=authority,
        provider_address=forwarded.vault,
        access=access,
    ),
    opts,
)
running = None if sight is None else sight.database
postgres = Postgres(
    "shlink-db",
    PostgresArgs(
        namespace=spaces[POSTGRES].name,
        access=access,
        authority=authority,
        users=[
            DatabaseUser(
                name="shlink",
                databases=["shlink"],
                rotation=settings.rotation.database,
                workloads=[Workload(SHLINK, "shlink", settings.shlink.autoscaled_from)],
            )
        ],
        settings=settings.postgres,
        images=settings.images,
        provider_host=forwarded.postgres_host,
        provider_port=forwarded.postgres_port,
        operator=installed.pgo,
        operator_namespace=settings.operators.pgo.namespace,
        superuser_rotation=settings.rotation.superuser,
        placement=placement,
        ip_version=api_server.apply(changes.ip_version),
        database=running,
        protect=settings.protect,
        allowed_changes=frozenset(settings.allowed_changes),
    ),
    opts,
)
database = postgres.endpoints["shlink"]
redis, failover = None, None
if isinstance(settings.redis, FailoverRedis):
    failover = Redis(
        FAILOVER,
        RedisArgs(
            namespace=spaces[REDIS].name,
            operator=installed.redis_operator,
            labels=installed.redis_failover_labels,
            access=access,
            image=settings.images.redis,
            exporter_image=settings.images.redis_exporter,
            engine=settings.redis.engine,
            replicas=settings.redis.replicas,
            sentinels=settings.redis.sentinels,
            storage=settings.redis.storage,
            resources=settings.redis.resources,
            sentinel_resources=settings.redis.sentinel_resources,
            placement=placement,
            rotation=settings.rotation.redis,
            protect=settings.protect,
            allowed_changes=frozenset(settings.allowed_changes),
        ),
        opts,
    )
    redis = failover.endpoint
elif isinstance(settings.redis, ExternalRedis):
    redis = external(settings.redis, shlink_version(settings.images.shlink))

own = shlink_secrets(settings.shlink, settings.rotation.api_key, opts)
deliveries = [database.delivery, *own.deliveries]
if redis is not None and redis.delivery is not None:
    deliveries.append(redis.delivery)
delivery = SecretDelivery(
    "vault-backend",
    SecretDeliveryArgs(
        namespace=spaces[SHLINK].name,
        controller=installed.external_secrets[SHLINK],
        vault=vault,
        access=access,
        deliveries=deliveries,
    ),
    opts,
)
shlink = Shlink(
    "shlink",
    ShlinkArgs(
        namespace=spaces[SHLINK].name,
        settings=settings.shlink,
        images=settings.images,
        database=database,
        redis=redis,
        own=own,
        access=access,
        delivered=delivery.secrets,
        placement=placement,
        proxy=settings.network.proxy,
        metrics=settings.monitoring.enabled,
    ),
    opts,
)
if failover is not None:
    failover.end_previous_password([shlink])
if settings.shlink.controlled_route and settings.shlink.controlled_route.web_client:
    WebClient(
        "shlink-web-client",
        WebClientArgs(
            namespace=spaces[SHLINK].name, image=settings.images.web_client, placement=placement
        ),
        opts,
    )
if settings.monitoring.enabled:
    Monitoring(
        "monitoring",
        MonitoringArgs(
            settings=settings,
            namespace=spaces[SHLINK].name,
            vault_authority=vault.certificate_secret,
            certificates={"Vault": vault.certificate_expires},
        ),
        opts,
    )
inventory.write(spaces[SHLINK].name, opts)

outputs.export(
    {
        "internal_url": shlink.internal_url,
        "external_url": shlink.external_url,
        "api_key": {"namespace": SHLINK, "secret": own.api_key.secret, "key": API_KEY},
        "vault_address": vault.address,
        "vault_mount": vault.mount,
        "vault_auth_path": vault.auth_path,
        "database_host": database.host,
        "database_port": database.port,
        "database_name": database.database,
        "redis_host": redis.host if redis else None,
        "redis_port": redis.port if redis else None,
        "redis_sentinel_service": redis.sentinel_service if redis else None,
        "database_backups": {key: place.path for key, place in postgres.backups.items()},
        "versions": settings.versions,
    }
)

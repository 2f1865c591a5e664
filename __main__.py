"""One Shlink environment: settings in, layers linked by what they need of one another, outputs out."""

import pulumi

from components import cluster, outputs, reach
from components.credentials import password
from components.delivery import Delivery
from components.external_secrets import SecretDelivery, SecretDeliveryArgs
from components.network import EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK, VAULT, namespaces
from components.operators import operators
from components.postgres import Postgres, PostgresArgs
from components.redis import Redis, RedisArgs, external
from components.settings import ExternalRedis, FailoverRedis, load
from components.shlink import API_KEY, GEOLITE_LICENSE, Shlink, ShlinkArgs
from components.vault import Vault, VaultArgs

target, settings = load()
access = cluster.access(target)
forwarded = reach.servers(target, settings, project=pulumi.get_project(), stack=pulumi.get_stack())
opts = pulumi.ResourceOptions(providers=[cluster.provider(target)])

spaces = namespaces(settings, opts)
installed = operators(settings, spaces, opts)

vault = Vault(
    "vault",
    VaultArgs(
        spaces[VAULT].name,
        settings.charts.vault,
        settings.vault,
        settings.images,
        forwarded.vault,
        settings.protect,
    ),
    opts,
)
postgres = Postgres(
    "shlink-db",
    PostgresArgs(
        namespace=spaces[POSTGRES].name,
        operator=installed.pgo,
        settings=settings.postgres,
        images=settings.images,
        rotation=settings.rotation,
        provider_host=forwarded.postgres_host,
        provider_port=forwarded.postgres_port,
        protect=settings.protect,
    ),
    opts,
)
redis = None
if isinstance(settings.redis, FailoverRedis):
    redis = Redis(
        "shlink-redis",
        RedisArgs(
            namespace=spaces[REDIS].name,
            operator=installed.redis_operator,
            access=access,
            settings=settings.redis,
            images=settings.images,
            rotation=settings.rotation.redis,
            protect=settings.protect,
        ),
        opts,
    ).endpoint
elif isinstance(settings.redis, ExternalRedis):
    redis = external(settings.redis)

# One line a credential: the ExternalSecret, the Secret that it makes, the path in Vault, and where the values are made.
database = Delivery(
    "postgres-credentials", "shlink-db-pguser-shlink", "postgres/shlink", postgres.endpoint.secrets
)
redis_password = (
    Delivery("redis-credentials", "shlink-redis", "redis/shlink", redis.secrets)
    if redis and redis.secrets
    else None
)
api_key = Delivery(
    "shlink-api-key",
    "shlink-api-key",
    "shlink/api-key",
    {API_KEY: password("shlink-api-key", 1, opts)},
)
license_key = settings.shlink.geolite_license_key
geolite = (
    Delivery(
        "shlink-geolite",
        "shlink-geolite",
        "shlink/geolite",
        {GEOLITE_LICENSE: pulumi.Output.secret(license_key.get_secret_value())},
    )
    if license_key
    else None
)
delivery = SecretDelivery(
    "vault-backend",
    SecretDeliveryArgs(
        namespace=spaces[SHLINK].name,
        operator=installed.external_secrets,
        controller_namespace=settings.operators.external_secrets.namespace or EXTERNAL_SECRETS,
        vault=vault,
        access=access,
        deliveries=[one for one in (database, redis_password, api_key, geolite) if one],
    ),
    opts,
)
shlink = Shlink(
    "shlink",
    ShlinkArgs(
        namespace=spaces[SHLINK].name,
        settings=settings.shlink,
        images=settings.images,
        database=postgres.endpoint,
        database_secret=delivery.secrets[database.name],
        redis=redis,
        redis_secret=delivery.secrets[redis_password.name] if redis_password else None,
        api_key=delivery.secrets[api_key.name],
        geolite=delivery.secrets[geolite.name] if geolite else None,
    ),
    opts,
)

outputs.export(
    {
        "internal_url": shlink.internal_url,
        "external_url": shlink.external_url,
        "api_key": {"namespace": SHLINK, "secret": api_key.secret, "key": API_KEY},
        "vault_address": vault.address,
        "vault_mount": vault.mount,
        "vault_auth_path": vault.auth_path,
        "database_host": postgres.endpoint.host,
        "database_port": postgres.endpoint.port,
        "database_name": postgres.endpoint.database,
        "redis_host": redis.host if redis else None,
        "redis_port": redis.port if redis else None,
        "redis_sentinel_service": redis.sentinel_service if redis else None,
        "versions": settings.versions,
    }
)

"""One Shlink environment: settings in, layers linked by what they need of one another, outputs out."""

import pulumi
import pulumi_kubernetes as kubernetes

from components.external_secrets import Delivery, SecretDelivery, SecretDeliveryArgs
from components.forward import Forwards
from components.network import EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK, VAULT, namespaces
from components.operators import operators
from components.outputs import Outputs, SecretKey
from components.postgres import Postgres, PostgresArgs
from components.redis import Redis, RedisArgs, external
from components.settings import ExternalRedis, FailoverRedis, load
from components.shlink import Shlink, ShlinkArgs
from components.vault import Vault, VaultArgs

cluster, settings = load()

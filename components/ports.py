"""The TCP ports of every server in an environment, for containers, Services and NetworkPolicies."""

from typing import Final

DNS: Final = 53
VAULT: Final = 8200
VAULT_RAFT: Final = 8201
"""Raft and forwarded requests between Vault's servers."""
POSTGRES: Final = 5432
PATRONI: Final = 8008
PGBACKREST: Final = 8432
POSTGRES_EXPORTER: Final = 9187
REDIS: Final = 6379
SENTINEL: Final = 26379
REDIS_EXPORTER: Final = 9121
SHLINK: Final = 8080
WEB_CLIENT: Final = 8080
GEOLITE: Final = 8080
"""Serves GeoLite's database to Shlink's pods."""
SHLINK_METRICS: Final = 2112
"""RoadRunner's metrics; open only where they are scraped."""
CLOSED: Final = 9
"""Nothing listens there in Shlink's pods: a connection is refused at once, with no time-out."""
EXTERNAL_SECRETS_METRICS: Final = 8080
REDIS_OPERATOR_METRICS: Final = 9710
HTTP: Final = 80
HTTPS: Final = 443

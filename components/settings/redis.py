"""What an environment may set about Redis."""

from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from .platform import Resources, Volume
from .types import Cidr, Model, RedisUrl, Secret


class FailoverRedis(Model):
    """Redis and Sentinel, run by redis-operator."""

    mode: Literal["failover"] = "failover"
    replicas: int = Field(default=3, ge=3, le=9, description="Redis pods.")
    sentinels: Literal[3, 5, 7, 9] = Field(
        default=3,
        description="Sentinel pods, an odd number: two of three agree on a failover.",
    )
    storage: Volume = Volume()
    resources: Resources = Resources()
    sentinel_resources: Resources = Resources(memory="32Mi", memory_limit="128Mi")


class ExternalRedis(Model):
    """A managed Redis elsewhere: one server, or a Redis Cluster's nodes."""

    mode: Literal["external"]
    servers: list[RedisUrl] = Field(
        min_length=1,
        description="scheme://host:port of the server; several are the nodes of a Redis Cluster.",
    )
    cidr: Cidr = Field(
        default="0.0.0.0/0", description="Where the servers are, for the NetworkPolicy."
    )
    password: Secret | None = Field(
        default=None, description="Part of the URL that Shlink gets; never in `servers`."
    )

    @property
    def ports(self) -> list[int]:
        """The ports in `servers`; Redis' own where none is given."""
        return sorted({urlsplit(server).port or 6379 for server in self.servers})


class NoRedis(Model):
    """No Redis (the guide's "start simple").

    Lost: locks and caches shared by the replicas, and the pub/sub of real-time updates.
    """

    mode: Literal["none"]


def _failover_by_default(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {"mode": "failover", **cast("dict[str, Any]", value)}


RedisSettings = Annotated[
    FailoverRedis | ExternalRedis | NoRedis,
    Field(discriminator="mode"),
    BeforeValidator(_failover_by_default),
]

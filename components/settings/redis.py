"""What an environment may set about Redis."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, cast
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, model_validator

from .. import ports
from .platform import Resources, Volume
from .types import Certificates, InCluster, Model, Networks, RedisUrl, Secret, Text, outside

_TLS = ("tls", "rediss")


class FailoverRedis(Model):
    """Redis and Sentinel, run by redis-operator."""

    mode: Literal["failover"] = "failover"
    engine: Literal["Redis", "Valkey"] = Field(
        default="Redis",
        description="What `images.redis` holds. Valkey, 9.0 or newer, needs "
        "operators.redisOperator.distribution: freshworks.",
    )
    replicas: int = Field(default=3, ge=3, le=9, description="Redis pods.")
    sentinels: Literal[3, 5, 7, 9] = Field(
        default=3,
        description="Sentinel pods, an odd number: two of three agree on a failover.",
    )
    storage: Volume = Volume()
    resources: Resources = Resources()
    sentinel_resources: Resources = Resources(memory="32Mi", memory_limit="128Mi")


class ExternalRedis(InCluster):
    """A Redis elsewhere: one server, a Redis Cluster's nodes, or sentinels."""

    mode: Literal["external"]
    servers: list[RedisUrl] = Field(
        min_length=1,
        description="tcp://host:port of the server, or tls://; several are the nodes of a Redis "
        "Cluster, or the sentinels with `sentinelService`. A database other than 0 of one server: "
        "tcp://host:port/3.",
    )
    sentinel_service: Text | None = Field(
        default=None,
        description="`servers` are sentinels that ask for no password, and this is the name of the "
        "master that they watch, such as mymaster.",
    )
    cidr: Networks = Field(
        default=["0.0.0.0/0", "::/0"],
        description="Networks of the servers, for the NetworkPolicy: one, or a list. With "
        "`namespace` none, unless they are set too.",
    )
    user: Text | None = Field(default=None, description="User of Redis' ACL, with `password`.")
    password: Secret | None = Field(
        default=None, description="Part of the URL that Shlink gets; never in `servers`."
    )
    ca: Certificates = Field(
        default=None,
        description="The authority of the servers' certificates as PEM text, when it is private.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        faults = [*self._of_servers(), *self._of_sentinels()]
        if self.user is not None and self.password is None:
            faults.append("password: is missing; `user` needs one")
        if self.ca is not None and not self.encrypted:
            faults.append("ca: has no effect without TLS; allowed: tls://host:port in `servers`")
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _of_servers(self) -> Iterator[str]:
        schemes = {urlsplit(server).scheme for server in self.servers}
        if len({scheme in _TLS for scheme in schemes}) > 1:
            yield "servers: some are encrypted and some are not; allowed: all of one kind"
        for server in self.servers:
            if self.servers.count(server) > 1 and self.sentinel_service is None:
                yield f"servers: {server} is there twice; allowed: once"
                break
        for server in self.servers:
            host = urlsplit(server).hostname or ""
            if outside(host, self.cidr):
                yield f"cidr: {host}, a server, is in none of them; allowed: networks with it"
                break

    def _of_sentinels(self) -> Iterator[str]:
        port = urlsplit(self.servers[0]).port or ports.REDIS
        if self.sentinel_service is None and port == ports.SENTINEL:
            yield (
                f"sentinelService: is missing; {ports.SENTINEL} is the port of sentinels, and "
                "without the name of their master Shlink takes them for servers"
            )
        if self.sentinel_service is not None and port == ports.REDIS:
            yield (
                f"servers: {ports.REDIS} is the port of Redis, but with `sentinelService` these "
                f"are sentinels; allowed: their port, {ports.SENTINEL}"
            )
        databases = any(database(server) for server in self.servers)
        if databases and (self.sentinel_service is not None or len(self.servers) > 1):
            yield "servers: only one server has databases; allowed: a URL without a database"

    @property
    def encrypted(self) -> bool:
        """Whether connections use TLS."""
        return urlsplit(self.servers[0]).scheme in _TLS

    @property
    def clustered(self) -> bool:
        """Whether Shlink takes the servers for the nodes of a Redis Cluster."""
        return len(self.servers) > 1 and self.sentinel_service is None

    @property
    def ports(self) -> list[int]:
        """The ports of `servers`, Redis' own where none is given; behind sentinels Redis' too."""
        every = {urlsplit(server).port or ports.REDIS for server in self.servers}
        if self.sentinel_service is not None:
            every.add(ports.REDIS)
        return sorted(every)


def database(server: str) -> int:
    """The number of the database in a server's URL."""
    match = re.search(r"(?:/|database=)([0-9]+)$", server.partition("://")[2])
    return int(match[1]) if match else 0


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

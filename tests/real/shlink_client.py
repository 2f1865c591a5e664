"""A Redis client that reads the REDIS_* variables as Shlink does.

The rules are those of shlink-common's RedisFactory, Predis and symfony/lock.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import unquote_plus, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

Resolve = Callable[[str, int], tuple[str, int]]
"""Takes the place of the cluster's DNS and Services: host and port to an address here."""
_Result = TypeVar("_Result")

_LOCK = """
if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("PEXPIRE", KEYS[1], ARGV[2])
elseif redis.call("SET", KEYS[1], ARGV[1], "NX", "PX", ARGV[2]) then return 1
else return 0 end
"""
_DIGEST = hashlib.sha1(_LOCK.encode(), usedforsecurity=False).hexdigest()
"""How Redis calls a script."""


class ShlinkClient:
    """One PHP worker's connection.

    After a lost connection Predis asks the sentinels again, up to 20 times with a second between.
    """

    RETRIES = 20
    WAIT = 1.0

    def __init__(self, environment: Mapping[str, str], resolve: Resolve) -> None:
        self._resolve = resolve
        # An empty value counts as set: `in`, not `get`.
        self._servers = environment["REDIS_SERVERS"].split(",")
        self._service = environment.get("REDIS_SENTINEL_SERVICE")
        self._password = environment.get("REDIS_SERVERS_PASSWORD")
        self._connection: Any = None

    @property
    def mode(self) -> str:
        """`single`, `cluster` or `sentinel`."""
        if len(self._servers) == 1:
            return "single"  # and the sentinel setting is ignored
        return "cluster" if self._service is None else "sentinel"

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Any:
        if self.mode == "single":
            return self._open(self._servers[0], None)
        if self.mode == "cluster":
            connection = self._open(self._servers[0], None)
            connection.execute_command("CLUSTER", "SLOTS")
            return connection
        for url in self._servers:
            # A password in the URL is the sentinel's. The servers get REDIS_SERVERS_PASSWORD.
            address = None
            with suppress(redis.ConnectionError), self._open(url, None) as sentinel:
                address = sentinel.sentinel_get_master_addr_by_name(self._service)
            if address:
                host, port = address
                return self._master(f"tcp://{host}:{port}")
        raise redis.ConnectionError("No sentinel server available for autodiscovery.")

    def _master(self, url: str) -> Any:
        master = self._open(url, self._password)
        if master.role()[0] != "master":
            master.close()
            raise redis.ConnectionError("Expected `master`, got something else")
        return master

    def _open(self, url: str, password: str | None) -> Any:
        parts = urlsplit(url)
        host, port = self._resolve(parts.hostname or "", parts.port or 6379)
        password = password or (unquote_plus(parts.password) if parts.password else None)
        return redis.Redis(
            host=host,
            port=port,
            password=password,
            decode_responses=True,
            socket_timeout=5,
            retry=Retry(NoBackoff(), 0),
        )

    def run(self, command: Callable[[Any], _Result]) -> _Result:
        """Run a command and retry as Predis does after a lost connection. Raises RedisError."""
        tries = self.RETRIES if self.mode == "sentinel" else 0
        while True:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                return command(self._connection)
            except (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError) as error:
                self.close()
                # A refused password is no lost connection.
                if tries == 0 or isinstance(error, redis.AuthenticationError):
                    raise
                tries -= 1
                time.sleep(self.WAIT)

    def cache(self, key: str, value: str) -> str:
        """symfony/cache: SETEX, then GET."""
        self.run(lambda connection: connection.execute_command("SETEX", key, 60, value))
        return self.run(lambda connection: connection.get(key))

    def lock(self, key: str, token: str) -> bool:
        """symfony/lock: EVALSHA, or EVAL where the script is not known (on each new master)."""

        def evaluate(connection: Any) -> bool:
            try:
                return bool(connection.evalsha(_DIGEST, 1, key, token, "30000"))
            except NoScriptError:
                return bool(connection.eval(_LOCK, 1, key, token, "30000"))

        return self.run(evaluate)

    def publish(self, channel: str, message: str) -> int:
        return self.run(lambda connection: connection.publish(channel, message))

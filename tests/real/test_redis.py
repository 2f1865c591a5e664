"""Three real Redis servers and Sentinels, set up as declared and reached by Shlink's variables."""

import itertools
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
import redis

from components import scripts
from components.redis.component import MASTER
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import manifest, server
from tests.real.redis_servers import Failover, failover, free_ports, late_forward, missing
from tests.real.shlink_client import ShlinkClient

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

_RECOVERY_SECONDS = 30


def _environment(configuration: str) -> dict[str, str]:
    """The REDIS_* variables of Shlink's container, with the values of the Secrets it refers to."""
    recording = configurations.recording(configuration)
    delivered = _delivered(recording)
    environment: dict[str, str] = {}
    for name, value in server(recording).items():
        if name.startswith("REDIS_"):
            environment[name] = delivered[value] if isinstance(value, tuple) else value
    return environment


def _delivered(recording: Recording) -> dict[Any, str]:
    """What External Secrets delivers from Vault, by the name and key of a Secret."""
    vault: dict[str, Mapping[str, str]] = {}
    for resource in recording.of_kind("SecretV2"):
        stored = plain(resource.inputs)
        vault[stored["name"]] = json.loads(stored["dataJson"])
    delivered: dict[Any, str] = {}
    for external in recording.of_kind("ExternalSecret"):
        spec = plain(external.inputs)["spec"]
        for entry in spec["data"]:
            source = entry["remoteRef"]
            target = (spec["target"]["name"], entry["secretKey"])
            delivered[target] = vault[source["key"]][source["property"]]
    return delivered


def _spec() -> Any:
    recording = configurations.recording("defaults")
    return manifest(recording, "RedisFailover", "shlink-redis")["spec"]


def _passwords(configuration: str) -> Mapping[str, str]:
    """The Secret that the operator and the rotation Job read."""
    recording = configurations.recording(configuration)
    return manifest(recording, "Secret", _spec()["auth"]["secretPath"])["stringData"]


def _as_declared() -> AbstractContextManager[Failover]:
    return failover(
        _passwords("defaults")["password"],
        server_lines=_server_lines(),
        sentinel_settings=_spec()["sentinel"]["customConfig"],
    )


def _server_lines() -> list[str]:
    """The options of redis-server's command line, as lines of its configuration file."""
    _, _, *options = _spec()["redis"]["command"]
    names, values = options[::2], options[1::2]
    return [f"{name.removeprefix('--')} {value}" for name, value in zip(names, values, strict=True)]


@pytest.fixture(scope="module")
def shared() -> Iterator[Failover]:
    """For tests that leave it as it was."""
    with _as_declared() as running:
        yield running


@pytest.fixture
def servers() -> Iterator[Failover]:
    """For tests that break something."""
    with _as_declared() as running:
        yield running


def _client(running: Failover, environment: Mapping[str, str]) -> ShlinkClient:
    """A client behind the sentinels' Service, which leads to the next living sentinel each time."""
    turn = itertools.cycle(running.sentinels)

    def resolve(host: str, port: int) -> tuple[str, int]:
        if (host, port) == ("rfs-shlink-redis.redis.svc", 26379):
            return "127.0.0.1", next(turn)
        assert host == "127.0.0.1", f"{host} is no name of this cluster"
        return host, port

    return ShlinkClient(environment, resolve)


def test_cache_lock_and_publish(shared: Failover) -> None:
    """All that Shlink does with Redis works through the sentinels."""
    environment = _environment("defaults")
    variables = {"REDIS_SERVERS", "REDIS_SENTINEL_SERVICE", "REDIS_SERVERS_PASSWORD"}
    assert set(environment) == variables
    client = _client(shared, environment)
    assert client.mode == "sentinel"
    assert client.cache("key", "value") == "value"
    assert client.lock("lock", "one")
    assert not client.lock("lock", "two"), "a held lock was given to another"
    assert client.lock("lock", "one"), "its holder can't prolong it"
    with (
        shared.client(shared.master()) as listener,
        listener.pubsub(ignore_subscribe_messages=True) as subscription,
    ):
        subscription.subscribe("updates")
        subscription.get_message(timeout=1)
        assert client.publish("updates", "new visit") == 1
        messages = [subscription.get_message(timeout=1) for _ in range(3)]
        assert [message["data"] for message in messages if message] == ["new visit"]
    client.close()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        # The guide's trap: Shlink then talks to the sentinel as if it were a Redis server
        # ("Cannot use object of type Predis\Response\Error as array").
        ({"REDIS_SERVERS": "tcp://rfs-shlink-redis.redis.svc:26379"}, "unknown command"),
        ({"REDIS_SENTINEL_SERVICE": None}, "unknown command"),
        (
            {"REDIS_SERVERS_PASSWORD": None},
            "HELLO must be called with the client already authenticated|Authentication required",
        ),
        ({"REDIS_SERVERS_PASSWORD": "wrong"}, "invalid username-password pair"),
    ],
    ids=["one server", "no sentinel service", "no password", "wrong password"],
)
def test_every_variable_is_needed(
    shared: Failover, change: Mapping[str, str | None], complaint: str
) -> None:
    """Without it, or with another value, Shlink reaches no server."""
    changed = {**_environment("defaults"), **change}
    environment = {name: value for name, value in changed.items() if value is not None}
    client = _client(shared, environment)
    with pytest.raises(redis.RedisError, match=complaint):
        client.cache("key", "value")
    client.close()


def test_the_master_is_killed(
    servers: Failover,
    record_property: Callable[[str, object], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No command fails, acknowledged writes are kept, and locks work on the new master."""
    client = _client(servers, _environment("defaults"))
    old = servers.master()
    assert client.cache("before", "kept") == "kept"
    with servers.client(old) as master:
        assert master.wait(2, 2000) == 2, "the replicas do not follow"
    servers.kill(old)
    killed, slowest, errors, done = time.monotonic(), 0.0, 0, 0
    while time.monotonic() - killed < _RECOVERY_SECONDS and done < 200:
        began = time.monotonic()
        try:
            client.cache("after", "value")
        except redis.RedisError:
            errors += 1
        slowest = max(slowest, time.monotonic() - began)
        done += 1
    with capsys.disabled():
        print(  # noqa: T201 -- a measurement for whoever runs it
            f"\nmaster killed: {errors} errors of {done} commands, the slowest took {slowest:.1f} s"
        )
    record_property("failover_seconds", round(slowest, 1))
    assert (errors, done) == (0, 200)
    assert slowest < _RECOVERY_SECONDS
    _until(lambda: servers.master() != old, "the sentinels do not agree on a new master")
    assert client.run(lambda connection: connection.get("before")) == "kept"
    assert client.lock("lock", "one"), (
        "the new master does not know the script, and that must not matter"
    )
    client.close()


def _rotate(running: Failover, *, old: str, new: str, **extra: str) -> str:
    """The rotation Job's script, as it is."""
    live = [port for port in running.servers if port in running.processes]
    environment = {
        "PATH": os.environ["PATH"],
        "SERVERS": " ".join(f"127.0.0.1:{port}" for port in live),
        "SENTINEL": f"127.0.0.1:{running.sentinels[0]}",
        "MASTER": MASTER,
        "OLD": old,
        "NEW": new,
        **extra,
    }
    done = subprocess.run(  # noqa: S603 -- the program's own script
        ["/bin/sh", "-c", scripts.read("redis_rotate.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert old not in done.stdout + done.stderr
    assert new not in done.stdout + done.stderr
    return done.stdout


def _links(running: Failover, password: str) -> list[str]:
    """The state of each replica's connection to its master."""
    states: list[str] = []
    for port in running.servers:
        if port in running.processes:
            with running.client(port, password) as connection:
                replication = connection.info("replication")
            if replication["role"] == "slave":
                states.append(replication["master_link_status"])
    return states


def _until(check: Callable[[], bool], complaint: str, patience: float = _RECOVERY_SECONDS) -> None:
    deadline = time.monotonic() + patience
    while not check():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.2)


def test_rotation(servers: Failover) -> None:
    """Both passwords are accepted until the pods know the new one, and no replica is lost.

    A failover during the rotation works with the new password.
    """
    before, after = _environment("defaults"), _environment("redis-rotated")
    passwords = _passwords("redis-rotated")
    old, new = passwords["previous"], passwords["password"]
    assert (old, new) == (before["REDIS_SERVERS_PASSWORD"], after["REDIS_SERVERS_PASSWORD"])
    assert old != new
    keeps = _client(servers, before)
    assert keeps.cache("key", "value") == "value"

    output = _rotate(servers, old=old, new=new)
    assert output.count("accepts the new password") == 3
    assert output.count("uses the new password") == 3
    for port in servers.servers:
        for password in (old, new):
            with servers.client(port, password) as connection:
                assert connection.ping()
    assert keeps.cache("key", "again") == "again"
    for port in servers.servers:  # with what a replica presents to its next master
        with servers.client(port, new) as connection:
            assert connection.config_get("masterauth") == {"masterauth": new}

    # A replica that must connect again does so with the new password.
    for port in servers.servers[1:]:
        with servers.client(port, new) as connection:
            connection.client_kill_filter(_type="master")
    _until(lambda: _links(servers, new) == ["up", "up"], "the replicas lost their master")

    _rotate(servers, old=old, new=new)  # a second run harms nothing
    assert _links(servers, new) == ["up", "up"]
    with servers.client(servers.servers[0], old) as connection:
        assert connection.ping()

    killed = servers.master()
    servers.kill(killed)
    fresh = _client(servers, after)
    assert fresh.cache("key", "on the new master") == "on the new master"
    _until(lambda: servers.master() != killed, "the sentinels do not agree on a new master")
    _until(
        lambda: _links(servers, new) == ["up"], "the other replica does not follow the new master"
    )
    assert keeps.cache("key", "old password still") == "old password still"
    fresh.close()
    keeps.close()


def test_rotation_says_which_sentinel_does_not_answer(servers: Failover) -> None:
    """The script gives up after its tries, and Kubernetes repeats the Job."""
    for port in servers.sentinels:
        servers.kill(port)
    passwords = _passwords("redis-rotated")
    complaint = f"127.0.0.1:{servers.sentinels[0]} does not answer"
    with pytest.raises(AssertionError, match=complaint):
        _rotate(servers, old=passwords["previous"], new=passwords["password"], TRIES="2")


def test_rotation_outlives_a_first_refusal(servers: Failover) -> None:
    """Where policies are enforced, a new pod's address is refused for a moment at first."""
    passwords = _passwords("redis-rotated")
    (late,) = free_ports(1)
    addresses = " ".join(f"127.0.0.1:{port}" for port in (late, *servers.servers[1:]))
    with late_forward(late, servers.servers[0], seconds=2):
        output = _rotate(
            servers, old=passwords["previous"], new=passwords["password"], SERVERS=addresses
        )
    assert output.count("accepts the new password") == 3


def test_a_hung_master_is_replaced(
    servers: Failover, record_property: Callable[[str, object], None]
) -> None:
    """Like a lost node or a stopped process: connections stay open and nothing answers."""
    hung = servers.master()
    servers.pause(hung)
    stopped = time.monotonic()
    _until(lambda: servers.master() != hung, "the sentinels keep a master that does not answer")
    record_property("hung_master_seconds", round(time.monotonic() - stopped, 1))
    client = _client(servers, _environment("defaults"))
    assert client.cache("key", "value") == "value"
    client.close()


def test_a_full_cache_evicts_old_items_before_locks() -> None:
    """Cached items never expire, locks do: that is how Shlink writes them.

    A held lock goes only once a whole cache's worth of items was written after it.
    """
    item = "x" * 20_000
    lines = [line for line in _server_lines() if not line.startswith("maxmemory ")]
    password = _passwords("defaults")["password"]
    with failover(password, server_lines=[*lines, "maxmemory 4mb"]) as running:
        client = _client(running, _environment("defaults"))
        for number in range(400):
            assert client.cache(f"old {number}", item) == item
        time.sleep(2)  # Redis counts a key's age in whole seconds
        for number in range(50):
            assert client.lock(f"lock {number}", "one"), "a full cache refuses a lock"
        time.sleep(2)
        for number in range(50):  # a quarter of the cache
            assert client.cache(f"new {number}", item) == item
        lost = [number for number in range(50) if client.lock(f"lock {number}", "two")]
        assert lost == [], "held locks were evicted"
        with running.client(running.master()) as master:
            assert master.info("stats")["evicted_keys"] > 0
            assert master.info("memory")["used_memory"] < 8_000_000
        client.close()


def test_pods_restarted_after_a_rotation(servers: Failover) -> None:
    """Then servers know only the new password, and replicas and sentinels reach them again."""
    passwords = _passwords("redis-rotated")
    old, new = passwords["previous"], passwords["password"]
    _rotate(servers, old=old, new=new)
    for port in reversed(servers.servers):  # the master last
        with servers.client(port, new) as connection:
            # Makes this the user's only password, as a restart would.
            connection.config_set("requirepass", new)
            for kind in ("replica", "master", "pubsub"):
                connection.client_kill_filter(_type=kind)
            connection.client_kill_filter(_type="normal", skipme=True)
        with pytest.raises(redis.AuthenticationError), servers.client(port, old) as connection:
            connection.ping()
    _until(lambda: _links(servers, new) == ["up", "up"], "the replicas do not follow their master")
    _rotate(servers, old=old, new=new)  # skips servers that know only the new password

    # The sentinels know it too, or they could not promote anyone.
    killed = servers.master()
    servers.kill(killed)
    client = _client(servers, _environment("redis-rotated"))
    assert client.cache("key", "value") == "value"
    client.close()


def test_external_redis_with_a_password(shared: Failover) -> None:
    """The password is part of the URL, percent-encoded, and Shlink decodes it."""
    environment = _environment("redis-external")
    assert set(environment) == {"REDIS_SERVERS"}
    with shared.client(shared.servers[0]) as connection:
        connection.execute_command("ACL", "SETUSER", "default", ">p@ss/word")

    def resolve(host: str, port: int) -> tuple[str, int]:
        assert (host, port) == ("redis.example.org", 6380)
        return "127.0.0.1", shared.servers[0]

    client = ShlinkClient(environment, resolve)
    assert client.mode == "single"
    assert client.cache("key", "value") == "value"
    client.close()

"""Redis servers and Sentinels on loopback, set up as redis-operator does.

Servers have a password, sentinels have none.
"""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from components.redis.component import MASTER

STARTUP_SECONDS = 20
BINARIES = ("redis-server", "redis-sentinel", "redis-cli")


def missing() -> str | None:
    """The programs that are not installed, and how to install them. None if all are here."""
    absent = [name for name in BINARIES if shutil.which(name) is None]
    if not absent:
        return None
    return (
        f"no {', '.join(absent)} on this machine; "
        "on Debian: apt-get install -y redis-server redis-sentinel (.ci/run does)"
    )


@dataclass
class Failover:
    """Running servers and sentinels."""

    servers: list[int]
    """Ports; the first one is the master at the start."""
    sentinels: list[int]
    password: str
    processes: dict[int, "subprocess.Popen[bytes]"] = field(
        default_factory=dict[int, "subprocess.Popen[bytes]"]
    )

    def client(self, port: int, password: str | None = None) -> Any:
        """A connection to one server, with the servers' password by default."""
        if password is None:
            password = self.password
        return redis.Redis(port=port, password=password, decode_responses=True, socket_timeout=5)

    def sentinel(self, port: int) -> Any:
        """A connection to one sentinel.

        Typed as Any: what redis-py returns depends on settings that its types can't see.
        """
        return redis.Redis(port=port, decode_responses=True, socket_timeout=5)

    def master(self) -> int:
        """The port of the master, by the first sentinel that answers."""
        for port in self.sentinels:
            with contextlib.suppress(redis.ConnectionError), self.sentinel(port) as connection:
                return int(connection.sentinel_get_master_addr_by_name(MASTER)[1])
        raise RuntimeError("no sentinel answers")

    def pause(self, port: int) -> None:
        """Like a node that hangs: its connections stay open and nothing answers."""
        self.processes[port].send_signal(signal.SIGSTOP)

    def kill(self, port: int) -> None:
        """Like a node that is lost: nobody is told."""
        process = self.processes.pop(port)
        process.kill()
        process.wait()


@contextlib.contextmanager
def failover(
    password: str, *, server_lines: Sequence[str] = (), sentinel_settings: Sequence[str] = ()
) -> Generator[Failover]:
    """Three servers and three sentinels that agree on their master, stopped at the end.

    `server_lines` go to each redis.conf. `sentinel_settings` (`name value`) go to each sentinel
    with SENTINEL SET, as the operator does with its custom configuration. Raises RuntimeError with
    the logs if a process does not start.
    """
    ports = free_ports(6)
    running = Failover(ports[:3], ports[3:], password)
    with tempfile.TemporaryDirectory(prefix="redis-") as name:
        root = Path(name)
        try:
            for port in running.servers:
                lines = [
                    f"requirepass {password}",
                    f"masterauth {password}",
                    'save ""',
                    "repl-diskless-sync-delay 0",
                    *server_lines,
                ]
                if port != running.servers[0]:
                    lines.append(f"replicaof 127.0.0.1 {running.servers[0]}")
                running.processes[port] = _start("redis-server", root, port, lines)
            _until(lambda: _replicating(running), root, "the replicas do not follow the master")
            for port in running.sentinels:
                lines = [
                    f"sentinel monitor {MASTER} 127.0.0.1 {running.servers[0]} 2",
                    f"sentinel auth-pass {MASTER} {password}",
                ]
                running.processes[port] = _start("redis-sentinel", root, port, lines)
            _until(lambda: _known(running), root, "the sentinels do not find each other")
            for port in running.sentinels:
                with running.sentinel(port) as connection:
                    for setting in sentinel_settings:
                        connection.sentinel_set(MASTER, *setting.split())
            yield running
        finally:
            for process in running.processes.values():
                process.kill()
            for process in running.processes.values():
                process.wait()


def _start(program: str, root: Path, port: int, lines: Sequence[str]) -> "subprocess.Popen[bytes]":
    folder = root / str(port)
    folder.mkdir()
    configuration = folder / "conf"
    text = [
        f"port {port}",
        "bind 127.0.0.1",
        f"dir {folder}",
        f"logfile {root / f'{port}.log'}",
        *lines,
    ]
    configuration.write_text("\n".join(text) + "\n")
    return subprocess.Popen(  # noqa: S603 -- a program that shutil.which found
        [program, configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _replicating(running: Failover) -> bool:
    with running.client(running.servers[0]) as master:
        replication = master.info("replication")
    replicas = range(len(running.servers) - 1)
    return all(replication.get(f"slave{n}", {}).get("state") == "online" for n in replicas)


def _known(running: Failover) -> bool:
    """Every sentinel knows the replicas and the other sentinels."""
    for port in running.sentinels:
        with running.sentinel(port) as connection:
            view = connection.sentinel_master(MASTER)
        if int(view["num-slaves"]) != len(running.servers) - 1:
            return False
        if int(view["num-other-sentinels"]) != len(running.sentinels) - 1:
            return False
    return True


def _until(check: Callable[[], bool], root: Path, complaint: str) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while True:
        with contextlib.suppress(redis.ConnectionError):
            if check():
                return
        if time.monotonic() > deadline:
            logs = "\n".join(
                f"{path.name}: {path.read_text()[-500:]}" for path in sorted(root.glob("*.log"))
            )
            raise RuntimeError(f"{complaint}:\n{logs}")
        time.sleep(0.1)


@contextlib.contextmanager
def late_forward(port: int, target: int, seconds: float) -> Generator[None]:
    """A port that refuses connections for a while, then leads to the target."""
    stop = threading.Event()

    def serve() -> None:
        if stop.wait(seconds):
            return
        with socket.create_server(("127.0.0.1", port)) as listener:
            listener.settimeout(0.2)
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    client, _ = listener.accept()
                    server = socket.create_connection(("127.0.0.1", target))
                    for source, sink in ((client, server), (server, client)):
                        threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens on."""
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            ports.append(listener.getsockname()[1])
    return ports

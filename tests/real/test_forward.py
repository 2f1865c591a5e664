"""Forwards through a real API server to a real PostgreSQL with TLS.

SHLINK_TEST_KUBECONFIG names the cluster. A port-forward to port 5432 of a pod in namespace
`postgres` must end at 127.0.0.1:SHLINK_TEST_POSTGRES_PORT (25432), where these tests start the
server.
"""

import base64
import gc
import json
import os
import secrets
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from components.cluster.access import ClusterAccess
from components.cluster.forward import Forward, ForwardError, ForwardTarget
from tests.real.servers import PostgresServer, postgres_binaries, postgres_server

KUBECONFIG = os.environ.get("SHLINK_TEST_KUBECONFIG", "")
NAMESPACE = "postgres"
TIMEOUT = 2.0
MARGIN = 1.5
"""Seconds that a report may come after the timeout, on a busy machine."""

pytestmark = [
    pytest.mark.skipif(
        not KUBECONFIG, reason="SHLINK_TEST_KUBECONFIG names no kubeconfig of a test cluster"
    ),
    pytest.mark.skipif(
        postgres_binaries() is None,
        reason="PostgreSQL is not installed here; Debian: apt-get install postgresql",
    ),
]


def kubectl(*arguments: str, manifest: dict[str, Any] | None = None) -> str:
    done = subprocess.run(  # noqa: S603
        ["kubectl", "--kubeconfig", KUBECONFIG, "-n", NAMESPACE, *arguments],  # noqa: S607
        input=json.dumps(manifest) if manifest else None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def create_pod(name: str, test: str, *, schedulable: bool = True) -> None:
    """A pod that Pod Security's `restricted` admits."""
    container = {
        "name": "postgres",
        "image": "postgres",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 26, "seccompProfile": {"type": "RuntimeDefault"}}
    spec: dict[str, Any] = {
        "containers": [container],
        "securityContext": security,
        "terminationGracePeriodSeconds": 0,
    }
    if not schedulable:
        spec["nodeSelector"] = {"forward-test": "nowhere"}
    metadata = {"name": name, "labels": {"forward-test": test}}
    kubectl(
        "create",
        "-f",
        "-",
        manifest={"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec},
    )
    if schedulable:
        wait_until_ready(name)


def wait_until_ready(name: str) -> None:
    """Fails with what the pod's status and the nodes say, since a busy machine needs its time."""
    status: dict[str, Any] = {}
    for _ in range(120):
        status = json.loads(kubectl("get", "pod", name, "-o", "json"))["status"]
        conditions = status.get("conditions", [])
        if any(item["type"] == "Ready" and item["status"] == "True" for item in conditions):
            return
        time.sleep(1)
    pytest.fail(f"{name} is not Ready after 120 s: {status}\n{kubectl('get', 'nodes')}")


def delete_pod(name: str) -> None:
    kubectl("delete", "pod", name, "--grace-period=0", "--force", "--wait=true")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def context() -> str:
    return kubectl("config", "current-context").strip()


class Reports:
    """What a forward reports, and when the first report came."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.came = threading.Event()

    def __call__(self, message: str) -> None:
        self.messages.append(message)
        self.came.set()


Open = Callable[..., tuple[int, Reports]]


@pytest.fixture
def forward(run_id: str) -> Iterator[Open]:
    """Starts forwards to the pods of this run; returns the local port and the reports."""
    started: list[Forward] = []

    def start(test: str = "", access: ClusterAccess | None = None) -> tuple[int, Reports]:
        port, reports = free_port(), Reports()
        target = ForwardTarget(
            "postgres/shlink-db-primary", NAMESPACE, {"forward-test": test or run_id}, 5432
        )
        access = access or ClusterAccess(context(), KUBECONFIG)
        opened = Forward(access, target, port, "shlink:postgres", timeout=TIMEOUT, report=reports)
        opened.start()
        started.append(opened)
        return port, reports

    yield start
    for opened in started:
        opened.close()


@pytest.fixture(scope="module")
def run_id() -> str:
    return secrets.token_hex(4)


@pytest.fixture(scope="module")
def ready_pod(run_id: str) -> Iterator[None]:
    if not kubectl("get", "namespace", NAMESPACE, "--ignore-not-found"):
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        kubectl(
            "create",
            "-f",
            "-",
            manifest={
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": labels},
            },
        )
    create_pod(f"forward-{run_id}", run_id)
    yield
    kubectl(
        "delete",
        "pods,roles,rolebindings,serviceaccounts",
        "-l",
        f"forward-test in ({run_id}, {run_id}-other)",
        "--wait=false",
    )


@pytest.fixture(scope="module")
def server(ready_pod: None) -> Iterator[PostgresServer]:  # noqa: ARG001
    with postgres_server(int(os.environ.get("SHLINK_TEST_POSTGRES_PORT", "25432"))) as running:
        yield running


def ask(
    server: PostgresServer,
    port: int,
    query: str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
) -> Any:
    with psycopg.connect(server.dsn(port)) as connection:
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def test_fifty_connections_in_a_row(server: PostgresServer, forward: Open) -> None:
    port, reports = forward()
    assert all(ask(server, port) for _ in range(50))
    assert reports.messages == []


def test_twenty_connections_at_once(server: PostgresServer, forward: Open) -> None:
    port, reports = forward()
    meet = threading.Barrier(20)

    def one() -> int:
        with psycopg.connect(server.dsn(port)) as connection:
            meet.wait(20)
            row = connection.execute("SELECT pg_backend_pid()").fetchone()
            assert row is not None
            return row[0]

    with ThreadPoolExecutor(20) as pool:
        backends = [pool.submit(one) for _ in range(20)]
    assert len({backend.result() for backend in backends}) == 20
    assert reports.messages == []


def test_large_transfers_arrive_whole(server: PostgresServer, forward: Open) -> None:
    port, reports = forward()
    payload = os.urandom(8 * 2**20)
    with psycopg.connect(server.dsn(port)) as connection:
        row = connection.execute("SELECT %b::bytea", [payload], binary=True).fetchone()
    assert row is not None
    assert row[0] == payload
    assert reports.messages == []


def test_the_next_connection_finds_a_new_pod(
    server: PostgresServer, forward: Open, run_id: str
) -> None:
    test = f"{run_id}-other"
    create_pod(f"{test}-1", test)
    port, reports = forward(test)
    assert ask(server, port)
    delete_pod(f"{test}-1")
    create_pod(f"{test}-2", test)
    assert ask(server, port)
    delete_pod(f"{test}-2")
    assert reports.messages == []


def test_a_connection_waits_for_a_pod(server: PostgresServer, forward: Open, run_id: str) -> None:
    test = f"{run_id}-other"
    port, reports = forward(test)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, server, port)
        time.sleep(TIMEOUT / 4)
        create_pod(f"{test}-3", test)
        assert asked.result()
    delete_pod(f"{test}-3")
    assert reports.messages == []


def test_a_kubeconfig_by_its_contents(server: PostgresServer, forward: Open) -> None:
    port, reports = forward(
        access=ClusterAccess(
            "other", yaml.safe_dump(kubeconfig(token=admin_token(), context="other"))
        )
    )
    assert ask(server, port)
    assert reports.messages == []


def test_a_taken_port_is_refused_at_once(server: PostgresServer, forward: Open) -> None:
    port, _ = forward()
    target = ForwardTarget("postgres/shlink-db-primary", NAMESPACE, {}, 5432)
    with pytest.raises(
        ForwardError,
        match=rf"^postgres/shlink-db-primary: port {port} .*shlink:postgres\.localPort",
    ):
        Forward(ClusterAccess(context(), KUBECONFIG), target, port, "shlink:postgres").start()
    assert ask(server, port)


def refused(port: int, reports: Reports, seconds: float) -> str:
    """The one message, after it came in time and the local connections were closed."""
    begun = time.monotonic()
    with (
        socket.create_connection(("127.0.0.1", port)) as first,
        socket.create_connection(("127.0.0.1", port)) as second,
    ):
        for client in (first, second):
            client.settimeout(seconds + MARGIN)
            assert client.recv(1) == b""
        assert reports.came.wait(MARGIN)
        assert time.monotonic() - begun < seconds + MARGIN
    time.sleep(0.1)
    assert len(reports.messages) == 1, reports.messages
    message = reports.messages[0]
    assert message.startswith("postgres/shlink-db-primary can't be reached: ")
    assert message.endswith(
        ". Where a direct way exists, shlink:postgres.address takes it instead."
    )
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("ready_pod")
def test_no_pod(forward: Open) -> None:
    message = refused(*forward("nobody"), TIMEOUT)
    assert "there is no pod in namespace postgres with forward-test=nobody (2 s long)" in message
    assert (
        f"kubectl --kubeconfig {KUBECONFIG} --context {context()} "
        "-n postgres describe pods -l forward-test=nobody" in message
    )


@pytest.mark.usefixtures("ready_pod")
def test_a_pod_that_is_never_ready(forward: Open, run_id: str) -> None:
    name = f"{run_id}-other"
    create_pod(name, name, schedulable=False)
    message = refused(*forward(name), TIMEOUT)
    assert f"not Ready: {name} in namespace postgres (2 s long)" in message
    assert f"describe pods -l forward-test={name}" in message
    delete_pod(name)


@pytest.mark.usefixtures("ready_pod")
@pytest.mark.parametrize(
    ("rules", "cause", "check"),
    [
        ({}, "no permission to list pods in namespace postgres (403)", "auth can-i list pods"),
        (
            {"pods": "list"},
            "no permission to get and create pods/portforward in namespace postgres (403)",
            "--subresource=portforward",
        ),
        (
            {"pods": "list", "pods/portforward": "get"},
            "no permission to get and create pods/portforward",
            "--subresource=portforward",
        ),
    ],
    ids=["nothing", "list", "get only"],
)
def test_a_refused_permission_is_told_without_waiting(
    forward: Open, run_id: str, rules: dict[str, str], cause: str, check: str
) -> None:
    message = refused(*forward(access=limited_access(run_id, rules)), 0)
    assert cause in message
    assert check in message
    assert "get and create on pods/portforward" in message


def test_the_role_that_messages_ask_for_is_enough(
    server: PostgresServer, forward: Open, run_id: str
) -> None:
    port, reports = forward(
        access=limited_access(run_id, {"pods": "list", "pods/portforward": "get,create"})
    )
    assert ask(server, port)
    assert reports.messages == []


@pytest.mark.usefixtures("ready_pod")
def test_an_expired_login(forward: Open) -> None:
    message = refused(
        *forward(access=ClusterAccess("limited", json.dumps(kubeconfig(token="expired")))), 0
    )
    assert "the API server does not accept the login (401)" in message
    assert "kubectl --context limited -n postgres get pods" in message
    assert "expired" not in message.replace("it may have expired", "")


@pytest.mark.usefixtures("ready_pod")
def test_an_unreachable_api_server(forward: Open) -> None:
    config = kubeconfig(token="any")
    server = config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{free_port()}"
    message = refused(*forward(access=ClusterAccess("limited", json.dumps(config))), TIMEOUT)
    assert f"no connection to {server} (All connection attempts failed) (2 s long)" in message


@pytest.mark.usefixtures("ready_pod")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_api_server_that_never_answers(forward: Open) -> None:
    config = kubeconfig(token="any")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{silent.getsockname()[1]}"
        message = refused(*forward(access=ClusterAccess("limited", json.dumps(config))), TIMEOUT)
    gc.collect()  # httpx leaves the socket of an interrupted handshake to it
    assert "neither the login nor the API server of context 'limited' answers (2 s long)" in message


@pytest.mark.usefixtures("ready_pod")
def test_a_context_that_does_not_exist(forward: Open) -> None:
    message = refused(*forward(access=ClusterAccess("prod", KUBECONFIG)), 0)
    assert f"the kubeconfig has no context 'prod', only: {context()}" in message
    assert "kubernetes:context" in message


@pytest.mark.usefixtures("ready_pod")
@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (
            ["no-such-plugin"],
            "the kubeconfig needs the command no-such-plugin, which can't be run here",
        ),
        (
            ["sh", "-c", "echo s3cret >&2; exit 1"],
            "the kubeconfig's credential plugin sh failed (1)",
        ),
    ],
    ids=["missing", "failing"],
)
def test_a_credential_plugin_that_fails(forward: Open, command: list[str], cause: str) -> None:
    config = kubeconfig()
    plugin = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": command[0],
        "args": command[1:],
    }
    config["users"] = [{"name": "user", "user": {"exec": plugin}}]
    message = refused(*forward(access=ClusterAccess("limited", json.dumps(config))), 0)
    assert cause in message
    assert "s3cret" not in message


PROGRAM = """
import sys, psycopg
from components.cluster.access import ClusterAccess
from components.cluster.forward import Forward, ForwardTarget
contents, port, label, dsn = sys.argv[1:]
access = ClusterAccess("limited", contents)
target = ForwardTarget("s", "postgres", {"forward-test": label}, 5432)
Forward(access, target, int(port), "shlink:x").start()
connection = psycopg.connect(dsn)
print(connection.execute("SELECT 1").fetchone(), flush=True)
"""


def test_the_end_of_the_process_leaves_nothing(
    server: PostgresServer, run_id: str, tmp_path: Path
) -> None:
    port = free_port()
    contents = json.dumps(kubeconfig(token=admin_token()))
    done = subprocess.run(  # noqa: S603
        [
            sys.executable,
            "-c",
            textwrap.dedent(PROGRAM),
            contents,
            str(port),
            run_id,
            server.dsn(port),
        ],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "(1,)\n", "")
    assert list(tmp_path.iterdir()) == []
    socket.create_server(("127.0.0.1", port)).close()


def kubeconfig(token: str = "", context: str = "limited") -> dict[str, Any]:
    """A kubeconfig for the test cluster, self-contained."""
    cluster = json.loads(kubectl("config", "view", "--minify", "--raw", "--flatten", "-o", "json"))[
        "clusters"
    ][0]["cluster"]
    assert base64.b64decode(cluster["certificate-authority-data"])
    return {
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": context, "context": {"cluster": "cluster", "user": "user"}}],
    }


def limited_access(run_id: str, rules: dict[str, str]) -> ClusterAccess:
    """A ServiceAccount whose Role has these verbs by resource."""
    name = f"forward-{secrets.token_hex(4)}"
    kubectl("create", "serviceaccount", name)
    if rules:
        listed = [
            {"apiGroups": [""], "resources": [resource], "verbs": verbs.split(",")}
            for resource, verbs in rules.items()
        ]
        kubectl(
            "create",
            "-f",
            "-",
            manifest={
                "apiVersion": "rbac.authorization.k8s.io/v1",
                "kind": "Role",
                "metadata": {"name": name},
                "rules": listed,
            },
        )
        kubectl(
            "create", "rolebinding", name, f"--role={name}", f"--serviceaccount={NAMESPACE}:{name}"
        )
    kubectl("label", "serviceaccount", name, f"forward-test={run_id}")
    if rules:
        kubectl("label", "role,rolebinding", name, f"forward-test={run_id}")
    return ClusterAccess(
        "limited", json.dumps(kubeconfig(token=kubectl("create", "token", name).strip()))
    )


def admin_token() -> str:
    return json.loads(kubectl("config", "view", "--minify", "--raw", "-o", "json"))["users"][0][
        "user"
    ]["token"]

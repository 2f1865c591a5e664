"""The smoke test against a server that behaves as Shlink's REST API does, and as it should not."""

import asyncio
import base64
import contextlib
import dataclasses
import json
import shlex
import socket
import subprocess
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock

import httpx
import pytest

from components.cluster.access import ClusterAccess
from offline.record import ROOT
from operate import __main__ as command
from operate import smoke as module
from operate.declared import Declared, declared
from operate.smoke import (
    Place,
    Smoke,
    SmokeError,
    Step,
    api_key,
    from_outside,
    resolution,
    untracked,
)

KEY = "pTheFirstKey"
BASE = "/s"


class FakeShlink(BaseHTTPRequestHandler):
    """Shlink's REST API as far as the smoke test uses it; each fault is one name in `faults`."""

    faults: frozenset[str]
    urls: dict[str, str]
    visits: dict[str, int]
    orphans: list[str]
    hosts: set[str]
    sent: dict[str, Any]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def answer(self, status: int, body: Any = None, **headers: str) -> None:
        self.send_response(status)
        content = b"" if body is None else json.dumps(body).encode()
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def problem(self, status: int, detail: str) -> None:
        self.answer(status, {"status": status, "detail": detail})

    def allowed(self) -> bool:
        if "disabled key" in self.faults or self.headers.get("X-Api-Key") != KEY:
            if "open" in self.faults:
                return True
            self.problem(401, "Provided API key does not exist or is invalid.")
            return False
        return True

    def do_GET(self) -> None:
        self.hosts.add(str(self.headers.get("Host")))
        path = self.path.removeprefix(BASE)
        if path == "/rest/health":
            if "unhealthy" in self.faults:
                self.answer(503, {"status": "fail"})
            else:
                self.answer(200, {"status": "pass", "version": "4.6.0"})
        elif path.startswith("/rest/"):
            if self.allowed():
                self.read(path.partition("?")[0])
        else:
            self.visit(path.removeprefix("/"))

    def read(self, path: str) -> None:
        parts = path.split("/")
        if path == "/rest/v3/visits/orphan":
            data = [{"visitedUrl": f"https://s.example.com/{code}"} for code in self.orphans]
        elif parts[-1] == "visits":
            data = [{"userAgent": "x"}] * self.visits.get(parts[-2], 0)
        else:
            data = []
        self.answer(200, {"visits": {"data": data, "pagination": {}}})

    def visit(self, code: str) -> None:
        if code not in self.urls:
            if "no orphans" not in self.faults:
                self.orphans.append(code)
            self.answer(404)
            return
        if "uncounted" not in self.faults:
            self.visits[code] = self.visits.get(code, 0) + 1
        location = "https://example.org/elsewhere" if "astray" in self.faults else self.urls[code]
        self.answer(302, Location=location)

    def do_POST(self) -> None:
        if not self.allowed():
            return
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "no database" in self.faults:
            self.problem(500, "An unknown error occurred")
            return
        slug = body["customSlug"]
        if slug in self.urls:
            if "empty hash" in self.faults:
                self.problem(400, f'Provided slug "{slug}" is already in use')
            else:
                self.answer(200, {"shortCode": "another" if "another" in self.faults else slug})
            return
        assert body["findIfExists"], "the first creation is what fills the hash"
        self.sent.update(body)
        self.urls[slug] = body["longUrl"]
        if "lost answer" in self.faults:
            self.close_connection = True
            return
        self.answer(200, {"shortCode": body["customSlug"]})

    def do_DELETE(self) -> None:
        if "undeletable" in self.faults:
            self.problem(422, "Impossible to delete")
            return
        known = self.urls.pop(self.path.rpartition("/")[2], None)
        self.answer(204 if known else 404)


Server = type[FakeShlink]


@contextlib.contextmanager
def shlink(*faults: str) -> Generator[tuple[Place, Server]]:
    state: dict[str, Any] = {
        "urls": {},
        "visits": {},
        "orphans": [],
        "hosts": set[str](),
        "sent": {},
    }
    handler: Server = type("OneFakeShlink", (FakeShlink,), {"faults": frozenset(faults), **state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield Place(f"http://127.0.0.1:{server.server_port}{BASE}", "s.example.com"), handler
        server.shutdown()
        thread.join()


def run(place: Place, key: str = KEY, **options: Any) -> list[Step]:
    return Smoke(place, key, start_seconds=0, visit_seconds=0, **options).run()


def test_a_working_shlink_passes_and_keeps_nothing() -> None:
    with shlink() as (place, server):
        steps = run(place)
    assert [step.name for step in steps if step.ok] == [
        "health",
        "a wrong API key is refused",
        "create a short URL",
        "it is found by its long URL",
        "follow it",
        "its visit is counted",
        "an unknown short URL is an orphan visit",
        "delete the short URL",
    ]
    assert server.urls == {}
    assert server.hosts == {"s.example.com"}


FAULTS = [
    ("unhealthy", "health", "/rest/health: status 503"),
    ("open", "a wrong API key is refused", "a wrong key should be refused with 401"),
    ("disabled key", "create a short URL", "Shlink refuses the API key of its Secret"),
    ("no database", "create a short URL", "status 500, An unknown error occurred"),
    ("lost answer", "create a short URL", "no answer: "),
    ("empty hash", "it is found by its long URL", "finds no URL that was just created: status 400"),
    ("another", "it is found by its long URL", "docs/upgrades.md#shlink"),
    ("astray", "follow it", "but: 302 https://example.org/elsewhere"),
    ("uncounted", "its visit is counted", "its one visit is not counted, 0 s long"),
    ("no orphans", "an unknown short URL is an orphan visit", "the orphan visit is not counted"),
    ("undeletable", "delete the short URL", "stays until 1:00:00 after its creation: status 422"),
]


@pytest.mark.parametrize(("fault", "name", "text"), FAULTS, ids=[fault for fault, _, _ in FAULTS])
def test_each_fault_is_told_by_its_step(fault: str, name: str, text: str) -> None:
    with shlink(fault) as (place, _):
        failed = [step for step in run(place) if not step.ok]
    assert [step.name for step in failed] == [name]
    assert text in failed[0].fault
    assert KEY not in failed[0].fault


@pytest.mark.parametrize("fault", ["lost answer", "empty hash", "astray", "no orphans"])
def test_nothing_stays_when_it_fails_half_way(fault: str) -> None:
    with shlink(fault) as (place, server):
        steps = run(place)
    assert steps[-1].name == "delete the short URL"
    assert steps[-1].ok
    assert server.urls == {}


def test_nothing_is_deleted_when_nothing_was_created() -> None:
    with shlink("unhealthy") as (place, _):
        assert [step.name for step in run(place)] == ["health"]


def test_a_short_url_that_can_not_be_deleted_ends_by_itself() -> None:
    with shlink("undeletable") as (place, server):
        run(place)
    until = datetime.fromisoformat(server.sent["validUntil"])
    assert timedelta(0) < until - datetime.now(tz=UTC) <= timedelta(hours=1)


def test_visits_that_are_not_tracked_are_not_asked_for() -> None:
    with shlink("uncounted", "no orphans") as (place, _):
        steps = run(place, untracked="DISABLE_TRACKING is set")
    assert all(step.ok for step in steps)
    assert [step.name for step in steps if step.skipped] == [
        "its visit is counted",
        "an unknown short URL is an orphan visit",
    ]


# Proxies and names


def test_no_proxy_is_sent_the_api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The near end of a forward is this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with shlink() as (place, _):
        assert all(step.ok for step in run(place))


def addresses(*known: str) -> Callable[..., Any]:
    """What the resolver of this machine answers."""

    def resolve(*_: Any, **__: Any) -> list[Any]:
        if not known:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in known]

    return resolve


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (("198.51.100.9", "198.51.100.9"), "s.example.com resolves to 198.51.100.9"),
        ((), "s.example.com has no address here (Name or service not known)"),
    ],
)
def test_outside_tells_where_the_name_leads(
    known: tuple[str, ...], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", addresses(*known))
    answer = httpx.Response(404, request=httpx.Request("GET", "https://s.example.com"))
    with mock.patch.object(httpx.HTTPTransport, "handle_request", return_value=answer):
        (step,) = run(Place("https://s.example.com", "s.example.com"))
    assert step.fault == f"/rest/health: status 404; {text}, 0 s long"


def test_a_proxy_that_resolves_the_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hunter2@proxy:3128")
    assert resolution("https://s.example.com") == (
        "the proxy http://proxy:3128 resolves s.example.com"
    )


# Where it is, and the key


@cache
def stack() -> Declared:
    return declared("dev")


class Cluster(ClusterAccess):
    """An API server that knows one answer."""

    status = 200
    body: Any = None

    async def client(self) -> Any:
        return _Api(type(self))


class _Api:
    _session = None

    def __init__(self, cluster: type[Cluster]) -> None:
        self._cluster = cluster

    @contextlib.asynccontextmanager
    async def call_api(
        self, method: str, *, namespace: str, url: str, raise_for_status: bool, **_: Any
    ) -> AsyncGenerator[httpx.Response]:
        assert (method, namespace, url) == ("GET", "shlink", "secrets/shlink-api-key")
        assert not raise_for_status
        data = {"api-key": base64.b64encode(KEY.encode()).decode()}
        body = {"data": data} if self._cluster.body is None else self._cluster.body
        yield httpx.Response(self._cluster.status, json=body)


def cluster(status: int = 200, body: Any = None) -> ClusterAccess:
    answer = {"status": status} | ({"body": body} if body is not None else {})
    return type("OneCluster", (Cluster,), answer)("lab")


def test_the_key_comes_from_where_the_outputs_say() -> None:
    assert asyncio.run(api_key(stack(), cluster())) == KEY


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (403, None, "no right to read Secret shlink/shlink-api-key: deploy/rbac/smoke.yaml"),
        (404, None, "Secret shlink/shlink-api-key can't be read (404); see: make doctor STACK=dev"),
        (200, {"data": {}}, "Secret shlink/shlink-api-key has no usable key api-key"),
        (200, {"data": {"api-key": "%%"}}, "has no usable key api-key"),
    ],
)
def test_a_key_that_can_not_be_read_is_one_line(status: int, body: Any, text: str) -> None:
    with pytest.raises(SmokeError) as error:
        asyncio.run(api_key(stack(), cluster(status, body)))
    assert text in str(error.value)


def test_the_forward_leads_to_the_pods_of_the_service() -> None:
    target = vars(module)["_target"](stack())
    assert (target.service, target.namespace, target.port) == ("shlink/shlink", "shlink", 8080)
    assert target.pod_labels == {"app.kubernetes.io/name": "shlink"}


def test_outside_is_the_address_of_short_urls() -> None:
    assert from_outside(stack()) == Place("http://localhost:8080", "localhost:8080")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, ""),
        ({"DISABLE_TRACKING": "true"}, "DISABLE_TRACKING is set"),
        ({"TRACK_ORPHAN_VISITS": "false"}, "TRACK_ORPHAN_VISITS is false"),
    ],
)
def test_why_visits_are_not_counted(environment: dict[str, str], reason: str) -> None:
    known = stack()
    app = known.settings.shlink.model_copy(update={"environment": environment})
    settings = known.settings.model_copy(update={"shlink": app})
    assert untracked(dataclasses.replace(known, settings=settings)) == reason


# The command


@pytest.mark.parametrize(("fault", "code"), [("", 0), ("astray", 1)])
def test_the_command_tells_each_step(
    fault: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with shlink(fault) as (place, _):

        def answer(*_: Any, tell: Callable[[Step], object], **__: Any) -> list[Step]:
            return Smoke(place, KEY, start_seconds=0, visit_seconds=0).run(tell)

        monkeypatch.setattr(command, "smoke", answer)
        assert command.main(["smoke", "dev"]) == code
    printed = capsys.readouterr().out
    assert "ok   create a short URL (" in printed
    assert ("FAIL follow it" in printed) == bool(fault)
    assert ("make doctor STACK=dev" in printed) == bool(fault)
    assert fault or "Shlink works: http://localhost:8080 (localhost resolves to " in printed


def test_a_failure_from_outside_sends_nobody_to_doctor(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Doctor can't know where the name should lead."""

    def answer(*_: Any, **__: Any) -> list[Step]:
        return [Step("health", 1, fault="status 404")]

    monkeypatch.setattr(command, "smoke", answer)
    monkeypatch.setattr("socket.getaddrinfo", addresses("198.51.100.9"))
    assert command.main(["smoke", "dev", "--outside"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "localhost resolves to 198.51.100.9. If `make smoke STACK=dev` works" in printed
    assert "doctor" not in printed


def test_the_command_prints_one_json_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with shlink() as (place, _):

        def answer(*_: Any, tell: Callable[[Step], object], **__: Any) -> list[Step]:
            return Smoke(place, KEY).run(tell)

        monkeypatch.setattr(command, "smoke", answer)
        assert command.main(["smoke", "dev", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert len(document["steps"]) == 8
    assert KEY not in json.dumps(document)


def test_an_environment_that_can_not_be_reached_is_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(*_: Any, **__: Any) -> list[Step]:
        raise SmokeError("the cluster of context lab can't be reached")

    monkeypatch.setattr(command, "smoke", answer)
    assert command.main(["smoke", "dev"]) == 2
    assert capsys.readouterr().err == "error: the cluster of context lab can't be reached\n"


def test_up_ends_with_the_command_of_the_smoke_test() -> None:
    """Make only prints what it would do; the stack's name is one word for the shell."""
    words = ["make", "--no-print-directory", "-n", "up", "STACK=a b"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
    last = done.stdout.splitlines()[-1]
    assert shlex.split(last) == ["echo", "To see that it works: make smoke doctor STACK=a b"]

"""`make import-links` and `make export-links`: a Job that leaves nothing, and a file to go with."""

import argparse
import asyncio
import base64
import contextlib
import csv
import dataclasses
import gzip
import io
import json
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from components.cluster.access import ClusterAccess
from components.settings.environment import parse
from components.settings.platform import Proxy
from operate import import_links
from operate.declared import Declared, of_recording
from operate.export_links import COLUMNS, write
from operate.import_links import NAME, Importing, ImportLinksError, plan, way_to
from operate.smoke import Place, SmokeError
from tests import configurations

KEY = "key-of-the-old-shlink"
CSV = "Short code,Long URL\nabc,https://example.org/\n"


def stack() -> Declared:
    return of_recording(
        configurations.recording("defaults"), *parse(configurations.configuration("defaults"))
    )


def planned(*words: str) -> import_links.Plan:
    parser = argparse.ArgumentParser()
    import_links.add_options(parser)
    addresses = [(0, 0, 0, "", ("198.51.100.7", 0))]
    with mock.patch("socket.getaddrinfo", return_value=addresses):
        return plan(stack(), parser.parse_args(words))


@pytest.fixture
def links(tmp_path: Path) -> str:
    file = tmp_path / "links.csv"
    file.write_text(CSV)
    return str(file)


def variables(job: Mapping[str, Any]) -> dict[str, Any]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value") for entry in container["env"]}


def test_the_pod_has_the_migrations_rights_and_limits_of_its_own(links: str) -> None:
    job = planned("csv", links, "--hours", "2").job
    migration = stack().named("Job", "shlink-migration")
    assert migration is not None
    pod, own = job["spec"]["template"], migration["spec"]["template"]
    assert own["metadata"]["labels"].items() < pod["metadata"]["labels"].items()
    assert pod["spec"]["securityContext"] == own["spec"]["securityContext"]
    assert job["spec"]["activeDeadlineSeconds"] == 7200
    assert job["spec"]["ttlSecondsAfterFinished"], "a killed command's Job goes by itself"
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert variables(job)["DEFAULT_DOMAIN"] == "localhost:8080"
    assert "API_KEY" not in variables(job), "it makes no key"
    (before,) = own["spec"]["containers"]
    assert before["name"] == "migration", "the declared Job is not touched"


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["https://old.example.org"], {"ports": [443], "cidr": "198.51.100.7/32"}),
        (["http://old.example.org:8080"], {"ports": [8080], "cidr": "198.51.100.7/32"}),
        (
            ["https://old.example.org", "--cidr", "10.1.0.0/16"],
            {"ports": [443], "cidr": "10.1.0.0/16"},
        ),
    ],
)
def test_the_only_way_out_is_to_the_source(words: Sequence[str], rule: Any) -> None:
    (egress,) = planned("shlink", *words).egress
    assert [port["port"] for port in egress["ports"]] == rule["ports"]
    assert egress["to"] == [{"ipBlock": {"cidr": rule["cidr"]}}]


def test_a_source_in_the_cluster_is_reached_by_its_pods() -> None:
    """A policy sees no Service's address, and on Cilium no network holds a pod."""
    (egress,) = planned("shlink", "http://shlink.old.svc:8080").egress
    labels = egress["to"][0]["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": "old"}


def test_a_csv_needs_no_way_out(links: str) -> None:
    assert planned("csv", links).egress == []


@pytest.mark.parametrize(
    ("place", "peer"),
    [
        ({"cidrs": ["198.51.100.9/32"]}, {"ipBlock": {"cidr": "198.51.100.9/32"}}),
        (
            {"namespace": "egress", "labels": {"app": "squid"}},
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "egress"}},
                "podSelector": {"matchLabels": {"app": "squid"}},
            },
        ),
    ],
)
def test_a_proxy_is_the_way_where_there_is_one(place: Any, peer: Any) -> None:
    environment = stack()
    proxy = Proxy.model_validate({"url": "http://proxy.example.org:3128", **place})
    network = environment.settings.network.model_copy(update={"proxy": proxy})
    settings = environment.settings.model_copy(update={"network": network})
    environment = dataclasses.replace(environment, settings=settings)
    (egress,), values = way_to(environment, "https://api-ssl.bitly.com", [])
    assert values["HTTPS_PROXY"] == proxy.url
    assert egress == {"to": [peer], "ports": [{"protocol": "TCP", "port": 3128}]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shlink", "old.example.org"], "an address such as https://"),
        (["shlink", "https://user:word@old.example.org"], "an address such as https://"),
        (["shlink", "https://a.example.org", "--answer", "tags=yes"], "import_visits"),
        (["shlink", "https://a.example.org", "--answer", "import_visits=2"], "yes or no"),
        (["csv", "/nowhere.csv"], "can't be read"),
    ],
)
def test_what_can_not_work_is_refused_before_anything_is_touched(
    words: Sequence[str], message: str
) -> None:
    with pytest.raises(ImportLinksError, match=message):
        planned(*words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has: nothing"),
        ("Link,Code\na,b\n", "it has: Link, Code"),
        ("Short code,Long URL\na,https://a,b\n", "record 2 has 3 values for 2 columns"),
    ],
)
def test_a_file_that_is_no_list_of_links_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "links.csv"
    file.write_text(text)
    with pytest.raises(ImportLinksError, match=message):
        planned("csv", str(file))


def test_a_large_file_comes_in_pieces_that_a_secret_can_hold(tmp_path: Path) -> None:
    file = tmp_path / "links.csv"
    file.write_text(
        "\ufeffShort code;Long URL\n" + "".join(f"c{n};https://a/{n}\n" for n in range(9000))
    )
    with mock.patch.object(import_links, "PIECE_BYTES", 10_000):
        task = planned("csv", str(file))
    assert len(task.parts) > 1
    secrets = [item for item in task.needs() if item["metadata"]["name"] != NAME][1:]
    pieces = [item for item in task.needs() if item["metadata"]["name"].startswith(f"{NAME}-")]
    assert secrets == pieces[1:]
    keys = [key for item in pieces for key in item["data"]]
    assert keys == sorted(keys)
    content = b"".join(
        base64.b64decode(item["data"][key]) for item, key in zip(pieces, keys, strict=True)
    )
    rows = list(csv.reader(io.StringIO(gzip.decompress(content).decode())))
    assert rows[0] == ["Short code", "Long URL"]
    assert rows[-1] == ["c8999", "https://a/8999"]
    volume = task.job["spec"]["template"]["spec"]["volumes"][-1]
    mounted = [source["secret"]["name"] for source in volume["projected"]["sources"]]
    assert mounted == [item["metadata"]["name"] for item in pieces]


class Server:
    """An API server with a Job that ends after some looks, and a garbage collector."""

    def __init__(self, log: str = "links: 1 read\n", end: str = "Complete", looks: int = 2) -> None:
        self.objects: dict[str, Any] = {}
        self.created: list[Any] = []
        self.refuse = ""
        self._log, self._end, self._looks = log, end, looks

    @contextlib.asynccontextmanager
    async def call_api(self, method: str, *, url: str, **call: Any) -> AsyncGenerator[Any]:
        yield self._answer(method, url, call)

    def _answer(self, method: str, url: str, call: Mapping[str, Any]) -> httpx.Response:
        if method == "POST":
            return self._create(url, call["json"])
        if method == "DELETE":
            assert call["params"] == {"propagationPolicy": "Foreground"}
            for place, item in list(self.objects.items()):
                owners = item["metadata"].get("ownerReferences", [])
                if place == url or [owner["uid"] for owner in owners] == ["uid-1"]:
                    del self.objects[place]
            return httpx.Response(200)
        if url == "pods/p/log" and self._log:
            return httpx.Response(200, text=self._log)
        body = self._read(url)
        return httpx.Response(404) if body is None else httpx.Response(200, json=body)

    def _create(self, url: str, body: Any) -> httpx.Response:
        place = f"{url}/{body['metadata']['name']}"
        if url == self.refuse:
            return httpx.Response(403, text=json.dumps(body))
        if place in self.objects:
            return httpx.Response(409)
        self.created.append(body)
        self.objects[place] = body
        return httpx.Response(201, json={"metadata": {"uid": "uid-1"}})

    def _read(self, url: str) -> Any:
        if url == "namespaces":
            mark = {"shlink.io/environment": "shlink/dev/1"}
            names = ("kube-system", "shlink")
            return {
                "items": [
                    {"metadata": {"name": name, "uid": name, "annotations": mark}} for name in names
                ]
            }
        if url == "pods":
            state = {"terminated": {"reason": "OOMKilled"}}
            status = {"phase": "Running", "containerStatuses": [{"state": state}]}
            return {"items": [{"metadata": {"name": "p"}, "status": status}]}
        if url == f"jobs/{NAME}" and url in self.objects:
            self._looks -= 1
            ended = {"type": self._end, "status": "True", "reason": "BackoffLimitExceeded"}
            return {"status": {"conditions": [ended] if self._looks < 0 else []}}
        return None


def imported(server: Server, *words: str, answers: str = f"{KEY}\n") -> tuple[Importing, list[str]]:
    class Access(ClusterAccess):
        async def client(self) -> Any:
            server.__dict__.setdefault("_session", None)
            return server

    told: list[str] = []
    run = Importing(Access("lab"), told.append)
    task = planned(*(words or ("shlink", "https://old.example.org")))
    with (
        mock.patch("sys.stdin", io.StringIO(answers)),
        mock.patch.object(import_links, "INTERVAL", 0),
    ):
        asyncio.run(run.run(task.job, task.needs()))
    return run, told


def test_everything_that_was_made_is_gone_at_the_end() -> None:
    server = Server()
    run, told = imported(server)
    assert run.complete
    assert server.objects == {}
    assert told.count("links: 1 read") == 1, "each line of the log is shown once"
    assert {
        item["metadata"]["annotations"]["shlink.io/environment"] for item in server.created
    } == {"shlink/dev/1"}


def test_the_credential_is_in_one_secret_which_the_job_owns() -> None:
    server = Server()
    _, told = imported(server)
    job, *others = server.created
    assert KEY not in json.dumps(job) + "".join(told)
    holders = [item for item in others if KEY in str(item) or "data" in item]
    (secret,) = holders
    assert secret is others[-1], "without it the pod does not start before its policy is there"
    assert json.loads(base64.b64decode(secret["data"]["request"]))["answers"]["api_key"] == KEY
    for item in others:
        (owner,) = item["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["blockOwnerDeletion"]) == ("Job", "uid-1", True)


def test_the_policy_is_for_the_jobs_pods_alone() -> None:
    server = Server()
    imported(server)
    job, policy, *_ = server.created
    labels = policy["spec"]["podSelector"]["matchLabels"]
    assert labels == job["spec"]["template"]["metadata"]["labels"]
    migration = stack().named("Job", "shlink-migration")
    assert migration is not None
    assert not labels.items() <= migration["spec"]["template"]["metadata"]["labels"].items()


def test_a_refusal_leaves_nothing_and_repeats_no_secret() -> None:
    server = Server()
    server.refuse = "secrets"
    with pytest.raises(ImportLinksError, match="403 to the creation of Secret") as error:
        imported(server)
    assert KEY not in str(error.value)
    assert server.objects == {}


def test_an_import_that_goes_on_is_left_alone() -> None:
    server = Server()
    server.objects[f"jobs/{NAME}"] = {"metadata": {}}
    with pytest.raises(ImportLinksError, match="an import goes on, or was killed"):
        imported(server)
    assert list(server.objects) == [f"jobs/{NAME}"]


def test_a_job_that_dies_without_a_word_says_how() -> None:
    run, told = imported(Server(log="", end="Failed"))
    assert not run.complete
    assert "the Job failed: BackoffLimitExceeded OOMKilled" in told


def test_without_a_credential_nothing_begins() -> None:
    server = Server()
    with pytest.raises(ImportLinksError, match="api_key is expected as a line of standard input"):
        imported(server, answers="")
    assert server.created == []


class FakeShlink(BaseHTTPRequestHandler):
    """Lists links in pages."""

    links: ClassVar[list[dict[str, Any]]] = []

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name in the base
        """Nothing: the test asserts on the file."""

    def do_GET(self) -> None:
        if self.headers["X-Api-Key"] != KEY:
            self.send_response(401)
            self.end_headers()
            return
        query = parse_qs(urlsplit(self.path).query)
        page, size = int(query["page"][0]), int(query["itemsPerPage"][0])
        assert query["orderBy"] == ["dateCreated-ASC"]
        pages = -(-len(self.links) // size)
        data = self.links[(page - 1) * size : page * size]
        body = {"shortUrls": {"data": data, "pagination": {"pagesCount": pages}}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())


def link(number: int, **more: Any) -> dict[str, Any]:
    return {
        "shortCode": f"c{number}",
        "domain": None,
        "longUrl": f"https://example.org/{number}",
        "title": 'A, "B"',
        "tags": ["a", "b"],
        "dateCreated": "2024-01-01T00:00:00+00:00",
        "meta": {"validSince": None, "validUntil": "2030-01-01T00:00:00+00:00", "maxVisits": 5},
        "crawlable": False,
        "forwardQuery": True,
        "visitsSummary": {"total": 7},
        "hasRedirectRules": False,
        **more,
    }


@pytest.fixture
def shlink() -> Iterator[Place]:
    FakeShlink.links = [link(number) for number in range(1201)]
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeShlink) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield Place(f"http://127.0.0.1:{server.server_port}", "s.example.com")
        server.shutdown()
        thread.join()


def test_all_links_are_exported_and_the_import_takes_the_file(
    shlink: Place, tmp_path: Path
) -> None:
    file = tmp_path / "links.csv"
    write(shlink, KEY, file, lambda _: None)
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert [row["Short code"] for row in rows] == [f"c{number}" for number in range(1201)]
    assert list(rows[0]) == list(COLUMNS)
    assert rows[0] | {"Visits": "7", "Tags": "a|b", "Max visits": "5", "Title": 'A, "B"'} == rows[0]
    assert rows[0]["Domain"] == "", "the default domain"
    assert planned("csv", str(file)).parts


def test_no_proxy_is_sent_the_api_key(
    shlink: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The near end of a forward is this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    FakeShlink.links = [link(1)]
    write(shlink, KEY, tmp_path / "links.csv", lambda _: None)
    assert (tmp_path / "links.csv").exists()


def test_what_the_file_can_not_hold_is_told(shlink: Place, tmp_path: Path) -> None:
    FakeShlink.links = [link(1, hasRedirectRules=True), link(2, tags=["a,b"]), link(3)]
    told: list[str] = []
    write(shlink, KEY, tmp_path / "links.csv", told.append)
    assert told[-1].startswith("of 2 the file holds not all")


def test_an_export_that_fails_leaves_no_file(shlink: Place, tmp_path: Path) -> None:
    with pytest.raises(SmokeError, match="401"):
        write(shlink, "another key", tmp_path / "links.csv", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_an_export_takes_no_file_away(shlink: Place, tmp_path: Path) -> None:
    file = tmp_path / "links.csv"
    file.write_text("kept")
    with pytest.raises(SmokeError, match="exists"):
        write(shlink, KEY, file, lambda _: None)
    assert file.read_text() == "kept"

"""`make import-links`: brings the links of a CSV, another Shlink, Bitly, YOURLS or Kutt along.

Shlink's own importer does it, in a Job beside the servers with limits and a way to the source of
its own. The Job owns the policy and the Secrets, so all of them go with it: at the end, when
interrupted, and if this command was killed, ten minutes after the Job's end. What has come stays,
and is not imported twice. It needs deploy/rbac/import-links.yaml.
"""

import argparse
import asyncio
import base64
import contextlib
import copy
import csv
import getpass
import gzip
import io
import ipaddress
import json
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pulumi

from components import scripts
from components.cluster.access import AnswerError, ClusterAccess, answer, pods, read
from components.cluster.polling import poll
from components.network.flows import MIGRATION, SHLINK
from components.program import identity

from .declared import Declared
from .view import Object, at, listed, plural

NAME = "shlink-import"
"""Of the Job, the policy and the Secret with the request."""

LABELS = {**MIGRATION.labels, "shlink.io/task": NAME}
"""As the migration's pods, which may reach PostgreSQL and nothing else."""

PIECE_BYTES = 900_000
"""Of a CSV in one Secret, which holds 1 MiB."""

_MEMORY = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}}

_FOLDER = "/import"

INTERVAL = 3.0
"""Seconds between two looks at the Job."""

_TOO_LONG = "DeadlineExceeded"

_REMOVAL_SECONDS = 120.0

Egress = list[dict[str, Any]]


class ImportLinksError(pulumi.RunError):
    """Links could not be imported; the message says why."""


@dataclass(frozen=True)
class Source:
    """What Shlink's importer asks of a source, by its own names (its *ParamsConsoleHelper)."""

    answers: Mapping[str, bool | str | None] = field(default_factory=dict[str, "bool | str | None"])
    """Their defaults."""
    credential: str = ""
    """The answer that is secret."""
    url: str | None = None
    """Where it is, if everybody's is there."""


SOURCES = {
    "csv": Source(),
    "shlink": Source({"import_visits": True, "import_orphan_visits": True}, "api_key"),
    "bitly": Source(
        {
            "import_short_codes": True,
            "import_tags": True,
            "import_custom_domains": False,
            "keep_creation_date": True,
            "ignore_archived": False,
            "continue_token": None,
        },
        "access_token",
        "https://api-ssl.bitly.com",
    ),
    "yourls": Source({"username": "", "import_visits": True, "domain": None}, "password"),
    "kutt": Source({"import_all_urls": False}, "api_key"),
}


def answered(source: Source, given: Sequence[str]) -> dict[str, Any]:
    """The answers, those of the command line (`name=value`) first. Raises ImportLinksError."""
    answers = dict(source.answers)
    for text in given:
        name, _, value = text.partition("=")
        if name not in answers:
            known = ", ".join(answers) or "none"
            raise ImportLinksError(
                f"--answer {name}: this source has no such question, but: {known}"
            )
        answers[name] = value
        if isinstance(source.answers[name], bool):
            if value not in ("yes", "no"):
                raise ImportLinksError(f"--answer {name}={value}: yes or no")
            answers[name] = value == "yes"
    return answers


def pieces(file: Path) -> list[bytes]:
    """A CSV file with commas, gzipped, cut so that each piece fits a Secret.

    Raises ImportLinksError: it is no such file, or lacks a column or a value.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ImportLinksError(f"{file} can't be read as UTF-8: {error}") from None
    first = text.partition("\n")[0]
    delimiter = ","
    if ";" in first and "," not in first:
        delimiter = ";"
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if row]
    header = [name.lower().replace(" ", "") for name in rows[0]] if rows else []
    if "longurl" not in header or not {"shortcode", "shorturl"} & set(header):
        raise ImportLinksError(
            f"{file} needs a first line with the columns Long URL, and Short code or Short URL; "
            f"it has: {', '.join(rows[0] if rows else []) or 'nothing'}"
        )
    for number, row in enumerate(rows, start=1):
        if len(row) != len(header):
            raise ImportLinksError(
                f"{file}: record {number} has {len(row)} values for {len(header)} columns"
            )
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    packed = gzip.compress(out.getvalue().encode(), mtime=0)
    return [packed[at : at + PIECE_BYTES] for at in range(0, len(packed), PIECE_BYTES)]


def way_to(environment: Declared, url: str, cidrs: Sequence[str]) -> tuple[Egress, dict[str, str]]:
    """The only way out, and the variables for a proxy if it is one. Raises ImportLinksError.

    `cidrs`: where the source is, if its name leads elsewhere in the cluster than on this machine.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.query:
        raise ImportLinksError(f"{url}: an address such as https://links.example.org is needed")
    words = host.split(".")
    if words[2:3] == ["svc"]:
        # A policy sees its pods, whose ports are not the Service's.
        return [{"to": [_namespace_peer(words[1])]}], {}
    proxy = environment.settings.network.proxy
    port = parts.port or (443 if parts.scheme == "https" else 80)
    variables: dict[str, str] = {}
    if proxy is not None and not cidrs:
        port, cidrs, variables = proxy.port, proxy.cidrs, proxy.variables()
        if proxy.namespace is not None:
            peer = _namespace_peer(proxy.namespace)
            if proxy.labels:
                peer["podSelector"] = {"matchLabels": proxy.labels}
            return [{"to": [peer], "ports": _tcp(proxy.pod_ports or [port])}], variables
    blocks = [{"ipBlock": {"cidr": cidr}} for cidr in cidrs or _addresses(host)]
    return [{"to": blocks, "ports": _tcp([port])}], variables


def _addresses(host: str) -> list[str]:
    try:
        known = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ImportLinksError(
            f"{host} has no address on this machine ({error}). If it has in the cluster, name its "
            "network: --cidr"
        ) from None
    addresses = {ipaddress.ip_address(entry[4][0]) for entry in known}
    return sorted(f"{address}/{address.max_prefixlen}" for address in addresses)


def _namespace_peer(namespace: str) -> dict[str, Any]:
    labels = {"kubernetes.io/metadata.name": namespace}
    return {"namespaceSelector": {"matchLabels": labels}}


def _tcp(ports: Sequence[int]) -> list[dict[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def job(
    environment: Declared, number: int, variables: Mapping[str, str], hours: float
) -> dict[str, Any]:
    """The Job: the migration's pod with another command. `number`: of the CSV's pieces."""
    migration = environment.named("Job", MIGRATION.name)
    if migration is None:
        raise ImportLinksError(f"this stack declares no Job {MIGRATION.name} to take the pod from")
    pod = copy.deepcopy(cast("dict[str, Any]", migration["spec"]["template"]["spec"]))
    (container,) = pod["containers"]
    plain = {
        **variables,
        # Links of this domain are stored without one.
        "DEFAULT_DOMAIN": urlsplit(environment.outputs.external_url).netloc,
        "MEMORY_LIMIT": "448M",
    }
    request = {"secretKeyRef": {"name": NAME, "key": "request"}}
    container["name"] = "import"
    container["command"] = ["php", "-r", scripts.read("shlink_import.php")]
    container["resources"] = _MEMORY
    container["env"] = [
        *(entry for entry in container["env"] if not entry["name"].startswith("API_KEY")),
        *({"name": name, "value": value} for name, value in plain.items()),
        {"name": "IMPORT", "valueFrom": request},
    ]
    container["volumeMounts"].append({"name": "links", "mountPath": _FOLDER, "readOnly": True})
    files = [{"secret": {"name": f"{NAME}-{piece}"}} for piece in range(number)]
    pod["volumes"].append({"name": "links", "projected": {"sources": files}})
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(hours * 3600),
            "ttlSecondsAfterFinished": 600,
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }


class Importing:
    """One run of the importer in a cluster."""

    def __init__(self, cluster: ClusterAccess, tell: Callable[[str], object]) -> None:
        self._cluster, self._tell = cluster, tell
        self._lines = 0
        self._state = ""
        self.complete = False
        """Whether everything that the source has is here now."""

    async def run(self, job: Object, needs: Sequence[Object]) -> None:
        """Create, follow, remove. Raises ImportLinksError."""
        namespace = (await identity.look(self._cluster)).namespaces.get(SHLINK)
        if namespace is None:
            raise ImportLinksError(f"there is no namespace {SHLINK}: make up comes first")
        mark = {identity.MARK: namespace.mark or ""}
        async with self._cluster.connected() as api:
            created = await self._create(api, job, {"annotations": mark})
            owner = {key: job[key] for key in ("apiVersion", "kind")}
            # The Job goes last, so that its absence means that all is gone.
            owner |= {"name": NAME, "uid": created["metadata"]["uid"], "blockOwnerDeletion": True}
            try:
                for item in needs:
                    await self._create(api, item, {"annotations": mark, "ownerReferences": [owner]})
                await self._follow(api)
            finally:
                await asyncio.shield(self._remove(api))

    async def _create(self, api: Any, item: Object, metadata: Object) -> Object:
        kind, name = item["kind"], item["metadata"]["name"]
        body = {**item, "metadata": {**item["metadata"], **metadata}}
        place = (item["apiVersion"], SHLINK, plural(kind))
        status, text = await answer(api, "POST", *place, json=body)
        if status == HTTPStatus.CONFLICT:
            raise ImportLinksError(
                f"{kind} {name} is there: an import goes on, or was killed. To end that one: "
                f"{self._cluster.kubectl} -n {SHLINK} delete job {NAME} --cascade=foreground"
            )
        if status >= HTTPStatus.BAD_REQUEST:
            # Without the server's own words, which may repeat what is in a Secret.
            raise ImportLinksError(
                f"the API server answers {status} to the creation of {kind} {name}. "
                "deploy/rbac/import-links.yaml grants what is needed"
            )
        return json.loads(text)

    async def _follow(self, api: Any) -> None:
        """Show what the pod tells until the Job ends."""
        while True:
            await asyncio.sleep(INTERVAL)
            item = await read(api, "jobs.v1.batch", SHLINK, NAME)
            if item is None:
                raise ImportLinksError(f"somebody deleted Job {NAME}")
            with contextlib.suppress(AnswerError):
                for pod in await pods(api, SHLINK, f"job-name={NAME}"):
                    await self._look(api, pod)
            for entry in listed(item, "status", "conditions"):
                if entry["type"] in ("Complete", "Failed") and entry["status"] == "True":
                    self.complete = entry["type"] == "Complete"
                    if not self.complete and (not self._lines or entry["reason"] == _TOO_LONG):
                        self._tell(f"the Job failed: {entry['reason']} {self._state}")
                    return

    async def _look(self, api: Any, pod: Object) -> None:
        """Tell what the pod waits for, and what is new in its log."""
        name = pod["metadata"]["name"]
        state = str(at(pod, "status", "phase"))
        for entry in listed(pod, "status", "containerStatuses"):
            for kind in ("waiting", "terminated"):
                state = at(entry, "state", kind, "reason") or state
        if state != self._state:
            self._tell(f"pod {name}: {state}")
            self._state = state
        query = {"container": "import"}
        status, log = await answer(api, "GET", "v1", SHLINK, f"pods/{name}/log", params=query)
        if status == HTTPStatus.OK:
            lines = log.splitlines()
            for line in lines[self._lines :]:
                self._tell(line)
            self._lines = len(lines)

    async def _remove(self, api: Any) -> None:
        options = {"propagationPolicy": "Foreground"}
        await answer(api, "DELETE", "batch/v1", SHLINK, f"jobs/{NAME}", params=options)

        async def look() -> str:
            job = await read(api, "jobs.v1.batch", SHLINK, NAME)
            return "" if job is None else NAME

        if await poll(look, _REMOVAL_SECONDS, INTERVAL):
            raise ImportLinksError(
                f"Job {NAME} is not gone after {_REMOVAL_SECONDS:g} s, and Secret {NAME} may hold "
                f"the credential. Look: {self._cluster.kubectl} -n {SHLINK} get jobs,pods,secrets"
            )
        self._tell("the Job, its policy and its Secrets are removed")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what an import may be told."""
    parser.add_argument("source", choices=list(SOURCES))
    parser.add_argument("origin", nargs="?", default="", help="a CSV file, or the source's address")
    parser.add_argument(
        "--answer",
        action="append",
        default=[],
        help="name=value, for a question of Shlink's importer: import_visits=no",
    )
    parser.add_argument(
        "--cidr", action="append", default=[], help="network of the source, as the cluster sees it"
    )
    parser.add_argument("--hours", type=float, default=6, help="after which the Job is ended")


@dataclass
class Plan:
    """What an import will be, checked before anything is touched."""

    job: Object
    egress: Egress
    parts: Sequence[bytes]
    """Of the CSV."""
    source: str
    answers: dict[str, Any]

    def needs(self) -> list[Object]:
        """What the Job needs. Asks for the credential. Raises ImportLinksError.

        The request is last: without it the pod does not start.
        """
        credential = SOURCES[self.source].credential
        if credential:
            self.answers[credential] = _credential(credential)
        request = json.dumps({"source": self.source, "answers": self.answers}).encode()
        policy: Object = {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": NAME},
            "spec": {
                "podSelector": {"matchLabels": LABELS},
                "policyTypes": ["Egress"],
                "egress": self.egress,
            },
        }
        pieces = [
            _secret(f"{NAME}-{number}", f"links-{number:05}", part)
            for number, part in enumerate(self.parts)
        ]
        return [policy, *pieces, _secret(NAME, "request", request)]


def _secret(name: str, key: str, content: bytes) -> Object:
    data = {key: base64.b64encode(content).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}


def plan(environment: Declared, options: argparse.Namespace) -> Plan:
    """Check what was asked for. Raises ImportLinksError."""
    source = SOURCES[options.source]
    answers = answered(source, options.answer)
    parts, egress, variables = list[bytes](), Egress(), dict[str, str]()
    if options.source == "csv":
        parts = pieces(Path(options.origin))
        answers["delimiter"] = ","
    else:
        url = source.url or options.origin
        egress, variables = way_to(environment, url, options.cidr)
        answers["base_url"] = url.rstrip("/")
    task = job(environment, len(parts), variables, options.hours)
    return Plan(job=task, egress=egress, parts=parts, source=options.source, answers=answers)


def _credential(name: str) -> str:
    """What a person types unseen, or a script sends as a line."""
    if sys.stdin.isatty():
        return getpass.getpass(f"{name}: ")
    value = sys.stdin.readline().strip()
    if not value:
        raise ImportLinksError(f"the source's {name} is expected as a line of standard input")
    return value

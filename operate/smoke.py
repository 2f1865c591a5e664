"""`make smoke`: proves that an environment works by using it, and leaves no short URL behind.

It reaches Shlink through a forward to one of its pods, or through the external URL. It needs the
rights of deploy/rbac/smoke.yaml: the Secret with the API key, and a forward in Shlink's namespace.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import secrets
import socket
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

import httpx
import pulumi

from components.cluster.access import ClusterAccess, answer, why
from components.cluster.forward import Forward, ForwardTarget
from components.cluster.proxies import proxy_for, shown

from .declared import Declared
from .view import Object, listed, mapped

TARGET = "https://example.com/smoke"
"""Where the short URL leads. Nobody follows it there."""
START_SECONDS = 60.0
"""Seconds in which Shlink must say that it is healthy; a new pod may still warm up."""
VISIT_SECONDS = 15.0
"""Seconds in which a visit must be counted; Shlink saves it after it has answered."""
_LIFETIME = timedelta(hours=1)
"""After this the short URL ends by itself, should its deletion fail."""
_REQUEST_SECONDS = 10.0
_INTERVAL = 0.5


class SmokeError(pulumi.RunError):
    """Shlink is not as it should be, or can't be reached; the message says what and why."""


@dataclass(frozen=True)
class Step:
    """One thing that was tried."""

    name: str
    seconds: float
    fault: str = ""
    """Empty when it worked."""
    skipped: str = ""
    """Why it was not tried."""

    @property
    def ok(self) -> bool:
        """Whether it worked or did not apply."""
        return not self.fault


@dataclass(frozen=True)
class Place:
    """Where Shlink answers."""

    url: str
    """Without a slash at its end; with the base path."""
    host: str
    """The Host header: the default domain, whatever address the connection goes to."""
    told: Sequence[str] | None = None
    """What the forward says of connections that it could not make; None without a forward."""

    def client(self, key: str = "", seconds: float = _REQUEST_SECONDS) -> httpx.Client:
        """A client of Shlink. No proxy leads to this machine: it would be sent the key."""
        headers = {"Host": self.host, "User-Agent": "shlink-smoke"}
        if key:
            headers["X-Api-Key"] = key
        transport = httpx.HTTPTransport(proxy=proxy_for(self.url))
        return httpx.Client(
            base_url=self.url, transport=transport, timeout=seconds, headers=headers
        )


@contextlib.contextmanager
def through_forward(declared: Declared, access: ClusterAccess) -> Generator[Place]:
    """Shlink through a port of this machine that leads to one of its pods.

    Raises ForwardError: no port can be bound.
    """
    internal, external = (
        urlsplit(declared.outputs.internal_url),
        urlsplit(declared.outputs.external_url),
    )
    told: list[str] = []
    port = _free_port()
    forward = Forward(access, _target(declared), port, setting="shlink:app", report=told.append)
    forward.start()
    try:
        yield Place(
            url=f"http://127.0.0.1:{port}{internal.path.rstrip('/')}",
            host=external.netloc,
            told=told,
        )
    finally:
        forward.close()


def from_outside(declared: Declared) -> Place:
    """Shlink by the address that short URLs begin with."""
    url = declared.outputs.external_url
    return Place(url.rstrip("/"), urlsplit(url).netloc)


def resolution(url: str) -> str:
    """Where the name in an address leads to, as this machine resolves it."""
    proxy, name = proxy_for(url), urlsplit(url).hostname or ""
    if proxy:
        return f"the proxy {shown(proxy)} resolves {name}"
    try:
        addresses = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return f"{name} has no address here ({error.strerror})"
    return f"{name} resolves to {', '.join(sorted({str(item[4][0]) for item in addresses}))}"


def _target(declared: Declared) -> ForwardTarget:
    """The pods behind Shlink's Service, and the port that the Service leads to."""
    name, namespace = (urlsplit(declared.outputs.internal_url).hostname or "").split(".")[:2]
    service = cast("Object", declared.named("Service", name))
    port = service["spec"]["ports"][0].get("targetPort")
    if isinstance(port, str):
        port = _port_named(declared.of_kind("Deployment"), port)
    return ForwardTarget(
        service=f"{namespace}/{name}",
        namespace=namespace,
        pod_labels=service["spec"]["selector"],
        port=int(port),
    )


def _port_named(deployments: Sequence[Object], name: str) -> int:
    for deployment in deployments:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            for port in listed(container, "ports"):
                if port.get("name") == name:
                    return int(port["containerPort"])
    raise LookupError(f"no container has a port called {name}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def api_key(declared: Declared, access: ClusterAccess) -> str:
    """The API key, from where the outputs say. Raises SmokeError."""
    place = declared.outputs.api_key
    try:
        async with asyncio.timeout(_REQUEST_SECONDS), access.connected() as api:
            url = f"secrets/{place.secret}"
            status, text = await answer(api, "GET", "v1", place.namespace, url)
    # Kubeconfigs, credential plugins and API servers fail in many ways.
    except Exception as error:  # noqa: BLE001
        raise SmokeError(
            f"the cluster of context {access.context} can't be reached: {why(error)}; "
            f"see: make doctor STACK={declared.stack}"
        ) from None
    where = f"Secret {place.namespace}/{place.secret}"
    if status == HTTPStatus.FORBIDDEN:
        raise SmokeError(f"no right to read {where}: deploy/rbac/smoke.yaml grants it")
    if status != HTTPStatus.OK:
        raise SmokeError(
            f"{where} can't be read ({status}); see: make doctor STACK={declared.stack}"
        )
    try:
        return base64.b64decode(json.loads(text)["data"][place.key], validate=True).decode()
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise SmokeError(f"{where} has no usable key {place.key}") from None


class Smoke:
    """One run against one place. The steps stand in the order in which they are tried."""

    def __init__(
        self,
        place: Place,
        key: str,
        *,
        untracked: str = "",
        start_seconds: float = START_SECONDS,
        visit_seconds: float = VISIT_SECONDS,
    ) -> None:
        """`untracked`: why visits are not counted here, empty when they are."""
        self._place, self._key, self._untracked = place, key, untracked
        self._start_seconds, self._visit_seconds = start_seconds, visit_seconds
        # Chosen here and not by Shlink, so that it can be deleted when the answer is lost.
        self._code = f"smoke-{secrets.token_hex(6)}"
        self._created = False

    def run(self, tell: Callable[[Step], object] = lambda _: None) -> list[Step]:
        """Try every step until one fails; delete in any case what was created."""
        done: list[Step] = []
        with self._place.client() as client:
            self._client = client
            for step in self._tried():
                done.append(step)
                tell(step)
                if not step.ok:
                    break
            if self._created:
                step = self._try("delete the short URL", self._delete)
                done.append(step)
                tell(step)
        return done

    def _tried(self) -> Iterator[Step]:
        yield self._try("health", self._healthy)
        yield self._try("a wrong API key is refused", self._refused)
        yield self._try("create a short URL", self._create)
        yield self._try("it is found by its long URL", self._find)
        yield self._try("follow it", self._follow)
        for name, action in (
            ("its visit is counted", self._visit),
            ("an unknown short URL is an orphan visit", self._orphan),
        ):
            if self._untracked:
                yield Step(name, 0, skipped=self._untracked)
            else:
                yield self._try(name, action)

    def _try(self, name: str, action: Callable[[], None]) -> Step:
        started = time.monotonic()
        try:
            action()
        except SmokeError as error:
            return Step(name, time.monotonic() - started, fault=str(error))
        except httpx.HTTPError as error:
            return Step(name, time.monotonic() - started, fault=self._silence(error))
        return Step(name, time.monotonic() - started)

    def _healthy(self) -> None:
        def look() -> str:
            try:
                response = self._client.get("/rest/health")
            except httpx.HTTPError as error:
                fault = self._silence(error)
            else:
                if response.status_code == HTTPStatus.OK:
                    return ""
                fault = _unexpected(response)
            if self._place.told is None:
                fault += f"; {resolution(self._place.url)}"
            return f"/rest/health: {fault}"

        _wait(look, self._start_seconds)

    def _silence(self, error: httpx.HTTPError) -> str:
        """Why there was no answer: what the forward says, where there is one."""
        if self._place.told:
            # Without its last sentence, which is about the settings of a provider.
            return self._place.told[-1].partition(" Where a direct way exists")[0]
        return f"no answer: {str(error) or type(error).__name__}"

    def _refused(self) -> None:
        response = self._client.get("/rest/v3/short-urls", headers={"X-Api-Key": "not-the-key"})
        if response.status_code != HTTPStatus.UNAUTHORIZED:
            raise SmokeError(
                f"a wrong key should be refused with 401, but: {_unexpected(response)}"
            )

    def _create(self) -> None:
        until = datetime.now(tz=UTC) + _LIFETIME
        # Before the request: one that is cut off may have been carried out.
        self._created = True
        response = self._post(validUntil=until.isoformat(timespec="seconds"), crawlable=False)
        if response.status_code == HTTPStatus.UNAUTHORIZED:
            self._created = False
            raise SmokeError(
                "Shlink refuses the API key of its Secret: it was disabled, or the database has "
                "an older one"
            )
        if response.status_code not in (HTTPStatus.OK, HTTPStatus.CREATED):
            raise SmokeError(_unexpected(response))

    def _find(self) -> None:
        """By its hash since Shlink 5.1, which is empty where pods share the cache of an older."""
        response = self._post()
        if response.is_success and response.json().get("shortCode") == self._code:
            return
        raise SmokeError(
            f"`findIfExists` finds no URL that was just created: {_unexpected(response)}; after an "
            "upgrade of Shlink see docs/upgrades.md#shlink"
        )

    def _post(self, **more: object) -> httpx.Response:
        """Create the short URL, or find it."""
        fields = {"longUrl": TARGET, "customSlug": self._code, "findIfExists": True, **more}
        return self._client.post("/rest/v3/short-urls", json=fields, headers=self._headers())

    def _follow(self) -> None:
        response = self._client.get(f"/{self._code}")
        location = response.headers.get("location")
        if not response.is_redirect or location != TARGET:
            raise SmokeError(f"it should lead to {TARGET}, but: {response.status_code} {location}")

    def _visit(self) -> None:
        path = f"/rest/v3/short-urls/{self._code}/visits"

        def look() -> str:
            counted = len(self._visits(path)) == 1
            return "" if counted else "its one visit is not counted"

        _wait(look, self._visit_seconds)

    def _orphan(self) -> None:
        code = f"{self._code}-unknown"
        response = self._client.get(f"/{code}")
        if response.is_server_error:
            raise SmokeError(_unexpected(response))

        def look() -> str:
            visits = self._visits("/rest/v3/visits/orphan?itemsPerPage=50")
            counted = any(code in str(visit.get("visitedUrl", "")) for visit in visits)
            return "" if counted else "the orphan visit is not counted"

        _wait(look, self._visit_seconds)

    def _visits(self, path: str) -> list[Object]:
        response = self._client.get(path, headers=self._headers())
        if response.status_code != HTTPStatus.OK:
            raise SmokeError(_unexpected(response))
        return listed(mapped(response.json(), "visits"), "data")

    def _delete(self) -> None:
        response = self._client.delete(f"/rest/v3/short-urls/{self._code}", headers=self._headers())
        # Not found: the creation was refused, or its request never arrived.
        if response.status_code not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND):
            raise SmokeError(
                f"/{self._code} stays until {_LIFETIME} after its creation: {_unexpected(response)}"
            )

    def _headers(self) -> dict[str, str]:
        return {"X-Api-Key": self._key}


def _wait(look: Callable[[], str], seconds: float) -> None:
    """Look until there is no fault. Raises SmokeError."""
    deadline = time.monotonic() + seconds
    while fault := look():
        if time.monotonic() > deadline:
            raise SmokeError(f"{fault}, {seconds:g} s long")
        time.sleep(_INTERVAL)


def _unexpected(response: httpx.Response) -> str:
    """Status and what Shlink says of it; a problem's `detail` names no key (RFC 9457)."""
    try:
        body = response.json()
    except ValueError:
        return f"status {response.status_code}"
    detail = cast("Object", body).get("detail") if isinstance(body, dict) else None
    return f"status {response.status_code}" + (f", {detail}" if detail else "")


def untracked(declared: Declared) -> str:
    """Why this environment counts no visits; empty when it does."""
    environment = declared.settings.shlink.environment
    if environment.get("DISABLE_TRACKING", "").lower() == "true":
        return "DISABLE_TRACKING is set"
    if environment.get("TRACK_ORPHAN_VISITS", "").lower() == "false":
        return "TRACK_ORPHAN_VISITS is false"
    return ""


def smoke(
    declared: Declared,
    access: ClusterAccess,
    *,
    outside: bool = False,
    tell: Callable[[Step], object] = lambda _: None,
) -> list[Step]:
    """Use an environment. Raises SmokeError and ForwardError when it can't be reached at all."""
    key = asyncio.run(api_key(declared, access))
    reason = untracked(declared)
    if outside:
        return Smoke(from_outside(declared), key, untracked=reason).run(tell)
    with through_forward(declared, access) as place:
        return Smoke(place, key, untracked=reason).run(tell)

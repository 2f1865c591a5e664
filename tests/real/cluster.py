"""A scratch Kubernetes API, spoken to as it is: what the tests send and what it answers, without a client's own ideas in between."""

import base64
import json
import ssl
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

Manifest = Mapping[str, Any]
_APPLY = "application/apply-patch+yaml"
_AT_ONCE = 8


@dataclass(frozen=True)
class Answer:
    """A status and what came with it."""

    status: int
    body: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        return self.status < 400

    @property
    def message(self) -> str:
        """What the API server says was wrong."""
        return f"{self.status}: {self.body.get('message', self.body)}"


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    body: Any = None
    content_type: str = "application/json"
    params: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None


class Cluster:
    """One API server, as the kubeconfig names it."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kinds: dict[str, dict[str, Any]] = {}
        self._client = _client(kubeconfig)
        self._pool = ThreadPoolExecutor(_AT_ONCE)

    def close(self) -> None:
        self._pool.shutdown()
        self._client.close()

    def calls(self, calls: Iterable[Call]) -> list[Answer]:
        """The answers in the order of the calls, which are made a few at a time."""
        return list(self._pool.map(self._call, calls))

    def call(self, method: str, path: str, body: Any = None, **params: str) -> Answer:
        return self.calls([Call(method, path, body, params=params)])[0]

    def apply(self, manifests: Iterable[Manifest], *, dry_run: bool = False) -> list[Answer]:
        """Server-side apply with strict field validation: an unknown or doubled field is refused."""
        params = {
            "fieldManager": "shlink-tests",
            "force": "true",
            "fieldValidation": "Strict",
            **({"dryRun": "All"} if dry_run else {}),
        }
        return self.calls([Call("PATCH", self.path(one), one, _APPLY, params) for one in manifests])

    def must(self, manifests: Iterable[Manifest]) -> list[Mapping[str, Any]]:
        """Apply for real. Raises AssertionError with what the API server refused."""
        wanted = list(manifests)
        answers = self.apply(wanted)
        refused = [
            f"{one['kind']} {one['metadata']['name']}: {answer.message}"
            for one, answer in zip(wanted, answers, strict=True)
            if not answer.ok
        ]
        assert not refused, "\n".join(refused)
        return [answer.body for answer in answers]

    def delete(self, manifests: Iterable[Manifest]) -> None:
        """At once, and without minding what is gone already."""
        options = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        self.calls([Call("DELETE", self.path(one), options) for one in manifests])

    def gone(self, manifest: Manifest, patience: float = 60) -> None:
        """Wait until an object is deleted. Raises TimeoutError."""
        self.until(
            lambda: self.call("GET", self.path(manifest)).status == 404,
            f"{self.path(manifest)} is still there",
            patience,
        )

    def there(self, manifest: Manifest, patience: float = 30) -> None:
        """Wait until an object exists. Raises TimeoutError."""
        self.until(
            lambda: self.call("GET", self.path(manifest)).ok,
            f"{self.path(manifest)} does not appear",
            patience,
        )

    def until(self, check: Callable[[], bool], complaint: str, patience: float = 30) -> None:
        """Raises TimeoutError with the complaint."""
        deadline = time.monotonic() + patience
        while not check():
            if time.monotonic() > deadline:
                raise TimeoutError(complaint)
            time.sleep(0.1)

    def serves(self, manifest: Manifest) -> bool:
        """Whether the API server knows this kind."""
        return manifest["kind"] in self._resources(manifest["apiVersion"])

    def path(self, manifest: Manifest) -> str:
        """Where an object is."""
        metadata = manifest["metadata"]
        return f"{self.folder(manifest['apiVersion'], manifest['kind'], metadata.get('namespace'))}/{metadata['name']}"

    def folder(self, api_version: str, kind: str, namespace: str | None = None) -> str:
        """Where the objects of a kind are. Raises LookupError: the API server does not serve it."""
        known = self._resources(api_version)
        if kind not in known:
            raise LookupError(f"the API server serves no {kind} of {api_version}")
        root = f"/api/{api_version}" if api_version == "v1" else f"/apis/{api_version}"
        return (
            f"{root}/namespaces/{namespace}/{known[kind]['name']}"
            if known[kind]["namespaced"]
            else f"{root}/{known[kind]['name']}"
        )

    def plural(self, api_version: str, kind: str) -> str:
        """What rules of RBAC call a kind."""
        return str(self._resources(api_version)[kind]["name"])

    def _resources(self, api_version: str) -> dict[str, Any]:
        if api_version not in self._kinds:
            answer = self.call(
                "GET", f"/api/{api_version}" if api_version == "v1" else f"/apis/{api_version}"
            )
            found: list[dict[str, Any]] = answer.body["resources"] if answer.ok else []
            self._kinds[api_version] = {one["kind"]: one for one in found if "/" not in one["name"]}
        return self._kinds[api_version]

    def _call(self, call: Call) -> Answer:
        response = self._client.request(
            call.method,
            call.path,
            content=None if call.body is None else json.dumps(call.body),
            params=dict(call.params or {}),
            headers={"Content-Type": call.content_type, **(call.headers or {})},
        )
        try:
            return Answer(response.status_code, response.json())
        except json.JSONDecodeError:
            return Answer(response.status_code, {"message": response.text})


def _client(kubeconfig: Path) -> httpx.Client:
    """For the current context. Raises ValueError: it logs in by something other than a token or a certificate."""
    document: Any = yaml.safe_load(kubeconfig.read_text())

    def named(group: str, name: str) -> Any:
        return next(one[group] for one in document[f"{group}s"] if one["name"] == name)

    context = named("context", document["current-context"])
    server, user = named("cluster", context["cluster"]), named("user", context["user"])
    if not {"token", "client-certificate", "client-certificate-data"} & set(user):
        raise ValueError(
            f"{kubeconfig}: these tests log in with a token or a client certificate, and it has neither"
        )
    with tempfile.TemporaryDirectory() as folder:

        def file(holder: Any, key: str) -> str | None:
            """The path of what is given as a path or as data."""
            if f"{key}-data" not in holder:
                return str(kubeconfig.parent / holder[key]) if key in holder else None
            path = Path(folder) / key
            path.write_bytes(base64.b64decode(holder[f"{key}-data"]))
            return str(path)

        verify = ssl.create_default_context(cafile=file(server, "certificate-authority"))
        certificate, key = file(user, "client-certificate"), file(user, "client-key")
        if certificate:
            verify.load_cert_chain(certificate, key)
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return httpx.Client(base_url=server["server"], verify=verify, headers=headers, timeout=60)

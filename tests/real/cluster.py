"""A thin HTTP client for a scratch Kubernetes API: tests see its requests and answers unchanged."""

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
        """The answers, in the order of the calls. A few calls run at the same time."""
        return list(self._pool.map(self._call, calls))

    def call(self, method: str, path: str, body: Any = None, **params: str) -> Answer:
        return self.calls([Call(method, path, body, params=params)])[0]

    def apply(self, manifests: Iterable[Manifest], *, dry_run: bool = False) -> list[Answer]:
        """Server-side apply with strict field validation: unknown or double fields are refused."""
        # Like the program's own, so that doctor takes it for nobody's change by hand.
        manager = "pulumi-kubernetes-tests"
        params = {"fieldManager": manager, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            params["dryRun"] = "All"
        return self.calls(
            Call("PATCH", self.path(manifest), manifest, content_type=_APPLY, params=params)
            for manifest in manifests
        )

    def must(self, manifests: Iterable[Manifest]) -> list[Mapping[str, Any]]:
        """Apply for real. Raises AssertionError with what the API server refused."""
        objects = list(manifests)
        answers = self.apply(objects)
        refused = [
            f"{manifest['kind']} {manifest['metadata']['name']}: {answer.message}"
            for manifest, answer in zip(objects, answers, strict=True)
            if not answer.ok
        ]
        assert not refused, "\n".join(refused)
        return [answer.body for answer in answers]

    def delete(self, manifests: Iterable[Manifest]) -> None:
        """Delete without a grace period. An object that does not exist is ignored."""
        options = {"gracePeriodSeconds": 0, "propagationPolicy": "Background"}
        self.calls(Call("DELETE", self.path(manifest), options) for manifest in manifests)

    def gone(self, manifest: Manifest, patience: float = 60) -> None:
        """Wait until an object is deleted. Raises TimeoutError."""
        self.until(
            lambda: self.call("GET", self.path(manifest)).status == 404,
            f"{self.path(manifest)} is still there",
            patience,
        )

    def appears(self, manifest: Manifest, patience: float = 30) -> None:
        """Wait until an object exists. Raises TimeoutError."""
        self.until(
            lambda: self.call("GET", self.path(manifest)).ok,
            f"{self.path(manifest)} does not appear",
            patience,
        )

    def until(self, check: Callable[[], bool], complaint: str, patience: float = 30) -> None:
        """Wait until the check succeeds. Raises TimeoutError with the complaint."""
        deadline = time.monotonic() + patience
        while not check():
            if time.monotonic() > deadline:
                raise TimeoutError(complaint)
            time.sleep(0.1)

    def serves(self, manifest: Manifest) -> bool:
        """Whether the API server knows this kind."""
        return manifest["kind"] in self._resources(manifest["apiVersion"])

    def path(self, manifest: Manifest) -> str:
        """The URL path of an object."""
        metadata = manifest["metadata"]
        namespace = metadata.get("namespace")
        folder = self.folder(manifest["apiVersion"], manifest["kind"], namespace)
        return f"{folder}/{metadata['name']}"

    def folder(self, api_version: str, kind: str, namespace: str | None = None) -> str:
        """The URL path of a kind's objects.

        Raises LookupError if the API server does not serve the kind.
        """
        known = self._resources(api_version)
        if kind not in known:
            raise LookupError(f"the API server serves no {kind} of {api_version}")
        if known[kind]["namespaced"]:
            return f"{_root(api_version)}/namespaces/{namespace}/{known[kind]['name']}"
        return f"{_root(api_version)}/{known[kind]['name']}"

    def plural(self, api_version: str, kind: str) -> str:
        """What rules of RBAC call a kind."""
        return str(self._resources(api_version)[kind]["name"])

    def _resources(self, api_version: str) -> dict[str, Any]:
        if api_version not in self._kinds:
            answer = self.call("GET", _root(api_version))
            resources: list[dict[str, Any]] = answer.body["resources"] if answer.ok else []
            # A slash is in the names of subresources.
            self._kinds[api_version] = {
                resource["kind"]: resource for resource in resources if "/" not in resource["name"]
            }
        return self._kinds[api_version]

    def _call(self, call: Call) -> Answer:
        content = None if call.body is None else json.dumps(call.body)
        response = self._client.request(
            call.method,
            call.path,
            content=content,
            params=dict(call.params or {}),
            headers={"Content-Type": call.content_type, **(call.headers or {})},
        )
        try:
            return Answer(response.status_code, response.json())
        except json.JSONDecodeError:
            return Answer(response.status_code, {"message": response.text})


def _root(api_version: str) -> str:
    return f"/api/{api_version}" if api_version == "v1" else f"/apis/{api_version}"


def _client(kubeconfig: Path) -> httpx.Client:
    """A client for the current context.

    Raises ValueError if the context logs in with neither a token nor a certificate.
    """
    document: Any = yaml.safe_load(kubeconfig.read_text())

    def named(group: str, name: str) -> Any:
        return next(entry[group] for entry in document[f"{group}s"] if entry["name"] == name)

    context = named("context", document["current-context"])
    server, user = named("cluster", context["cluster"]), named("user", context["user"])
    if not {"token", "client-certificate", "client-certificate-data"} & set(user):
        raise ValueError(
            f"{kubeconfig}: the current context's user has neither a token nor a client certificate"
        )
    with tempfile.TemporaryDirectory() as folder:

        def file(holder: Any, key: str) -> str | None:
            """The path of a file that the kubeconfig names, or of a copy of its inline data."""
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

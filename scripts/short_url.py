#!/usr/bin/env python3
"""Creates a short URL in a running stack and follows it, through a port-forward of kubectl: short_url.py STACK.

Everything that it needs to know comes from the stack's outputs: the address, and which Secret holds the API key. Ends with 1 and
one line when Shlink does not do what it should. Needs python3, pulumi and kubectl.
"""

import base64
import http.client
import json
import re
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

PATIENCE = 60
"""Seconds until the forward and Shlink behind it answer."""


class WrongError(Exception):
    """Shlink is not as it should be."""


def output(*command: str) -> str:
    """What a command prints. Raises WrongError with what it says when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 -- only called from here
    if done.returncode:
        raise WrongError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


@contextmanager
def forward(context: str, namespace: str, service: str, port: int) -> Generator[int]:
    """A free local port that leads to the Service."""
    command = [
        "kubectl",
        "--context",
        context,
        "-n",
        namespace,
        "port-forward",
        f"service/{service}",
        f":{port}",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            line = process.stdout.readline() if process.stdout else ""
            local = re.search(r"127\.0\.0\.1:(\d+) ->", line)
            if local is None:
                raise WrongError(f"kubectl port-forward said {line!r}")
            yield int(local[1])
        finally:
            process.terminate()


def call(
    port: int, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """One request, redirects not followed: status, headers in lower case, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(
            method,
            path,
            payload,
            {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})},
        )
        response = connection.getresponse()
        return (
            response.status,
            {key.lower(): value for key, value in response.getheaders()},
            response.read().decode(errors="replace"),
        )
    finally:
        connection.close()


def healthy(port: int, base: str, patience: float = PATIENCE) -> None:
    """Return once Shlink says that it works."""
    deadline = time.monotonic() + patience
    while True:
        try:
            status, _, body = call(port, "GET", f"{base}/rest/health")
        except OSError as error:
            status, body = 0, str(error)
        if status == http.HTTPStatus.OK:
            return
        if time.monotonic() > deadline:
            raise WrongError(f"/rest/health: {status} {body}")
        time.sleep(1)


def create_and_follow(port: int, base: str, key: str, target: str) -> str:
    """The short code that leads to the target. Raises WrongError."""
    status, _, body = call(
        port,
        "POST",
        f"{base}/rest/v3/short-urls",
        {"longUrl": target, "findIfExists": True},
        {"X-Api-Key": key},
    )
    if status not in (http.HTTPStatus.OK, http.HTTPStatus.CREATED):
        raise WrongError(f"creating a short URL: {status} {body}")
    code = str(json.loads(body)["shortCode"])
    status, headers, _ = call(port, "GET", f"{base}/{code}")
    if (
        status not in (http.HTTPStatus.MOVED_PERMANENTLY, http.HTTPStatus.FOUND)
        or headers.get("location") != target
    ):
        raise WrongError(
            f"/{code} should lead to {target}, but: {status} {headers.get('location')}"
        )
    status, _, _ = call(
        port, "GET", f"{base}/rest/v3/short-urls", headers={"X-Api-Key": "not-the-key"}
    )
    if status != http.HTTPStatus.UNAUTHORIZED:
        raise WrongError(f"a wrong API key should be refused, but: {status}")
    return code


def main(stack: str) -> str:
    known: dict[str, Any] = json.loads(
        output("pulumi", "stack", "output", "--json", "--stack", stack)
    )
    context = output("pulumi", "config", "get", "kubernetes:context", "--stack", stack)
    place = known["api_key"]
    path = "jsonpath={.data." + place["key"].replace(".", "\\.") + "}"
    secret = output(
        "kubectl",
        "--context",
        context,
        "-n",
        place["namespace"],
        "get",
        "secret",
        place["secret"],
        "-o",
        path,
    )
    url = urlsplit(str(known["internal_url"]))
    service, namespace = (url.hostname or "").split(".")[:2]
    base = url.path.rstrip("/")
    with forward(context, namespace, service, url.port or 80) as port:
        healthy(port, base)
        return create_and_follow(
            port, base, base64.b64decode(secret).decode(), "https://example.com/a-long-address"
        )


if __name__ == "__main__":
    try:
        if len(sys.argv) != 2:  # noqa: PLR2004 -- the stack
            sys.exit(__doc__)
        sys.stdout.write(f"/{main(sys.argv[1])} was created and leads where it should\n")
    except WrongError as error:
        sys.exit(f"error: {error}")

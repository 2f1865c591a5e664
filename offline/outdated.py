"""`make outdated`: each pin, its newest release, and whether its makers still support it.

Exit code: 0 all are supported, 1 some are not, 2 nobody answered. Renovate raises the pins.
"""

import importlib.metadata
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from components import pins
from components.settings.changes import version

_SUPPORTED, _LOST, _BLIND = range(3)
_GITHUB, _LINES = "https://api.github.com/repos/", "https://endoflife.date/api/v1/products/"


@dataclass(frozen=True)
class Pin:
    """A version that this project names, and who knows of newer ones."""

    name: str
    pinned: str
    repository: str = ""
    """Of its makers on GitHub."""
    product: str = ""
    """Of endoflife.date, which knows how long each line is supported; in place of GitHub."""
    newest_minor_only: bool = False
    """Its makers support no other."""


PINS = (
    Pin("Shlink", pins.SHLINK_IMAGE, "shlinkio/shlink"),
    Pin("web client", pins.WEB_CLIENT_IMAGE, "shlinkio/shlink-web-client"),
    Pin("Vault", pins.VAULT_IMAGE, "hashicorp/vault", newest_minor_only=True),
    Pin("Vault's chart", pins.VAULT_CHART, "hashicorp/vault-helm"),
    Pin("bank-vaults", pins.BANK_VAULTS_IMAGE, "bank-vaults/bank-vaults"),
    Pin(
        "External Secrets",
        pins.EXTERNAL_SECRETS_IMAGE,
        "external-secrets/external-secrets",
        newest_minor_only=True,
    ),
    Pin("PGO", pins.PGO_IMAGE, "CrunchyData/postgres-operator"),
    *(
        Pin("PostgreSQL", image, product="postgresql")
        for name, image in pins.PGO_RELATED_IMAGES.items()
        if name.startswith("postgres_")
    ),
    Pin("Redis", pins.REDIS_IMAGE, product="redis"),
    Pin("redis_exporter", pins.REDIS_EXPORTER_IMAGE, "oliver006/redis_exporter"),
    Pin("redis-operator", pins.REDIS_OPERATOR_IMAGE, "spotahome/redis-operator"),
    Pin("its fork", pins.REDIS_OPERATOR_FORK_IMAGE, "freshworks-oss/redis-operator"),
    Pin("Pulumi", importlib.metadata.version("pulumi"), "pulumi/pulumi"),
)


def outdated(client: httpx.Client) -> Iterator[tuple[str, str, str, bool]]:
    """Name and pinned version, newest release, support, and whether that has ended."""
    for pin in PINS:
        pinned = version(pin.pinned) or ()
        newest, support, lost = (_line if pin.product else _releases)(client, pin, pinned)
        yield f"{pin.name} {_text(pinned)}", newest, support, lost


def _line(client: httpx.Client, pin: Pin, pinned: tuple[int, ...]) -> tuple[str, str, bool]:
    for line in _asked(client, f"{_LINES}{pin.product}/")["result"]["releases"]:
        number = tuple(int(part) for part in line["name"].split("."))
        if number == pinned[: len(number)]:
            until = line["eolFrom"] or "its successor"
            return line["latest"]["name"], f"until {until}", line["isEol"]
    return "?", "unknown to endoflife.date", False


def _releases(client: httpx.Client, pin: Pin, pinned: tuple[int, ...]) -> tuple[str, str, bool]:
    if _asked(client, f"{_GITHUB}{pin.repository}")["archived"]:
        return "none", "archived", True
    newest = version(_asked(client, f"{_GITHUB}{pin.repository}/releases/latest")["tag_name"]) or ()
    if pin.newest_minor_only:
        return _text(newest), "of the newest minor only", newest[:2] > pinned[:2]
    return _text(newest), "not stated", False


def _asked(client: httpx.Client, url: str) -> Any:
    token = os.environ.get("GITHUB_TOKEN")
    signed = url.startswith(_GITHUB) and token  # without it GitHub answers 60 requests an hour
    headers = {"Authorization": f"Bearer {token}"} if signed else {}
    response = client.get(url, headers=headers)
    if response.status_code == httpx.codes.NOT_FOUND.value:  # a repository that has tags alone
        return {"tag_name": ""}
    return response.raise_for_status().json()


def _text(number: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in number) or "?"


def main(client: httpx.Client) -> int:
    """Print the table; returns the exit code."""
    table = Table("pin", "newest", "support", "", box=None)
    status = _SUPPORTED
    try:
        for *cells, lost in outdated(client):
            mark = ""
            if lost:
                mark, status = "ENDED", _LOST
            table.add_row(*cells, mark)
    except httpx.HTTPError as error:
        sys.stderr.write(f"error: nobody could be asked for newer releases: {error}\n")
        return _BLIND
    Console(highlight=False, soft_wrap=True).print(table)
    return status


if __name__ == "__main__":
    with httpx.Client(timeout=10, follow_redirects=True) as asking:
        sys.exit(main(asking))

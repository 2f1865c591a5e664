"""`make export-links`: writes all links into a CSV file, which `make import-links` takes back.

It reads Shlink's API through a forward to one of its pods. It needs deploy/rbac/smoke.yaml.
"""

import asyncio
import csv
from collections.abc import Callable, Generator
from http import HTTPStatus
from pathlib import Path

import httpx

from components.cluster.access import ClusterAccess

from .declared import Declared
from .smoke import Place, SmokeError, api_key, through_forward
from .view import Object, at

COLUMNS = {
    "Short code": "shortCode",
    "Domain": "domain",
    "Long URL": "longUrl",
    "Title": "title",
    "Tags": "tags",
    "Created": "dateCreated",
    "Valid since": "meta.validSince",
    "Valid until": "meta.validUntil",
    "Max visits": "meta.maxVisits",
    "Crawlable": "crawlable",
    "Forward query": "forwardQuery",
    "Visits": "visitsSummary.total",
}
"""Where each column stands in Shlink's answer. An empty domain is the default one."""

_PAGE = 500

_REQUEST_SECONDS = 60.0


def export_links(
    environment: Declared, cluster: ClusterAccess, file: Path, tell: Callable[[str], object]
) -> None:
    """Write the file, which must not exist. Raises SmokeError."""
    key = asyncio.run(api_key(environment, cluster))
    with through_forward(environment, cluster) as place:
        write(place, key, file, tell)


def write(place: Place, key: str, file: Path, tell: Callable[[str], object]) -> None:
    """Write the links of one Shlink. Raises SmokeError; then there is no file."""
    if file.exists():
        raise SmokeError(f"{file} exists; name another file, or remove it")
    part = file.with_name(f"{file.name}.part")
    number = partly = 0
    try:
        with part.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(COLUMNS)
            for link in _links(place, key):
                writer.writerow([_cell(link, path) for path in COLUMNS.values()])
                number += 1
                partly += _holds_more(link)
                if number % (10 * _PAGE) == 0:
                    tell(f"{number} links")
        part.rename(file)
    except (OSError, httpx.HTTPError) as error:
        reason = place.told[-1] if place.told else error
        raise SmokeError(f"{file} is not written: {reason}") from None
    finally:
        part.unlink(missing_ok=True)
    tell(f"{number} links are in {file}")
    if partly:
        tell(
            f"of {partly} the file holds not all: redirect rules, or a tag with a comma or a bar. "
            "Another Shlink takes these from this one's API"
        )


def _links(place: Place, key: str) -> Generator[Object]:
    """All links, the oldest first: what is created meanwhile moves no page."""
    with place.client(key, _REQUEST_SECONDS) as client:
        page, pages = 1, 1
        while page <= pages:
            query = {"page": page, "itemsPerPage": _PAGE, "orderBy": "dateCreated-ASC"}
            response = client.get("/rest/v3/short-urls", params=query)
            if response.status_code != HTTPStatus.OK:
                raise SmokeError(f"Shlink answers {response.status_code} to a list of links")
            answer = response.json()["shortUrls"]
            yield from answer["data"]
            page, pages = page + 1, answer["pagination"]["pagesCount"]


def _cell(link: Object, path: str) -> str:
    if path == "tags":
        return "|".join(link["tags"])
    value = at(link, *path.split("."))
    return "" if value is None else str(value)


def _holds_more(link: Object) -> bool:
    return bool(link.get("hasRedirectRules")) or any(
        "," in tag or "|" in tag for tag in link["tags"]
    )

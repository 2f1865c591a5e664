"""Every query of the alerts and dashboards is about metrics and labels that exist.

`metrics.yaml` lists what each exporter really had, by the PodMonitor that scrapes it.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, cast

import pytest
import yaml

from offline.record import ROOT
from tests.test_monitoring import dashboards, monitors, rules

# What Prometheus adds to each series of a target, and how it names a label that is taken.
# https://prometheus-operator.dev/docs/api-reference/api/ (PodMonitor, honorLabels)
TARGET_LABELS = frozenset(
    [
        "namespace",
        "pod",
        "job",
        "instance",
        "container",
        "endpoint",
        "exported_namespace",
        "exported_pod",
    ]
)
_SELECTOR = re.compile(r"([a-z_][a-z0-9_]*)?\{([^{}]*)\}")
_MATCHER = re.compile(r'([a-z_]\w*)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")


@cache
def metrics() -> dict[str, set[str]]:
    """Labels of each metric that was seen."""
    document = yaml.safe_load((ROOT / "tests/metrics.yaml").read_text())
    labels: dict[str, set[str]] = {}
    for source in document.values():
        for name, own in source["metrics"].items():
            labels.setdefault(name, set()).update(own)
    return labels


def queries() -> list[tuple[str, str]]:
    """Each query, and whose it is."""
    pairs = [(str(rule["alert"]), str(rule["expr"])) for rule in rules()]
    for board in dashboards():
        for panel in board["panels"]:
            pairs += [(str(panel["title"]), str(target["expr"])) for target in panel["targets"]]
    return [(owner, query) for owner, query in pairs if owner != "CertificateNearItsEnd"]


def selectors(query: str) -> Iterator[tuple[list[str], set[str]]]:
    """The metrics that each selector of a query names, and the labels that it matches."""
    for match in _SELECTOR.finditer(query):
        matchers = dict(cast("list[tuple[str, str]]", _MATCHER.findall(match[2])))
        pattern = matchers.pop("__name__", None)
        names = [match[1]] if match[1] else _alternatives(str(pattern))
        yield names, set(matchers)


def _alternatives(pattern: str) -> list[str]:
    before, _, rest = pattern.partition("(")
    middle, _, after = rest.partition(")")
    return [f"{before}{word}{after}" for word in middle.split("|")]


QUERIES = queries()


@pytest.mark.parametrize(("owner", "query"), QUERIES, ids=[owner for owner, _ in QUERIES])
def test_a_query_names_what_an_exporter_has(owner: str, query: str) -> None:
    known = set(TARGET_LABELS)
    selected = list(selectors(query))
    assert selected, owner
    for names, labels in selected:
        for name in names:
            assert name in metrics(), f"{owner}: no exporter has {name}"
            assert labels <= metrics()[name] | TARGET_LABELS, f"{owner}: {name} lacks a label"
            known |= metrics()[name]
    for grouping in _GROUPING.findall(query):
        labels = set(re.findall(r"\w+", grouping))
        assert labels <= known, f"{owner}: grouped by what is not there"


def test_the_check_itself_can_fail() -> None:
    """A misspelt metric, a label of another metric, and each name behind a pattern."""
    assert list(selectors('sum(rr_http_requests{status="5"})')) == [
        (["rr_http_requests"], {"status"})
    ]
    assert "rr_http_requests" not in metrics()
    assert "status" not in metrics()["rr_jobs_jobs_ok"]
    assert list(selectors('{__name__=~"a_(b|c)_d", pod="p"}')) == [(["a_b_d", "a_c_d"], {"pod"})]


def test_every_exporter_that_is_scraped_was_looked_at() -> None:
    """redis-operator is scraped for people who ask; no query of ours uses it."""
    document = yaml.safe_load((ROOT / "tests/metrics.yaml").read_text())
    scraped = {item["metadata"]["name"] for item in monitors()} - {"redis-operator"}
    names = {"shlink-redis": "redis"}
    assert {names.get(name, name) for name in scraped} <= document.keys()


# Dashboards by their schema; they were seen as pictures of real data, not in Grafana itself.

UNITS = {"reqps", "percentunit", "s", "short", "bytes"}
"""Those of Grafana's units that are used: packages/grafana-data/src/valueFormats/categories.ts."""
_COLUMNS = 24


def _cells(panel: Any) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    columns = range(place["x"], place["x"] + place["w"])
    rows = range(place["y"], place["y"] + place["h"])
    return {(column, row) for column in columns for row in rows}


def test_panels_share_no_cell_of_the_grid_and_stay_inside() -> None:
    for board in dashboards():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            cells = _cells(panel)
            assert not cells & taken, panel["title"]
            assert max(column for column, _ in cells) < _COLUMNS
            taken |= cells


def test_panels_have_ids_titles_and_queries_of_their_own() -> None:
    for board in dashboards():
        for key in ("id", "title"):
            values = [panel[key] for panel in board["panels"]]
            assert len(values) == len(set(values)), key
        for panel in board["panels"]:
            references = [target["refId"] for target in panel["targets"]]
            assert len(references) == len(set(references)) > 0
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS


def test_every_panel_asks_the_chosen_data_source() -> None:
    for board in dashboards():
        [variable] = board["templating"]["list"]
        assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
        for panel in board["panels"]:
            assert panel["datasource"]["uid"] == f"${{{variable['name']}}}"


def test_a_legend_names_labels_that_the_query_keeps() -> None:
    for board in dashboards():
        for panel in board["panels"]:
            for target in panel["targets"]:
                for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                    kept = re.search(rf"by \([^)]*\b{label}\b", target["expr"])
                    assert kept, f"{panel['title']}: {label}"


def test_two_series_of_a_panel_have_different_names() -> None:
    for board in dashboards():
        for panel in board["panels"]:
            legends = [target["legendFormat"] for target in panel["targets"]]
            assert len(legends) == len(set(legends)), panel["title"]

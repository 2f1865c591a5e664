"""The alerts and dashboards of one environment, from the YAML files in this folder."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any

import yaml

from ..network.flows import NAMESPACES
from ..settings.environment import Settings
from ..settings.postgres import VOLUME
from . import thresholds

RUNBOOK = "docs/runbook.md"

_COLUMNS, _WIDTH, _HEIGHT = 2, 12, 8
"""Of a dashboard's panels, in Grafana's grid."""


class Queries:
    """Fills in what is known of one environment.

    `jobs`: what is scraped, as Prometheus names it: namespace/PodMonitor.
    """

    def __init__(self, settings: Settings, jobs: Sequence[str]) -> None:
        self._parts = {
            "exporter": settings.postgres.monitoring,
            "pooler": settings.postgres.pooler is not None,
            "failover": settings.redis.mode == "failover",
            "autoscaler": settings.shlink.autoscaled,
        }
        hours = settings.monitoring.backup_hours
        self._terms = {
            **{name: f'namespace="{name}"' for name in NAMESPACES},
            "anywhere": f'namespace=~"{"|".join(NAMESPACES)}"',
            "jobs": "|".join(jobs),
            "no_jobs": " or ".join(f'absent(up{{job="{job}"}})' for job in jobs),
            "backup_hours": str(hours),
            "backup_minutes": str(60 * hours),
            "backup_seconds": str(3600 * hours),
            "lag_bytes": str(thresholds.LAG_BYTES),
            "memory_share": str(thresholds.MEMORY_SHARE),
            "volume_free": f"{1 - thresholds.VOLUME_PERCENT / 100:.2f}",
        }
        for name, text in _read("terms").items():
            self._terms[name] = self._query(text)
        repositories = [VOLUME, *sorted(settings.postgres.backups.repositories)]
        numbers = [name.removeprefix("repo") for name in repositories]
        absent = [f'absent({{$backup_name, $postgres, repo="{number}"}})' for number in numbers]
        self._terms["no_backup"] = self._query(" or ".join(absent))

    def alerts(self) -> Mapping[str, Any]:
        """The group of alerts for what this environment has."""
        rules: list[Any] = []
        for entry in self._existing(_read("alerts")):
            # A summary has variables of Prometheus' own.
            summary = Template(entry["summary"]).safe_substitute(self._terms)
            expression, minutes = self._query(entry["expr"]), self._query(entry["for"])
            rules.append(_rule(entry | {"expr": expression, "for": minutes, "summary": summary}))
        return {"name": "shlink", "rules": rules}

    def dashboards(self) -> Mapping[str, str]:
        """Each dashboard by its name, as Grafana imports it."""
        documents: dict[str, str] = {}
        for name, dashboard in _read("dashboards").items():
            panels = enumerate(self._existing(dashboard["panels"]))
            document: dict[str, Any] = {
                "uid": f"shlink-{name}",
                "title": dashboard["title"],
                "tags": ["shlink"],
                "timezone": "browser",
                "refresh": "1m",
                "time": {"from": "now-6h", "to": "now"},
                "schemaVersion": 39,
                "templating": {"list": [_SOURCE]},
                "panels": [self._panel(number, panel) for number, panel in panels],
            }
            documents[name] = json.dumps(document, indent=1)
        return documents

    def _panel(self, number: int, panel: Mapping[str, Any]) -> Mapping[str, Any]:
        row, column = divmod(number, _COLUMNS)
        targets: list[Any] = []
        for letter, (legend, query) in zip("ABCD", panel["queries"].items(), strict=False):
            targets.append(
                {"refId": letter, "expr": self._query(query), "legendFormat": str(legend)}
            )
        return {
            "id": number + 1,
            "type": "timeseries",
            "title": panel["title"],
            "datasource": {"type": "prometheus", "uid": "${source}"},
            "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
            "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
            "targets": targets,
        }

    def _existing(self, entries: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        """The entries of parts that this environment has."""
        for entry in entries:
            if "when" not in entry or self._parts[entry["when"]]:
                yield dict(entry)

    def _query(self, text: str) -> str:
        return Template(text).substitute(self._terms)


_SOURCE = {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _read(name: str) -> Any:
    return yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text())


def certificate_alerts(title: str, expires: str) -> Mapping[str, Any]:
    """The group for one certificate. The program knows when it ends, so no exporter is needed.

    `expires` is a moment of RFC 3339.
    """
    end = int(datetime.fromisoformat(expires).timestamp())
    alert = {
        "alert": "CertificateNearItsEnd",
        "expr": f"vector(time()) > {end - thresholds.CERTIFICATE_DAYS * 86400}",
        "for": "60m",
        "severity": "warning",
        "summary": f"The certificate of {title} ends on {expires[:10]}; `make up` renews it.",
        "page": "certificate-near-its-end",
    }
    return {"name": f"certificate-{title.lower()}", "rules": [_rule(alert)]}


def _rule(alert: Mapping[str, str]) -> Mapping[str, Any]:
    """As the Prometheus operator's PrometheusRule has it."""
    return {
        "alert": alert["alert"],
        "expr": alert["expr"],
        "for": alert["for"],
        "labels": {"severity": alert["severity"], "environment": "shlink"},
        "annotations": {"summary": alert["summary"], "runbook_url": f"{RUNBOOK}#{alert['page']}"},
    }

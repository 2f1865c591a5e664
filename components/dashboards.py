"""Two Grafana dashboards: Shlink as its users see it, and the servers that hold its data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .alerts import Watched

_COLUMNS = 2
_WIDTH, _HEIGHT = 12, 8
_BACKUP_AGE = "ccp_backrest_last_full_backup_time_since_completion_seconds"


@dataclass(frozen=True)
class Panel:
    """A graph over time."""

    title: str
    unit: str
    """Grafana's name: `reqps`, `s`, `bytes`, `short`, `percentunit`."""
    queries: Sequence[tuple[str, str]]
    """PromQL, and the legend of its series."""


def shlink_panels(watched: Watched) -> list[Panel]:
    """What a user notices."""
    place = f'namespace="{watched.shlink}"'
    errors = f'sum(rate(rr_http_request_total{{{place}, status=~"5.."}}[5m]))'
    buckets = f"sum by (le) (rate(rr_http_request_duration_seconds_bucket{{{place}}}[5m]))"
    return [
        Panel(
            title="Requests by status",
            unit="reqps",
            queries=[
                (f"sum by (status) (rate(rr_http_request_total{{{place}}}[5m]))", "{{status}}")
            ],
        ),
        Panel(
            title="Server errors",
            unit="percentunit",
            queries=[(f"{errors} / sum(rate(rr_http_request_total{{{place}}}[5m]))", "share")],
        ),
        Panel(
            title="Duration",
            unit="s",
            queries=[
                (f"histogram_quantile(0.5, {buckets})", "half of the requests"),
                (f"histogram_quantile(0.95, {buckets})", "95 %"),
            ],
        ),
        Panel(
            title="Web workers",
            unit="short",
            queries=[
                (f"sum(rr_http_workers_working{{{place}}})", "busy"),
                (f"sum(rr_http_total_workers{{{place}}})", "all"),
                (f"sum(rr_http_requests_queue{{{place}}})", "requests that wait"),
            ],
        ),
        Panel(
            title="Memory of the workers",
            unit="bytes",
            queries=[
                (f"sum by (pod) (rr_http_workers_memory_bytes{{{place}}})", "web {{pod}}"),
                (f"sum by (pod) (rr_jobs_workers_memory_bytes{{{place}}})", "tasks {{pod}}"),
            ],
        ),
        Panel(
            title="Tasks (visits, locations, notifications)",
            unit="short",
            queries=[
                (f"sum(increase(rr_jobs_jobs_ok{{{place}}}[5m]))", "done"),
                (f"sum(increase(rr_jobs_jobs_err{{{place}}}[5m]))", "failed"),
            ],
        ),
    ]


def data_panels(watched: Watched) -> list[Panel]:
    """Vault, the delivered Secrets, PostgreSQL and Redis."""
    vault = f'namespace="{watched.vault}"'
    panels = [
        Panel(
            title="Vault unsealed",
            unit="short",
            queries=[(f"max by (pod) (vault_core_unsealed{{{vault}}})", "{{pod}}")],
        ),
        Panel(
            title="Secrets that are not delivered",
            unit="short",
            queries=[
                (
                    'sum(externalsecret_status_condition{condition="Ready", status="False"})',
                    "Secrets",
                )
            ],
        ),
    ]
    if watched.exporter:
        place = f'namespace="{watched.postgres}"'
        panels += [
            Panel(
                title="PostgreSQL: connections",
                unit="short",
                queries=[
                    (f"sum by (pod) (ccp_connection_stats_total{{{place}}})", "{{pod}}"),
                    (f"max(ccp_connection_stats_max_connections{{{place}}})", "limit"),
                ],
            ),
            Panel(
                title="PostgreSQL: replicas behind",
                unit="bytes",
                queries=[
                    (
                        f"max by (replica) (ccp_replication_lag_size_bytes{{{place}}})",
                        "{{replica}}",
                    ),
                ],
            ),
            Panel(
                title="PostgreSQL: age of the newest full backup",
                unit="s",
                queries=[(f"min by (repo) ({_BACKUP_AGE}{{{place}}})", "{{repo}}")],
            ),
            Panel(
                title="PostgreSQL: databases",
                unit="bytes",
                queries=[(f"max by (dbname) (ccp_database_size_bytes{{{place}}})", "{{dbname}}")],
            ),
        ]
    if watched.failover:
        place = f'namespace="{watched.redis}"'
        panels += [
            Panel(
                title="Redis: memory",
                unit="bytes",
                queries=[
                    (f"max by (pod) (redis_memory_used_bytes{{{place}}})", "{{pod}}"),
                    (f"max(redis_memory_max_bytes{{{place}}})", "limit"),
                ],
            ),
            Panel(
                title="Redis: masters and clients",
                unit="short",
                queries=[
                    (f'count(redis_instance_info{{{place}, role="master"}})', "masters"),
                    (f"sum(redis_connected_clients{{{place}}})", "clients"),
                ],
            ),
        ]
    return panels


def dashboard(uid: str, title: str, panels: Sequence[Panel]) -> str:
    """A dashboard as Grafana imports it."""
    drawn = [_drawn(number, panel) for number, panel in enumerate(panels)]
    document: dict[str, Any] = {
        "uid": uid,
        "title": title,
        "tags": ["shlink"],
        "timezone": "browser",
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "schemaVersion": 39,
        "templating": {
            "list": [
                {
                    "name": "source",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                }
            ]
        },
        "panels": drawn,
    }
    return json.dumps(document, indent=1)


def _drawn(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    targets = [
        {"refId": chr(ord("A") + position), "expr": query, "legendFormat": legend}
        for position, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": {"type": "prometheus", "uid": "${source}"},
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }

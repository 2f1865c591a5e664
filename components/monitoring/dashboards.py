"""Two Grafana dashboards: Shlink as its users see it, and the servers that hold its data."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .alerts import AVAILABLE, Watched, backup_ages, primary, spaces, undelivered

_COLUMNS = 2

_WIDTH, _HEIGHT = 12, 8


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
    deployment = f'{place}, deployment="shlink"'
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
            queries=[
                (
                    f"({errors} or vector(0)) / sum(rate(rr_http_request_total{{{place}}}[5m]))",
                    "share",
                )
            ],
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
            title="Pods",
            unit="short",
            queries=[
                (f"max({AVAILABLE}{{{deployment}}})", "Ready"),
                (f"max(kube_deployment_spec_replicas{{{deployment}}})", "wanted"),
            ],
        ),
        Panel(
            title="Web workers",
            unit="short",
            queries=[
                (f"sum(rr_http_workers_working{{{place}}})", "busy"),
                (f"sum(rr_http_total_workers{{{place}}})", "all"),
            ],
        ),
        Panel(
            title="Requests that wait for a worker",
            unit="short",
            queries=[(f"sum by (pod) (rr_http_requests_queue{{{place}}})", "{{pod}}")],
        ),
        Panel(title="Memory of a pod", unit="bytes", queries=memory(place, "shlink")),
        Panel(
            title="Tasks in 5 minutes (locations, notifications)",
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
    every = 'externalsecret_status_condition{condition="Ready"}'
    panels = [
        Panel(
            title="Vault unsealed",
            unit="short",
            queries=[(f"max by (pod) (vault_core_unsealed{{{vault}}})", "{{pod}}")],
        ),
        Panel(
            title="Secrets that are not delivered",
            unit="short",
            queries=[(counted(undelivered(watched), every), "Secrets")],
        ),
    ]
    if watched.exporter:
        place = f'namespace="{watched.postgres}"'
        recovery = f"ccp_is_in_recovery_status{{{place}}}"
        behind = f"ccp_replication_lag_size_bytes{{{place}}}"
        archived = f"ccp_archive_command_status_seconds_since_last_archive{{{place}}}"
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
                title="PostgreSQL: replicas",
                unit="short",
                queries=[
                    (counted(f"{recovery} == 1", recovery), "run"),
                    (counted(f"{behind} >= 0", recovery), "follow"),
                ],
            ),
            Panel(
                title="PostgreSQL: how far the farthest replica is behind",
                unit="bytes",
                queries=[(f"max({behind})", "behind")],
            ),
            Panel(
                title="PostgreSQL: time since WAL was archived",
                unit="s",
                queries=[
                    (f"min({archived} and on (pod) {primary(watched)})", "primary"),
                ],
            ),
            Panel(
                title="PostgreSQL: age of the newest backup",
                unit="s",
                queries=[(f"min by (repo) ({backup_ages(watched)})", "repository {{repo}}")],
            ),
            Panel(
                title="PostgreSQL: databases",
                unit="bytes",
                queries=[(f"max by (dbname) (ccp_database_size_bytes{{{place}}})", "{{dbname}}")],
            ),
        ]
    if watched.failover:
        place = f'namespace="{watched.redis}"'
        instances = f"redis_instance_info{{{place}}}"
        panels += [
            Panel(title="Redis: memory", unit="bytes", queries=memory(place, "redis")),
            Panel(
                title="Redis: masters and replicas",
                unit="short",
                queries=[
                    (
                        counted(f'redis_instance_info{{{place}, role="master"}}', instances),
                        "masters",
                    ),
                    (
                        counted(f'redis_instance_info{{{place}, role="slave"}}', instances),
                        "replicas",
                    ),
                ],
            ),
            Panel(
                title="Redis: clients",
                unit="short",
                queries=[(f"sum(redis_connected_clients{{{place}}})", "clients")],
            ),
        ]
    place = spaces(watched.namespaces)
    free = f"kubelet_volume_stats_available_bytes{{{place}}}"
    share = f"{free} / kubelet_volume_stats_capacity_bytes{{{place}}}"
    panels.append(
        Panel(
            title="Volumes: how full",
            unit="percentunit",
            queries=[
                (f"1 - max by (persistentvolumeclaim) ({share})", "{{persistentvolumeclaim}}")
            ],
        )
    )
    return panels


def counted(series: str, among: str) -> str:
    """How many there are, and no number where nothing answers: that would look like a fault."""
    return f"count({series}) or 0 * count({among})"


def memory(place: str, container: str) -> list[tuple[str, str]]:
    """What the pods of a container use, and its limit."""
    place = f'{place}, container="{container}"'
    return [
        (f"max by (pod) (container_memory_working_set_bytes{{{place}}})", "{{pod}}"),
        (f'max(kube_pod_container_resource_limits{{{place}, resource="memory"}})', "limit"),
    ]


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

"""Monitoring: what Prometheus scrapes, when it alerts, and the dashboards that Grafana shows.

Made of the Prometheus operator's kinds, which the cluster must know. Nothing here holds a secret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import core, meta

from ..network.flows import (
    CONTROLLER,
    DATABASE,
    EXTERNAL_SECRETS,
    POSTGRES,
    REDIS,
    REDIS_OPERATOR,
    REDIS_SERVERS,
    SERVER,
    SHLINK,
    VAULT,
    VAULT_SERVER,
    Pods,
)
from ..settings.environment import Settings
from ..settings.postgres import VOLUME
from .alerts import Watched, alerts, certificate_alert, group
from .crds import PodMonitor, PrometheusRule
from .dashboards import dashboard, data_panels, shlink_panels

_INTERVAL = "30s"

# PostgreSQL's exporter runs `pgbackrest info` within a scrape, which asks every repository.
_TIMEOUT = "25s"


@dataclass(frozen=True)
class Target:
    """Pods that export metrics."""

    name: str
    """Of the PodMonitor."""
    pods: Pods
    """Whose metrics are scraped."""
    port: str
    """The container port's name."""
    path: str = "/metrics"
    """Of the metrics, where the exporter has another path than Prometheus' own default."""
    parameters: Mapping[str, Sequence[str]] | None = None
    """Of the query."""
    authority: pulumi.Input[str] | None = None
    """Secret in the same namespace whose `ca.crt` verifies the server; plain HTTP when None."""
    server_name: str | None = None
    """The name in the server's certificate; a pod is scraped by its address."""


@dataclass(frozen=True)
class MonitoringArgs:
    """What is scraped, watched and shown."""

    namespace: pulumi.Input[str]
    """Where rules and dashboards live."""
    targets: Sequence[Target]
    """What is scraped; each PodMonitor lives beside its pods."""
    watched: Watched
    """What the alerts are about."""
    certificates: Mapping[str, pulumi.Input[str]]
    """End of each certificate (RFC 3339), by what it belongs to."""
    labels: Mapping[str, str]
    """By which Prometheus selects monitors and rules."""
    dashboard_labels: Mapping[str, str]
    """By which Grafana finds dashboards."""


def targets(settings: Settings, vault_authority: pulumi.Input[str]) -> list[Target]:
    """Everything in this environment that really exports metrics.

    `vault_authority`: the Secret that holds the authority of Vault's certificate.
    """
    exporters = [
        Target(
            name="vault",
            pods=VAULT_SERVER,
            port="https",
            path="/v1/sys/metrics",
            parameters={"format": ["prometheus"]},
            authority=vault_authority,
            server_name=f"vault.{VAULT}.svc",
        ),
        Target(name="shlink", pods=SERVER, port="metrics"),
    ]
    if settings.operators.external_secrets.install:
        exporters.append(Target(name="external-secrets", pods=CONTROLLER, port="metrics"))
    if settings.postgres.monitoring:
        exporters.append(Target(name="shlink-db", pods=DATABASE, port="exporter"))
    if settings.redis.mode == "failover":
        exporters.append(Target(name="shlink-redis", pods=REDIS_SERVERS, port="metrics"))
        if settings.operators.redis_operator.install:
            exporters.append(Target(name="redis-operator", pods=REDIS_OPERATOR, port="metrics"))
    return exporters


def watched(settings: Settings, exporters: Sequence[Target]) -> Watched:
    """What the alerts of this environment are about."""
    repositories = [VOLUME, *sorted(settings.postgres.backups.repositories)]
    return Watched(
        vault=VAULT,
        postgres=POSTGRES,
        redis=REDIS,
        shlink=SHLINK,
        external_secrets=EXTERNAL_SECRETS,
        exporter=settings.postgres.monitoring,
        failover=settings.redis.mode == "failover",
        backup_hours=settings.monitoring.backup_hours,
        repositories=[name.removeprefix("repo") for name in repositories],
        jobs=[f"{target.pods.namespace}/{target.name}" for target in exporters],
        autoscaled=settings.shlink.autoscaled,
        pooled=settings.postgres.pooler is not None,
    )


class Monitoring(pulumi.ComponentResource):
    """PodMonitors, alerts and dashboards of one environment."""

    def __init__(
        self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:monitoring:Monitoring", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        for target in args.targets:
            PodMonitor(
                f"{name}-{target.name}",
                metadata=meta.v1.ObjectMetaArgs(
                    name=target.name, namespace=target.pods.namespace, labels=args.labels or None
                ),
                spec=_pod_monitor(target),
                opts=child,
            )
        PrometheusRule(
            f"{name}-alerts",
            metadata=meta.v1.ObjectMetaArgs(
                name="shlink", namespace=args.namespace, labels=args.labels or None
            ),
            spec={"groups": [group("shlink", alerts(args.watched)), *_certificates(args)]},
            opts=child,
        )
        for key, title, panels in (
            ("shlink", "Shlink: what its users see", shlink_panels(args.watched)),
            ("data", "Shlink: its data", data_panels(args.watched)),
        ):
            core.v1.ConfigMap(
                f"{name}-dashboard-{key}",
                metadata=meta.v1.ObjectMetaArgs(
                    name=f"dashboard-{key}", namespace=args.namespace, labels=args.dashboard_labels
                ),
                data={f"shlink-{key}.json": dashboard(f"shlink-{key}", title, panels)},
                opts=child,
            )
        self.register_outputs({})


def _pod_monitor(target: Target) -> Mapping[str, Any]:
    endpoint: dict[str, Any] = {
        "port": target.port,
        "path": target.path,
        "interval": _INTERVAL,
        "scrapeTimeout": _TIMEOUT,
    }
    if target.parameters:
        endpoint["params"] = {key: list(values) for key, values in target.parameters.items()}
    if target.authority is not None:
        endpoint["scheme"] = "https"
        endpoint["tlsConfig"] = {
            "ca": {"secret": {"name": target.authority, "key": "ca.crt"}},
            "serverName": target.server_name,
        }
    return {
        "selector": {"matchLabels": dict(target.pods.labels)},
        "podMetricsEndpoints": [endpoint],
    }


def _certificates(args: MonitoringArgs) -> list[Any]:
    """The rules for the certificates; their ends are known when they exist."""
    rules: list[Any] = []
    for title, expires in args.certificates.items():

        def alert(moment: str, title: str = title) -> Mapping[str, Any]:
            return group(f"certificate-{title.lower()}", [certificate_alert(title, moment)])

        rules.append(pulumi.Output.from_input(expires).apply(alert))
    return rules

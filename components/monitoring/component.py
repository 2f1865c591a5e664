"""Monitoring: what Prometheus scrapes, when it alerts, and the dashboards that Grafana shows.

Made of the Prometheus operator's kinds, which the cluster must know. Nothing here holds a secret.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pulumi
from pulumi_kubernetes import core, meta

from ..network.flows import (
    CONTROLLER,
    DATABASE,
    REDIS_OPERATOR,
    REDIS_SERVERS,
    SERVER,
    VAULT,
    VAULT_SERVER,
    Pods,
)
from ..settings.environment import Settings
from .crds import PodMonitor, PrometheusRule
from .queries import Queries, certificate_alerts

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

    settings: Settings
    """Of the whole environment."""
    namespace: pulumi.Input[str]
    """Where rules and dashboards live; each PodMonitor lives beside its pods."""
    vault_authority: pulumi.Input[str]
    """The Secret that holds the authority of Vault's certificate."""
    certificates: Mapping[str, pulumi.Input[str]]
    """End of each certificate (RFC 3339), by what it belongs to."""


def _targets(settings: Settings, vault_authority: pulumi.Input[str]) -> list[Target]:
    """Everything in this environment that really exports metrics."""
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


class Monitoring(pulumi.ComponentResource):
    """PodMonitors, alerts and dashboards of one environment."""

    def __init__(
        self, name: str, args: MonitoringArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:monitoring:Monitoring", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        labels = args.settings.monitoring.labels or None
        targets = _targets(args.settings, args.vault_authority)
        for target in targets:
            PodMonitor(
                f"{name}-{target.name}",
                metadata=meta.v1.ObjectMetaArgs(
                    name=target.name, namespace=target.pods.namespace, labels=labels
                ),
                spec=_pod_monitor(target),
                opts=child,
            )
        jobs = [f"{target.pods.namespace}/{target.name}" for target in targets]
        queries = Queries(args.settings, jobs)
        certificates = [
            pulumi.Output.from_input(expires).apply(partial(certificate_alerts, title))
            for title, expires in args.certificates.items()
        ]
        PrometheusRule(
            f"{name}-alerts",
            metadata=meta.v1.ObjectMetaArgs(name="shlink", namespace=args.namespace, labels=labels),
            spec={"groups": [queries.alerts(), *certificates]},
            opts=child,
        )
        for key, document in queries.dashboards().items():
            core.v1.ConfigMap(
                f"{name}-dashboard-{key}",
                metadata=meta.v1.ObjectMetaArgs(
                    name=f"dashboard-{key}",
                    namespace=args.namespace,
                    labels=args.settings.monitoring.dashboard_labels,
                ),
                data={f"shlink-{key}.json": document},
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

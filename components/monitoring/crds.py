"""The Prometheus operator's kinds, with the fields that this program sets."""

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from ..manifests.crds import Custom


class PodMonitor(Custom):
    """What Prometheus scrapes: https://prometheus-operator.dev/docs/api-reference/api/"""

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: Mapping[str, Any],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "monitoring.coreos.com/v1", "PodMonitor", metadata, spec, opts)


class PrometheusRule(Custom):
    """Alerts: https://prometheus-operator.dev/docs/api-reference/api/"""

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: Mapping[str, Any],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "monitoring.coreos.com/v1", "PrometheusRule", metadata, spec, opts)

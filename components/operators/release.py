"""What the three operators have in common: a Helm release from a pinned chart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import helm

from ..manifests.charts import ChartSource
from ..manifests.placement import Placement
from ..settings.images import ImageReference
from ..settings.platform import Chart, Resources

OperatorResources = Sequence[pulumi.Resource]
"""Custom resources depend on these, so the operator is deleted last. Empty if pre-installed."""


@dataclass(frozen=True)
class OperatorArgs:
    """What every operator is installed with."""

    namespace: pulumi.Input[str]
    """Namespace of the operator's own pods."""
    chart: ChartSource
    """Where its chart comes from, and which version; a mirror or a folder for an air gap."""
    image: ImageReference | None
    """The operator's image; None leaves the chart's own."""
    resources: Resources
    """Requests and the memory limit of the operator's container."""
    placement: Placement
    """On which nodes the operator may run."""


def chart_source(name: str, chart: Chart) -> ChartSource:
    return ChartSource(name=name, repository=chart.repository, version=chart.version)


def image_reference(text: str | None) -> ImageReference | None:
    return ImageReference.parse(text) if text else None


def helm_release(
    *,
    parent: pulumi.Resource,
    name: str,
    args: OperatorArgs,
    release: str,
    values: Mapping[str, Any],
    depends_on: Sequence[pulumi.Resource] = (),
) -> helm.v3.Release:
    repository = None
    if args.chart.repository_url:
        repository = helm.v3.RepositoryOptsArgs(repo=args.chart.repository_url)
    return helm.v3.Release(
        name,
        # Named, so that what selects the operator's pods does not depend on a random suffix.
        name=release,
        namespace=args.namespace,
        chart=args.chart.chart,
        repository_opts=repository,
        version=args.chart.version,
        values=dict(values),
        # A failed first install is taken back, so that the next `up` starts clean.
        atomic=True,
        timeout=600,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(depends_on)),
    )

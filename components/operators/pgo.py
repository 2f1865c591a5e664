"""PGO, the operator of PostgreSQL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi

from ..manifests.placement import Placement
from ..manifests.pods import requirements
from ..settings.images import ImageReference
from .release import OperatorArgs, helm_release


@dataclass(frozen=True)
class PostgresOperatorArgs(OperatorArgs):
    """What PGO is installed with."""

    related_images: Mapping[str, ImageReference] = field(default_factory=dict[str, ImageReference])
    """What PGO runs where a PostgresCluster names no image, by the chart's keys (`postgres_16`,
    `pgbackrest`). Empty leaves the chart's own; a mirror needs all of them."""


class PostgresOperator(pulumi.ComponentResource):
    """PGO, looking after its own namespace alone."""

    def __init__(
        self, name: str, args: PostgresOperatorArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:operators:PostgresOperator", name, None, opts)
        values: dict[str, Any] = {
            "singleNamespace": True,  # a Role in its namespace instead of a ClusterRole
            "debug": False,
            "resources": {"controller": requirements(args.resources)},
            **_pgo_placement(args.placement),
        }
        if args.image:
            values["controllerImages"] = {"cluster": str(args.image)}
        if args.related_images:
            related: dict[str, Any] = {}
            for key, image in args.related_images.items():
                related[key] = {"image": str(image)}
            values["relatedImages"] = related
        release = helm_release(parent=self, name=name, args=args, release="pgo", values=values)
        self.register_outputs({"version": release.version})


def _pgo_placement(placement: Placement) -> dict[str, Any]:
    """PGO's chart takes no node selector but affinity, and no priority class at all."""
    values: dict[str, Any] = {**placement.pgo_pods()}
    values.pop("priorityClassName", None)
    if placement.pull_secret:
        values["imagePullSecretNames"] = [placement.pull_secret]
    return values

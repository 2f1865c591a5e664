"""The custom resources that this program creates, with the fields that it sets.

The types name fields exactly as the CRDs do. tests/real/test_crds.py checks each of them against
the real CRDs, so `make verify` finds a field that a newer version drops or renames.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi_kubernetes.apiextensions import CustomResource
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs


class Custom(CustomResource):
    def __init__(  # noqa: PLR0917 -- as many as its base class has
        self,
        name: str,
        api_version: str,
        kind: str,
        metadata: ObjectMetaArgs,
        spec: Mapping[str, Any],
        opts: pulumi.ResourceOptions,
    ) -> None:
        # The base class takes any further keyword, untyped.
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            name, api_version, kind, metadata=metadata, spec=spec, opts=opts
        )

    @property
    def generation(self) -> pulumi.Output[int]:
        """The number that the API server raises with each change of the spec.

        0 where there is no API server, as in an offline preview.
        """
        # Untyped in the SDK.
        metadata: pulumi.Output[Any] = pulumi.get(self, "metadata")  # pyright: ignore[reportUnknownMemberType]
        return metadata.apply(_generation)


def _generation(metadata: Any) -> int:
    return int(metadata.get("generation") or 0)


class ClaimResources(TypedDict):
    requests: Mapping[str, str]


class VolumeClaim(TypedDict):
    accessModes: Sequence[str]
    storageClassName: NotRequired[str]
    resources: ClaimResources


class LabelSelector(TypedDict):
    matchLabels: Mapping[str, str]
    matchExpressions: NotRequired[Sequence[Mapping[str, Any]]]


class SpreadConstraint(TypedDict):
    maxSkew: int
    topologyKey: str
    whenUnsatisfiable: str
    labelSelector: LabelSelector


Affinity = Mapping[str, Mapping[str, Any]]


class Scheduling(TypedDict, total=False):
    """What a pod and PGO have in common; nothing is required."""

    tolerations: Sequence[Mapping[str, Any]]
    priorityClassName: str


class PodPlacement(Scheduling, total=False):
    """Of a pod."""

    nodeSelector: Mapping[str, str]


class PgoPlacement(Scheduling, total=False):
    """Of pods that PGO makes."""

    affinity: Affinity


class WithResources(TypedDict):
    resources: Any


class PlacedWithResources(PgoPlacement):
    resources: Any

"""CiliumNetworkPolicy, with the fields that this program sets."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import pulumi
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from ..manifests.crds import Custom, LabelSelector


class CiliumPort(TypedDict):
    port: str
    protocol: str


class CiliumPorts(TypedDict):
    ports: Sequence[CiliumPort]


class CiliumEgress(TypedDict):
    toEntities: Sequence[str]
    toPorts: Sequence[CiliumPorts]


class CiliumIngress(TypedDict):
    fromEntities: Sequence[str]
    toPorts: Sequence[CiliumPorts]


class CiliumNetworkPolicySpec(TypedDict):
    endpointSelector: LabelSelector
    egress: NotRequired[Sequence[CiliumEgress]]
    ingress: NotRequired[Sequence[CiliumIngress]]


class CiliumNetworkPolicy(Custom):
    """Cilium's own policy.

    https://docs.cilium.io/en/stable/security/policy/language/#entities-based
    """

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: CiliumNetworkPolicySpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "cilium.io/v2", "CiliumNetworkPolicy", metadata, spec, opts)

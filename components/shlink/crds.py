"""HTTPRoute of the Gateway API, with the fields that this program sets."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import pulumi
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from ..manifests.crds import Custom


class ParentReference(TypedDict):
    name: str
    namespace: str
    sectionName: NotRequired[str]


class BackendReference(TypedDict):
    name: str
    port: int


class HTTPPathMatch(TypedDict):
    type: str
    value: str


class HTTPRouteMatch(TypedDict):
    path: HTTPPathMatch


class HTTPRouteRule(TypedDict):
    matches: NotRequired[Sequence[HTTPRouteMatch]]
    backendRefs: Sequence[BackendReference]


class HTTPRouteSpec(TypedDict):
    parentRefs: Sequence[ParentReference]
    hostnames: Sequence[str]
    rules: Sequence[HTTPRouteRule]


class HTTPRoute(Custom):
    """Gateway API's route: https://gateway-api.sigs.k8s.io/api-types/httproute/"""

    def __init__(
        self, name: str, metadata: ObjectMetaArgs, spec: HTTPRouteSpec, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__(name, "gateway.networking.k8s.io/v1", "HTTPRoute", metadata, spec, opts)

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


class HealthCheck(TypedDict):
    type: str
    requestPath: str
    port: int


class BackendConfigSpec(TypedDict):
    healthCheck: HealthCheck


class BackendConfig(Custom):
    """Google's load balancers: https://docs.cloud.google.com/kubernetes-engine/docs/how-to/ingress-configuration"""

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: BackendConfigSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "cloud.google.com/v1", "BackendConfig", metadata, spec, opts)


class HTTPHealthCheck(TypedDict):
    requestPath: str
    port: int


class HealthCheckConfig(TypedDict):
    type: str
    httpHealthCheck: HTTPHealthCheck


class HealthCheckDefault(TypedDict):
    config: HealthCheckConfig


class TargetReference(TypedDict):
    group: str
    kind: str
    name: str


class HealthCheckPolicySpec(TypedDict):
    default: HealthCheckDefault
    targetRef: TargetReference


class HealthCheckPolicy(Custom):
    """The same for Google's Gateways: https://docs.cloud.google.com/kubernetes-engine/docs/how-to/configure-gateway-resources"""

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: HealthCheckPolicySpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "networking.gke.io/v1", "HealthCheckPolicy", metadata, spec, opts)

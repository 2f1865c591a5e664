"""RedisFailover, with the fields that this program sets."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi import Input
from pulumi_kubernetes.apiextensions import CustomResourcePatch
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from ..manifests.crds import Custom, PodPlacement, SpreadConstraint, VolumeClaim

_VERSION = "databases.spotahome.com/v1"


class NamedClaim(TypedDict):
    metadata: Mapping[str, str]
    spec: VolumeClaim


class RedisStorage(TypedDict):
    keepAfterDeletion: bool
    persistentVolumeClaim: NamedClaim


class RedisExporter(TypedDict):
    enabled: bool
    image: Input[str]
    imagePullPolicy: str
    containerSecurityContext: Any
    resources: Any


class ConfigCopy(TypedDict):
    containerSecurityContext: Any


class RedisHalf(PodPlacement):
    image: Input[str]
    imagePullPolicy: str
    imagePullSecrets: NotRequired[Sequence[Mapping[str, str]]]
    replicas: int
    resources: Any
    securityContext: Any
    containerSecurityContext: Any
    serviceAccountName: Input[str]
    topologySpreadConstraints: Sequence[SpreadConstraint]
    customConfig: Sequence[str]


class RedisServers(RedisHalf):
    command: Sequence[str]
    storage: RedisStorage
    exporter: RedisExporter
    terminationGracePeriod: int


class Sentinels(RedisHalf):
    configCopy: ConfigCopy


class RedisAuth(TypedDict):
    secretPath: Input[str]


class RedisFailoverSpec(TypedDict):
    engine: NotRequired[str]
    redis: RedisServers
    sentinel: Sentinels
    auth: RedisAuth
    labelWhitelist: Sequence[str]


class RedisFailover(Custom):
    """redis-operator's Redis with Sentinel.

    https://github.com/spotahome/redis-operator/tree/v1.2.4/example/redisfailover
    """

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: RedisFailoverSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, _VERSION, "RedisFailover", metadata, spec, opts)


class RedisRestart(CustomResourcePatch):
    """Annotations of the servers' pods, applied to a RedisFailover beside its own fields.

    A change of them makes the operator restart the pods.
    """

    def __init__(
        self,
        name: str,
        failover: str,
        namespace: Input[str],
        annotations: Mapping[str, str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType] -- its last two are untyped
            name,
            _VERSION,
            "RedisFailover",
            metadata=ObjectMetaArgs(name=failover, namespace=namespace),
            spec={"redis": {"podAnnotations": annotations}},
            opts=opts,
        )

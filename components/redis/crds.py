"""RedisFailover, with the fields that this program sets."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import pulumi
from pulumi import Input
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from ..manifests.crds import Custom, PodPlacement, SpreadConstraint, VolumeClaim


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
    podAnnotations: Mapping[str, str]
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
        super().__init__(name, "databases.spotahome.com/v1", "RedisFailover", metadata, spec, opts)

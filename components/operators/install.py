"""The three operators, each pinned, kept to its own namespaces, with no right that it does not use.

They are `helm.v3.Release`s: Helm itself waits for the Deployments, and the CRDs stay out of the
state. Helm never upgrades a chart's crds/ folder: docs/upgrades.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from .. import pins
from ..manifests.placement import Placement
from ..network.flows import EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK
from ..network.namespaces import Namespace
from ..redis.component import FAILOVER as REDIS_FAILOVER
from ..redis.component import auth_secret_name
from ..settings.environment import Settings
from ..settings.images import ImageReference
from .external_secrets import ExternalSecretsArgs, ExternalSecretsOperator, SecretsController
from .pgo import PostgresOperator, PostgresOperatorArgs
from .redis_operator import GROUP_LABEL, RedisOperator, RedisOperatorArgs
from .release import OperatorResources, chart_source, image_reference

_ACCOUNT_OF_EXTERNAL_SECRETS = "external-secrets"
"""The ServiceAccount of a pre-installed External Secrets: its chart's default."""


@dataclass(frozen=True)
class Operators:
    """What each layer's custom resources need of their operator."""

    external_secrets: Mapping[str, SecretsController]
    """By the consumer's namespace."""
    pgo: OperatorResources
    """A PostgresCluster depends on these."""
    redis_operator: OperatorResources
    """A RedisFailover depends on these."""
    redis_failover_labels: Mapping[str, str]
    """On each RedisFailover, so that its operator looks after it."""


def operators(
    settings: Settings,
    namespaces: Mapping[str, Namespace],
    opts: pulumi.ResourceOptions,
    consumers: Sequence[str] = (SHLINK,),
) -> Operators:
    """Install the operators that the environment asks for; they do not wait for one another.

    `consumers` are the namespaces that get Secrets from Vault. The first one's controller owns
    External Secrets' CRDs, so keep its place.
    """
    pgo, redis = settings.operators.pgo, settings.operators.redis_operator
    pgo_resources: list[pulumi.Resource] = []
    if pgo.install:
        arguments = _pgo_args(settings, namespaces[POSTGRES].name)
        pgo_resources.append(PostgresOperator("pgo", arguments, opts))
    redis_resources: list[pulumi.Resource] = []
    if redis.install and settings.redis.mode == "failover":
        redis_arguments = _redis_operator_args(settings, namespaces[REDIS].name)
        redis_resources.append(RedisOperator("redis-operator", redis_arguments, opts))
    return Operators(
        external_secrets=_secrets_controllers(settings, namespaces, opts, consumers),
        pgo=pgo_resources,
        redis_operator=redis_resources,
        redis_failover_labels=_failover_labels(settings),
    )


def _pgo_args(settings: Settings, namespace: pulumi.Input[str]) -> PostgresOperatorArgs:
    image = image_reference(settings.images.pgo)
    related_images: dict[str, ImageReference] = {}
    registry = settings.images.registry
    if registry:
        image = image or ImageReference.parse(pins.PGO_IMAGE).at(registry)
        for key, text in pins.PGO_RELATED_IMAGES.items():
            related_images[key] = ImageReference.parse(text).at(registry)
    return PostgresOperatorArgs(
        namespace=namespace,
        chart=chart_source("pgo", settings.charts.pgo),
        image=image,
        resources=settings.operators.pgo.resources,
        placement=Placement.from_settings(settings),
        related_images=related_images,
    )


def _redis_operator_args(settings: Settings, namespace: pulumi.Input[str]) -> RedisOperatorArgs:
    charts, images, chosen = settings.charts, settings.images, settings.operators.redis_operator
    chart, image, fork_group = charts.redis_operator, images.redis_operator, None
    if chosen.distribution == "freshworks":
        chart, image = charts.redis_operator_fork, images.redis_operator_fork
        fork_group = chosen.group
    return RedisOperatorArgs(
        namespace=namespace,
        chart=chart_source("redis-operator", chart),
        image=image_reference(image),
        resources=chosen.resources,
        placement=Placement.from_settings(settings),
        auth_secrets=[auth_secret_name(REDIS_FAILOVER)],
        fork_group=fork_group,
    )


def _failover_labels(settings: Settings) -> dict[str, str]:
    """What the operator, installed here or not, recognises its RedisFailovers by."""
    operator = settings.operators.redis_operator
    return {GROUP_LABEL: operator.group} if operator.distribution == "freshworks" else {}


def _secrets_controllers(
    settings: Settings,
    namespaces: Mapping[str, Namespace],
    opts: pulumi.ResourceOptions,
    consumers: Sequence[str],
) -> dict[str, SecretsController]:
    chosen = settings.operators.external_secrets
    if not chosen.install:
        existing = SecretsController(
            account=_ACCOUNT_OF_EXTERNAL_SECRETS,
            namespace=chosen.namespace or EXTERNAL_SECRETS,
            resources=[],
        )
        return dict.fromkeys(consumers, existing)
    controllers: dict[str, SecretsController] = {}
    crds: list[pulumi.Resource] = []
    for consumer in consumers:
        suffix = f"-{consumer}" if crds else ""
        operator = ExternalSecretsOperator(
            f"external-secrets-operator{suffix}",
            ExternalSecretsArgs(
                namespace=namespaces[EXTERNAL_SECRETS].name,
                chart=chart_source("external-secrets", settings.charts.external_secrets),
                image=image_reference(settings.images.external_secrets),
                resources=chosen.resources,
                placement=Placement.from_settings(settings),
                consumer=namespaces[consumer].name,
                release=f"external-secrets{suffix}",
                crds=crds,
            ),
            opts,
        )
        controllers[consumer] = SecretsController(
            account=operator.account,
            namespace=namespaces[EXTERNAL_SECRETS].name,
            resources=[operator],
        )
        crds = crds or [operator]
    return controllers

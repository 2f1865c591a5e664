"""The three operators, each pinned, kept to its own namespaces and given no right that it lacks a use for.

They are `helm.v3.Release`s: Helm itself waits for the Deployments, and the CRDs stay out of the
state. Helm never upgrades a chart's crds/ folder: docs/upgrades.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import core, helm, meta

from .charts import ChartSource
from .images import ImageReference
from .network import EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK, Namespace
from .pods import CONTAINER_SECURITY, requirements
from .redis import FAILOVER as REDIS_FAILOVER
from .redis import auth_secret_name
from .rights import account_subject, bound_cluster_role, bound_role, rule
from .settings import Chart, Resources, Settings

OperatorResources = Sequence[pulumi.Resource]
"""Custom resources depend on these, so that the operator is deleted last. Empty if it is pre-installed."""

_ACCOUNT_OF_EXTERNAL_SECRETS = "external-secrets"
"""The ServiceAccount of a pre-installed External Secrets: its chart's default."""


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


@dataclass(frozen=True)
class SecretsController:
    """The External Secrets controller that serves one consumer's namespace."""

    account: str
    """Its ServiceAccount: a consumer lets this one ask for the token that opens Vault."""
    namespace: pulumi.Input[str]
    """Namespace of that ServiceAccount."""
    resources: OperatorResources
    """What a SecretStore and an ExternalSecret depend on."""


@dataclass(frozen=True)
class ExternalSecretsArgs(OperatorArgs):
    """What a controller of External Secrets is installed with."""

    consumer: pulumi.Input[str]
    """The one namespace whose ExternalSecrets it looks after; its Role is there and nowhere else."""
    release: str = "external-secrets"
    """Helm's name for it, and with it the name of its ServiceAccount, Roles and lease. Must contain
    `external-secrets`, or the chart puts that behind it. Another one for a second consumer."""
    crds: OperatorResources = ()
    """The release that owns the CRDs; empty: this one does. One release of a cluster may own them;
    when it is removed, the CRDs and every ExternalSecret of the cluster go with it."""


class ExternalSecretsOperator(pulumi.ComponentResource):
    """A controller of External Secrets for one consumer's namespace.

    A controller watches one namespace or all of them (`--namespace`, external-secrets 2.9.0), and all
    of them means the right to read every Secret of the cluster. So each consumer has its own.
    """

    account: str
    """The controller's ServiceAccount."""

    def __init__(
        self,
        name: str,
        args: ExternalSecretsArgs,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("shlink:operators:ExternalSecretsOperator", name, None, opts)
        self.account = args.release
        # A controller does not start without the CRDs, and must end before they go.
        release = _release(
            self, name, args, args.release, _external_secrets_values(args), args.crds
        )
        self.register_outputs({"version": release.version, "account": self.account})


_CLUSTER_WIDE_KINDS = (
    "ClusterStore",
    "ClusterExternalSecret",
    "ClusterPushSecret",
    "PushSecret",
    "ClusterGenerator",
)
_UNUSED_CRDS = (
    "ClusterExternalSecret",
    "ClusterSecretStore",
    "ClusterGenerator",
    "ClusterPushSecret",
    "PushSecret",
)


def _external_secrets_values(args: ExternalSecretsArgs) -> dict[str, Any]:
    """The chart's values: external-secrets 2.9.0, values.yaml."""
    values: dict[str, Any] = {
        "installCRDs": not args.crds,
        "serviceAccount": {"name": args.release},
        # One namespace, by a Role there: the chart's own default reads every Secret of the cluster.
        "scopedNamespace": args.consumer,
        "scopedRBAC": True,
        # The default may ask for a token of any ServiceAccount; external_secrets.py grants it for one.
        "rbac": {
            "serviceAccountTokenCreate": False,
            "servicebindings": {"create": False},
            "aggregateToView": False,
            "aggregateToEdit": False,
            "aggregateToAdmin": False,
        },
        "systemAuthDelegator": False,
        **{f"process{kind}": False for kind in _CLUSTER_WIDE_KINDS},
        "crds": {
            **{f"create{kind}": False for kind in _UNUSED_CRDS},
            "conversion": {"enabled": False},
        },
        # The webhook only repeats what the CRDs' schemas and the controller's own conditions say, and
        # its cert controller reads every Secret of the cluster for it (docs/decisions.md).
        "webhook": {"create": False},
        "certController": {"create": False},
        "leaderElect": True,
        # Two controllers of one namespace with one lease: the second would wait for ever.
        "leaderElectionID": f"{args.release}-controller",
        "resources": requirements(args.resources),
        "readinessProbe": {"enabled": True},
        "livenessProbe": {"enabled": True},
    }
    if args.image:
        values["image"] = args.image.helm_values()
    return values


class PostgresOperator(pulumi.ComponentResource):
    """PGO, looking after its own namespace alone."""

    def __init__(
        self, name: str, args: OperatorArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:operators:PostgresOperator", name, None, opts)
        values: dict[str, Any] = {
            "singleNamespace": True,  # a Role in its namespace instead of a ClusterRole
            "debug": False,
            "resources": {"controller": requirements(args.resources)},
        }
        if args.image:
            values["controllerImages"] = {"cluster": str(args.image)}
        release = _release(self, name, args, "pgo", values)
        self.register_outputs({"version": release.version})


@dataclass(frozen=True)
class RedisOperatorArgs(OperatorArgs):
    """What redis-operator is installed with."""

    auth_secrets: Sequence[str]
    """Names of the Secrets in its namespace that hold a Redis' password; it reads no other Secret."""


class RedisOperator(pulumi.ComponentResource):
    """redis-operator. It cannot be told to watch one namespace, so its rights keep it to its own."""

    def __init__(
        self, name: str, args: RedisOperatorArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:operators:RedisOperator", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        account = core.v1.ServiceAccount(
            f"{name}-account",
            metadata=meta.v1.ObjectMetaArgs(name=name, namespace=args.namespace),
            opts=child,
        )
        rights = _redis_operator_rights(name, args, child)
        values: dict[str, Any] = {
            # Off, the chart makes no ServiceAccount, ClusterRole or binding of its own and uses the
            # account named here.
            "serviceAccount": {"create": False, "name": name},
            # The chart's default is refused by Pod Security `restricted`.
            "securityContext": {**CONTAINER_SECURITY, "runAsUser": 1000, "runAsGroup": 1000},
            "resources": requirements(args.resources),
        }
        if args.image:
            values["image"] = args.image.helm_values()
        release = _release(self, name, args, "redis-operator", values, [account, *rights])
        self.register_outputs({"version": release.version})


def _redis_operator_rights(
    name: str, args: RedisOperatorArgs, opts: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    """The chart's ClusterRole reads every Secret of the cluster.

    v1.2.4 lists RedisFailovers everywhere, and needs no more than that outside its own namespace.
    """
    subject = account_subject(name, args.namespace)
    redis_failovers = "databases.spotahome.com"
    return [
        bound_cluster_role(
            f"{name}-watch",
            name=f"shlink-{name}",
            rules=[rule(redis_failovers, "redisfailovers", "list watch")],
            subject=subject,
            opts=opts,
        ),
        bound_role(
            f"{name}-manage",
            name=name,
            namespace=args.namespace,
            rules=[
                rule(redis_failovers, "redisfailovers/finalizers", "update"),
                rule("", "services", "get create update delete"),
                rule("", "configmaps", "get create update"),  # its lock is a ConfigMap and a Lease
                rule("coordination.k8s.io", "leases", "get create update"),
                rule("", "pods", "get list patch delete"),
                rule("", "persistentvolumeclaims", "list update"),
                rule("", "secrets", "get", args.auth_secrets),
                rule("apps", "statefulsets deployments", "get create update"),
                rule("policy", "poddisruptionbudgets", "get create update"),
            ],
            subject=subject,
            opts=opts,
        ),
    ]


@dataclass(frozen=True)
class Operators:
    """What each layer's custom resources need of their operator."""

    external_secrets: Mapping[str, SecretsController]
    """By the consumer's namespace."""
    pgo: OperatorResources
    redis_operator: OperatorResources


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
        arguments = OperatorArgs(
            namespace=namespaces[POSTGRES].name,
            chart=_source("pgo", settings.charts.pgo),
            image=_image(settings.images.pgo),
            resources=pgo.resources,
        )
        pgo_resources.append(PostgresOperator("pgo", arguments, opts))
    redis_resources: list[pulumi.Resource] = []
    if redis.install and settings.redis.mode == "failover":
        redis_arguments = RedisOperatorArgs(
            namespace=namespaces[REDIS].name,
            chart=_source("redis-operator", settings.charts.redis_operator),
            image=_image(settings.images.redis_operator),
            resources=redis.resources,
            auth_secrets=[auth_secret_name(REDIS_FAILOVER)],
        )
        redis_resources.append(RedisOperator("redis-operator", redis_arguments, opts))
    return Operators(
        external_secrets=_secrets_controllers(settings, namespaces, opts, consumers),
        pgo=pgo_resources,
        redis_operator=redis_resources,
    )


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
                chart=_source("external-secrets", settings.charts.external_secrets),
                image=_image(settings.images.external_secrets),
                resources=chosen.resources,
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


def _source(name: str, chart: Chart) -> ChartSource:
    return ChartSource(name=name, repository=chart.repository, version=chart.version)


def _image(text: str | None) -> ImageReference | None:
    return ImageReference.parse(text) if text else None


def _release(  # noqa: PLR0917 -- private; the last one is rarely given
    parent: pulumi.Resource,
    name: str,
    args: OperatorArgs,
    release: str,
    values: Mapping[str, Any],
    depends_on: Sequence[pulumi.Resource] = (),
) -> helm.v3.Release:
    repository = args.chart.repository_url
    return helm.v3.Release(
        name,
        # Named, so that what selects the operator's pods does not depend on a random suffix.
        name=release,
        namespace=args.namespace,
        chart=args.chart.chart,
        repository_opts=helm.v3.RepositoryOptsArgs(repo=repository) if repository else None,
        version=args.chart.version,
        values=dict(values),
        # A failed first install is taken back, so that the next `up` starts clean.
        atomic=True,
        timeout=600,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(depends_on)),
    )

"""The three operators, each pinned, kept to its own namespaces, with no right that it does not use.

They are `helm.v3.Release`s: Helm itself waits for the Deployments, and the CRDs stay out of the
state. Helm never upgrades a chart's crds/ folder: docs/upgrades.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi_kubernetes import apps, core, helm, meta

from . import pins
from .charts import ChartSource
from .images import ImageReference
from .network import EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK, Namespace
from .placement import Placement
from .pods import CONTAINER_SECURITY, pod_security, requirements, variables
from .redis import FAILOVER as REDIS_FAILOVER
from .redis import auth_secret_name
from .rights import account_subject, bound_cluster_role, bound_role, rule
from .settings import Chart, Resources, Settings

OperatorResources = Sequence[pulumi.Resource]
"""Custom resources depend on these, so the operator is deleted last. Empty if pre-installed."""

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
    placement: Placement
    """On which nodes the operator may run."""


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
    """The one namespace whose ExternalSecrets it looks after; it has a Role there only."""
    release: str = "external-secrets"
    """Helm's name for it, and with it the name of its ServiceAccount, Roles and lease. Must contain
    `external-secrets`, or the chart puts that behind it. Another one for a second consumer."""
    crds: OperatorResources = ()
    """The release that owns the CRDs; empty: this one does. One release of a cluster may own them;
    when it is removed, the CRDs and every ExternalSecret of the cluster go with it."""


class ExternalSecretsOperator(pulumi.ComponentResource):
    """A controller of External Secrets for one consumer's namespace.

    A controller watches one namespace or all of them (`--namespace`, external-secrets 2.9.0). For
    all of them it needs the right to read every Secret of the cluster. So each consumer has its
    own controller.
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
            parent=self,
            name=name,
            args=args,
            release=args.release,
            values=_external_secrets_values(args),
            depends_on=args.crds,
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
        # The default may request a token of any ServiceAccount; external_secrets.py allows one.
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
        # The webhook only repeats what the CRDs' schemas and the controller's own conditions say,
        # and its cert controller reads every Secret of the cluster for it (docs/decisions/).
        "webhook": {"create": False},
        "certController": {"create": False},
        "leaderElect": True,
        # Two controllers of one namespace with one lease: the second would wait for ever.
        "leaderElectionID": f"{args.release}-controller",
        "resources": requirements(args.resources),
        "readinessProbe": {"enabled": True},
        "livenessProbe": {"enabled": True},
        **args.placement.on_nodes(),
    }
    if args.placement.pull_secret:
        values["imagePullSecrets"] = args.placement.pull_secrets()
    if args.image:
        values["image"] = args.image.helm_values()
    return values


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
        release = _release(parent=self, name=name, args=args, release="pgo", values=values)
        self.register_outputs({"version": release.version})


def _pgo_placement(placement: Placement) -> dict[str, Any]:
    """PGO's chart takes no node selector but affinity, and no priority class at all."""
    values: dict[str, Any] = {**placement.pgo_pods()}
    values.pop("priorityClassName", None)
    if placement.pull_secret:
        values["imagePullSecretNames"] = [placement.pull_secret]
    return values


@dataclass(frozen=True)
class RedisOperatorArgs(OperatorArgs):
    """What redis-operator is installed with."""

    auth_secrets: Sequence[str]
    """Names of the Secrets in its namespace that hold a Redis password; it reads no others."""
    fork_group: str | None = None
    """Operator group of the fork (freshworks-oss), which looks after RedisFailovers with the label
    of its group only. None for the archived project, which looks after all of them."""


GROUP_LABEL = "redis-failover.freshworks.com/operator-group"
"""On a RedisFailover: which operator of the fork looks after it (v3.3.5, factory.go)."""


class RedisOperator(pulumi.ComponentResource):
    """redis-operator. It cannot be told to watch one namespace, so its rights keep it to its own.

    The fork exits without OPERATOR_GROUP_ID, which its chart cannot set (3.3.4). So that chart
    installs the CRD with no replica, and the operator runs in a Deployment of this program.
    """

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
            "securityContext": _REDIS_OPERATOR_SECURITY,
            "resources": requirements(args.resources),
            **args.placement.on_nodes(),
        }
        if args.placement.pull_secret:
            # With a name the chart makes no Secret; with two names it would write the key twice.
            values["imageCredentials"] = {
                "create": True,
                "existsSecrets": [args.placement.pull_secret],
            }
        if args.fork_group:
            values["replicas"] = 0
        elif args.image:
            values["image"] = args.image.helm_values()
        release = _release(
            parent=self,
            name=name,
            args=args,
            release="redis-operator",
            values=values,
            depends_on=[account, *rights],
        )
        if args.fork_group:
            # After the release: where the archived operator ran before, it has gone by then.
            after = pulumi.ResourceOptions(parent=self, depends_on=[release, account, *rights])
            _fork_deployment(name, args, args.fork_group, after)
        self.register_outputs({"version": release.version})


# The chart's default is refused by Pod Security `restricted`.
_REDIS_OPERATOR_USER = 1000
_REDIS_OPERATOR_SECURITY: Any = {
    **CONTAINER_SECURITY,
    "runAsUser": _REDIS_OPERATOR_USER,
    "runAsGroup": _REDIS_OPERATOR_USER,
}


def _fork_deployment(
    name: str, args: RedisOperatorArgs, group: str, opts: pulumi.ResourceOptions
) -> apps.v1.Deployment:
    """As the chart's own, with the group and the labels that its metrics Service selects."""
    labels = {"app.kubernetes.io/name": "redis-operator", "app.kubernetes.io/instance": name}
    probe = core.v1.TCPSocketActionArgs(port="metrics")
    container = core.v1.ContainerArgs(
        name="redis-operator",
        image=str(args.image),
        image_pull_policy="IfNotPresent",
        args=[pulumi.Output.concat("--supported-namespaces-regex=^", args.namespace, "$")],
        env=variables({"OPERATOR_GROUP_ID": group}),
        ports=[core.v1.ContainerPortArgs(name="metrics", container_port=_REDIS_OPERATOR_METRICS)],
        readiness_probe=core.v1.ProbeArgs(tcp_socket=probe, period_seconds=3),
        liveness_probe=core.v1.ProbeArgs(tcp_socket=probe, initial_delay_seconds=30),
        security_context=_REDIS_OPERATOR_SECURITY,
        resources=requirements(args.resources),
    )
    pod = core.v1.PodSpecArgs(
        service_account_name=name,
        security_context=pod_security(_REDIS_OPERATOR_USER),
        containers=[container],
    )
    return apps.v1.Deployment(
        f"{name}-fork",
        metadata=meta.v1.ObjectMetaArgs(
            name=f"{name}-fork", namespace=args.namespace, labels=labels
        ),
        spec=apps.v1.DeploymentSpecArgs(
            replicas=1,
            selector=meta.v1.LabelSelectorArgs(match_labels=labels),
            template=core.v1.PodTemplateSpecArgs(
                metadata=meta.v1.ObjectMetaArgs(labels=labels),
                spec=args.placement.place(pod),
            ),
        ),
        opts=opts,
    )


_REDIS_OPERATOR_METRICS = 9710


def _redis_operator_rights(
    name: str, args: RedisOperatorArgs, opts: pulumi.ResourceOptions
) -> list[pulumi.Resource]:
    """The chart's ClusterRole reads every Secret of the cluster.

    v1.2.4 and the fork's v3.3.5 list RedisFailovers everywhere, and need no more than that outside
    their own namespace.
    """
    subject = account_subject(name, args.namespace)
    redis_failovers = "databases.spotahome.com"
    # The fork annotates its pods, by an update.
    pod_verbs = "get list update patch delete" if args.fork_group else "get list patch delete"
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
                rule("", "pods", pod_verbs),
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
    image = _image(settings.images.pgo)
    related_images: dict[str, ImageReference] = {}
    registry = settings.images.registry
    if registry:
        image = image or ImageReference.parse(pins.PGO_IMAGE).at(registry)
        for key, text in pins.PGO_RELATED_IMAGES.items():
            related_images[key] = ImageReference.parse(text).at(registry)
    return PostgresOperatorArgs(
        namespace=namespace,
        chart=_source("pgo", settings.charts.pgo),
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
        chart=_source("redis-operator", chart),
        image=_image(image),
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
                chart=_source("external-secrets", settings.charts.external_secrets),
                image=_image(settings.images.external_secrets),
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


def _source(name: str, chart: Chart) -> ChartSource:
    return ChartSource(name=name, repository=chart.repository, version=chart.version)


def _image(text: str | None) -> ImageReference | None:
    return ImageReference.parse(text) if text else None


def _release(
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

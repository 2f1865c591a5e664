"""The three operators: pinned, kept to this environment's namespaces, each with no more rights than it needs there.

`helm.v3.Release`, so that Helm itself waits for the Deployments and the CRDs stay out of the state (docs/decisions.md). Helm never
upgrades a chart's crds/ folder: docs/upgrades.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import core, helm, meta, rbac

from .network import EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK, Namespace
from .pods import CONTAINER_SECURITY, requirements
from .redis import AUTH_SECRET
from .settings import Chart, Charts, Images, Resources, Settings

Installed = Sequence[pulumi.Resource]
"""What the custom resources of an operator depend on, so that it outlives them; empty where it is not ours to install."""


@dataclass(frozen=True)
class OperatorArgs:
    namespace: pulumi.Input[str]
    chart: Chart
    images: Images
    resources: Resources


class ExternalSecretsOperator(pulumi.ComponentResource):
    """External Secrets, looking after namespace `shlink` alone."""

    def __init__(
        self,
        name: str,
        args: OperatorArgs,
        consumer: pulumi.Input[str],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("shlink:operators:ExternalSecretsOperator", name, None, opts)
        repository, _, tag = args.images.external_secrets.rpartition(":")
        values = {
            "installCRDs": True,
            "image": {"repository": repository, "tag": tag},
            # One namespace, by a Role there: the chart's own default reads every Secret of the cluster.
            "scopedNamespace": consumer,
            "scopedRBAC": True,
            # The default may ask for a token of any ServiceAccount; external_secrets.py grants that for one.
            "rbac": {
                "serviceAccountTokenCreate": False,
                "servicebindings": {"create": False},
                "aggregateToView": False,
                "aggregateToEdit": False,
                "aggregateToAdmin": False,
            },
            "systemAuthDelegator": False,
            **{
                f"process{kind}": False
                for kind in (
                    "ClusterStore",
                    "ClusterExternalSecret",
                    "ClusterPushSecret",
                    "PushSecret",
                    "ClusterGenerator",
                )
            },
            "crds": {
                **{
                    f"create{kind}": False
                    for kind in (
                        "ClusterExternalSecret",
                        "ClusterSecretStore",
                        "ClusterGenerator",
                        "ClusterPushSecret",
                        "PushSecret",
                    )
                },
                "conversion": {"enabled": False},
            },
            # The webhook only repeats what the CRDs' schemas and the controller's own conditions say, and its cert controller
            # reads every Secret of the cluster for it (docs/decisions.md).
            "webhook": {"create": False},
            "certController": {"create": False},
            "leaderElect": True,
            "resources": requirements(args.resources),
            "readinessProbe": {"enabled": True},
            "livenessProbe": {"enabled": True},
        }
        release = _release(
            self,
            name,
            namespace=args.namespace,
            chart_name="external-secrets",
            chart=args.chart,
            values=values,
            depends_on=[],
        )
        self.register_outputs({"version": release.version})


class PostgresOperator(pulumi.ComponentResource):
    """PGO, looking after its own namespace alone."""

    def __init__(
        self, name: str, args: OperatorArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:operators:PostgresOperator", name, None, opts)
        values: dict[str, Any] = {
            "singleNamespace": True,  # a Role in `postgres` instead of a ClusterRole
            "debug": False,
            "resources": {"controller": requirements(args.resources)},
        }
        if args.images.pgo:
            values["controllerImages"] = {"cluster": args.images.pgo}
        release = _release(
            self,
            name,
            namespace=args.namespace,
            chart_name="pgo",
            chart=args.chart,
            values=values,
            depends_on=[],
        )
        self.register_outputs({"version": release.version})


class RedisOperator(pulumi.ComponentResource):
    """redis-operator. It can't be told to watch one namespace, so its rights are what keeps it to `redis`."""

    def __init__(
        self, name: str, args: OperatorArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:operators:RedisOperator", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        metadata = meta.v1.ObjectMetaArgs(name="redis-operator", namespace=args.namespace)
        account = core.v1.ServiceAccount(f"{name}-account", metadata=metadata, opts=child)
        subjects = [
            rbac.v1.SubjectArgs(
                kind="ServiceAccount", name="redis-operator", namespace=args.namespace
            )
        ]
        # The chart's ClusterRole reads every Secret of the cluster. v1.2.4 lists RedisFailovers everywhere, and needs no more than
        # that outside its namespace.
        everywhere = rbac.v1.ClusterRole(
            f"{name}-watch",
            metadata=meta.v1.ObjectMetaArgs(name="shlink-redis-operator"),
            rules=[_rule("databases.spotahome.com", "redisfailovers", "list watch")],
            opts=child,
        )
        here = rbac.v1.Role(
            f"{name}-manage",
            metadata=metadata,
            rules=[
                _rule("databases.spotahome.com", "redisfailovers/finalizers", "update"),
                _rule("", "services", "get create update delete"),
                _rule("", "configmaps", "get create update"),  # its lock is a ConfigMap and a Lease
                _rule("coordination.k8s.io", "leases", "get create update"),
                _rule("", "pods", "get list patch delete"),
                _rule("", "persistentvolumeclaims", "list update"),
                _rule("", "secrets", "get", [AUTH_SECRET]),
                _rule("apps", "statefulsets deployments", "get create update"),
                _rule("policy", "poddisruptionbudgets", "get create update"),
            ],
            opts=child,
        )
        bindings = [
            rbac.v1.ClusterRoleBinding(
                f"{name}-watch",
                metadata=meta.v1.ObjectMetaArgs(name="shlink-redis-operator"),
                role_ref=rbac.v1.RoleRefArgs(
                    api_group="rbac.authorization.k8s.io",
                    kind="ClusterRole",
                    name=everywhere.metadata.name,
                ),
                subjects=subjects,
                opts=child,
            ),
            rbac.v1.RoleBinding(
                f"{name}-manage",
                metadata=metadata,
                role_ref=rbac.v1.RoleRefArgs(
                    api_group="rbac.authorization.k8s.io", kind="Role", name=here.metadata.name
                ),
                subjects=subjects,
                opts=child,
            ),
        ]
        repository, _, tag = args.images.redis_operator.rpartition(":")
        values = {
            "image": {"repository": repository, "tag": tag},
            # Off, the chart makes no ServiceAccount, ClusterRole or binding of its own and uses the account named here.
            "serviceAccount": {"create": False, "name": "redis-operator"},
            # The chart's default is refused by Pod Security `restricted`.
            "securityContext": {**CONTAINER_SECURITY, "runAsUser": 1000, "runAsGroup": 1000},
            "resources": requirements(args.resources),
        }
        release = _release(
            self,
            name,
            namespace=args.namespace,
            chart_name="redis-operator",
            chart=args.chart,
            values=values,
            depends_on=[account, *bindings],
        )
        self.register_outputs({"version": release.version})


@dataclass(frozen=True)
class Operators:
    """What each layer's custom resources depend on."""

    external_secrets: Installed
    pgo: Installed
    redis_operator: Installed


def operators(
    settings: Settings, namespaces: Mapping[str, Namespace], opts: pulumi.ResourceOptions
) -> Operators:
    """Installs the operators that the environment wants installed; they don't wait for one another."""
    charts: Charts = settings.charts
    wanted = settings.operators

    def args(namespace: str, chart: Chart, resources: Resources) -> OperatorArgs:
        return OperatorArgs(namespaces[namespace].name, chart, settings.images, resources)

    external_secrets, pgo, redis = wanted.external_secrets, wanted.pgo, wanted.redis_operator
    return Operators(
        external_secrets=[
            ExternalSecretsOperator(
                "external-secrets-operator",
                args(EXTERNAL_SECRETS, charts.external_secrets, external_secrets.resources),
                namespaces[SHLINK].name,
                opts,
            )
        ]
        if external_secrets.install
        else [],
        pgo=[PostgresOperator("pgo", args(POSTGRES, charts.pgo, pgo.resources), opts)]
        if pgo.install
        else [],
        redis_operator=[
            RedisOperator(
                "redis-operator", args(REDIS, charts.redis_operator, redis.resources), opts
            )
        ]
        if redis.install and settings.redis.mode == "failover"
        else [],
    )


def _rule(
    group: str, resources: str, verbs: str, names: Sequence[str] | None = None
) -> rbac.v1.PolicyRuleArgs:
    return rbac.v1.PolicyRuleArgs(
        api_groups=[group], resources=resources.split(), verbs=verbs.split(), resource_names=names
    )


def _release(
    parent: pulumi.Resource,
    name: str,
    *,
    namespace: pulumi.Input[str],
    chart_name: str,
    chart: Chart,
    values: Mapping[str, Any],
    depends_on: Sequence[pulumi.Resource],
) -> helm.v3.Release:
    oci = chart.repository.startswith("oci://")
    return helm.v3.Release(
        name,
        name=chart_name,
        namespace=namespace,
        chart=chart.repository if oci else chart_name,
        repository_opts=None if oci else helm.v3.RepositoryOptsArgs(repo=chart.repository),
        version=chart.version,
        values=dict(values),
        # A failed first install is taken back, so that the next `up` starts clean.
        atomic=True,
        timeout=600,
        opts=pulumi.ResourceOptions(parent=parent, depends_on=list(depends_on)),
    )

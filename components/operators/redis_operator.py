"""redis-operator: the archived project, or its maintained fork."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi_kubernetes import apps, core, meta

from ..manifests.pods import CONTAINER_SECURITY, pod_security, requirements, variables
from ..manifests.rights import account_subject, bound_cluster_role, bound_role, rule
from .release import OperatorArgs, helm_release


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
        release = helm_release(
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

"""A Role and its binding, made together, so that a right is never declared without a holder."""

from collections.abc import Sequence

import pulumi
from pulumi_kubernetes import meta, rbac

_API_GROUP = "rbac.authorization.k8s.io"


def rule(
    group: str, resources: str, verbs: str, names: Sequence[pulumi.Input[str]] | None = None
) -> rbac.v1.PolicyRuleArgs:
    """One rule of a Role: `resources` and `verbs` are lists separated by spaces.

    `names` limits the rule to these objects. The verbs `create` and `list` cannot be limited so.
    """
    return rbac.v1.PolicyRuleArgs(
        api_groups=[group],
        resources=resources.split(),
        verbs=verbs.split(),
        resource_names=names,
    )


def account_subject(
    account: pulumi.Input[str], namespace: pulumi.Input[str]
) -> rbac.v1.SubjectArgs:
    """The ServiceAccount that gets a right."""
    return rbac.v1.SubjectArgs(kind="ServiceAccount", name=account, namespace=namespace)


def bound_role(
    resource_name: str,
    *,
    name: pulumi.Input[str],
    namespace: pulumi.Input[str],
    rules: Sequence[rbac.v1.PolicyRuleArgs],
    subject: rbac.v1.SubjectArgs,
    opts: pulumi.ResourceOptions,
) -> rbac.v1.RoleBinding:
    """A Role of one namespace and the RoleBinding of the same name; depend on the binding."""
    metadata = meta.v1.ObjectMetaArgs(name=name, namespace=namespace)
    role = rbac.v1.Role(resource_name, metadata=metadata, rules=rules, opts=opts)
    return rbac.v1.RoleBinding(
        resource_name,
        metadata=metadata,
        role_ref=rbac.v1.RoleRefArgs(api_group=_API_GROUP, kind="Role", name=role.metadata.name),
        subjects=[subject],
        opts=opts,
    )


def bound_cluster_role(
    resource_name: str,
    *,
    name: pulumi.Input[str],
    rules: Sequence[rbac.v1.PolicyRuleArgs],
    subject: rbac.v1.SubjectArgs,
    opts: pulumi.ResourceOptions,
) -> rbac.v1.ClusterRoleBinding:
    """A ClusterRole and the ClusterRoleBinding of the same name; depend on the binding."""
    metadata = meta.v1.ObjectMetaArgs(name=name)
    role = rbac.v1.ClusterRole(resource_name, metadata=metadata, rules=rules, opts=opts)
    return rbac.v1.ClusterRoleBinding(
        resource_name,
        metadata=metadata,
        role_ref=rbac.v1.RoleRefArgs(
            api_group=_API_GROUP, kind="ClusterRole", name=role.metadata.name
        ),
        subjects=[subject],
        opts=opts,
    )

"""What every pod of this program has in common: Pod Security `restricted`, requests and limits, spread over nodes, volumes, Jobs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
from pulumi_kubernetes import batch, core, meta

from .crds import SpreadConstraint, VolumeClaim
from .network import Pods
from .settings import Resources, Volume

# Any: the same words go into typed resources, custom resources and Helm values, which have no type in common.
CONTAINER_SECURITY: Any = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What `restricted` asks of a container, and a read-only root besides: https://kubernetes.io/docs/concepts/security/pod-security-standards/"""


def pod_security(user: int, group: int | None = None) -> Any:
    """A pod's security context for `restricted`: everything as `user`, its volumes writable by `group`."""
    group = user if group is None else group
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def requirements(resources: Resources) -> Any:
    """Requests and the memory limit, as Kubernetes writes them."""
    return {
        "requests": {"cpu": resources.cpu, "memory": resources.memory},
        "limits": {"memory": resources.memory_limit},
    }


def spread(labels: Mapping[str, str]) -> SpreadConstraint:
    """One pod a node while there are nodes; a laptop's single node still takes them all."""
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": labels},
    }


def volume_claim(volume: Volume) -> VolumeClaim:
    """A claim for one pod; without a storage class it is left to the cluster's default."""
    claim: VolumeClaim = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.storage_class:
        claim["storageClassName"] = volume.storage_class
    return claim


def secret_variable(variable: str, secret: pulumi.Input[str], key: str) -> core.v1.EnvVarArgs:
    """An environment variable that the kubelet takes from a Secret."""
    reference = core.v1.SecretKeySelectorArgs(name=secret, key=key)
    return core.v1.EnvVarArgs(
        name=variable, value_from=core.v1.EnvVarSourceArgs(secret_key_ref=reference)
    )


def job(
    resource_name: str,
    name: str,
    pods: Pods,
    *,
    namespace: pulumi.Input[str],
    user: int,
    containers: Sequence[core.v1.ContainerArgs],
    opts: pulumi.ResourceOptions,
    init_containers: Sequence[core.v1.ContainerArgs] = (),
    volumes: Sequence[core.v1.VolumeArgs] = (),
    service_account: pulumi.Input[str] | None = None,
    annotations: Mapping[str, pulumi.Input[str]] | None = None,
    backoff_limit: int = 10,
) -> batch.v1.Job:
    """A Job that is awaited until it has completed, and is made anew by the next `up` after it failed.

    There is no time to live: a Job that is gone would be run again by the next refresh. A Job's template can't change, so a change
    of anything in it replaces the Job. Only a Job with a `service_account` gets a token for the API server.
    """
    return batch.v1.Job(
        resource_name,
        metadata=meta.v1.ObjectMetaArgs(
            name=name,
            namespace=namespace,
            labels=pods.labels,
            annotations={"pulumi.com/replaceUnready": "true"},
        ),
        spec=batch.v1.JobSpecArgs(
            backoff_limit=backoff_limit,
            template=core.v1.PodTemplateSpecArgs(
                metadata=meta.v1.ObjectMetaArgs(labels=pods.labels, annotations=annotations),
                spec=core.v1.PodSpecArgs(
                    restart_policy="Never",
                    service_account_name=service_account,
                    automount_service_account_token=service_account is not None,
                    enable_service_links=False,
                    security_context=pod_security(user),
                    init_containers=list(init_containers) or None,
                    containers=list(containers),
                    volumes=list(volumes) or None,
                ),
            ),
        ),
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
    )

"""What every pod of this program shares: Pod Security, sizes, volumes, Jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi_kubernetes import batch, core, meta

from ..settings.platform import Resources, Volume
from .crds import VolumeClaim
from .placement import Placement

# Any: the same words go into typed resources, custom resources and Helm values, which have no type
# in common.
CONTAINER_SECURITY: Any = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""What Pod Security `restricted` asks of a container, and a read-only root file system.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""


def pod_security(user: int, group: int | None = None) -> Any:
    """A pod's security context for `restricted`: runs as `user`, and `group` owns its volumes."""
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


def volume_claim(volume: Volume) -> VolumeClaim:
    """A claim for one pod. Without a storage class the cluster's default applies."""
    claim: VolumeClaim = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": volume.size}},
    }
    if volume.storage_class:
        claim["storageClassName"] = volume.storage_class
    return claim


def variables(values: Mapping[str, pulumi.Input[str]]) -> list[core.v1.EnvVarArgs]:
    """Plain environment variables, in the order of the mapping."""
    return [core.v1.EnvVarArgs(name=name, value=value) for name, value in values.items()]


def secret_variable(variable: str, secret: pulumi.Input[str], key: str) -> core.v1.EnvVarArgs:
    """An environment variable that the kubelet reads from a Secret."""
    reference = core.v1.SecretKeySelectorArgs(name=secret, key=key)
    return core.v1.EnvVarArgs(
        name=variable, value_from=core.v1.EnvVarSourceArgs(secret_key_ref=reference)
    )


@dataclass(frozen=True)
class JobArgs:
    """A Job of this program."""

    name: str
    """Name of the Job in Kubernetes."""
    namespace: pulumi.Input[str]
    """Where it runs."""
    labels: Mapping[str, str]
    """Labels of the Job and its pod; the network policies select the pod by them."""
    user: int
    """User and group id that everything runs as."""
    containers: Sequence[core.v1.ContainerArgs]
    """What its pod runs; the Job is complete when all have ended well."""
    placement: Placement
    """On which nodes its pod may run."""
    init_containers: Sequence[core.v1.ContainerArgs] = ()
    """Run before the containers, one after the other, such as a wait for a server."""
    volumes: Sequence[core.v1.VolumeArgs] = ()
    """Volumes of the pod, for its containers' `volume_mounts`."""
    service_account: pulumi.Input[str] | None = None
    """Only a Job with an account gets a token for the API server."""
    annotations: Mapping[str, pulumi.Input[str]] = field(default_factory=dict[str, str])
    """Annotations of the pod template: a changed annotation runs the Job again."""
    backoff_limit: int = 10
    """Retries before the Job fails. The delay between them doubles, from 10 s up to 6 min."""
    timeout_seconds: int | None = 600
    """How long `up` waits for it. None: not at all, whoever depends on it waits by `job_hook`."""


def job(resource_name: str, args: JobArgs, opts: pulumi.ResourceOptions) -> batch.v1.Job:
    """A Job that Pulumi waits for. If it is not complete then, the next `up` replaces it.

    It has no time to live: the next refresh would run a Job that is gone again. A Job's template
    cannot change, so any change in it replaces the Job.
    """
    for container in (*args.containers, *args.init_containers):
        # The end of the log becomes the pod's status, which Pulumi prints when the Job fails.
        container.termination_message_policy = "FallbackToLogsOnError"
    pod = core.v1.PodSpecArgs(
        restart_policy="Never",
        service_account_name=args.service_account,
        automount_service_account_token=args.service_account is not None,
        enable_service_links=False,
        security_context=pod_security(args.user),
        init_containers=list(args.init_containers) or None,
        containers=list(args.containers),
        volumes=list(args.volumes) or None,
    )
    return batch.v1.Job(
        resource_name,
        metadata=meta.v1.ObjectMetaArgs(
            name=args.name,
            namespace=args.namespace,
            labels=args.labels,
            annotations=_waiting(args.timeout_seconds),
        ),
        spec=batch.v1.JobSpecArgs(
            backoff_limit=args.backoff_limit,
            template=core.v1.PodTemplateSpecArgs(
                metadata=meta.v1.ObjectMetaArgs(
                    labels=args.labels, annotations=args.annotations or None
                ),
                spec=args.placement.place(pod),
            ),
        ),
        opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(delete_before_replace=True)),
    )


def _waiting(seconds: int | None) -> Mapping[str, str]:
    if seconds is None:
        # In place of Pulumi's own wait; to skip it would skip the wait for a deletion too.
        return {"pulumi.com/waitFor": "jsonpath={.metadata.uid}"}
    return {"pulumi.com/replaceUnready": "true", "pulumi.com/timeoutSeconds": str(seconds)}

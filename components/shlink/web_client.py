"""Shlink's web client: static files for a browser, which then calls Shlink's API by itself.

The files hold no API key. A list of servers (`servers.json`) would need one: the client drops every
entry without it (shlink-web-client 4.8.0, `hasServerData`). So each person types Shlink's address
and a key, once, and the browser keeps them.
"""

from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import apps, core, meta

from .. import ports, scripts
from ..manifests.placement import Placement
from ..manifests.pods import CONTAINER_SECURITY, pod_security, requirements
from ..network.flows import WEB_CLIENT
from ..settings.platform import Resources

_USER = 101
"""The user of nginx-unprivileged, on which the image stands."""

_DRAIN_SECONDS = 5

# nginx starts a worker per processor of the node, at about 2 MiB each.
_RESOURCES = Resources(cpu="10m", memory="32Mi", memory_limit="256Mi")


@dataclass(frozen=True)
class WebClientArgs:
    """Where it runs, and from which image."""

    namespace: pulumi.Input[str]
    """The namespace of Shlink, where its route is too."""
    image: str
    """`images.webClient` of the stack's file."""
    placement: Placement = field(default_factory=Placement)
    """On which nodes it may run, and with which login its image is pulled."""


class WebClient(pulumi.ComponentResource):
    """The web client behind a Service of its own; route.py leads to it."""

    def __init__(
        self, name: str, args: WebClientArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:shlink:WebClient", name, None, opts)
        labels = WEB_CLIENT.labels
        metadata = meta.v1.ObjectMetaArgs(name=name, namespace=args.namespace, labels=labels)
        deployment = apps.v1.Deployment(
            name,
            metadata=metadata,
            spec=apps.v1.DeploymentSpecArgs(
                replicas=1,
                selector=meta.v1.LabelSelectorArgs(match_labels=labels),
                strategy=apps.v1.DeploymentStrategyArgs(
                    type="RollingUpdate",
                    rolling_update=apps.v1.RollingUpdateDeploymentArgs(
                        max_surge=1, max_unavailable=0
                    ),
                ),
                template=core.v1.PodTemplateSpecArgs(
                    metadata=meta.v1.ObjectMetaArgs(labels=labels),
                    spec=args.placement.place(_pod(args)),
                ),
            ),
            opts=pulumi.ResourceOptions(parent=self),
        )
        core.v1.Service(
            name,
            metadata=metadata,
            spec=core.v1.ServiceSpecArgs(
                selector=labels,
                ports=[
                    core.v1.ServicePortArgs(name="http", port=ports.WEB_CLIENT, target_port="http")
                ],
            ),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[deployment]),
        )
        self.register_outputs({})


def _pod(args: WebClientArgs) -> core.v1.PodSpecArgs:
    tmp = core.v1.VolumeArgs(name="tmp", empty_dir=core.v1.EmptyDirVolumeSourceArgs())
    return core.v1.PodSpecArgs(
        automount_service_account_token=False,
        enable_service_links=False,
        security_context=pod_security(_USER),
        containers=[_container(args)],
        volumes=[tmp],
    )


def _container(args: WebClientArgs) -> core.v1.ContainerArgs:
    page = core.v1.HTTPGetActionArgs(path="/", port="http")
    return core.v1.ContainerArgs(
        name="web-client",
        image=args.image,
        command=["sh", "-ec", scripts.read("web_client.sh")],
        security_context=CONTAINER_SECURITY,
        resources=requirements(_RESOURCES),
        ports=[core.v1.ContainerPortArgs(name="http", container_port=ports.WEB_CLIENT)],
        readiness_probe=core.v1.ProbeArgs(http_get=page, period_seconds=10, timeout_seconds=5),
        liveness_probe=core.v1.ProbeArgs(
            tcp_socket=core.v1.TCPSocketActionArgs(port="http"),
            period_seconds=10,
            failure_threshold=6,
        ),
        lifecycle=core.v1.LifecycleArgs(
            pre_stop=core.v1.LifecycleHandlerArgs(
                exec_=core.v1.ExecActionArgs(command=["sleep", str(_DRAIN_SECONDS)])
            )
        ),
        # The only folder that nginx-unprivileged writes to.
        volume_mounts=[
            core.v1.VolumeMountArgs(name="tmp", mount_path="/tmp")  # noqa: S108 -- of the pod
        ],
    )

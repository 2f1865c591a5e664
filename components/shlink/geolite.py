"""GeoLite, which gives visits a place: one pod downloads MaxMind's database for all pods of Shlink.

Shlink 4.6.0 with a licence key downloads by itself, in each pod; without one it uses a file that is
there, and opens it for each visit. So the key stays with one pod, which serves the file, and a
container beside each Shlink fetches it. Whatever fails, Shlink serves and counts: a visit then has
no place, or that of an older database.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi_kubernetes import apps, core, meta

from .. import ports, scripts
from ..manifests.placement import Placement
from ..manifests.pods import (
    CONTAINER_SECURITY,
    pod_security,
    requirements,
    secret_variable,
    variables,
)
from ..network.flows import GEOLITE
from ..settings.platform import Resources

GEOLITE_LICENSE = "geolite-license-key"
"""The key of the licence in its Secret."""

SOURCE = "https://download.maxmind.com/app/geoip_download"
"""As in Shlink itself (shlink-ip-geolocation 4.4, GeoLite2Options)."""

_FOLDER = "/geolite"

_FILE = "GeoLite2-City.mmdb"

# The database is copied piece by piece; its 60 MiB are in the kernel's cache only.
_RESOURCES = Resources(cpu="10m", memory="32Mi", memory_limit="128Mi")


@dataclass(frozen=True)
class GeoliteArgs:
    """The one pod that downloads."""

    namespace: pulumi.Input[str]
    """Where Shlink runs."""
    image: str
    """Shlink's: it has PHP, and is on the nodes already."""
    user: int
    """User and group id that it runs as."""
    licence: pulumi.Input[str]
    """Name of the Secret with the licence key."""
    annotations: Mapping[str, pulumi.Input[str]]
    """Of the pod: the version of that Secret, so that another key restarts it."""
    placement: Placement
    """On which nodes it may run."""
    proxy: str | None = None
    """URL of the proxy by which MaxMind is reached."""


def geolite(name: str, args: GeoliteArgs, opts: pulumi.ResourceOptions) -> None:
    """The Deployment that downloads and serves the database, and its Service."""
    metadata = meta.v1.ObjectMetaArgs(name=name, namespace=args.namespace, labels=GEOLITE.labels)
    pod = core.v1.PodSpecArgs(
        automount_service_account_token=False,
        enable_service_links=False,
        security_context=pod_security(args.user),
        containers=[_server(args)],
        volumes=[
            core.v1.VolumeArgs(name="data", empty_dir=core.v1.EmptyDirVolumeSourceArgs()),
            core.v1.VolumeArgs(name="tmp", empty_dir=core.v1.EmptyDirVolumeSourceArgs()),
        ],
    )
    deployment = apps.v1.Deployment(
        name,
        metadata=metadata,
        spec=apps.v1.DeploymentSpecArgs(
            replicas=1,
            selector=meta.v1.LabelSelectorArgs(match_labels=GEOLITE.labels),
            strategy=apps.v1.DeploymentStrategyArgs(type="Recreate"),  # one download, not two
            template=core.v1.PodTemplateSpecArgs(
                metadata=meta.v1.ObjectMetaArgs(
                    labels=GEOLITE.labels, annotations=args.annotations
                ),
                spec=args.placement.place(pod),
            ),
        ),
        opts=opts,
    )
    core.v1.Service(
        name,
        metadata=metadata,
        spec=core.v1.ServiceSpecArgs(
            selector=GEOLITE.labels,
            ports=[
                core.v1.ServicePortArgs(name="geolite", port=ports.GEOLITE, target_port="geolite")
            ],
        ),
        opts=pulumi.ResourceOptions(parent=opts.parent, depends_on=[deployment]),
    )


def _server(args: GeoliteArgs) -> core.v1.ContainerArgs:
    proxy = {"HTTPS_PROXY": args.proxy} if args.proxy else {}
    return core.v1.ContainerArgs(
        name="geolite",
        image=args.image,
        command=[
            "sh",
            "-c",
            scripts.read("geolite_serve.sh"),
            "geolite",
            scripts.read("geolite_download.php"),
        ],
        env=[
            *variables({"FOLDER": _FOLDER, "PORT": str(ports.GEOLITE), "SOURCE": SOURCE}),
            *variables(proxy),
            secret_variable("GEOLITE_LICENSE_KEY", args.licence, GEOLITE_LICENSE),
        ],
        ports=[core.v1.ContainerPortArgs(name="geolite", container_port=ports.GEOLITE)],
        # Not whether there is a database: an update must not wait for MaxMind.
        readiness_probe=core.v1.ProbeArgs(
            tcp_socket=core.v1.TCPSocketActionArgs(port="geolite"), period_seconds=10
        ),
        security_context=CONTAINER_SECURITY,
        resources=requirements(_RESOURCES),
        volume_mounts=[
            core.v1.VolumeMountArgs(name="data", mount_path=_FOLDER),
            core.v1.VolumeMountArgs(name="tmp", mount_path="/tmp"),  # noqa: S108 -- of the pod
        ],
    )


def follower(name: str, image: str, volume: str) -> core.v1.ContainerArgs:
    """The container beside Shlink that keeps the database in a volume of their pod.

    `volume`: the one that Shlink has as its folder `data`.
    """
    return core.v1.ContainerArgs(
        name="geolite",
        image=image,
        # It runs beside the others, starts before them and stops after them.
        restart_policy="Always",
        command=[
            "sh",
            "-c",
            scripts.read("geolite_follow.sh"),
            "geolite",
            scripts.read("geolite_fetch.php"),
        ],
        env=variables({"FILE": f"{_FOLDER}/{_FILE}", "URL": f"http://{name}:{ports.GEOLITE}"}),
        security_context=CONTAINER_SECURITY,
        resources=requirements(_RESOURCES),
        volume_mounts=[core.v1.VolumeMountArgs(name=volume, mount_path=_FOLDER)],
    )

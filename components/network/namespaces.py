"""Namespaces: Pod Security `restricted`, default deny, and the one table of who may talk to whom.

`flows()` is the table. Each group of pods in it gets one NetworkPolicy with its own rows: egress
where it is the source, ingress where it is the target. A layer's resources depend on their
Namespace, so the policies outlive them on destroy: PGO's and the operators' finalizers still reach
the API server while the custom resources go.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import core, meta, networking

from ..manifests.crds import LabelSelector
from ..manifests.placement import PULL_SECRET, docker_config
from ..settings.environment import Settings
from ..settings.platform import Network, PullCredentials
from .crds import CiliumNetworkPolicy, CiliumPort
from .flows import (
    ANYWHERE,
    Addresses,
    ApiServer,
    CiliumGateway,
    Dns,
    Flow,
    Peer,
    Pods,
    beside_pooler,
    flows,
    own_namespaces,
)

_POD_SECURITY = {
    f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
}

# A mesh's sidecar would break what happens before or beside it: Jobs that end, init containers that
# wait for a server, and policies by port.
_NO_MESH_LABELS = {"istio-injection": "disabled"}

_NO_MESH_ANNOTATIONS = {"linkerd.io/inject": "disabled"}


@dataclass(frozen=True)
class NamespaceArgs:
    """What a Namespace is made of."""

    name: str
    """The name in Kubernetes."""
    flows: Sequence[Flow]
    """The flow table. Rows without a pod of this namespace are ignored."""
    dns: Dns
    """Whom every pod may ask for names."""
    cilium: bool = False
    """Reach the API server by Cilium's entity, in policies of its own kind."""
    pull_credentials: Sequence[PullCredentials] = ()
    """Logins at registries, which become a Secret that pods of the namespace name."""
    protect: bool = False
    """Refuse to delete the namespace."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further labels of the namespace, such as its owner's."""
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    """Annotations of the namespace."""
    cpu_limit: str | None = None
    """The CPU limit of each container that names none."""


class Namespace(pulumi.ComponentResource):
    """One namespace with what its pods need first: Pod Security, policies, registries."""

    name: pulumi.Output[str]
    """The namespace's name, as a value that depends on its policies and logins too: whatever uses
    it as an input is created after them and deleted before them."""

    def __init__(
        self, name: str, args: NamespaceArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:network:Namespace", name, None, opts)
        namespace = core.v1.Namespace(
            name,
            metadata=meta.v1.ObjectMetaArgs(
                name=args.name,
                labels={**_NO_MESH_LABELS, **args.labels, **_POD_SECURITY},
                annotations={**_NO_MESH_ANNOTATIONS, **args.annotations},
            ),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )
        inside = pulumi.ResourceOptions(parent=self)
        table, reaching_api = args.flows, list[Flow]()
        if args.cilium:
            reaching_api = [flow for flow in table if isinstance(flow.target, ApiServer)]
            table = [flow for flow in table if not isinstance(flow.target, ApiServer)]
        from_gateway = [flow for flow in table if isinstance(flow.source, CiliumGateway)]
        table = [flow for flow in table if not isinstance(flow.source, CiliumGateway)]
        policies: list[pulumi.CustomResource] = [_default_deny(name, namespace, args.dns, inside)]
        policies += [
            _policy(name, namespace, pods, table, inside) for pods in _inhabitants(args.name, table)
        ]
        policies += [
            _cilium_policy(name, namespace, flow.source, flow.ports, inside)
            for flow in reaching_api
            if isinstance(flow.source, Pods) and flow.source.namespace == args.name
        ]
        policies += [
            _cilium_gateway_policy(name, namespace, flow.target, flow.ports, inside)
            for flow in from_gateway
            if isinstance(flow.target, Pods) and flow.target.namespace == args.name
        ]
        first = policies
        if args.cpu_limit:
            first = [*first, _limit_range(name, namespace, args.cpu_limit, inside)]
        if args.pull_credentials:
            first = [*first, _pull_secret(name, namespace, args.pull_credentials, inside)]
        self.name = _known_after(namespace, first)
        self.register_outputs({"name": self.name})


def namespaces(
    settings: Settings,
    opts: pulumi.ResourceOptions,
    consumers: Mapping[str, Sequence[Flow]] | None = None,
    api_server: pulumi.Output[Sequence[str]] | None = None,
) -> dict[str, Namespace]:
    """The namespaces of an environment by name: its own, and those of further consumers.

    `consumers` holds the connections of each further namespace's pods, `api_server` where the
    cluster's own answers, as it shows it.
    """
    further = consumers or {}
    network = settings.network
    addresses = None
    if not network.names_api_server:
        seen = pulumi.Output.from_input(api_server or list[str]())
        addresses = seen.apply(lambda cidrs: cidrs or _open(network))
    table = flows(settings, addresses)
    for rows in further.values():
        table += rows
    if settings.postgres.pooler:
        table = [beside_pooler(flow) for flow in table]
    cilium = network.policies == "cilium"
    if settings.shlink.resolve_titles and not network.cluster_cidrs:
        pulumi.log.warn(
            "Shlink fetches the titles of strangers' URLs, and only private networks are closed to "
            "it. Set shlink:network.clusterCidrs to those of the pods, Services and nodes"
        )
    dns = Dns(network.dns_namespace, addresses=network.dns_addresses, ports=network.dns_ports)
    created: dict[str, Namespace] = {}
    for name in (*own_namespaces(settings), *further):
        args = NamespaceArgs(
            name=name,
            flows=table,
            dns=dns,
            cilium=cilium,
            pull_credentials=settings.images.pull_credentials,
            protect=settings.protect,
            labels=settings.placement.namespace_labels,
            annotations=settings.placement.namespace_annotations,
            cpu_limit=settings.placement.cpu_limit,
        )
        created[name] = Namespace(f"namespace-{name}", args, opts)
    return created


def _open(network: Network) -> Sequence[str]:
    """Where the API server may be while nobody knows."""
    if network.policies != "cilium":
        api_ports = " and ".join(map(str, network.api_server_ports))
        pulumi.log.warn(
            f"every address is open on ports {api_ports} to the pods that use the API server: no "
            "label selects it, and this run did not see the cluster's. Set "
            "shlink:network.apiServer to its addresses: kubectl get endpoints kubernetes"
        )
    return ANYWHERE.cidrs


def _known_after(
    namespace: core.v1.Namespace, first: Sequence[pulumi.CustomResource]
) -> pulumi.Output[str]:
    """The namespace's name as a value that depends on these resources too."""
    # An output that is known in a preview, unlike the id.
    urns = [resource.urn for resource in first]
    return pulumi.Output.all(namespace.metadata.name, *urns).apply(lambda known: str(known[0]))


def _limit_range(
    name: str, namespace: core.v1.Namespace, cpu: str, opts: pulumi.ResourceOptions
) -> core.v1.LimitRange:
    """A CPU limit for every container, those of operators and their Jobs too."""
    limit = core.v1.LimitRangeItemArgs(
        type="Container", default={"cpu": cpu}, default_request={"cpu": "10m"}
    )
    return core.v1.LimitRange(
        f"{name}-limits",
        metadata=meta.v1.ObjectMetaArgs(name="limits", namespace=namespace.metadata.name),
        spec=core.v1.LimitRangeSpecArgs(limits=[limit]),
        opts=opts,
    )


def _pull_secret(
    name: str,
    namespace: core.v1.Namespace,
    logins: Sequence[PullCredentials],
    opts: pulumi.ResourceOptions,
) -> core.v1.Secret:
    return core.v1.Secret(
        f"{name}-registries",
        metadata=meta.v1.ObjectMetaArgs(name=PULL_SECRET, namespace=namespace.metadata.name),
        type="kubernetes.io/dockerconfigjson",
        string_data={".dockerconfigjson": pulumi.Output.secret(docker_config(logins))},
        opts=opts,
    )


def _default_deny(
    name: str, namespace: core.v1.Namespace, dns: Dns, opts: pulumi.ResourceOptions
) -> networking.v1.NetworkPolicy:
    servers = [_selector(Pods("dns", dns.namespace)), *_blocks(Addresses(dns.addresses))]
    protocols: list[networking.v1.NetworkPolicyPortArgs] = []
    for port in dns.ports:
        protocols += [
            networking.v1.NetworkPolicyPortArgs(protocol="UDP", port=port),
            networking.v1.NetworkPolicyPortArgs(protocol="TCP", port=port),
        ]
    return networking.v1.NetworkPolicy(
        f"{name}-default-deny",
        metadata=meta.v1.ObjectMetaArgs(name="default-deny", namespace=namespace.metadata.name),
        spec=networking.v1.NetworkPolicySpecArgs(
            pod_selector=meta.v1.LabelSelectorArgs(),
            policy_types=["Ingress", "Egress"],
            egress=[networking.v1.NetworkPolicyEgressRuleArgs(to=servers, ports=protocols)],
        ),
        opts=opts,
    )


def _policy(
    name: str,
    namespace: core.v1.Namespace,
    pods: Pods,
    table: Sequence[Flow],
    opts: pulumi.ResourceOptions,
) -> networking.v1.NetworkPolicy:
    """What these pods may receive and send."""
    ingress = [
        networking.v1.NetworkPolicyIngressRuleArgs(
            from_=_selectors(flow.source), ports=_ports(flow)
        )
        for flow in table
        if flow.target == pods
    ]
    egress = [
        networking.v1.NetworkPolicyEgressRuleArgs(to=_selectors(flow.target), ports=_ports(flow))
        for flow in table
        if flow.source == pods
    ]
    types: list[str] = []
    if ingress:
        types.append("Ingress")
    if egress:
        types.append("Egress")
    return networking.v1.NetworkPolicy(
        f"{name}-{pods.name}",
        metadata=meta.v1.ObjectMetaArgs(name=pods.name, namespace=namespace.metadata.name),
        spec=networking.v1.NetworkPolicySpecArgs(
            pod_selector=_label_selector(pods),
            policy_types=types,
            # Kubernetes drops an empty list, which would show as a difference in a later diff.
            ingress=ingress or None,
            egress=egress or None,
        ),
        opts=opts,
    )


def _cilium_policy(
    name: str,
    namespace: core.v1.Namespace,
    pods: Pods,
    api_ports: Sequence[int],
    opts: pulumi.ResourceOptions,
) -> CiliumNetworkPolicy:
    """The way to the API server on Cilium.

    An ipBlock, even 0.0.0.0/0, never matches an API server on a node of the cluster there
    (cilium/cilium#20550).
    """
    return CiliumNetworkPolicy(
        f"{name}-{pods.name}-api-server",
        metadata=meta.v1.ObjectMetaArgs(
            name=f"{pods.name}-api-server", namespace=namespace.metadata.name
        ),
        spec={
            "endpointSelector": _endpoints(pods),
            "egress": [
                {
                    "toEntities": ["kube-apiserver"],
                    "toPorts": [
                        {"ports": [{"port": str(port), "protocol": "TCP"} for port in api_ports]}
                    ],
                }
            ],
        },
        opts=opts,
    )


def _cilium_gateway_policy(
    name: str,
    namespace: core.v1.Namespace,
    pods: Pods,
    pod_ports: Sequence[int],
    opts: pulumi.ResourceOptions,
) -> CiliumNetworkPolicy:
    """The way in from Cilium's own Ingress and Gateway, which have the entity `ingress`."""
    listed: list[CiliumPort] = [{"port": str(port), "protocol": "TCP"} for port in pod_ports]
    return CiliumNetworkPolicy(
        f"{name}-{pods.name}-gateway",
        metadata=meta.v1.ObjectMetaArgs(
            name=f"{pods.name}-gateway", namespace=namespace.metadata.name
        ),
        spec={
            "endpointSelector": _endpoints(pods),
            "ingress": [{"fromEntities": ["ingress"], "toPorts": [{"ports": listed}]}],
        },
        opts=opts,
    )


def _inhabitants(namespace: str, table: Iterable[Flow]) -> list[Pods]:
    named: dict[str, Pods] = {}
    for flow in table:
        for peer in (flow.source, flow.target):
            if isinstance(peer, Pods):
                named[peer.name] = peer
    return [named[name] for name in sorted(named) if named[name].namespace == namespace]


def _selectors(peer: Peer) -> pulumi.Input[Sequence[networking.v1.NetworkPolicyPeerArgs]]:
    if isinstance(peer, Pods):
        return [_selector(peer)]
    if isinstance(peer, ApiServer):
        if isinstance(peer.cidrs, Sequence):
            return _blocks(Addresses(peer.cidrs))
        cidrs = pulumi.Output.from_input(peer.cidrs)
        return cidrs.apply(lambda known: _blocks(Addresses(known)))
    if isinstance(peer, CiliumGateway):
        return []
    return _blocks(peer)


def _blocks(addresses: Addresses) -> list[networking.v1.NetworkPolicyPeerArgs]:
    """One block for each network; Kubernetes refuses an exception outside of its block."""
    blocks: list[networking.v1.NetworkPolicyPeerArgs] = []
    for cidr in addresses.cidrs:
        version = ipaddress.ip_network(cidr).version
        inside = [net for net in addresses.exclude if ipaddress.ip_network(net).version == version]
        block = networking.v1.IPBlockArgs(cidr=cidr, except_=inside or None)
        blocks.append(networking.v1.NetworkPolicyPeerArgs(ip_block=block))
    return blocks


def _selector(pods: Pods) -> networking.v1.NetworkPolicyPeerArgs:
    namespace = {"kubernetes.io/metadata.name": pods.namespace}
    pod_selector = None
    if pods.labels:
        pod_selector = _label_selector(pods)
    return networking.v1.NetworkPolicyPeerArgs(
        namespace_selector=meta.v1.LabelSelectorArgs(match_labels=namespace),
        pod_selector=pod_selector,
    )


def _label_selector(pods: Pods) -> meta.v1.LabelSelectorArgs:
    expressions = [
        meta.v1.LabelSelectorRequirementArgs(key=key, operator="NotIn", values=[value])
        for key, value in pods.without.items()
    ]
    return meta.v1.LabelSelectorArgs(
        match_labels=pods.labels, match_expressions=expressions or None
    )


def _endpoints(pods: Pods) -> LabelSelector:
    """The same selector for Cilium."""
    selector: LabelSelector = {"matchLabels": pods.labels}
    if pods.without:
        selector["matchExpressions"] = [
            {"key": key, "operator": "NotIn", "values": [value]}
            for key, value in pods.without.items()
        ]
    return selector


def _ports(flow: Flow) -> list[networking.v1.NetworkPolicyPortArgs]:
    return [networking.v1.NetworkPolicyPortArgs(protocol="TCP", port=port) for port in flow.ports]

"""Namespaces: Pod Security `restricted`, default deny, and the one table of who may talk to whom.

`flows()` is the table. Each pod that it names gets one NetworkPolicy with its own rows: egress where it is the source, ingress where
it is the target. A layer's resources depend on their Namespace, so the rules outlive them on destroy: PGO's and the operators'
finalizers still reach the API server while the custom resources go.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi_kubernetes import core, meta, networking

from . import ports
from .settings import Settings

VAULT = "vault"
EXTERNAL_SECRETS = "external-secrets"
POSTGRES = "postgres"
REDIS = "redis"
SHLINK = "shlink"
NAMESPACES = (VAULT, EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK)


@dataclass(frozen=True)
class Pods:
    """Some pods of one namespace; no labels: every pod in it. Those outside this environment get no policy from us."""

    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Addresses:
    """What no label selects: the API server, the internet, a managed Redis."""

    cidrs: Sequence[str]
    exclude: Sequence[str] = ()


Peer = Pods | Addresses


@dataclass(frozen=True)
class Flow:
    """One row: TCP from `source` to `target` on `ports`."""

    source: Peer
    target: Peer
    ports: Sequence[int]


ANYWHERE = Addresses(["0.0.0.0/0"])
# Shlink follows URLs that strangers give it: never into the cluster, the node's network or a cloud's metadata service.
INTERNET = Addresses(
    ["0.0.0.0/0"],
    exclude=["10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16"],
)

VAULT_SERVER = Pods("vault", VAULT, {"app.kubernetes.io/name": "vault", "component": "server"})
VAULT_INIT = Pods("vault-init", VAULT, {"app.kubernetes.io/name": "vault-init"})
CONTROLLER = Pods(
    "external-secrets", EXTERNAL_SECRETS, {"app.kubernetes.io/name": "external-secrets"}
)
PGO = Pods("pgo", POSTGRES, {"postgres-operator.crunchydata.com/control-plane": "pgo"})
# Instances, the pgBackRest repository host and its jobs all carry the cluster's label.
DATABASE = Pods("shlink-db", POSTGRES, {"postgres-operator.crunchydata.com/cluster": "shlink-db"})
REDIS_OPERATOR = Pods("redis-operator", REDIS, {"app.kubernetes.io/name": "redis-operator"})
REDIS_SERVERS = Pods(
    "shlink-redis",
    REDIS,
    {"app.kubernetes.io/name": "shlink-redis", "app.kubernetes.io/component": "redis"},
)
SENTINELS = Pods(
    "shlink-redis-sentinel",
    REDIS,
    {"app.kubernetes.io/name": "shlink-redis", "app.kubernetes.io/component": "sentinel"},
)
REDIS_ROTATION = Pods(
    "shlink-redis-rotation", REDIS, {"app.kubernetes.io/name": "shlink-redis-rotation"}
)
SERVER = Pods("shlink", SHLINK, {"app.kubernetes.io/name": "shlink"})
MIGRATION = Pods("shlink-migration", SHLINK, {"app.kubernetes.io/name": "shlink-migration"})


def flows(settings: Settings) -> list[Flow]:
    """Every connection that this environment needs, and none besides. DNS is open to every pod."""
    network, operators = settings.network, settings.operators
    api = Addresses(network.api_server)
    controller = _where(CONTROLLER, operators.external_secrets.namespace)
    rows = [
        Flow(
            VAULT_SERVER, api, network.api_server_ports
        ),  # TokenReview; the sidecar keeps the unseal keys in a Secret
        Flow(VAULT_INIT, api, network.api_server_ports),
        Flow(VAULT_INIT, VAULT_SERVER, [ports.VAULT]),
        Flow(VAULT_SERVER, VAULT_SERVER, [ports.VAULT, ports.VAULT_RAFT]),
        Flow(controller, VAULT_SERVER, [ports.VAULT]),
        Flow(DATABASE, api, network.api_server_ports),  # Patroni keeps its leader lock there
        Flow(
            DATABASE, DATABASE, [ports.POSTGRES, ports.PATRONI, ports.PGBACKREST]
        ),  # replication, Patroni, pgBackRest
        Flow(SERVER, DATABASE, [ports.POSTGRES]),
        Flow(MIGRATION, DATABASE, [ports.POSTGRES]),
    ]
    if operators.external_secrets.install:
        rows.append(Flow(CONTROLLER, api, network.api_server_ports))
    if operators.pgo.install:
        rows.append(Flow(PGO, api, network.api_server_ports))
    if settings.vault.seal:
        rows.append(
            Flow(
                VAULT_SERVER,
                ANYWHERE,
                [ports.HTTPS, ports.VAULT]
                if settings.vault.seal.type == "transit"
                else [ports.HTTPS],
            )
        )
    if settings.postgres.backups.s3:
        rows.append(Flow(DATABASE, ANYWHERE, [ports.HTTPS]))
    rows += _redis(settings)
    if settings.shlink.geolite_license_key or settings.shlink.resolve_titles:
        rows.append(
            Flow(
                SERVER,
                INTERNET,
                [ports.HTTP, ports.HTTPS] if settings.shlink.resolve_titles else [ports.HTTPS],
            )
        )
    if settings.shlink.route:
        rows.append(
            Flow(Pods("route", settings.shlink.route.controller_namespace), SERVER, [ports.SHLINK])
        )
    if network.monitoring_namespace:
        prometheus = Pods("prometheus", network.monitoring_namespace)
        rows.append(Flow(prometheus, VAULT_SERVER, [ports.VAULT]))
        rows += (
            [Flow(prometheus, DATABASE, [ports.POSTGRES_EXPORTER])]
            if settings.postgres.monitoring
            else []
        )
        rows += (
            [Flow(prometheus, REDIS_SERVERS, [ports.REDIS_EXPORTER])]
            if settings.redis.mode == "failover"
            else []
        )
    return rows


def _redis(settings: Settings) -> list[Flow]:
    operators, redis = settings.operators, settings.redis
    if redis.mode == "external":
        return [Flow(SERVER, Addresses([redis.cidr]), redis.ports)]
    if redis.mode == "none":
        return []
    operator = _where(REDIS_OPERATOR, operators.redis_operator.namespace)
    # A Redis pod asks a sentinel for a failover before it stops, hence the same clients for both.
    clients = [
        operator,
        SENTINELS,
        REDIS_SERVERS,
        SERVER,
        *([REDIS_ROTATION] if settings.rotation.redis > 1 else []),
    ]
    rows = [Flow(client, REDIS_SERVERS, [ports.REDIS]) for client in clients]
    rows += [Flow(client, SENTINELS, [ports.SENTINEL]) for client in clients]
    if operators.redis_operator.install:
        rows.append(
            Flow(
                REDIS_OPERATOR,
                Addresses(settings.network.api_server),
                settings.network.api_server_ports,
            )
        )
    return rows


def _where(pods: Pods, namespace: str | None) -> Pods:
    """The pods of an operator that is not installed by this program, wherever it runs."""
    return pods if namespace is None else Pods(pods.name, namespace)


@dataclass(frozen=True)
class NamespaceArgs:
    """What a Namespace is made of."""

    name: str
    """The name in Kubernetes."""
    flows: Sequence[Flow]
    """The flow table. Rows without a pod of this namespace are ignored."""
    dns_namespace: str
    """Where the cluster's DNS runs; every pod may ask it."""
    protect: bool = False
    """Refuse to delete the namespace."""


class Namespace(pulumi.ComponentResource):
    """One namespace with everything that governs its pods: Pod Security and network policies."""

    name: pulumi.Output[str]
    """The namespace's name, known to depend on its policies: whatever uses it as an input is created
    after them and deleted before them."""

    def __init__(
        self, name: str, args: NamespaceArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:network:Namespace", name, None, opts)
        namespace = core.v1.Namespace(
            name,
            metadata=meta.v1.ObjectMetaArgs(
                name=args.name,
                labels={
                    f"pod-security.kubernetes.io/{mode}": "restricted"
                    for mode in ("enforce", "audit", "warn")
                },
            ),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )
        inside = pulumi.ResourceOptions(parent=self)
        policies = [_default_deny(name, namespace, args.dns_namespace, inside)]
        policies += [
            _policy(name, namespace, pods, args.flows, inside)
            for pods in _inhabitants(args.name, args.flows)
        ]
        self.name = _known_after(namespace, policies)
        self.register_outputs({"name": self.name})


def namespaces(settings: Settings, opts: pulumi.ResourceOptions) -> dict[str, Namespace]:
    """The five namespaces of an environment, by name."""
    table = flows(settings)
    return {
        name: Namespace(
            f"namespace-{name}",
            NamespaceArgs(
                name=name,
                flows=table,
                dns_namespace=settings.network.dns_namespace,
                protect=settings.protect,
            ),
            opts,
        )
        for name in NAMESPACES
    }


def _known_after(
    namespace: core.v1.Namespace, policies: Sequence[networking.v1.NetworkPolicy]
) -> pulumi.Output[str]:
    """The namespace's name as a value that depends on every policy too."""
    names = [item.metadata.name for item in (namespace, *policies)]
    return pulumi.Output.all(*names).apply(lambda known: str(known[0]))


def _default_deny(
    name: str, namespace: core.v1.Namespace, dns_namespace: str, opts: pulumi.ResourceOptions
) -> networking.v1.NetworkPolicy:
    dns = networking.v1.NetworkPolicyEgressRuleArgs(
        to=[_selector(Pods("dns", dns_namespace))],
        ports=[
            networking.v1.NetworkPolicyPortArgs(protocol=protocol, port=ports.DNS)
            for protocol in ("UDP", "TCP")
        ],
    )
    return networking.v1.NetworkPolicy(
        f"{name}-default-deny",
        metadata=meta.v1.ObjectMetaArgs(name="default-deny", namespace=namespace.metadata.name),
        spec=networking.v1.NetworkPolicySpecArgs(
            pod_selector=meta.v1.LabelSelectorArgs(),
            policy_types=["Ingress", "Egress"],
            egress=[dns],
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
            pod_selector=meta.v1.LabelSelectorArgs(match_labels=pods.labels),
            policy_types=types,
            # Kubernetes drops an empty list, which would show as a difference in a later diff.
            ingress=ingress or None,
            egress=egress or None,
        ),
        opts=opts,
    )


def _inhabitants(namespace: str, table: Iterable[Flow]) -> list[Pods]:
    named = {
        peer.name: peer
        for flow in table
        for peer in (flow.source, flow.target)
        if isinstance(peer, Pods)
    }
    return [named[name] for name in sorted(named) if named[name].namespace == namespace]


def _selectors(peer: Peer) -> list[networking.v1.NetworkPolicyPeerArgs]:
    if isinstance(peer, Pods):
        return [_selector(peer)]
    return [
        networking.v1.NetworkPolicyPeerArgs(
            ip_block=networking.v1.IPBlockArgs(cidr=cidr, except_=list(peer.exclude) or None)
        )
        for cidr in peer.cidrs
    ]


def _selector(pods: Pods) -> networking.v1.NetworkPolicyPeerArgs:
    return networking.v1.NetworkPolicyPeerArgs(
        namespace_selector=meta.v1.LabelSelectorArgs(
            match_labels={"kubernetes.io/metadata.name": pods.namespace}
        ),
        pod_selector=meta.v1.LabelSelectorArgs(match_labels=pods.labels) if pods.labels else None,
    )


def _ports(flow: Flow) -> list[networking.v1.NetworkPolicyPortArgs]:
    return [networking.v1.NetworkPolicyPortArgs(protocol="TCP", port=port) for port in flow.ports]

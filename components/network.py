"""Namespaces: Pod Security `restricted`, default deny, and the one table of who may talk to whom.

`flows()` is the table. Each group of pods in it gets one NetworkPolicy with its own rows: egress
where it is the source, ingress where it is the target. A layer's resources depend on their
Namespace, so the policies outlive them on destroy: PGO's and the operators' finalizers still reach
the API server while the custom resources go.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pulumi
from pulumi_kubernetes import core, meta, networking

from . import ports
from .backup_settings import Store
from .crds import CiliumNetworkPolicy, LabelSelector
from .placement import PULL_SECRET, docker_config
from .placement_settings import PullCredentials
from .settings import Seal, Settings, ShlinkSettings, Transit

VAULT = "vault"
EXTERNAL_SECRETS = "external-secrets"
POSTGRES = "postgres"
REDIS = "redis"
SHLINK = "shlink"
NAMESPACES = (VAULT, EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK)


@dataclass(frozen=True)
class Pods:
    """Some pods of one namespace. Pods outside this environment get no policy from this program."""

    name: str
    """Name of the policy, unique in the namespace."""
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Without labels: every pod of the namespace."""
    without: Mapping[str, str] = field(default_factory=dict[str, str])
    """Labels that these pods do not have."""


@dataclass(frozen=True)
class Addresses:
    """Networks that no label selects: the internet, a managed Redis."""

    cidrs: Sequence[str]
    exclude: Sequence[str] = ()
    """Networks inside `cidrs` that stay closed."""


@dataclass(frozen=True)
class ApiServer:
    """The Kubernetes API server. No label selects it, and Cilium matches it by no address."""

    cidrs: Sequence[str]


Peer = Pods | Addresses | ApiServer


@dataclass(frozen=True)
class Flow:
    """One row: TCP from `source` to `target` on `ports`."""

    source: Peer
    """Opens the connection."""
    target: Peer
    """Accepts it. One of the two is pods of this environment."""
    ports: Sequence[int]
    """Ports of the target."""


ANYWHERE = Addresses(["0.0.0.0/0", "::/0"])
# Shlink follows URLs that strangers give it: never into the cluster, the node's network or a
# cloud's metadata service, not even by an IPv6 address that a gateway translates to one of them.
INTERNET = Addresses(
    ANYWHERE.cidrs,
    exclude=[
        "10.0.0.0/8",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "64:ff9b::/96",
        "fc00::/7",
        "fe80::/10",
    ],
)

VAULT_SERVER = Pods("vault", VAULT, {"app.kubernetes.io/name": "vault", "component": "server"})
VAULT_INIT = Pods("vault-init", VAULT, {"app.kubernetes.io/name": "vault-init"})
CONTROLLER = Pods(
    "external-secrets", EXTERNAL_SECRETS, {"app.kubernetes.io/name": "external-secrets"}
)
PGO = Pods("pgo", POSTGRES, {"postgres-operator.crunchydata.com/control-plane": "pgo"})
# Instances, the pgBackRest repository host and its jobs all carry the cluster's label.
DATABASE = Pods("shlink-db", POSTGRES, {"postgres-operator.crunchydata.com/cluster": "shlink-db"})
# PgBouncer's pods carry the cluster's label too.
POOLER = Pods(
    "shlink-db-pgbouncer",
    POSTGRES,
    {**DATABASE.labels, "postgres-operator.crunchydata.com/role": "pgbouncer"},
)
_DATABASE_BESIDE_POOLER = replace(
    DATABASE, without={"postgres-operator.crunchydata.com/role": "pgbouncer"}
)
# A copy that `make restore-drill` restores from the live database's repository, and removes.
RESTORE_DRILL = Pods(
    "shlink-db-drill",
    POSTGRES,
    {"postgres-operator.crunchydata.com/cluster": "shlink-db-drill"},
)
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
GEOLITE = Pods("shlink-geolite", SHLINK, {"app.kubernetes.io/name": "shlink-geolite"})
WEB_CLIENT = Pods("shlink-web-client", SHLINK, {"app.kubernetes.io/name": "shlink-web-client"})
# cert-manager makes this pod in the Ingress' own namespace to prove the host's ownership.
ACME_SOLVER = Pods("acme-solver", SHLINK, {"acme.cert-manager.io/http01-solver": "true"})
_ACME_SOLVER_PORT = 8089

# Where a pod on a cloud asks for its identity, by the kind of key service:
# EKS Pod Identity and the node's role; GKE's metadata server and its redirect; Azure's.
_IDENTITY: Mapping[str, Sequence[tuple[str, Sequence[int]]]] = {
    "awskms": (
        ("169.254.170.23/32", [ports.HTTP]),
        ("fd00:ec2::23/128", [ports.HTTP]),
        ("169.254.169.254/32", [ports.HTTP]),
    ),
    "gcpckms": (("169.254.169.254/32", [ports.HTTP, 8080]), ("169.254.169.252/32", [987, 988])),
    "azurekeyvault": (("169.254.169.254/32", [ports.HTTP]),),
}


def flows(settings: Settings) -> list[Flow]:
    """All connections this environment needs. Everything else is denied, apart from DNS."""
    return [
        *_api_server(settings),
        *_vault(settings),
        *_postgres(settings),
        *_redis(settings),
        *_shlink(settings.shlink),
        *_monitoring(settings),
    ]


def _api_server(settings: Settings) -> list[Flow]:
    network, operators = settings.network, settings.operators
    clients = [
        VAULT_SERVER,  # asks whose a token is; its sidecar reads the unseal keys from a Secret
        VAULT_INIT,
        DATABASE,  # Patroni keeps its leader lock there
        RESTORE_DRILL,
    ]
    if operators.external_secrets.install:
        clients.append(CONTROLLER)
    if operators.pgo.install:
        clients.append(PGO)
    if operators.redis_operator.install and settings.redis.mode == "failover":
        clients.append(REDIS_OPERATOR)
    server = ApiServer(network.api_server)
    return [Flow(client, server, network.api_server_ports) for client in clients]


def _vault(settings: Settings) -> list[Flow]:
    controller = _where(CONTROLLER, settings.operators.external_secrets.namespace)
    rows = [
        Flow(VAULT_INIT, VAULT_SERVER, [ports.VAULT]),
        Flow(VAULT_SERVER, VAULT_SERVER, [ports.VAULT, ports.VAULT_RAFT]),
        Flow(controller, VAULT_SERVER, [ports.VAULT]),
    ]
    if settings.vault.seal is not None:
        rows += _key_service(settings.vault.seal)
    people = settings.vault.people
    if people is not None and people.port is not None:
        # Vault asks the identity provider for its keys, and for a person's claims.
        rows.append(Flow(VAULT_SERVER, ANYWHERE, [people.port]))
    return rows


def _key_service(seal: Seal) -> list[Flow]:
    rows = [Flow(VAULT_SERVER, ANYWHERE, [seal.port])]
    if not isinstance(seal, Transit):
        rows += _identity(VAULT_SERVER, seal.type)
    return rows


def _identity(pods: Pods, kind: str) -> list[Flow]:
    """What pods need to ask a cloud for their identity."""
    return [
        Flow(pods, Addresses([cidr]), identity_ports) for cidr, identity_ports in _IDENTITY[kind]
    ]


def _postgres(settings: Settings) -> list[Flow]:
    rows = [
        # Replication, Patroni's view of the others, backups.
        Flow(DATABASE, DATABASE, [ports.POSTGRES, ports.PATRONI, ports.PGBACKREST]),
        Flow(RESTORE_DRILL, RESTORE_DRILL, [ports.POSTGRES, ports.PATRONI, ports.PGBACKREST]),
        Flow(RESTORE_DRILL, DATABASE, [ports.PGBACKREST]),
        Flow(SERVER, DATABASE, [ports.POSTGRES]),
        Flow(MIGRATION, DATABASE, [ports.POSTGRES]),
    ]
    if settings.postgres.pooler:
        # The way past it stays open: the policies change before the pods do, and those that still
        # run would be cut off.
        rows += [
            Flow(SERVER, POOLER, [ports.POSTGRES]),
            Flow(POOLER, DATABASE, [ports.POSTGRES]),
        ]
    for store in _stores(settings):
        # A drill restores from the same stores.
        for pods in (DATABASE, RESTORE_DRILL):
            rows.append(Flow(pods, Addresses(store.cidrs), [store.port]))
            if store.type == "gcs" and store.key is None:
                rows += _identity(pods, "gcpckms")
    return rows


def _stores(settings: Settings) -> list[Store]:
    """The object stores that pgBackRest writes to, and the one that it restores from."""
    stores = list(settings.postgres.backups.repositories.values())
    restore = settings.postgres.restore
    if restore is not None and restore.type == "store":
        stores.append(restore.store)
    return stores


def _redis(settings: Settings) -> list[Flow]:
    redis = settings.redis
    if redis.mode == "external":
        return [Flow(SERVER, Addresses([redis.cidr]), redis.ports)]
    if redis.mode == "none":
        return []
    operator = _where(REDIS_OPERATOR, settings.operators.redis_operator.namespace)
    # A Redis pod asks a sentinel for a failover before it stops, hence the same clients for both.
    clients = [operator, SENTINELS, REDIS_SERVERS, SERVER]
    if settings.rotation.redis > 1:
        clients.append(REDIS_ROTATION)
    rows = [Flow(client, REDIS_SERVERS, [ports.REDIS]) for client in clients]
    rows += [Flow(client, SENTINELS, [ports.SENTINEL]) for client in clients]
    return rows


def _shlink(shlink: ShlinkSettings) -> list[Flow]:
    rows: list[Flow] = []
    if shlink.resolve_titles:
        rows.append(Flow(SERVER, INTERNET, [ports.HTTP, ports.HTTPS]))
    if shlink.geolite_license_key:
        rows += [Flow(GEOLITE, INTERNET, [ports.HTTPS]), Flow(SERVER, GEOLITE, [ports.GEOLITE])]
    if shlink.route is None:
        return rows
    sources: list[Peer] = [
        Pods(f"route-{namespace}", namespace) for namespace in shlink.route.controller_namespaces
    ]
    if shlink.route.controller_addresses:
        sources.append(Addresses(shlink.route.controller_addresses))
    shlink_ports = [ports.SHLINK]
    if shlink.route.rest != "everywhere":
        # The way of /rest ends at this port. A refusal is quick, a dropped packet is not.
        shlink_ports.append(ports.CLOSED)
    for source in sources:
        rows.append(Flow(source, SERVER, shlink_ports))
        if shlink.route.web_client:
            rows.append(Flow(source, WEB_CLIENT, [ports.WEB_CLIENT]))
        if shlink.route.asks_cert_manager:
            rows.append(Flow(source, ACME_SOLVER, [_ACME_SOLVER_PORT]))
    return rows


def _monitoring(settings: Settings) -> list[Flow]:
    namespace = settings.network.monitoring_namespace
    if namespace is None:
        return []
    prometheus = Pods("prometheus", namespace)
    rows = [Flow(prometheus, VAULT_SERVER, [ports.VAULT])]
    if settings.postgres.monitoring:
        rows.append(Flow(prometheus, DATABASE, [ports.POSTGRES_EXPORTER]))
    if settings.redis.mode == "failover":
        rows.append(Flow(prometheus, REDIS_SERVERS, [ports.REDIS_EXPORTER]))
    if settings.monitoring.enabled:
        rows.append(Flow(prometheus, SERVER, [ports.SHLINK_METRICS]))
        if settings.operators.external_secrets.install:
            rows.append(Flow(prometheus, CONTROLLER, [ports.EXTERNAL_SECRETS_METRICS]))
        if settings.operators.redis_operator.install and settings.redis.mode == "failover":
            rows.append(Flow(prometheus, REDIS_OPERATOR, [ports.REDIS_OPERATOR_METRICS]))
    return rows


def _where(pods: Pods, namespace: str | None) -> Pods:
    """The pods of an operator that is not installed by this program, wherever it runs."""
    return pods if namespace is None else Pods(pods.name, namespace)


@dataclass(frozen=True)
class Dns:
    """Where pods resolve names, over UDP and TCP."""

    namespace: str
    """Every pod in it may be asked."""
    addresses: Sequence[str] = ()
    """Networks, such as node-local DNS, whose address belongs to no pod."""
    ports: Sequence[int] = (ports.DNS,)
    """Ports of the servers themselves, not of their Service."""


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
                labels={
                    f"pod-security.kubernetes.io/{mode}": "restricted"
                    for mode in ("enforce", "audit", "warn")
                },
            ),
            opts=pulumi.ResourceOptions(parent=self, protect=args.protect),
        )
        inside = pulumi.ResourceOptions(parent=self)
        table, reaching_api = args.flows, list[Flow]()
        if args.cilium:
            reaching_api = [flow for flow in table if isinstance(flow.target, ApiServer)]
            table = [flow for flow in table if not isinstance(flow.target, ApiServer)]
        policies: list[pulumi.CustomResource] = [_default_deny(name, namespace, args.dns, inside)]
        policies += [
            _policy(name, namespace, pods, table, inside) for pods in _inhabitants(args.name, table)
        ]
        policies += [
            _cilium_policy(name, namespace, flow.source, flow.ports, inside)
            for flow in reaching_api
            if isinstance(flow.source, Pods) and flow.source.namespace == args.name
        ]
        first = policies
        if args.pull_credentials:
            first = [*policies, _pull_secret(name, namespace, args.pull_credentials, inside)]
        self.name = _known_after(namespace, first)
        self.register_outputs({"name": self.name})


def namespaces(
    settings: Settings,
    opts: pulumi.ResourceOptions,
    consumers: Mapping[str, Sequence[Flow]] | None = None,
) -> dict[str, Namespace]:
    """The namespaces of an environment by name: its own five, and those of further consumers.

    `consumers` holds the connections of each further namespace's pods.
    """
    further = consumers or {}
    table, network = flows(settings), settings.network
    for rows in further.values():
        table += rows
    if settings.postgres.pooler:
        table = [_beside_pooler(flow) for flow in table]
    cilium = network.policies == "cilium"
    if not cilium and set(network.api_server) & set(ANYWHERE.cidrs):
        api_ports = " and ".join(map(str, network.api_server_ports))
        pulumi.log.warn(
            f"every address is open on ports {api_ports} to the pods that use the API server, "
            "because no label selects it. Set shlink:network.apiServer to its addresses: "
            "kubectl get endpoints kubernetes"
        )
    dns = Dns(network.dns_namespace, addresses=network.dns_addresses, ports=network.dns_ports)
    created: dict[str, Namespace] = {}
    for name in (*NAMESPACES, *further):
        args = NamespaceArgs(
            name=name,
            flows=table,
            dns=dns,
            cilium=cilium,
            pull_credentials=settings.images.pull_credentials,
            protect=settings.protect,
        )
        created[name] = Namespace(f"namespace-{name}", args, opts)
    return created


def _beside_pooler(flow: Flow) -> Flow:
    """The row where the database's pods are told from PgBouncer's, which need less."""
    ends = [
        _DATABASE_BESIDE_POOLER if end == DATABASE else end for end in (flow.source, flow.target)
    ]
    return replace(flow, source=ends[0], target=ends[1])


def _known_after(
    namespace: core.v1.Namespace, first: Sequence[pulumi.CustomResource]
) -> pulumi.Output[str]:
    """The namespace's name as a value that depends on these resources too."""
    # An output that is known in a preview, unlike the id.
    urns = [resource.urn for resource in first]
    return pulumi.Output.all(namespace.metadata.name, *urns).apply(lambda known: str(known[0]))


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


def _inhabitants(namespace: str, table: Iterable[Flow]) -> list[Pods]:
    named: dict[str, Pods] = {}
    for flow in table:
        for peer in (flow.source, flow.target):
            if isinstance(peer, Pods):
                named[peer.name] = peer
    return [named[name] for name in sorted(named) if named[name].namespace == namespace]


def _selectors(peer: Peer) -> list[networking.v1.NetworkPolicyPeerArgs]:
    if isinstance(peer, Pods):
        return [_selector(peer)]
    if isinstance(peer, ApiServer):
        return _blocks(Addresses(peer.cidrs))
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

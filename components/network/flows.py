"""The one table of who may talk to whom. Everything else is denied.

`flows()` is the table. namespaces.py makes the policies of it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pulumi

from .. import ports
from ..settings.environment import Settings
from ..settings.postgres import Store
from ..settings.redis import ExternalRedis
from ..settings.shlink import Route, ServiceRoute
from ..settings.types import InCluster
from ..settings.vault import Seal, Transit

VAULT = "vault"

EXTERNAL_SECRETS = "external-secrets"

POSTGRES = "postgres"

REDIS = "redis"

SHLINK = "shlink"

NAMESPACES = (VAULT, EXTERNAL_SECRETS, POSTGRES, REDIS, SHLINK)


def own_namespaces(settings: Settings) -> tuple[str, ...]:
    """The environment's namespaces. That of an operator which is there already is its owner's."""
    if settings.operators.external_secrets.install:
        return NAMESPACES
    return tuple(name for name in NAMESPACES if name != EXTERNAL_SECRETS)


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

    cidrs: pulumi.Input[Sequence[str]]


@dataclass(frozen=True)
class CiliumGateway:
    """Cilium's own Ingress and Gateway. They are no pod and have no address."""


Peer = Pods | Addresses | ApiServer | CiliumGateway


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
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2002::/16",
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


def flows(settings: Settings, api_server: pulumi.Input[Sequence[str]] | None = None) -> list[Flow]:
    """All connections this environment needs. Everything else is denied, apart from DNS.

    `api_server`: its addresses, in place of those in the settings.
    """
    addresses = settings.network.api_server if api_server is None else api_server
    return [
        *_api_server(settings, ApiServer(addresses)),
        *_vault(settings),
        *_postgres(settings),
        *_redis(settings),
        *_shlink(settings),
        *_monitoring(settings),
    ]


def _api_server(settings: Settings, server: ApiServer) -> list[Flow]:
    network, operators = settings.network, settings.operators
    clients = [
        VAULT_SERVER,  # asks whose a token is; its sidecar reads the unseal keys from a Secret
        VAULT_INIT,
        DATABASE,  # Patroni keeps its leader lock there
        RESTORE_DRILL,
    ]
    if operators.external_secrets.install:
        clients.append(CONTROLLER)
    # One that was there already may run beside what it looks after: a lab that was taken over.
    if operators.pgo.install or operators.pgo.namespace == POSTGRES:
        clients.append(PGO)
    redis_inside = operators.redis_operator.namespace == REDIS
    installed = operators.redis_operator.install and settings.redis.mode == "failover"
    if installed or redis_inside:
        clients.append(REDIS_OPERATOR)
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
        proxy = settings.network.proxy
        if proxy is not None and settings.vault.seal.type != "transit":
            rows += _to(VAULT_SERVER, proxy, [proxy.port])
    people = settings.vault.people
    if people is not None and people.port is not None:
        # Vault asks the identity provider for its keys, and for a person's claims.
        rows += _to(VAULT_SERVER, people, [people.port])
    return rows


def _key_service(seal: Seal) -> list[Flow]:
    if isinstance(seal, Transit):
        return _to(VAULT_SERVER, seal, [seal.port])
    return [Flow(VAULT_SERVER, ANYWHERE, [seal.port]), *_identity(VAULT_SERVER, seal.type)]


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
            rows += _to(pods, store, [store.port])
            if store.type == "gcs" and store.key is None:
                rows += _identity(pods, "gcpckms")
            if store.type == "azure" and store.key is None:
                rows += _identity(pods, "azurekeyvault")
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
        return _to(SERVER, redis, redis.ports)
    if redis.mode == "none":
        return []
    operator = REDIS_OPERATOR
    if settings.operators.redis_operator.namespace != REDIS:
        operator = _where(REDIS_OPERATOR, settings.operators.redis_operator.namespace)
    # A Redis pod asks a sentinel for a failover before it stops, hence the same clients for both.
    clients = [operator, SENTINELS, REDIS_SERVERS, SERVER]
    if settings.rotation.redis > 1:
        clients.append(REDIS_ROTATION)
    rows = [Flow(client, REDIS_SERVERS, [ports.REDIS]) for client in clients]
    rows += [Flow(client, SENTINELS, [ports.SENTINEL]) for client in clients]
    return rows


def _to(source: Pods, server: InCluster, server_ports: Sequence[int]) -> list[Flow]:
    """The way to a server that a setting names, by its networks or as pods of this cluster."""
    rows: list[Flow] = []
    if server.namespace is not None:
        pods = _pods(server.namespace, server.labels)
        rows.append(Flow(source, pods, server.pod_ports or server_ports))
    key = "cidr" if isinstance(server, ExternalRedis) else "cidrs"
    if server.namespace is None or key in server.model_fields_set:
        rows.append(Flow(source, Addresses(getattr(server, key)), server_ports))
    return rows


def _pods(namespace: str, labels: Mapping[str, str]) -> Pods:
    """Pods that a setting names. The name counts where they are in a namespace of ours."""
    words = "-".join([namespace, *(value for _, value in sorted(labels.items()))])
    return Pods(
        f"with-{re.sub('[^a-z0-9]+', '-', words.lower())}"[:63].rstrip("-"), namespace, labels
    )


def _shlink(settings: Settings) -> list[Flow]:
    shlink = settings.shlink
    closed = dict.fromkeys([*INTERNET.exclude, *settings.network.cluster_cidrs])
    internet = replace(INTERNET, exclude=list(closed))
    rows: list[Flow] = []
    proxy = settings.network.proxy
    if shlink.resolve_titles and proxy is None:
        rows.append(Flow(SERVER, internet, [ports.HTTP, ports.HTTPS]))
    elif shlink.resolve_titles and proxy is not None:
        rows += _to(SERVER, proxy, [proxy.port])
    if shlink.geolite_license_key:
        rows.append(Flow(SERVER, GEOLITE, [ports.GEOLITE]))
        if proxy is None:
            rows.append(Flow(GEOLITE, internet, [ports.HTTPS]))
        else:
            rows += _to(GEOLITE, proxy, [proxy.port])
    for integration in shlink.integrations.values():
        rows += _to(SERVER, integration, [integration.port])
    for egress in shlink.egress:
        rows += _to(SERVER, egress, egress.ports)
    for client in shlink.clients:
        rows.append(Flow(_pods(client.namespace, client.labels), SERVER, [ports.SHLINK]))
    if isinstance(shlink.route, ServiceRoute):
        sources = [*shlink.route.source_ranges, *shlink.route.controller_addresses]
        rows.append(Flow(Addresses(sources), SERVER, [ports.SHLINK]))
    if isinstance(shlink.route, Route):
        rows += _route(shlink.route)
    return rows


def _route(route: Route) -> list[Flow]:
    sources: list[Peer] = [
        Pods(f"route-{namespace}", namespace) for namespace in route.controller_namespaces
    ]
    if route.controller_addresses:
        sources.append(Addresses(route.controller_addresses))
    if not sources:
        sources.append(CiliumGateway())
    shlink_ports = [ports.SHLINK]
    if route.rest != "everywhere":
        # The way of /rest ends at this port. A refusal is quick, a dropped packet is not.
        shlink_ports.append(ports.CLOSED)
    rows: list[Flow] = []
    for source in sources:
        rows.append(Flow(source, SERVER, shlink_ports))
        if route.web_client:
            rows.append(Flow(source, WEB_CLIENT, [ports.WEB_CLIENT]))
        if route.asks_cert_manager:
            rows.append(Flow(source, ACME_SOLVER, [_ACME_SOLVER_PORT]))
    return rows


def _monitoring(settings: Settings) -> list[Flow]:
    namespace = settings.network.monitoring_namespace
    if namespace is None:
        return []
    prometheus = Pods("prometheus", namespace, settings.network.monitoring_labels)
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


def beside_pooler(flow: Flow) -> Flow:
    """The row where the database's pods are told from PgBouncer's, which need less."""
    ends = [
        _DATABASE_BESIDE_POOLER if end == DATABASE else end for end in (flow.source, flow.target)
    ]
    return replace(flow, source=ends[0], target=ends[1])

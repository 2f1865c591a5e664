"""PostgreSQL: a PostgresCluster of PGO, its users with passwords of our own, and their grants."""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pulumi
import pulumi_postgresql as postgresql
import pulumi_random as random
from pulumi_kubernetes import core, meta

from .. import ports
from ..cluster.access import ClusterAccess
from ..cluster.forward import ForwardTarget
from ..cluster.waits import WaitTarget, steadily, wait_hook
from ..credentials import tls
from ..credentials.delivery import Delivery
from ..credentials.passwords import password
from ..credentials.tls import Authority, Certificate
from ..manifests.placement import Placement
from ..manifests.pods import requirements, volume_claim
from ..network.flows import POSTGRES
from ..settings.platform import Images, Resources
from ..settings.postgres import (
    POOLER_CLIENTS,
    InPlaceRestore,
    Pooler,
    PostgresSettings,
    StoreRestore,
)
from ..settings.types import amount
from .backups import (
    BACKUP_ANNOTATION,
    IP_VERSION,
    RESTORE_ANNOTATION,
    WATCHER,
    BackupPlace,
    Backups,
    BackupsArgs,
    Schedule,
    backup_after,
    options_of,
    restore_in_place,
)
from .crds import PgBouncer, PgMonitorExporter, PostgresCluster, PostgresClusterSpec, PostgresUser
from .guard import RESOURCE, GuardArgs, creation_hook, guard_hook
from .readiness import incomplete, users_missing
from .restore import RestoreArgs, Workload, start_hook

CLUSTER = "shlink-db"
"""The PostgresCluster of an environment; flows and forwards find its pods by this name."""

DATABASE = "shlink.io/database"
"""The annotation of the PostgresCluster by which its database is known."""

SUPERUSER = "postgres"

INSTANCE_SET = "instance1"

_POOLER = f"{CLUSTER}-pgbouncer"
"""PGO's name for PgBouncer's Service."""

USER_KEY = "user"

PASSWORD_KEY = "password"  # noqa: S105 -- the key of a Secret, not a password
"""Keys of a delivered Secret."""

_LABEL = "postgres-operator.crunchydata.com"

# After a failover the label names the new primary, so the next connection finds it.
PRIMARY = ForwardTarget(
    service=f"{POSTGRES}/{CLUSTER}-primary",
    namespace=POSTGRES,
    pod_labels={f"{_LABEL}/cluster": CLUSTER, f"{_LABEL}/role": "master"},
    port=ports.POSTGRES,
)

_CREATE_SECONDS = 1200

_REPLICATION_ROLE = "_crunchyrepl"

_NEUTRAL_OPTIONS = ("NOCREATEDB", "NOCREATEROLE", "NOREPLICATION", "NOBYPASSRLS")

_RETRIES = 45
"""Of what is done inside PostgreSQL, two seconds apart."""


@dataclass(frozen=True)
class DatabaseUser:
    """A user of the database, and what it may do there.

    Its objects belong to the role `name`. It logs in as that role, or as `<name>-b`, a member of
    it: each rotation takes the other one with a new password, so that the login before stays valid
    until the next rotation, and no client is ever refused.
    """

    name: str
    """Role in PostgreSQL: lower-case letters, digits and hyphens (PGO's own limit)."""
    databases: Sequence[str]
    """Databases that it may use; PGO creates those that do not exist. At least one."""
    rotation: int = 1
    """Raise it by one for a new password. At least 1."""
    workloads: Sequence[Workload] = ()
    """Its Deployments. A restore in place stops them first; their own update, which must depend on
    the endpoint's `restore`, starts them again."""
    options: str = "NOSUPERUSER"
    """Options of ALTER ROLE, applied by PGO to both logins."""
    schema: str = "public"
    """The schema that it works in, in each of its databases."""
    privileges: Sequence[str] = ("CREATE", "USAGE")
    """What it may do in the schema. Since PostgreSQL 15 only the database's owner may create in
    `public`, and PGO leaves every database to `postgres`; a client that only reads needs USAGE."""

    @property
    def logins(self) -> list[str]:
        """The roles that exist for this user, the one that owns its objects first."""
        return [self.name] if self.rotation == 1 else [self.name, f"{self.name}-b"]

    @property
    def login(self) -> str:
        """The role that clients log in as."""
        return self.logins[(self.rotation - 1) % 2]

    def password_number(self, login: str) -> int:
        """The rotation that a login's password stems from: this one, or the one before."""
        return self.rotation if login == self.login else self.rotation - 1

    def options_after(self, restore_number: int) -> str:
        """The user's options, written in another way for each restore.

        A restored database has the passwords of its time. PGO (6.0.3) sets them again only when the
        text of its statements is new, so each restore adds other options that hold anyway.
        """
        added = [option for bit, option in enumerate(_NEUTRAL_OPTIONS) if restore_number >> bit & 1]
        return " ".join([self.options, *added])


@dataclass(frozen=True)
class DatabaseEndpoint:
    """Where one user's clients find the database, and as whom they log in."""

    host: pulumi.Output[str]
    pooler_host: pulumi.Output[str] | None
    """PgBouncer, for clients that open connections often; None without it. There is no working as
    `role` there: the second login has the rights of the role that it is a member of, but what it
    creates is its own. So whoever creates tables goes to `host`."""
    port: int
    database: str
    """The first of the user's databases."""
    role: str
    """Clients work as this role (`SET ROLE`), whichever login they use, so that all objects have
    one owner. libpq does so with `PGOPTIONS="-c role=<role>"`."""
    ca_pem: pulumi.Output[str]
    """What a client verifies the server with (`sslmode=verify-full`); not secret."""
    delivery: Delivery
    """The login, for the consumer's namespace: USER_KEY and PASSWORD_KEY."""
    ready: Sequence[pulumi.Resource]
    """What a client depends on: the database is complete, and the user may create its tables."""
    started: Sequence[pulumi.ResourceHook]
    """Run before an update of a client's Deployment: starts it where an autoscaler would not."""
    restore: int
    """The number of the restore in place that its data comes from; 0 for none. A client that
    prepares the database does so again when it changes."""


@dataclass(frozen=True)
class PostgresArgs:
    """What a Postgres is made of."""

    namespace: pulumi.Input[str]
    """Where the cluster runs."""
    access: ClusterAccess
    """For the waits: the same cluster as the Kubernetes provider's."""
    authority: Authority
    """Signs the server's certificate, and the one with which replicas log in."""
    users: Sequence[DatabaseUser]
    """The users, each with its own password and grant. The superuser is not one of them."""
    settings: PostgresSettings
    """Sizes and backups of the environment."""
    images: Images
    """Images that replace those of PGO's chart."""
    provider_host: str
    """Where this program reaches the primary: a forward's end, or a direct address. The server's
    certificate names it."""
    provider_port: pulumi.Input[int]
    """TCP port of the same."""
    operator: Sequence[pulumi.Resource] = ()
    """PGO, where this program installs it: it must outlive the cluster, whose finalizer it removes.
    Empty where PGO is there already."""
    operator_namespace: str | None = None
    """Where PGO runs, if not in `namespace`."""
    superuser_rotation: int = 1
    """Raise it by one for a new password of `postgres`, which only this program uses."""
    placement: Placement = field(default_factory=Placement)
    """On which nodes the instances, the repository's pod, backups and restores may run."""
    ca_file: str | None = None
    """File that the authority's certificates are written to for the provider, which takes a path
    only: build/tls/STACK-NAME.pem by default. Another path is a change of the provider."""
    database: str | None = None
    """What the running database is known by, from its annotation DATABASE. None: it is a new one,
    or it has not been told."""
    ip_version: pulumi.Input[str] = "IPv4"
    """Or IPv6: the first family of the cluster's pods."""
    protect: bool = False
    """Refuse to delete the cluster, and its data with it."""
    allowed_changes: frozenset[str] = frozenset()
    """Changes that are refused otherwise, after they were prepared by hand, as the refusal writes
    them."""


class Postgres(pulumi.ComponentResource):
    """A complete database: every instance runs, backups have a place, every user can log in."""

    endpoints: Mapping[str, DatabaseEndpoint]
    """Each user's access, by its name."""
    backups: Mapping[str, BackupPlace]
    """Where this database's backups are in each object store, by the repository's name."""

    def __init__(
        self, name: str, args: PostgresArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:postgres:Postgres", name, None, opts)
        self._name = name
        self._args = args
        child = pulumi.ResourceOptions(parent=self)
        superuser_password = password(f"{name}-superuser", args.superuser_rotation, child)
        superuser = self._user_secret(SUPERUSER, superuser_password, args.superuser_rotation)
        secrets = [superuser]
        passwords: dict[str, pulumi.Output[str]] = {}
        for user in args.users:
            for login in user.logins:
                number = user.password_number(login)
                passwords[login] = password(
                    f"{name}-user-{user.name}", number, self._password_options(user, number)
                )
                secrets.append(self._user_secret(login, passwords[login], number))

        # The uid of a Secret that PGO deletes with the cluster: of a new database it is another
        # one. The cluster remembers it, as the Secret alone may be lost and made again.
        database: pulumi.Output[str | None] = superuser.metadata.uid
        if args.database:
            database = pulumi.Output.from_input(args.database)
        backups = self._backups(database)
        self.backups = backups.places
        certificates = [self._server_certificate(), self._replication_certificate()]
        pooler_host = None
        if args.settings.pooler:
            certificates.append(self._pooler_certificate())
            pooler_host = pulumi.Output.concat(_POOLER, ".", args.namespace, ".svc")
        cluster = self._cluster([*secrets, *certificates], backups, database)
        complete = self._gate(cluster)
        inside = self._inside(cluster, complete, superuser_password)
        rights = self._rights(inside)
        endpoints: dict[str, DatabaseEndpoint] = {}
        for user in args.users:
            endpoints[user.name] = DatabaseEndpoint(
                host=pulumi.Output.concat(CLUSTER, "-primary.", args.namespace, ".svc"),
                pooler_host=pooler_host,
                port=ports.POSTGRES,
                database=user.databases[0],
                role=user.name,
                ca_pem=args.authority.ca_pem,
                delivery=_delivery(user, passwords[user.login]),
                ready=[complete, *rights[user.name]],
                started=self._starts(user),
                restore=args.settings.restore_number,
            )
        self.endpoints = endpoints
        self.register_outputs({"hosts": {key: item.host for key, item in endpoints.items()}})

    def _starts(self, user: DatabaseUser) -> list[pulumi.ResourceHook]:
        return [
            start_hook(f"{self._name}-start-{workload.name}", self._args.access, workload)
            for workload in user.workloads
            if workload.autoscaled_from is not None
        ]

    def _server_certificate(self) -> core.v1.Secret:
        """For the Services that lead to the instances, and for where this program connects."""
        names = self._names(f"{CLUSTER}-primary", f"{CLUSTER}-replicas")
        addresses = ["127.0.0.1"]
        host = self._args.provider_host
        if _is_address(host):
            addresses = sorted({*addresses, host})
        else:
            names.append(host)
        certificate = self._args.authority.certificate(
            f"{self._name}-server",
            dns_names=names,
            ip_addresses=addresses,
            opts=pulumi.ResourceOptions(parent=self),
        )
        return self._certificate_secret("server", certificate)

    def _names(self, *services: str) -> list[pulumi.Input[str]]:
        """What clients call a Service of the cluster's namespace."""
        namespace = self._args.namespace
        names: list[pulumi.Input[str]] = []
        for service in services:
            names += [
                pulumi.Output.concat(service, ".", namespace, ".svc"),
                pulumi.Output.concat(service, ".", namespace),
                service,
            ]
        return names

    def _pooler_certificate(self) -> core.v1.Secret:
        certificate = self._args.authority.certificate(
            f"{self._name}-pgbouncer",
            dns_names=self._names(_POOLER),
            ip_addresses=[],
            opts=pulumi.ResourceOptions(parent=self),
        )
        return self._certificate_secret("pgbouncer", certificate)

    def _replication_certificate(self) -> core.v1.Secret:
        """The login of replicas: PGO's role `_crunchyrepl`, by certificate only."""
        certificate = self._args.authority.certificate(
            f"{self._name}-replication",
            dns_names=[_REPLICATION_ROLE],
            ip_addresses=[],
            common_name=_REPLICATION_ROLE,
            opts=pulumi.ResourceOptions(parent=self),
        )
        return self._certificate_secret("replication", certificate)

    def _certificate_secret(self, purpose: str, certificate: Certificate) -> core.v1.Secret:
        """PGO's pods see a renewed one by themselves, and PostgreSQL reads it again."""
        return core.v1.Secret(
            f"{self._name}-{purpose}-tls",
            metadata=meta.v1.ObjectMetaArgs(
                name=f"{CLUSTER}-{purpose}-tls", namespace=self._args.namespace
            ),
            string_data={
                "tls.crt": certificate.certificate_pem,
                "tls.key": certificate.private_key_pem,
                "ca.crt": certificate.ca_pem,
            },
            opts=pulumi.ResourceOptions(parent=self),
        )

    def _password_options(self, user: DatabaseUser, number: int) -> pulumi.ResourceOptions:
        if user is not self._args.users[0]:
            return pulumi.ResourceOptions(parent=self)
        # Its name while there was one user only: a new name would be a new password.
        alias = pulumi.Alias(name=f"{self._name}-user-{number}")
        return pulumi.ResourceOptions(parent=self, aliases=[alias])

    def _cluster(
        self,
        secrets: Sequence[pulumi.Resource],
        backups: Backups,
        database: pulumi.Output[str | None],
    ) -> PostgresCluster:
        args = self._args
        annotations: dict[str, pulumi.Input[str]] = {
            DATABASE: database.apply(lambda known: known or ""),
            # pgBackRest's server listens on one family (PGO 6.0.3, internal/pgbackrest/config.go).
            IP_VERSION: args.ip_version,
        }
        restore = args.settings.restore
        if isinstance(restore, InPlaceRestore):
            annotations[RESTORE_ANNOTATION] = str(restore.number)
            annotations[BACKUP_ANNOTATION] = f"restore-{restore.number}"
        workloads: list[Workload] = []
        for user in args.users:
            workloads += user.workloads
        guarded = GuardArgs(
            restores=RestoreArgs(
                access=args.access,
                cluster=CLUSTER,
                workloads=workloads,
                pgbackrest_image=args.images.pgbackrest,
                operator_namespace=args.operator_namespace,
                placement=args.placement,
            ),
            restore=restore,
            allowed=args.allowed_changes,
        )
        hooks = pulumi.ResourceHookBinding(
            before_create=[creation_hook(f"{self._name}-new", guarded)],
            before_update=[guard_hook(f"{self._name}-guard", guarded)],
        )
        return PostgresCluster(
            self._name,
            metadata=meta.v1.ObjectMetaArgs(
                name=CLUSTER,
                namespace=args.namespace,
                annotations=annotations,
            ),
            spec=_cluster_spec(args, backups),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[*secrets, *args.operator],
                protect=args.protect,
                hooks=hooks,
            ),
        )

    def _gate(self, cluster: PostgresCluster) -> pulumi.Resource:
        """A resource that exists once the cluster is complete in its present generation.

        It changes with each generation, so an update waits as the first `up` does.
        """
        target = WaitTarget(
            resource=RESOURCE,
            namespace=self._args.namespace,
            name=CLUSTER,
            # PGO 6.0.3 says that it has seen a change up to 5 s before it says that the instances
            # are behind it (measured); the looks are 2 s apart.
            not_ready=steadily(incomplete, looks=5),
            timeout=_CREATE_SECONDS,
        )
        wait = wait_hook(f"{self._name}-complete", self._args.access, [target])
        hooks = pulumi.ResourceHookBinding(before_create=[wait], before_update=[wait])
        opts = pulumi.ResourceOptions(parent=self, depends_on=[cluster], hooks=hooks)
        # A restore is asked for by an annotation, which is no new generation.
        state = {"generation": cluster.generation, "restore": self._args.settings.restore_number}
        return pulumi.Stash(f"{self._name}-complete", input=state, opts=opts)

    def _inside(
        self,
        cluster: PostgresCluster,
        complete: pulumi.Resource,
        superuser_password: pulumi.Output[str],
    ) -> pulumi.ResourceOptions:
        """Options of what lives inside PostgreSQL."""
        args = self._args
        restore = args.settings.restore_number
        after: list[pulumi.Resource] = [cluster]
        if restore:
            # Otherwise they would be made in the database that is about to be replaced.
            after.append(complete)
        file = args.ca_file or f"build/tls/{pulumi.get_stack()}-{self._name}.pem"
        # Connects only when something inside PostgreSQL changes; a preview opens no connection.
        provider = postgresql.Provider(
            self._name,
            # The stack's file may encrypt it, and then it stays secret.
            host=pulumi.Output.secret(args.provider_host),
            port=args.provider_port,
            username=SUPERUSER,
            password=superuser_password,
            database=args.users[0].databases[0],
            sslmode="verify-full",
            sslrootcert=args.authority.ca_pem.apply(lambda pem: tls.ca_file(pem, Path(file))),
            # Saves the provider a connection for asking.
            expected_version=f"{args.settings.version}.0.0",
            connect_timeout=30,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[cluster]),
        )
        retry = pulumi.ErrorHook(f"{self._name}-retry", _retry)
        users = WaitTarget(
            resource=RESOURCE,
            namespace=args.namespace,
            name=CLUSTER,
            not_ready=users_missing,
            timeout=_CREATE_SECONDS,
        )
        created = wait_hook(f"{self._name}-users", args.access, [users])
        return pulumi.ResourceOptions(
            parent=self,
            provider=provider,
            depends_on=after,
            # They go with the cluster, so a destroy needs no connection.
            deleted_with=cluster,
            # A restored database may be older than they are, so each restore makes them again. New
            # and old are the same thing in PostgreSQL: to delete the old would take it away.
            replacement_trigger=restore,
            retain_on_delete=True,
            hooks=pulumi.ResourceHookBinding(before_create=[created], on_error=[retry]),
        )

    def _rights(self, inside: pulumi.ResourceOptions) -> Mapping[str, list[pulumi.Resource]]:
        """Each user's schema privileges, and the membership of its second login."""
        rights: dict[str, list[pulumi.Resource]] = {user.name: [] for user in self._args.users}
        previous: list[pulumi.Resource] = []
        for user in self._args.users:
            for database in user.databases:
                grant = postgresql.Grant(
                    _grant_name(self._name, user, database),
                    database=database,
                    role=user.name,
                    schema=user.schema,
                    object_type="schema",
                    privileges=list(user.privileges),
                    opts=pulumi.ResourceOptions.merge(
                        inside, pulumi.ResourceOptions(depends_on=previous)
                    ),
                )
                rights[user.name].append(grant)
                # Two grants on one schema at the same moment: "tuple concurrently updated".
                previous = [grant]
            for login in user.logins[1:]:
                membership = postgresql.GrantRole(
                    f"{self._name}-{login}", role=login, grant_role=user.name, opts=inside
                )
                rights[user.name].append(membership)
        return rights

    def _user_secret(self, login: str, secret: pulumi.Output[str], number: int) -> core.v1.Secret:
        """The Secret of a login, which PGO adopts: it sets this password in PostgreSQL.

        PGO looks for it by name and labels before it makes one of its own. It never compares
        password and verifier, so they change together.
        """
        name = f"{self._name}-{login}"
        child = pulumi.ResourceOptions(parent=self)
        salt = random.RandomBytes(f"{name}-salt-{number}", length=16, opts=child)
        verifier = pulumi.Output.all(secret, salt.base64).apply(
            lambda both: scram_verifier(both[0], base64.b64decode(both[1]))
        )
        return core.v1.Secret(
            f"{name}-pguser",
            metadata=meta.v1.ObjectMetaArgs(
                name=f"{CLUSTER}-pguser-{login}",
                namespace=self._args.namespace,
                labels={
                    f"{_LABEL}/cluster": CLUSTER,
                    f"{_LABEL}/role": "pguser",
                    f"{_LABEL}/pguser": login,
                },
                # PGO applies the same two fields once it has adopted the Secret; a rotation must
                # take them back.
                annotations={"pulumi.com/patchForce": "true"},
            ),
            string_data={"password": secret, "verifier": pulumi.Output.secret(verifier)},
            opts=child,
        )

    def _backups(self, identity: pulumi.Output[str | None]) -> Backups:
        args = self._args
        settings = args.settings.backups
        return Backups(
            self._name,
            BackupsArgs(
                namespace=args.namespace,
                cluster=CLUSTER,
                identity=identity,
                volume=volume_claim(settings.storage),
                schedule=Schedule(
                    full=settings.full,
                    differential=settings.differential,
                    retention_full=settings.retention_full,
                ),
                stores=settings.repositories,
                options=options_of(settings),
                resources=settings.resources,
                placement=args.placement,
                image=args.images.pgbackrest,
            ),
            pulumi.ResourceOptions(parent=self),
        )


async def _retry(args: pulumi.ErrorHookArgs) -> bool:
    """Whether to repeat what failed inside PostgreSQL.

    PGO sets a password, or creates a role, some seconds after its Secret has changed, and a first
    connection may be refused where network policies are enforced.
    """
    if len(args.errors) > _RETRIES:
        return False
    await asyncio.sleep(2)
    return True


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _grant_name(name: str, user: DatabaseUser, database: str) -> str:
    # The user that the cluster is named after has a short name, as in the first release: a new one
    # would revoke the grant.
    if name == f"{user.name}-db" and database == user.name:
        return f"{name}-{user.schema}-schema"
    return f"{name}-{user.name}-{database}-{user.schema}-schema"


def _delivery(user: DatabaseUser, secret: pulumi.Output[str]) -> Delivery:
    return Delivery(
        name="postgres-credentials",
        secret=f"{CLUSTER}-pguser-{user.name}",
        path=f"postgres/{user.name}",
        values={USER_KEY: user.login, PASSWORD_KEY: secret},
    )


def _cluster_spec(args: PostgresArgs, backups: Backups) -> PostgresClusterSpec:
    settings, images = args.settings, args.images
    pgbackrest = backups.spec
    if isinstance(settings.restore, InPlaceRestore):
        pgbackrest["restore"] = restore_in_place(
            settings.restore, settings.backups.resources, args.placement
        )
        pgbackrest["manual"] = backup_after(settings.restore)
    # `postgres` gets a password only when it is listed.
    users: list[PostgresUser] = [{"name": SUPERUSER}]
    for user in args.users:
        options = user.options_after(settings.restore_number)
        users.extend(
            {"name": login, "databases": user.databases, "options": options}
            for login in user.logins
        )
    spec: PostgresClusterSpec = {
        "postgresVersion": settings.version,
        "instances": [
            {
                "name": INSTANCE_SET,
                "replicas": settings.instances,
                "resources": requirements(settings.resources),
                "sidecars": {"replicaCertCopy": {"resources": WATCHER}},
                # No spread of its own: PGO appends constraints over nodes and zones, and one more
                # with a topologyKey of theirs makes its StatefulSet invalid
                # (CrunchyData/postgres-operator#3608).
                "dataVolumeClaimSpec": volume_claim(settings.storage),
                **args.placement.pgo_pods(),
            }
        ],
        "users": users,
        "config": {"parameters": parameters(settings)},
        # PGO refuses one without the other, and both must have one authority.
        "customTLSSecret": {"name": f"{CLUSTER}-server-tls"},
        "customReplicationTLSSecret": {"name": f"{CLUSTER}-replication-tls"},
        "backups": {"pgbackrest": pgbackrest},
    }
    if isinstance(settings.restore, StoreRestore):
        spec["dataSource"] = {"pgbackrest": backups.source(settings.restore)}
    if settings.service_account_annotations:
        # PGO hands them on to the ServiceAccount of the database pods.
        spec["metadata"] = {"annotations": settings.service_account_annotations}
    if images.postgres:
        spec["image"] = images.postgres
    if args.placement.pull_secret:
        spec["imagePullSecrets"] = [{"name": args.placement.pull_secret}]
    if settings.monitoring:
        spec["monitoring"] = {"pgmonitor": {"exporter": _exporter(images)}}
    if settings.pooler:
        spec["proxy"] = {"pgBouncer": _pooler(settings.pooler, args)}
    if settings.synchronous:
        # Not strict: with no replica left the primary goes on alone.
        spec["patroni"] = {"dynamicConfiguration": {"synchronous_mode": True}}
    return spec


def _exporter(images: Images) -> PgMonitorExporter:
    resources = Resources(cpu="10m", memory="32Mi", memory_limit="128Mi")
    exporter: PgMonitorExporter = {"resources": requirements(resources)}
    if images.postgres_exporter:
        exporter["image"] = images.postgres_exporter
    return exporter


def _pooler(pooler: Pooler, args: PostgresArgs) -> PgBouncer:
    """PgBouncer in session mode, which asks nothing of a client.

    Shlink's connections live as long as a request, so transaction mode would save little. It would
    need a libpq that ends prepared statements in a way that PgBouncer follows (17 and newer).
    """
    resources = Resources(cpu="50m", memory="32Mi", memory_limit="128Mi")
    fields: PgBouncer = {
        "replicas": pooler.instances,
        "resources": requirements(resources),
        "sidecars": {"pgbouncerConfig": {"resources": WATCHER}},
        "config": {
            "global": {
                "pool_mode": "session",
                "max_client_conn": str(POOLER_CLIENTS),
                "default_pool_size": str(args.settings.pool_size),
                # After a failed login it refuses every client for as many seconds, by default 15: a
                # failover would take that much longer.
                "server_login_retry": "1",
                # Two lines for each request otherwise.
                "log_connections": "0",
                "log_disconnections": "0",
            }
        },
        "customTLSSecret": {"name": f"{CLUSTER}-pgbouncer-tls"},
        **args.placement.pgo_pods(),
    }
    if args.images.pgbouncer:
        fields["image"] = args.images.pgbouncer
    return fields


def parameters(settings: PostgresSettings) -> dict[str, str | int]:
    """PostgreSQL's parameters, sized by the memory limit of its container.

    A quarter for shared buffers, as PostgreSQL's documentation recommends. The page cache counts
    within the same limit, hence half of it for what the planner may expect to be cached. A sort may
    take 1/8 of the limit shared by all connections, at least PostgreSQL's own 4 MB.
    """
    limit = int(amount(settings.resources.memory_limit) / 1024**2)
    sized: dict[str, str | int] = {
        "max_connections": settings.max_connections,
        "shared_buffers": f"{max(limit // 4, 32)}MB",
        "effective_cache_size": f"{max(limit // 2, 64)}MB",
        "maintenance_work_mem": f"{min(max(limit // 16, 16), 1024)}MB",
        "work_mem": f"{max(limit // 8 // settings.max_connections, 4)}MB",
    }
    return sized | settings.parameters


def scram_verifier(secret: str, salt: bytes, iterations: int = 4096) -> str:
    """What PostgreSQL stores for a SCRAM-SHA-256 password: RFC 5803 in PostgreSQL's notation.

    The passwords of this program are ASCII, so SASLprep leaves them as they are. 4096 is
    PostgreSQL's own default.
    """
    salted = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{text[0]}${text[1]}:{text[2]}"

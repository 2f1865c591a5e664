"""The settings of an environment: keys of `Pulumi.<stack>.yaml`, units, defaults and limits.

`load()` is called before the first resource is registered. `make schema` writes Pulumi.schema.json
and docs/configuration.md from these models, so an editor, the reference and the program agree.
setting_types.py has the types. configuration.py reads the values and explains wrong ones.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Self, cast

import pulumi
from pydantic import BeforeValidator, Field, model_validator

from . import changes
from . import reading as configuration
from .images import ImageReference
from .platform import Charts, Images, Monitoring, Network, Operators, PlacementSettings
from .postgres import (
    LEAST_POOL,
    POOLER_CLIENTS,
    RESERVED_CONNECTIONS,
    Pooler,
    PostgresSettings,
    StoreRestore,
    crunchy_build,
    postgres_major,
)
from .redis import FailoverRedis, RedisSettings
from .shlink import ShlinkSettings, known_version, shlink_version
from .types import Model, Rotation, Text, amount, text
from .vault import VaultSettings


class RotationSettings(Model):
    """Raise a number by one to replace that password wherever it is used: docs/operations.md."""

    database: Rotation = Field(default=1, description="The password of `shlink` in PostgreSQL.")
    api_key: Rotation = Field(
        default=1,
        description="Shlink's API key. The key before it stays valid until the next rotation.",
    )
    superuser: Rotation = Field(default=1, description="The password of `postgres` in PostgreSQL.")
    redis: Rotation = Field(default=1, description="Redis' password.")
    vault: Rotation = Field(
        default=1, description="The login of this program in Vault: role id and secret id."
    )
    certificates: Rotation = Field(
        default=1,
        description="The environment's certificate authority, and with it every server's key.",
    )


def _quoted(value: Any) -> Any:
    """A line of a refusal, which is a map to YAML without quotes. Raises ValueError."""
    if isinstance(value, Mapping):
        # A ValueError, since pydantic collects no other.
        raise ValueError(  # noqa: TRY004
            'is a map to YAML; put the line in quotes, as in "postgres.version: 16 -> 17"'
        )
    return text(value)


AllowedChange = Annotated[Text, BeforeValidator(_quoted)]

# Below what was measured under load with 6 and with 12 workers: docs/sizing.md.
_POD_MEMORY = 100 * 2**20

_WORKER_MEMORY = 20 * 2**20

_VALKEY, _OPENBAO = (9, 0), (2, 6, 99)


class Settings(Model):
    """Everything under `shlink:`."""

    protect: bool = Field(
        default=False,
        description="Refuse to delete what holds data: the namespaces, Vault's store and unseal "
        "keys, the PostgresCluster, the RedisFailover. Vault's StatefulSet is its chart's and not "
        "among them; its volumes outlive it.",
    )
    allowed_changes: list[AllowedChange] = Field(
        default=[],
        description="Changes that are refused otherwise, each as the refusal writes it "
        "(`postgres.version: 16 -> 17`), after they were prepared by hand: docs/upgrades.md.",
    )
    shlink: ShlinkSettings = Field(default=ShlinkSettings(), alias="app")
    postgres: PostgresSettings = PostgresSettings()
    redis: RedisSettings = FailoverRedis()
    vault: VaultSettings = VaultSettings()
    operators: Operators = Operators()
    rotation: RotationSettings = RotationSettings()
    network: Network = Network()
    monitoring: Monitoring = Monitoring()
    placement: PlacementSettings = PlacementSettings()
    charts: Charts = Charts()
    images: Images = Images()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        faults: list[str] = []
        route = self.shlink.controlled_route
        reached = route is None or route.controller_namespaces or route.controller_addresses
        if not reached and self.network.policies != "cilium":
            raise ValueError(
                "app.route.controllerNamespace: is missing; without it or `controllerAddresses` "
                "nothing could reach Shlink (Cilium's own controller needs neither, with "
                "network.policies: cilium)"
            )
        rules = (
            self._watched,
            self._variables,
            self._sentinel,
            self._cleared_cache,
            self._engine,
            self._built_in_seal,
            self._published,
            self._memory,
            self._connections,
            self._ports,
            self._databases,
        )
        for rule in rules:
            try:
                rule()
            except ValueError as error:
                faults += str(error).splitlines()
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _watched(self) -> None:
        if self.monitoring.enabled and self.network.monitoring_namespace is None:
            raise ValueError(
                "monitoring.enabled: true needs network.monitoringNamespace, where Prometheus "
                "runs; without it the network policies keep it out"
            )
        gap = self.postgres.backups.longest_gap
        hours = self.monitoring.backup_hours
        if self.monitoring.enabled and timedelta(hours=hours) <= gap:
            longest = int(gap.total_seconds() // 3600)
            raise ValueError(
                f"monitoring.backupHours: {hours} is no more than the {longest} hours between two "
                f"backups (postgres.backups), so the alert would fire; allowed: {longest + 1} or "
                "more"
            )

    def _variables(self) -> None:
        faults = self.shlink.unknown_variables(known_version(self.images.shlink))[0]
        if faults:
            raise ValueError("\n".join(f"app.{fault}" for fault in faults))

    @property
    def warnings(self) -> list[str]:
        """What is accepted, and perhaps not meant."""
        doubts = self.shlink.unknown_variables(known_version(self.images.shlink))[1]
        warnings = [f"shlink:app.{doubt}" for doubt in doubts]
        restore = self.postgres.restore
        encrypted = isinstance(restore, StoreRestore) and restore.store.encrypted
        if isinstance(restore, StoreRestore) and encrypted and restore.passphrase is None:
            warnings.append(
                "shlink:postgres.restore.passphrase: is missing, which is right only if the other "
                "environment did not encrypt; then write store.encrypted: false"
            )
        warnings += [
            f"shlink:postgres.parameters.{name}: is no parameter that PostgreSQL 15 to 18 is known "
            "to have, and with one that it does not have it does not start"
            for name in self.postgres.unknown_parameters
        ]
        return warnings

    def _sentinel(self) -> None:
        image = self.images.shlink
        if self.redis.mode == "failover" and shlink_version(image) < (4, 6, 0):
            raise ValueError(
                f"images.shlink: {image} can't give Redis a password through Sentinel; "
                "allowed with redis.mode failover: 4.6.0 or newer (or redis.mode: external, none)"
            )

    def _cleared_cache(self) -> None:
        image = self.images.shlink
        if shlink_version(image) in ((5, 1, 0), (5, 1, 1)):
            raise ValueError(
                f"images.shlink: {image} does not clear its cache at its start, and reads what "
                "another version left there; allowed: 5.1.2 or newer"
            )

    def _engine(self) -> None:
        if self.redis.mode != "failover" or self.redis.engine == "Redis":
            return
        if self.operators.redis_operator.distribution != "freshworks":
            raise ValueError(
                "redis.engine: Valkey is unknown to the archived redis-operator; allowed: Redis, "
                "or operators.redisOperator.distribution: freshworks"
            )
        image = self.images.redis
        # Before 9.0 valkey-cli does not read the variable in which the fork's readiness probe
        # gives it the password (freshworks-oss/redis-operator#86).
        if (changes.version(image) or _VALKEY) < _VALKEY:
            raise ValueError(
                f"images.redis: {image} is not Valkey 9.0 or newer, so no pod of it would get "
                "Ready with redis.engine: Valkey; allowed: such as "
                "docker.io/valkey/valkey:9.1.1-alpine"
            )

    def _built_in_seal(self) -> None:
        image, seal = self.images.vault, self.vault.seal
        newer = (changes.version(image) or _OPENBAO) > _OPENBAO
        if seal and seal.type != "transit" and newer and ImageReference.parse(image).is_openbao:
            raise ValueError(
                f"vault.seal.type: {seal.type} is a plugin since OpenBao 2.7, and its image has "
                "none; allowed: transit, or an images.vault of OpenBao 2.6"
            )

    def _published(self) -> None:
        redis = self.redis
        if not self.shlink.pub_sub:
            return
        if redis.mode == "none":
            raise ValueError(
                "app.pubSub: true publishes to Redis, and redis.mode is none; allowed: false, or "
                "redis.mode failover or external"
            )
        if redis.mode == "external" and redis.clustered:
            raise ValueError(
                "app.pubSub: true does not work with a Redis Cluster, to which Shlink can't "
                "publish; allowed: false, one server, or redis.sentinelService"
            )

    def _memory(self) -> None:
        app = self.shlink
        limit, workers = amount(app.resources.memory_limit), app.web_workers + app.task_workers
        if _POD_MEMORY + workers * _WORKER_MEMORY > limit:
            most = int((limit - _POD_MEMORY) // _WORKER_MEMORY)
            raise ValueError(
                f"app.webWorkers: {app.web_workers}, and {app.task_workers} task workers, need "
                f"more than app.resources.memoryLimit, {app.resources.memory_limit}; allowed: "
                f"{max(most, 0)} workers together, or a higher limit (docs/sizing.md)"
            )
        if amount(app.memory_limit) * Decimal("1.048576") > limit:
            raise ValueError(
                f"app.memoryLimit: {app.memory_limit} for one worker is more than "
                f"app.resources.memoryLimit, {app.resources.memory_limit}; allowed: less"
            )

    def _connections(self) -> None:
        app = self.shlink
        # One pod more than usual during a rollout.
        clients = (app.most_replicas + 1) * (app.web_workers + app.task_workers)
        workers = (
            f"{app.most_replicas} replicas with {app.web_workers} web and {app.task_workers} "
            "task workers can hold during a rollout"
        )
        fewer = "fewer app.replicas, app.maxReplicas, app.webWorkers, app.taskWorkers"
        if self.postgres.pooler:
            self._pool(self.postgres.pooler)
            if clients > POOLER_CLIENTS:
                raise ValueError(
                    f"postgres.pooler: one PgBouncer pod takes {POOLER_CLIENTS} connections, which "
                    f"is less than what {workers}, {clients}; allowed: {fewer}"
                )
            return
        needed = clients + RESERVED_CONNECTIONS
        if needed > self.postgres.max_connections:
            raise ValueError(
                f"postgres.maxConnections: {self.postgres.max_connections} is less than what "
                f"{workers}; allowed: {needed} or more (or {fewer})"
            )

    def _pool(self, pooler: Pooler) -> None:
        size = self.postgres.pool_size
        if size < LEAST_POOL:
            needed = LEAST_POOL * 3 * (pooler.instances + 1) + RESERVED_CONNECTIONS
            raise ValueError(
                f"postgres.maxConnections: {self.postgres.max_connections} leaves a pool of {size} "
                f"to each login in each of {pooler.instances} PgBouncer pods; allowed: {needed} or "
                "more (or fewer postgres.pooler.instances)"
            )

    def _ports(self) -> None:
        port = self.vault.local_port
        if port is not None and port == self.postgres.local_port:
            raise ValueError(
                f"postgres.localPort: {port} is the local port of Vault too; "
                "allowed: two different ports"
            )

    def _databases(self) -> None:
        version, images = self.postgres.version, self.images
        if version == 18 and self.postgres.monitoring:  # noqa: PLR2004 -- PGO 6.0.3
            raise ValueError(
                "postgres.monitoring: exports nothing on PostgreSQL 18 (PGO 6.0.3); "
                "allowed: version 15 to 17, or monitoring: false"
            )
        if (images.postgres is None) != (images.pgbackrest is None):
            missing = "pgbackrest" if images.postgres else "postgres"
            raise ValueError(
                f"images.{missing}: is missing; pgBackRest must be of the same version in both "
                "images or archiving stops: set `postgres` and `pgbackrest` of one release together"
            )
        major = postgres_major(images.postgres) if images.postgres else None
        if major is not None and major != version:
            raise ValueError(
                f"images.postgres: {images.postgres} is PostgreSQL {major}, but postgres.version "
                f"is {version}; allowed: an image of that version"
            )
        builds = [crunchy_build(image) for image in (images.postgres, images.pgbackrest) if image]
        if None not in builds and len(set(builds)) > 1:
            raise ValueError(
                f"images.pgbackrest: {images.pgbackrest} is of another release than "
                f"{images.postgres}; allowed: both with the same number at the end"
            )

    @property
    def versions(self) -> dict[str, str]:
        """What is deployed, by product; where a chart brings the image, the chart's version."""
        images, charts, operators = self.images, self.charts, self.operators
        failover = self.redis.mode == "failover"
        deployed = {
            "shlink": images.shlink,
            "vault": images.vault,
            "bank_vaults": images.bank_vaults,
            "postgresql": images.postgres or str(self.postgres.version),
        }
        if failover:
            deployed["redis"] = images.redis
        deployed["vault_chart"] = charts.vault.version
        if operators.external_secrets.install:
            deployed["external_secrets_chart"] = charts.external_secrets.version
        if operators.pgo.install:
            deployed["pgo_chart"] = charts.pgo.version
        if operators.redis_operator.install and failover:
            fork = operators.redis_operator.distribution == "freshworks"
            chart = charts.redis_operator_fork if fork else charts.redis_operator
            deployed["redis_operator_chart"] = chart.version
        return deployed


class Cluster(Model):
    """The cluster of this stack: `kubernetes:context` and, if needed, `kubernetes:kubeconfig`."""

    context: Text = Field(
        # A list or a map in its place would get here as JSON text.
        pattern=r"^[^\[{].*$",
        description="Context in the kubeconfig. Never the ambient one.",
    )
    kubeconfig: str | None = Field(
        default=None,
        min_length=1,
        description="Path or contents; $KUBECONFIG, then ~/.kube/config when left out.",
    )
    cluster_identifier: Text | None = Field(
        default=None,
        description="Keep it when a context is renamed: a new identifier means a new cluster, and "
        "everything is replaced.",
    )

    @property
    def identifier(self) -> str:
        return self.cluster_identifier or self.context


def load() -> tuple[Cluster, Settings]:
    """The configuration of the running stack.

    Raises:
        SettingsError: it can't be used. Every fault is in the one message.

    """
    values, secrets = configuration.of_this_run()
    cluster, settings = parse(values, secrets)
    for doubt in doubts(cluster, settings, secrets):
        pulumi.log.warn(doubt)
    if left := configuration.left_to_change(values):
        pulumi.log.warn(f"CHANGE-ME is to be replaced before `make up`, in {', '.join(left)}")
    return cluster, settings


def doubts(cluster: Cluster, settings: Settings, secrets: frozenset[str]) -> list[str]:
    """Warnings: what is accepted, and perhaps not meant. `secrets` as for `parse`."""
    contents = cluster.kubeconfig or ""
    plain = "kubernetes:kubeconfig" not in secrets
    pasted = plain and re.search(r"(client-key-data|token|password)\"?\s*:", contents)
    warnings = [*settings.warnings, *configuration.in_clear("shlink", settings, secrets)]
    if pasted:
        warnings.append(
            "kubernetes:kubeconfig: holds a login, and is in plain text in the stack's file; "
            "encrypt it: pulumi config set --secret kubernetes:kubeconfig"
        )
    return warnings


def parse(
    values: Mapping[str, Any], secret_keys: frozenset[str] = frozenset()
) -> tuple[Cluster, Settings]:
    """Validate configuration as Pulumi hands it over: full keys, objects as JSON text.

    `secret_keys` names what is encrypted: keys, or paths below them (`shlink:app.environment.X`).
    Raises SettingsError.
    """
    cluster, settings = configuration.validated(
        {"kubernetes": Cluster, "shlink": Settings}, values, secret_keys
    )
    return cast("Cluster", cluster), cast("Settings", settings)

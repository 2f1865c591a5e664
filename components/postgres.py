"""PostgreSQL: a PostgresCluster of PGO whose users have passwords made here, and the grant that the guide gave by hand."""

import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_postgresql as postgresql
import pulumi_random as random
from pulumi_kubernetes import core, meta

from .crds import (
    PgBackRest,
    PostgresCluster,
    PostgresClusterSpec,
    RepositoryS3,
    RepositorySchedules,
)
from .credentials import password
from .delivery import Delivery
from .forward import ForwardTarget
from .network import POSTGRES
from .pods import requirements, volume_claim
from .settings import Images, PostgresSettings, RotationSettings

CLUSTER = "shlink-db"
DATABASE = "shlink"
USER = "shlink"
SUPERUSER = "postgres"
INSTANCE_SET = "instance1"

_LABEL = "postgres-operator.crunchydata.com"
# After a failover the label names the new primary, so the next connection finds it.
PRIMARY = ForwardTarget(
    service=f"{POSTGRES}/{CLUSTER}-primary",
    namespace=POSTGRES,
    pod_labels={f"{_LABEL}/cluster": CLUSTER, f"{_LABEL}/role": "master"},
    port=5432,
)


@dataclass(frozen=True)
class DatabaseEndpoint:
    """Where a client finds the database, and as whom."""

    host: pulumi.Output[str]
    port: int
    database: str
    delivery: Delivery
    """`user` and `password`, for the namespace of the client."""
    usable: Sequence[pulumi.Resource]
    """What a client depends on: the user can log in and may create its tables."""


@dataclass(frozen=True)
class PostgresArgs:
    namespace: pulumi.Input[str]
    operator: Sequence[pulumi.Resource]
    """PGO, when this program installs it: it must outlive the cluster, whose finalizer it removes."""
    settings: PostgresSettings
    images: Images
    rotation: RotationSettings
    provider_host: str
    """Where the provider of this program reaches the primary."""
    provider_port: int
    protect: bool


class Postgres(pulumi.ComponentResource):
    """A usable database: the cluster runs, both users can log in, and `shlink` may create its tables."""

    endpoint: DatabaseEndpoint
    """The application's access."""

    def __init__(
        self, name: str, args: PostgresArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:postgres:Postgres", name, None, opts)
        settings = args.settings
        child = pulumi.ResourceOptions(parent=self)

        user_password = password(
            f"{name}-user", args.rotation.database, pulumi.ResourceOptions(parent=self)
        )
        superuser_password = password(
            f"{name}-superuser", args.rotation.superuser, pulumi.ResourceOptions(parent=self)
        )
        # PGO adopts a Secret of this name and these labels that is there before the cluster, and sets its password in PostgreSQL.
        secrets = [
            self._user_secret(f"{name}-{role}", args.namespace, role, secret, rotation, child)
            for role, secret, rotation in (
                (USER, user_password, args.rotation.database),
                (SUPERUSER, superuser_password, args.rotation.superuser),
            )
        ]
        pgbackrest = self._backups(name, args, child)
        cluster = PostgresCluster(
            name,
            metadata=meta.v1.ObjectMetaArgs(
                name=CLUSTER,
                namespace=args.namespace,
                annotations={
                    # No condition says Ready (PGO's status has none). usersRevision is written once the users and their passwords
                    # are in the database; readyReplicas counts pods that answer.
                    "pulumi.com/waitFor": json.dumps(
                        [
                            "jsonpath={.status.usersRevision}",
                            f'jsonpath={{.status.instances[?(@.name=="{INSTANCE_SET}")].readyReplicas}}={settings.instances}',
                        ]
                    ),
                    "pulumi.com/timeoutSeconds": "1200",
                },
            ),
            spec=_cluster_spec(settings, args.images, pgbackrest),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[*secrets, *args.operator],
                protect=args.protect,
            ),
        )

        # Connects when something inside PostgreSQL changes, not before; a preview opens no connection.
        provider = postgresql.Provider(
            name,
            host=args.provider_host,
            port=args.provider_port,
            username=SUPERUSER,
            password=superuser_password,
            database=DATABASE,
            # PGO's pg_hba.conf has nothing but hostssl lines.
            sslmode="require",
            # Saves the provider a connection for asking.
            expected_version=f"{settings.version}.0.0",
            connect_timeout=30,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[cluster]),
        )
        # The guide's `GRANT ... ON SCHEMA public`: since PostgreSQL 15 nobody but the owner may create in `public`, and PGO leaves
        # the database to `postgres`. deleted_with: the grant goes with the cluster, so destroy needs no connection.
        grant = postgresql.Grant(
            f"{name}-public-schema",
            database=DATABASE,
            role=USER,
            schema="public",
            object_type="schema",
            privileges=["CREATE", "USAGE"],
            opts=pulumi.ResourceOptions(
                parent=self, provider=provider, depends_on=[cluster], deleted_with=cluster
            ),
        )

        self.endpoint = DatabaseEndpoint(
            host=pulumi.Output.concat(CLUSTER, "-primary.", args.namespace, ".svc"),
            port=5432,
            database=DATABASE,
            delivery=Delivery(
                name="postgres-credentials",
                secret="shlink-db-pguser-shlink",  # noqa: S106 -- a name
                path="postgres/shlink",
                values={"user": pulumi.Output.from_input(USER), "password": user_password},
            ),
            usable=[cluster, grant],
        )
        self.register_outputs({"host": self.endpoint.host})

    def _user_secret(  # noqa: PLR0917 -- to become a list of users
        self,
        name: str,
        namespace: pulumi.Input[str],
        role: str,
        secret: pulumi.Output[str],
        rotation: int,
        opts: pulumi.ResourceOptions,
    ) -> core.v1.Secret:
        salt = random.RandomBytes(
            f"{name}-salt-{rotation}", length=16, opts=pulumi.ResourceOptions(parent=self)
        )
        # PGO never compares the two: a changed password reaches the database only with the verifier that belongs to it.
        verifier = pulumi.Output.all(secret, salt.base64).apply(
            lambda both: scram_verifier(both[0], base64.b64decode(both[1]))
        )
        return core.v1.Secret(
            f"{name}-pguser",
            metadata=meta.v1.ObjectMetaArgs(
                name=f"{CLUSTER}-pguser-{role}",
                namespace=namespace,
                labels={
                    f"{_LABEL}/cluster": CLUSTER,
                    f"{_LABEL}/role": "pguser",
                    f"{_LABEL}/pguser": role,
                },
                # PGO applies the same two fields once it has adopted the Secret; a rotation must take them back.
                annotations={"pulumi.com/patchForce": "true"},
            ),
            string_data={"password": secret, "verifier": pulumi.Output.secret(verifier)},
            opts=opts,
        )

    def _backups(self, name: str, args: PostgresArgs, opts: pulumi.ResourceOptions) -> PgBackRest:
        backups, images = args.settings.backups, args.images
        schedules: RepositorySchedules = {
            "full": backups.full,
            "differential": backups.differential,
        }
        pgbackrest: PgBackRest = {
            # Left alone, pgBackRest keeps every full backup until the volume is full.
            "global": {
                "repo1-retention-full": str(backups.retention_full),
                "repo1-retention-full-type": "count",
            },
            "repos": [
                {
                    "name": "repo1",
                    "schedules": schedules,
                    "volume": {"volumeClaimSpec": volume_claim(backups.storage)},
                }
            ],
        }
        if images.pgbackrest:
            pgbackrest["image"] = images.pgbackrest
        if backups.s3:
            secret = core.v1.Secret(
                f"{name}-pgbackrest-s3",
                metadata=meta.v1.ObjectMetaArgs(
                    name=f"{CLUSTER}-pgbackrest-s3", namespace=args.namespace
                ),
                string_data={
                    "s3.conf": pulumi.Output.secret(
                        "[global]\n"
                        f"repo1-s3-key={backups.s3.key.get_secret_value()}\n"
                        f"repo1-s3-key-secret={backups.s3.key_secret.get_secret_value()}\n"
                    )
                },
                opts=opts,
            )
            bucket: RepositoryS3 = {
                "bucket": backups.s3.bucket,
                "endpoint": backups.s3.endpoint,
                "region": backups.s3.region,
            }
            pgbackrest["configuration"] = [{"secret": {"name": secret.metadata.name.apply(str)}}]
            pgbackrest["global"] = {
                **pgbackrest["global"],
                "repo1-path": f"/pgbackrest/{CLUSTER}/repo1",
            }
            pgbackrest["repos"] = [{"name": "repo1", "schedules": schedules, "s3": bucket}]
        return pgbackrest


def _cluster_spec(
    settings: PostgresSettings, images: Images, pgbackrest: PgBackRest
) -> PostgresClusterSpec:
    spec: PostgresClusterSpec = {
        "postgresVersion": settings.version,
        "instances": [
            {
                "name": INSTANCE_SET,
                "replicas": settings.instances,
                "resources": requirements(settings.resources),
                "dataVolumeClaimSpec": volume_claim(settings.storage),
                # No spread of its own: PGO appends constraints over nodes and zones, and one more with
                # a topologyKey of theirs makes its StatefulSet invalid (CrunchyData/postgres-operator#3608).
            }
        ],
        # `postgres` gets a password only when it is listed.
        "users": [
            {"name": USER, "databases": [DATABASE], "options": "NOSUPERUSER"},
            {"name": SUPERUSER},
        ],
        "config": {"parameters": {"max_connections": settings.max_connections}},
        "backups": {"pgbackrest": pgbackrest},
    }
    if images.postgres:
        spec["image"] = images.postgres
    if settings.monitoring:
        spec["monitoring"] = {"pgmonitor": {"exporter": {}}}
    return spec


def scram_verifier(secret: str, salt: bytes, iterations: int = 4096) -> str:
    """What PostgreSQL stores for a SCRAM-SHA-256 password: RFC 5803 in PostgreSQL's notation.

    The passwords made here are ASCII, so SASLprep leaves them as they are. 4096 is PostgreSQL's own default.
    """
    salted = hashlib.pbkdf2_hmac("sha256", secret.encode(), salt, iterations)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{text[0]}${text[1]}:{text[2]}"

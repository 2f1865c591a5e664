"""An environment and a second consumer in a namespace of its own.

`reports` has a database and a user of its own in the same PostgreSQL, and gets its login through a
SecretStore of its own. Its Job proves the login: it writes to its database and is refused by
Shlink's.
"""

import pulumi
from pulumi_kubernetes import core

from components import ports
from components.cluster import access as cluster
from components.credentials.tls import Authority
from components.external_secrets.component import SecretDelivery, SecretDeliveryArgs
from components.manifests.placement import Placement
from components.manifests.pods import CONTAINER_SECURITY, JobArgs, job, secret_variable, variables
from components.network.flows import DATABASE, POSTGRES, SHLINK, VAULT, Flow, Pods
from components.network.namespaces import namespaces
from components.operators.install import operators
from components.postgres.component import (
    PASSWORD_KEY,
    USER_KEY,
    DatabaseUser,
    Postgres,
    PostgresArgs,
)
from components.program import reach
from components.settings.environment import load
from components.vault.args import VaultArgs
from components.vault.component import Vault

REPORTS = "reports"
PODS = Pods("reports", REPORTS, {"app.kubernetes.io/name": "reports"})
SCRIPT = """\
psql -c 'CREATE TABLE IF NOT EXISTS report (line text)' -c "INSERT INTO report VALUES ('works')"
if psql -d shlink -c 'CREATE TABLE intruder (line text)'; then
  echo "reports may create tables in Shlink's database" >&2
  exit 1
fi
"""

target, settings = load()
access = cluster.access(target)
servers = reach.servers(target, settings, project=pulumi.get_project(), stack=pulumi.get_stack())
opts = pulumi.ResourceOptions(providers=[cluster.provider(target)])
spaces = namespaces(settings, opts, {REPORTS: [Flow(PODS, DATABASE, [ports.POSTGRES])]})
installed = operators(settings, spaces, opts, consumers=[SHLINK, REPORTS])
authority = Authority("authority", opts=opts)
vault = Vault(
    "vault",
    VaultArgs.from_settings(
        settings,
        namespace=spaces[VAULT].name,
        authority=authority,
        provider_address=servers.vault,
        access=access,
    ),
    opts,
)
postgres = Postgres(
    "shlink-db",
    PostgresArgs(
        namespace=spaces[POSTGRES].name,
        access=access,
        authority=authority,
        users=[DatabaseUser(name=name, databases=[name]) for name in (SHLINK, REPORTS)],
        settings=settings.postgres,
        images=settings.images,
        provider_host=servers.postgres_host,
        provider_port=servers.postgres_port,
        operator=installed.pgo,
    ),
    opts,
)
deliveries = {
    consumer: SecretDelivery(
        f"{consumer}-store",
        SecretDeliveryArgs(
            namespace=spaces[consumer].name,
            controller=installed.external_secrets[consumer],
            vault=vault,
            access=access,
            deliveries=[postgres.endpoints[consumer].delivery],
        ),
        opts,
    )
    for consumer in (SHLINK, REPORTS)
}

database = postgres.endpoints[REPORTS]
login = deliveries[REPORTS].secrets[database.delivery.name]
ca = core.v1.ConfigMap(
    "reports-database-ca",
    metadata={"name": "database-ca", "namespace": spaces[REPORTS].name},
    data={"ca.crt": database.ca_pem},
    opts=opts,
)
container = core.v1.ContainerArgs(
    name="reports",
    image=pulumi.Config("reports").require("image"),
    command=["sh", "-ec", SCRIPT],
    env=[
        *variables(
            {
                "PGHOST": database.host,
                "PGPORT": str(database.port),
                "PGDATABASE": database.database,
                "PGSSLMODE": "verify-full",
                "PGSSLROOTCERT": "/ca/ca.crt",
                "PGOPTIONS": f"-c role={database.role}",
            }
        ),
        secret_variable("PGUSER", login.name, USER_KEY),
        secret_variable("PGPASSWORD", login.name, PASSWORD_KEY),
    ],
    volume_mounts=[core.v1.VolumeMountArgs(name="ca", mount_path="/ca", read_only=True)],
    security_context=CONTAINER_SECURITY,
)
job(
    "reports",
    JobArgs(
        name="reports",
        namespace=spaces[REPORTS].name,
        labels=PODS.labels,
        user=26,
        containers=[container],
        placement=Placement.from_settings(settings),
        volumes=[
            core.v1.VolumeArgs(
                name="ca", config_map=core.v1.ConfigMapVolumeSourceArgs(name=ca.metadata.name)
            )
        ],
        annotations={"shlink.io/secret-version": login.version},
    ),
    pulumi.ResourceOptions.merge(
        opts,
        pulumi.ResourceOptions(
            depends_on=[login.resource, *database.ready],
            hooks=pulumi.ResourceHookBinding(
                before_create=[login.synced], before_update=[login.synced]
            ),
        ),
    ),
)

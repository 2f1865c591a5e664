"""Two namespaces that get Secrets from Vault, each with a SecretStore of its own."""

import pulumi

from components import cluster, reach
from components.credentials import password
from components.delivery import Delivery
from components.external_secrets import SecretDelivery, SecretDeliveryArgs
from components.network import SHLINK, VAULT, Dns, Namespace, NamespaceArgs, flows, namespaces
from components.operators import operators
from components.settings import load
from components.tls import Authority
from components.vault import Vault, VaultArgs

REPORTS = "reports"

target, settings = load()
servers = reach.servers(target, settings, project=pulumi.get_project(), stack=pulumi.get_stack())
opts = pulumi.ResourceOptions(providers=[cluster.provider(target)])
spaces = namespaces(settings, opts)
spaces[REPORTS] = Namespace(
    f"namespace-{REPORTS}",
    NamespaceArgs(
        name=REPORTS,
        flows=flows(settings),
        dns=Dns(settings.network.dns_namespace),
    ),
    opts,
)
installed = operators(settings, spaces, opts, consumers=[SHLINK, REPORTS])
vault = Vault(
    "vault",
    VaultArgs.from_settings(
        settings,
        namespace=spaces[VAULT].name,
        authority=Authority("authority", opts=opts),
        provider_address=servers.vault,
    ),
    opts,
)
for consumer in (SHLINK, REPORTS):
    SecretDelivery(
        f"{consumer}-store",
        SecretDeliveryArgs(
            namespace=spaces[consumer].name,
            controller=installed.external_secrets[consumer],
            vault=vault,
            access=cluster.access(target),
            deliveries=[
                Delivery(
                    name="example",
                    secret="example",
                    path=f"{consumer}/example",
                    values={"password": password(f"{consumer}-example", 1, opts)},
                )
            ],
        ),
        opts,
    )

"""Two teams, each with a Vault of its own, and a Secret that one of them gets from it.

External Secrets is there already, in namespace `external-secrets`. Install the wheel of this
repository first: `uv build --wheel`, then `pip install dist/shlink-*.whl`.
"""

import pulumi
import pulumi_kubernetes as kubernetes
import pulumi_random as random
from shlink_components.cluster.access import ClusterAccess
from shlink_components.cluster.forward import Forward, local_port
from shlink_components.credentials.delivery import Delivery
from shlink_components.credentials.tls import Authority
from shlink_components.external_secrets.component import SecretDelivery, SecretDeliveryArgs
from shlink_components.operators.external_secrets import SecretsController
from shlink_components.vault.args import VaultArgs
from shlink_components.vault.component import Vault, forward_target

context = pulumi.Config("kubernetes").require("context")
access = ClusterAccess(context=context)
provider = kubernetes.Provider("cluster", context=context, cluster_identifier=context)
opts = pulumi.ResourceOptions(providers=[provider])
authority = Authority("authority", opts=opts)
controller = SecretsController(
    account="external-secrets", namespace="external-secrets", resources=()
)

for team in ("payments", "search"):
    namespace = kubernetes.core.v1.Namespace(
        team, metadata=kubernetes.meta.v1.ObjectMetaArgs(name=team), opts=opts
    )
    name = namespace.metadata.name.apply(str)
    target = forward_target(mode="standalone", release=f"{team}-vault", namespace=team)
    port = local_port(pulumi.get_project(), pulumi.get_stack(), target.service)
    Forward(access, target, port, setting=team).start()
    vault = Vault(
        f"{team}-vault",
        VaultArgs(
            namespace=name,
            authority=authority,
            provider_address=f"https://127.0.0.1:{port}",
            access=access,
            storage_size="1Gi",
        ),
        opts,
    )
    password = random.RandomPassword(f"{team}-password", length=24)
    delivery = SecretDelivery(
        f"{team}-secrets",
        SecretDeliveryArgs(
            namespace=name,
            controller=controller,
            vault=vault,
            access=access,
            deliveries=[
                Delivery(
                    name="database",
                    secret="database",  # noqa: S106 - the name of a Secret
                    path="database",
                    values={"password": password.result},
                )
            ],
        ),
        opts,
    )
    pulumi.export(f"{team}_vault", vault.address)
    pulumi.export(f"{team}_secret", delivery.secrets["database"].name)

"""External Secrets: brings values through Vault into Secrets of one consuming namespace.

Each consumer has its own policy, role, ServiceAccount and SecretStore, which reach the paths of its
deliveries and nothing else.
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_vault as vault
from pulumi_kubernetes import core, meta

from ..cluster.access import ClusterAccess
from ..cluster.waits import WaitTarget, synced, wait_hook
from ..credentials.delivery import Delivery, SecretRef
from ..manifests.rights import account_subject, bound_role, rule
from ..operators.external_secrets import SecretsController
from ..vault.component import Vault
from .crds import ExternalSecret, SecretStore, VaultProvider


@dataclass(frozen=True)
class SecretDeliveryArgs:
    """What a consumer gets, and from where.

    The names need changing only for a second delivery in the same namespace.
    """

    namespace: pulumi.Input[str]
    """The consumer's namespace. Its name is also that of the policy and of the role in Vault."""
    controller: SecretsController
    """The controller of External Secrets that looks after this namespace. It gets the right to log
    in as the consumer. The resources that install it are deleted after what it looks after."""
    vault: Vault
    """Where the values are kept."""
    access: ClusterAccess
    """The cluster, for the wait until External Secrets has delivered a value."""
    deliveries: Sequence[Delivery]
    """What the consumer needs, made by the layers that own the values."""
    account: str = "external-secrets-sa"
    """ServiceAccount in the consumer's namespace that Vault trusts; no pod uses it."""
    store: str = "vault-backend"
    """Name of the SecretStore."""
    policy: pulumi.Input[str] | None = None
    """Name of the policy in Vault; the namespace's by default."""
    role: pulumi.Input[str] | None = None
    """Name of the role of Vault's kubernetes auth; the namespace's by default."""
    audience: str = "vault"
    """Requested in the token and demanded by the role: a token of this account that leaks from
    elsewhere opens nothing in Vault."""
    refresh_interval: str = "1h"
    """How often External Secrets repairs a Secret that was changed or deleted by hand, such as
    `15m`. A new value does not wait for it: it comes with a new version."""


class SecretDelivery(pulumi.ComponentResource):
    """Everything that one consuming namespace may read of Vault, and nothing it may not."""

    secrets: Mapping[str, SecretRef]
    """The delivered Secrets by the name of their ExternalSecret."""
    store: str
    """The SecretStore's name."""

    def __init__(
        self, name: str, args: SecretDeliveryArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:externalsecrets:SecretDelivery", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        account = core.v1.ServiceAccount(
            f"{name}-account",
            metadata=meta.v1.ObjectMetaArgs(name=args.account, namespace=args.namespace),
            automount_service_account_token=False,
            opts=child,
        )
        # The controller may request a token of this account only. Its chart's role would allow a
        # token of any account.
        binding = bound_role(
            f"{name}-token",
            name=args.account,
            namespace=args.namespace,
            rules=[rule("", "serviceaccounts/token", "create", [args.account])],
            subject=account_subject(args.controller.account, args.controller.namespace),
            opts=child,
        )
        role = self._role_in_vault(name, args)
        store = SecretStore(
            name,
            metadata=meta.v1.ObjectMetaArgs(name=args.store, namespace=args.namespace),
            spec={"provider": {"vault": _vault_provider(args, account, role)}},
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[binding, role, *args.controller.resources]
            ),
        )
        secrets: dict[str, SecretRef] = {}
        for delivery in args.deliveries:
            resource_name = f"{name}-{delivery.name}"
            secrets[delivery.name] = self._deliver(resource_name, delivery, args, store)
        self.secrets = secrets
        self.store = args.store
        self.register_outputs({"store": self.store})

    def _role_in_vault(
        self, name: str, args: SecretDeliveryArgs
    ) -> vault.kubernetes.AuthBackendRole:
        """What the consumer's account may read in Vault."""
        inside_vault = args.vault.inside(self)
        policy_name = args.namespace if args.policy is None else args.policy
        role_name = args.namespace if args.role is None else args.role
        policy = vault.Policy(
            f"{name}-policy",
            name=policy_name,
            policy=_policy(args.vault.mount, args.deliveries),
            opts=inside_vault,
        )
        return vault.kubernetes.AuthBackendRole(
            f"{name}-role",
            backend=args.vault.auth_path,
            role_name=role_name,
            bound_service_account_names=[args.account],
            bound_service_account_namespaces=[args.namespace],
            audience=args.audience,
            token_policies=[policy.name],
            token_ttl=600,
            token_max_ttl=1200,
            opts=inside_vault,
        )

    def _deliver(
        self, name: str, delivery: Delivery, args: SecretDeliveryArgs, store: SecretStore
    ) -> SecretRef:
        in_vault = vault.kv.SecretV2(
            name,
            mount=args.vault.mount,
            name=delivery.path,
            data_json=pulumi.Output.secret(pulumi.Output.json_dumps(dict(delivery.values))),
            delete_all_versions=True,
            opts=args.vault.inside(self),
        )
        # With a pinned version, a new value is a new generation of the ExternalSecret: External
        # Secrets syncs it at once, and the wait has an exact state to wait for.
        version = pulumi.Output.unsecret(
            in_vault.metadata.apply(lambda metadata: str(metadata["version"]))
        )
        external = ExternalSecret(
            name,
            metadata=meta.v1.ObjectMetaArgs(name=delivery.name, namespace=args.namespace),
            spec={
                "refreshPolicy": "Periodic",
                "refreshInterval": args.refresh_interval,
                "secretStoreRef": {"name": args.store, "kind": "SecretStore"},
                "target": {
                    "name": delivery.secret,
                    "creationPolicy": "Owner",
                    # A Vault that is away must not take the consumer's Secret with it.
                    "deletionPolicy": "Retain",
                },
                "data": [
                    {
                        "secretKey": key,
                        "remoteRef": {"key": delivery.path, "property": key, "version": version},
                    }
                    for key in delivery.values
                ],
            },
            opts=pulumi.ResourceOptions(parent=self, depends_on=[store, in_vault]),
        )
        target = WaitTarget(
            resource="externalsecrets.v1.external-secrets.io",
            namespace=args.namespace,
            name=delivery.name,
            not_ready=synced,
        )
        return SecretRef(
            name=delivery.secret,
            keys=list(delivery.values),
            version=version,
            synced=wait_hook(f"{name}-synced", args.access, [target]),
            resource=external,
        )


def _vault_provider(
    args: SecretDeliveryArgs,
    account: core.v1.ServiceAccount,
    role: vault.kubernetes.AuthBackendRole,
) -> VaultProvider:
    """How the SecretStore reaches Vault: verified, and logged in as the consumer's account."""
    return {
        "server": args.vault.address,
        "caBundle": args.vault.ca_pem.apply(lambda pem: b64encode(pem.encode()).decode()),
        "path": args.vault.mount,
        "version": "v2",
        "auth": {
            "kubernetes": {
                "mountPath": args.vault.auth_path,
                "role": role.role_name,
                "serviceAccountRef": {
                    "name": account.metadata.name.apply(str),
                    "audiences": [args.audience],
                },
            }
        },
    }


def _policy(mount: pulumi.Output[str], deliveries: Sequence[Delivery]) -> pulumi.Output[str]:
    """Read the latest or a pinned version of exactly these paths: no list, no metadata."""
    paths = [delivery.path for delivery in deliveries]

    def text(mount_path: str) -> str:
        rules = {f"{mount_path}/data/{path}": {"capabilities": ["read"]} for path in paths}
        return json.dumps({"path": rules}, indent=2)

    return mount.apply(text)

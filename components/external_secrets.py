"""External Secrets: what brings a value from where it is made, through Vault, into a Secret of one consuming namespace.

One consumer has one policy, role, ServiceAccount and SecretStore, and they reach the paths handed to it and nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi
import pulumi_vault as vault
from pulumi_kubernetes import core, meta, rbac

from .cluster import ClusterAccess
from .crds import ExternalSecret, SecretStore
from .delivery import Delivery, SecretRef
from .operators import SecretsController
from .vault import Vault
from .waits import WaitTarget, synced, wait_hook

ACCOUNT = "external-secrets-sa"
STORE = "vault-backend"
AUDIENCE = "vault"
"""Asked for in the token and demanded by the role: a token of this account that leaks elsewhere opens nothing in Vault."""


@dataclass(frozen=True)
class SecretDeliveryArgs:
    namespace: pulumi.Input[str]
    """The consumer's; policy and role in Vault are called after it."""
    controller: SecretsController
    """The controller of External Secrets that looks after this namespace."""
    vault: Vault
    access: ClusterAccess
    deliveries: Sequence[Delivery]


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
        metadata = meta.v1.ObjectMetaArgs(name=ACCOUNT, namespace=args.namespace)

        account = core.v1.ServiceAccount(
            f"{name}-account", metadata=metadata, automount_service_account_token=False, opts=child
        )
        # The controller may ask for a token of this one account; its chart would let it ask for any account's.
        token = rbac.v1.Role(
            f"{name}-token",
            metadata=metadata,
            rules=[
                rbac.v1.PolicyRuleArgs(
                    api_groups=[""],
                    resources=["serviceaccounts/token"],
                    resource_names=[ACCOUNT],
                    verbs=["create"],
                )
            ],
            opts=child,
        )
        binding = rbac.v1.RoleBinding(
            f"{name}-token",
            metadata=metadata,
            role_ref=rbac.v1.RoleRefArgs(
                api_group="rbac.authorization.k8s.io", kind="Role", name=token.metadata.name
            ),
            subjects=[
                rbac.v1.SubjectArgs(
                    kind="ServiceAccount",
                    name=args.controller.account,
                    namespace=args.controller.namespace,
                )
            ],
            opts=child,
        )

        inside_vault = args.vault.inside(self)
        policy = vault.Policy(
            f"{name}-policy",
            name=args.namespace,
            policy=_policy(args.vault.mount, args.deliveries),
            opts=inside_vault,
        )
        role = vault.kubernetes.AuthBackendRole(
            f"{name}-role",
            backend=args.vault.auth_path,
            role_name=args.namespace,
            bound_service_account_names=[ACCOUNT],
            bound_service_account_namespaces=[args.namespace],
            audience=AUDIENCE,
            token_policies=[policy.name],
            token_ttl=600,
            token_max_ttl=1200,
            opts=inside_vault,
        )
        store = SecretStore(
            name,
            metadata=meta.v1.ObjectMetaArgs(name=STORE, namespace=args.namespace),
            spec={
                "provider": {
                    "vault": {
                        "server": args.vault.address,
                        "path": args.vault.mount,
                        "version": "v2",
                        "auth": {
                            "kubernetes": {
                                "mountPath": args.vault.auth_path,
                                "role": role.role_name,
                                "serviceAccountRef": {
                                    "name": account.metadata.name.apply(str),
                                    "audiences": [AUDIENCE],
                                },
                            }
                        },
                    }
                }
            },
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[binding, role, *args.controller.resources]
            ),
        )
        self.secrets = {
            one.name: self._deliver(f"{name}-{one.name}", one, args, store)
            for one in args.deliveries
        }
        self.store = STORE
        self.register_outputs({"store": self.store})

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
        # Pinning the version makes a new value a new generation: synced at once, and something true to wait for.
        version = pulumi.Output.unsecret(
            in_vault.metadata.apply(lambda found: str(found["version"]))
        )
        external = ExternalSecret(
            name,
            metadata=meta.v1.ObjectMetaArgs(name=delivery.name, namespace=args.namespace),
            spec={
                "refreshPolicy": "Periodic",
                "refreshInterval": "1h",
                "secretStoreRef": {"name": STORE, "kind": "SecretStore"},
                "target": {
                    "name": delivery.secret,
                    "creationPolicy": "Owner",
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
        awaited = WaitTarget(
            "externalsecrets.external-secrets.io", args.namespace, delivery.name, synced
        )
        return SecretRef(
            name=delivery.secret,
            keys=list(delivery.values),
            version=version,
            synced=wait_hook(f"{name}-synced", args.access, [awaited]),
            resource=external,
        )


def _policy(mount: pulumi.Output[str], deliveries: Sequence[Delivery]) -> pulumi.Output[str]:
    """Read the latest or a pinned version of exactly these paths; no list, no metadata, no neighbour."""
    return mount.apply(
        lambda name: json.dumps(
            {"path": {f"{name}/data/{one.path}": {"capabilities": ["read"]} for one in deliveries}},
            indent=2,
        )
    )

"""SecretStore and ExternalSecret, with the fields that this program sets."""

from collections.abc import Sequence
from typing import TypedDict

import pulumi
from pulumi import Input
from pulumi_kubernetes.meta.v1 import ObjectMetaArgs

from ..manifests.crds import Custom


class ServiceAccountSelector(TypedDict):
    name: Input[str]
    audiences: Sequence[str]


class VaultKubernetesAuth(TypedDict):
    mountPath: Input[str]
    role: Input[str]
    serviceAccountRef: ServiceAccountSelector


class VaultAuth(TypedDict):
    kubernetes: VaultKubernetesAuth


class VaultProvider(TypedDict):
    server: Input[str]
    caBundle: Input[str]
    path: Input[str]
    version: str
    auth: VaultAuth


class SecretStoreProvider(TypedDict):
    vault: VaultProvider


class SecretStoreSpec(TypedDict):
    provider: SecretStoreProvider


class SecretStore(Custom):
    """External Secrets' store: https://external-secrets.io/latest/provider/hashicorp-vault/"""

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: SecretStoreSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "external-secrets.io/v1", "SecretStore", metadata, spec, opts)


class StoreReference(TypedDict):
    name: Input[str]
    kind: str


class SecretTarget(TypedDict):
    name: str
    creationPolicy: str
    deletionPolicy: str


class RemoteReference(TypedDict):
    key: Input[str]
    property: str
    version: Input[str]


class SecretData(TypedDict):
    secretKey: str
    remoteRef: RemoteReference


class ExternalSecretSpec(TypedDict):
    refreshPolicy: str
    refreshInterval: str
    secretStoreRef: StoreReference
    target: SecretTarget
    data: Sequence[SecretData]


class ExternalSecret(Custom):
    """External Secrets' copy of remote values in a Secret.

    https://external-secrets.io/latest/api/externalsecret/
    """

    def __init__(
        self,
        name: str,
        metadata: ObjectMetaArgs,
        spec: ExternalSecretSpec,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(name, "external-secrets.io/v1", "ExternalSecret", metadata, spec, opts)

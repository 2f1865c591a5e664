"""What passes between the layer that owns secret values and the pods that need them.

The owner makes a `Delivery`; `SecretDelivery` (external_secrets.py) brings it into the consumer's
namespace and returns a `SecretRef`, which the consumer's pods refer to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi


@dataclass(frozen=True)
class Delivery:
    """Values for one consumer. The layer that owns them makes it; the keys are its constants."""

    name: str
    """Name of the ExternalSecret, unique in the consumer's namespace."""
    secret: str
    """Name of the Secret that External Secrets makes in the consumer's namespace."""
    path: str
    """Where the values are in Vault, below the KV store's mount. Unique in the store: two
    consumers of the same values share neither path nor policy."""
    values: Mapping[str, pulumi.Input[str]]
    """Each value by its key, which is the same in Vault and in the Secret."""


@dataclass(frozen=True)
class SecretRef:
    """A delivered Secret."""

    name: str
    """Name of the Secret, in the consumer's namespace."""
    keys: Sequence[str]
    version: pulumi.Output[str]
    """Of the values in Vault. In a pod template's annotation it rolls the pods on a change."""
    synced: pulumi.ResourceHook
    """For a consumer's `before_create` and `before_update`: returns once the Secret holds this
    version."""
    resource: pulumi.Resource
    """What a consumer depends on."""

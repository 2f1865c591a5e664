"""External Secrets: a controller per consuming namespace."""

from dataclasses import dataclass
from typing import Any

import pulumi

from ..manifests.pods import requirements
from .release import OperatorArgs, OperatorResources, helm_release


@dataclass(frozen=True)
class SecretsController:
    """The External Secrets controller that serves one consumer's namespace."""

    account: str
    """Its ServiceAccount: a consumer lets this one ask for the token that opens Vault."""
    namespace: pulumi.Input[str]
    """Namespace of that ServiceAccount."""
    resources: OperatorResources
    """What a SecretStore and an ExternalSecret depend on."""


@dataclass(frozen=True)
class ExternalSecretsArgs(OperatorArgs):
    """What a controller of External Secrets is installed with."""

    consumer: pulumi.Input[str]
    """The one namespace whose ExternalSecrets it looks after; it has a Role there only."""
    release: str = "external-secrets"
    """Helm's name for it, and with it the name of its ServiceAccount, Roles and lease. Must contain
    `external-secrets`, or the chart puts that behind it. Another one for a second consumer."""
    crds: OperatorResources = ()
    """The release that owns the CRDs; empty: this one does. One release of a cluster may own them,
    and its removal leaves them there: they are the whole cluster's."""


class ExternalSecretsOperator(pulumi.ComponentResource):
    """A controller of External Secrets for one consumer's namespace.

    A controller watches one namespace or all of them (`--namespace`, external-secrets 2.9.0). For
    all of them it needs the right to read every Secret of the cluster. So each consumer has its
    own controller.
    """

    account: str
    """The controller's ServiceAccount."""

    def __init__(
        self,
        name: str,
        args: ExternalSecretsArgs,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("shlink:operators:ExternalSecretsOperator", name, None, opts)
        self.account = args.release
        # A controller does not start without the CRDs.
        release = helm_release(
            parent=self,
            name=name,
            args=args,
            release=args.release,
            values=_external_secrets_values(args),
            depends_on=args.crds,
        )
        self.register_outputs({"version": release.version, "account": self.account})


_CLUSTER_WIDE_KINDS = (
    "ClusterStore",
    "ClusterExternalSecret",
    "ClusterPushSecret",
    "PushSecret",
    "ClusterGenerator",
)

_UNUSED_CRDS = (
    "ClusterExternalSecret",
    "ClusterSecretStore",
    "ClusterGenerator",
    "ClusterPushSecret",
    "PushSecret",
)


def _external_secrets_values(args: ExternalSecretsArgs) -> dict[str, Any]:
    """The chart's values: external-secrets 2.9.0, values.yaml."""
    values: dict[str, Any] = {
        "installCRDs": not args.crds,
        "serviceAccount": {"name": args.release},
        # One namespace, by a Role there: the chart's own default reads every Secret of the cluster.
        "scopedNamespace": args.consumer,
        "scopedRBAC": True,
        # The default may request a token of any ServiceAccount; external_secrets.py allows one.
        "rbac": {
            "serviceAccountTokenCreate": False,
            "servicebindings": {"create": False},
            "aggregateToView": False,
            "aggregateToEdit": False,
            "aggregateToAdmin": False,
        },
        "systemAuthDelegator": False,
        **{f"process{kind}": False for kind in _CLUSTER_WIDE_KINDS},
        "crds": {
            **{f"create{kind}": False for kind in _UNUSED_CRDS},
            "conversion": {"enabled": False},
            # Deleted CRDs would take every ExternalSecret of the cluster along, other people's too.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        # The webhook only repeats what the CRDs' schemas and the controller's own conditions say,
        # and its cert controller reads every Secret of the cluster for it (docs/decisions/).
        "webhook": {"create": False},
        "certController": {"create": False},
        "leaderElect": True,
        # Two controllers of one namespace with one lease: the second would wait for ever.
        "leaderElectionID": f"{args.release}-controller",
        "resources": requirements(args.resources),
        "readinessProbe": {"enabled": True},
        "livenessProbe": {"enabled": True},
        **args.placement.on_nodes(),
    }
    if args.placement.pull_secret:
        values["imagePullSecrets"] = args.placement.pull_secrets()
    if args.image:
        values["image"] = args.image.helm_values()
    return values

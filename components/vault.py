"""Vault: the server, initialised and unsealed without hands, and what every environment has inside it.

A sidecar in Vault's pod unseals it, again after every restart; a Job initialises it and installs the root token that this program
chose. Both work at the same time: the Job needs the sidecar to unseal, and Pulumi waits for the StatefulSet (Ready means unsealed)
and for the Job before it touches anything inside Vault.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_vault as vault
from pulumi_kubernetes import core, helm, meta, rbac

from .charts import ChartSource
from .credentials import password
from .forward import ForwardTarget
from .images import ImageReference
from .network import VAULT, VAULT_INIT, VAULT_SERVER
from .pods import (
    CONTAINER_SECURITY,
    JobArgs,
    job,
    pod_security,
    requirements,
    secret_variable,
    spread,
)
from .settings import Chart, Images, Resources, Transit, VaultSettings

MOUNT = "secret"
AUTH_PATH = "kubernetes"
UNSEAL_SECRET = "vault-unseal-keys"  # noqa: S105 -- a name
ROOT_SECRET = "vault-root-token"  # noqa: S105 -- a name
SEAL_SECRET = "vault-seal"  # noqa: S105 -- a name
INIT_ACCOUNT = "vault-init"
ADDRESS = f"http://vault.{VAULT}.svc.cluster.local:8200"
# Not the Service, which would balance the steps of one initialisation over several pods.
_FIRST_POD = f"http://vault-0.vault-internal.{VAULT}.svc.cluster.local:8200"

# uid 100 and gid 1000 are the image's own (hashicorp/vault's Dockerfile, the chart's defaults).
_USER, _GROUP = 100, 1000
_BANK_VAULTS_USER = 65534
_SMALL = Resources(cpu="10m", memory="32Mi", memory_limit="64Mi")


def forward_target(settings: VaultSettings) -> ForwardTarget:
    """The pod that answers: the only one, or the active one of a raft cluster."""
    active = {"vault-active": "true"} if settings.mode == "ha" else {}
    return ForwardTarget(
        service=f"{VAULT}/vault",
        namespace=VAULT,
        pod_labels={**VAULT_SERVER.labels, **active},
        port=8200,
    )


@dataclass(frozen=True)
class VaultArgs:
    namespace: pulumi.Input[str]
    chart: Chart
    settings: VaultSettings
    images: Images
    provider_address: str
    """Where the provider of this program reaches Vault."""
    protect: bool


class Vault(pulumi.ComponentResource):
    """An unsealed Vault with a KV v2 store and kubernetes auth."""

    address: str
    """Where pods find it."""
    mount: pulumi.Output[str]
    """The KV v2 store's mount; known once the store is there."""
    auth_path: pulumi.Output[str]
    """The kubernetes auth's path; known once it is configured."""

    def __init__(
        self, name: str, args: VaultArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("shlink:vault:Vault", name, None, opts)
        settings = args.settings
        child = pulumi.ResourceOptions(parent=self)
        root_token = password(f"{name}-root-token", 1, pulumi.ResourceOptions(parent=self))

        # Empty at first; bank-vaults keeps the unseal keys in it. Because it exists already, the right to this one Secret is enough:
        # "create" can't be limited to a name. The keys are never in the state's inputs and no update of ours touches them.
        keys = core.v1.Secret(
            f"{name}-unseal-keys",
            metadata=meta.v1.ObjectMetaArgs(name=UNSEAL_SECRET, namespace=args.namespace),
            opts=pulumi.ResourceOptions.merge(
                child,
                pulumi.ResourceOptions(ignore_changes=["data", "stringData"], protect=args.protect),
            ),
        )
        rights = self._rights(name, args.namespace, child)
        seal_secret = self._seal_secret(name, args, child)
        source = ChartSource(
            name="vault", repository=args.chart.repository, version=args.chart.version
        )
        self._chart = helm.v4.Chart(
            name,
            name="vault",
            namespace=args.namespace,
            chart=source.chart,
            repository_opts=helm.v4.RepositoryOptsArgs(repo=source.repository_url)
            if source.repository_url
            else None,
            version=source.version,
            values=_values(settings, args.images),
            skip_await=False,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[keys, *rights, *seal_secret]),
        )
        self._initialised = self._init_job(name, args, root_token, [keys, *rights], child)

        self._provider = vault.Provider(
            name,
            address=args.provider_address,
            token=_token(settings, root_token),
            auth_login=vault.ProviderAuthLoginArgs(
                path=settings.auth_login.path,
                method=settings.auth_login.method,
                parameters={
                    key: pulumi.Output.secret(value.get_secret_value())
                    for key, value in settings.auth_login.parameters.items()
                },
            )
            if settings.auth_login
            else None,
            # A child token lives 20 minutes, an update that waits for a database may take longer.
            skip_child_token=True,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self._chart, self._initialised]),
        )
        inside = self.inside(self)
        vault.Audit(
            f"{name}-audit",
            type="file",
            path="stdout",
            options={"file_path": "stdout"},
            opts=inside,
        )
        store = vault.Mount(
            f"{name}-kv",
            path=MOUNT,
            type="kv",
            options={"version": "2"},
            opts=pulumi.ResourceOptions.merge(inside, pulumi.ResourceOptions(protect=args.protect)),
        )
        auth = vault.AuthBackend(
            f"{name}-kubernetes", type="kubernetes", path=AUTH_PATH, opts=inside
        )
        # No token_reviewer_jwt: Vault then uses its own pod's token, which the kubelet renews. A pasted one ends with its pod
        # (the guide's `token_reviewer_jwt_set: false` is the healthy state).
        config = vault.kubernetes.AuthBackendConfig(
            f"{name}-kubernetes",
            backend=auth.path,
            kubernetes_host="https://kubernetes.default.svc:443",
            opts=inside,
        )
        self.address = ADDRESS
        self.mount = store.path
        self.auth_path = pulumi.Output.all(auth.path, config.id).apply(lambda known: str(known[0]))
        self.register_outputs(
            {"address": self.address, "mount": self.mount, "auth_path": self.auth_path}
        )

    def inside(self, parent: pulumi.Resource) -> pulumi.ResourceOptions:
        """Options for a resource inside Vault: after the unseal, and gone with the server, so that destroy needs no connection."""
        return pulumi.ResourceOptions(
            parent=parent,
            provider=self._provider,
            depends_on=[self._chart, self._initialised],
            deleted_with=self._chart,
        )

    def _rights(
        self, name: str, namespace: pulumi.Input[str], opts: pulumi.ResourceOptions
    ) -> list[pulumi.Resource]:
        """The unseal keys' Secret, and nothing more: the sidecar reads it, the Job fills it."""
        account = core.v1.ServiceAccount(
            f"{name}-init",
            metadata=meta.v1.ObjectMetaArgs(name=INIT_ACCOUNT, namespace=namespace),
            opts=opts,
        )
        made: list[pulumi.Resource] = [account]
        for who, verbs in (("vault", ["get"]), (INIT_ACCOUNT, ["get", "update"])):
            metadata = meta.v1.ObjectMetaArgs(name=f"{who}-unseal-keys", namespace=namespace)
            role = rbac.v1.Role(
                f"{name}-{who}-unseal-keys",
                metadata=metadata,
                rules=[
                    rbac.v1.PolicyRuleArgs(
                        api_groups=[""],
                        resources=["secrets"],
                        resource_names=[UNSEAL_SECRET],
                        verbs=verbs,
                    )
                ],
                opts=opts,
            )
            made += [
                rbac.v1.RoleBinding(
                    f"{name}-{who}-unseal-keys",
                    metadata=metadata,
                    role_ref=rbac.v1.RoleRefArgs(
                        api_group="rbac.authorization.k8s.io", kind="Role", name=role.metadata.name
                    ),
                    subjects=[
                        rbac.v1.SubjectArgs(kind="ServiceAccount", name=who, namespace=namespace)
                    ],
                    opts=opts,
                )
            ]
        return made

    def _seal_secret(
        self, name: str, args: VaultArgs, opts: pulumi.ResourceOptions
    ) -> list[pulumi.Resource]:
        if not isinstance(args.settings.seal, Transit):
            return []
        token = pulumi.Output.secret(args.settings.seal.token.get_secret_value())
        metadata = meta.v1.ObjectMetaArgs(name=SEAL_SECRET, namespace=args.namespace)
        return [
            core.v1.Secret(
                f"{name}-seal", metadata=metadata, string_data={"token": token}, opts=opts
            )
        ]

    def _init_job(
        self,
        name: str,
        args: VaultArgs,
        root_token: pulumi.Output[str],
        depends_on: Sequence[pulumi.Resource],
        opts: pulumi.ResourceOptions,
    ) -> pulumi.Resource:
        token = core.v1.Secret(
            f"{name}-root-token",
            metadata=meta.v1.ObjectMetaArgs(name=ROOT_SECRET, namespace=args.namespace),
            string_data={"token": root_token},
            opts=opts,
        )
        return job(
            f"{name}-init",
            JobArgs(
                name="vault-init",
                namespace=args.namespace,
                labels=VAULT_INIT.labels,
                user=_BANK_VAULTS_USER,
                containers=[
                    core.v1.ContainerArgs(
                        name="init",
                        image=args.images.bank_vaults,
                        args=["init"],
                        env=[
                            *(
                                core.v1.EnvVarArgs(name=one["name"], value=one["value"])
                                for one in _bank_vaults(_FIRST_POD)
                            ),
                            # One fault of the connection while it waits for the unseal makes bank-vaults 1.33.1 leave before the chosen
                            # token exists, and a second run finds an initialised Vault and succeeds: so the client itself retries.
                            core.v1.EnvVarArgs(name="VAULT_MAX_RETRIES", value="20"),
                            core.v1.EnvVarArgs(name="VAULT_CLIENT_TIMEOUT", value="300s"),
                            # The token is ours, so nothing is read back, and bank-vaults keeps none.
                            secret_variable(
                                "BANK_VAULTS_INIT_ROOT_TOKEN", token.metadata.name, "token"
                            ),
                            core.v1.EnvVarArgs(name="BANK_VAULTS_STORE_ROOT_TOKEN", value="false"),
                        ],
                        security_context=CONTAINER_SECURITY,
                        resources=requirements(_SMALL),
                    )
                ],
                service_account=INIT_ACCOUNT,
                # The server may still be pulling its image; the delay between tries grows to five minutes.
                backoff_limit=20,
            ),
            pulumi.ResourceOptions.merge(
                opts, pulumi.ResourceOptions(depends_on=[*depends_on, token])
            ),
        )


def _token(settings: VaultSettings, root_token: pulumi.Output[str]) -> pulumi.Output[str] | None:
    """Always said: the provider would fall back to VAULT_TOKEN and ~/.vault-token."""
    if settings.auth_login:
        return None
    return pulumi.Output.secret(settings.token.get_secret_value()) if settings.token else root_token


def _bank_vaults(address: str) -> list[dict[str, str]]:
    """Variables, not flags: those of `init` and `unseal` shadow each other (bank-vaults 1.33.1)."""
    return [
        {"name": "VAULT_ADDR", "value": address},
        {"name": "BANK_VAULTS_MODE", "value": "k8s"},
        {"name": "BANK_VAULTS_K8S_SECRET_NAMESPACE", "value": VAULT},
        {"name": "BANK_VAULTS_K8S_SECRET_NAME", "value": UNSEAL_SECRET},
    ]


def _values(settings: VaultSettings, images: Images) -> dict[str, Any]:
    """The chart's values: vault-helm 0.32.0, values.yaml."""
    server: dict[str, Any] = {
        "image": ImageReference.parse(images.vault).helm_values(),
        # The chart's default is OnDelete: a changed version or configuration would change the StatefulSet and no pod.
        "updateStrategyType": "RollingUpdate",
        "includeConfigAnnotation": True,  # a changed configuration changes the pod template
        "resources": requirements(settings.resources),
        "serviceAccount": {"annotations": settings.service_account_annotations},
        "dataStorage": {
            "enabled": True,
            "size": settings.storage.size,
            "storageClass": settings.storage.storage_class,
        },
        # The audit device writes to standard output: a full volume would make Vault refuse every request.
        "auditStorage": {"enabled": False},
        "readinessProbe": {"enabled": True, "path": "/v1/sys/health?standbyok=true", "port": 8200},
        # Without the codes a sealed pod would be restarted before anything could unseal it.
        "livenessProbe": {
            "enabled": True,
            "path": "/v1/sys/health?standbyok=true&sealedcode=204&uninitcode=204",
            "port": 8200,
        },
        "statefulSet": {
            "securityContext": {
                "pod": {**pod_security(_USER, _GROUP), "fsGroupChangePolicy": "OnRootMismatch"},
                "container": CONTAINER_SECURITY,
            }
        },
        # The start script copies its configuration there, and the root file system is read-only.
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 -- an emptyDir of the pod
        "affinity": "",
    }
    if settings.seal is None:  # with a key service Vault unseals itself
        server["extraContainers"] = [
            {
                "name": "unseal",
                "image": images.bank_vaults,
                "args": ["unseal"],
                "env": _bank_vaults("http://127.0.0.1:8200"),
                "securityContext": CONTAINER_SECURITY,
                "resources": requirements(_SMALL),
            }
        ]
    if isinstance(settings.seal, Transit):
        server["extraSecretEnvironmentVars"] = [
            {"envName": "VAULT_TOKEN", "secretName": SEAL_SECRET, "secretKey": "token"}
        ]
    configuration = json.dumps(_configuration(settings))
    if settings.mode == "standalone":
        server["standalone"] = {"enabled": True, "config": configuration}
    else:
        server["topologySpreadConstraints"] = [spread(VAULT_SERVER.labels)]
        server["ha"] = {
            "enabled": True,
            "replicas": settings.replicas,
            "raft": {"enabled": True, "setNodeId": True, "config": configuration},
        }
    return {
        "global": {"tlsDisable": True},
        "injector": {"enabled": False},
        "csi": {"enabled": False},
        "server": server,
    }


def _configuration(settings: VaultSettings) -> dict[str, Any]:
    """Vault's own configuration: https://developer.hashicorp.com/vault/docs/configuration"""
    configuration: dict[str, Any] = {
        "ui": True,
        "disable_mlock": True,  # needs a capability that `restricted` forbids
        "listener": {
            "tcp": {"address": "[::]:8200", "cluster_address": "[::]:8201", "tls_disable": True}
        },
        "storage": {"file": {"path": "/vault/data"}},
    }
    if settings.mode == "ha":
        join = [
            {"leader_api_addr": f"http://vault-{n}.vault-internal:8200"}
            for n in range(settings.replicas)
        ]
        configuration["storage"] = {"raft": {"path": "/vault/data", "retry_join": join}}
        configuration["service_registration"] = {"kubernetes": {}}  # labels the active pod
    seal = _seal(settings)
    return configuration | ({"seal": seal} if seal else {})


def _seal(settings: VaultSettings) -> dict[str, Any] | None:
    if settings.seal is None:
        return None
    # The transit token comes from a Secret, never from the configuration, which is a ConfigMap.
    stanza = settings.seal.model_dump(exclude={"type", "token"}, exclude_none=True)
    return {settings.seal.type: stanza}

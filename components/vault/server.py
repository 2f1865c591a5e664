"""Vault's pods: the chart's values, Vault's own configuration, and the sidecar that unseals."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi

from ..manifests.pods import CONTAINER_SECURITY, pod_security
from ..network.flows import VAULT_SERVER
from ..settings.changes import Record, volume
from ..settings.images import ImageReference
from .args import KeyService, VaultArgs

# uid 100 and gid 1000 are the image's own (hashicorp/vault's Dockerfile, the chart's defaults).
_USER, _GROUP = 100, 1000

_TLS_FOLDER = "/vault/tls"

_CA_FILE = f"{_TLS_FOLDER}/ca.crt"

_STATEFULSET, _SERVICE = "kubernetes:apps/v1:StatefulSet", "kubernetes:core/v1:Service"

_AWAITED = (_STATEFULSET, _SERVICE)
"""What Pulumi would wait for."""

RECORD = "shlink.io/settings"
"""The annotation that holds them on the StatefulSet."""

_SEAL_FOLDER, _SEAL_CA = "/vault/seal", "ca.crt"


@dataclass(frozen=True)
class ServerTransformArgs:
    """What the chart's values can't say."""

    serial: pulumi.Input[str]
    """Of the server's certificate."""
    image: str
    """Vault's, or OpenBao's."""
    seal: pulumi.Input[str] | None
    """Changes with what the servers unseal themselves with; None without a token of theirs."""
    record: Mapping[str, str]
    """Settings that may not simply change and that its fields do not show."""
    guard: pulumi.ResourceHook
    """Refuses such changes before its update."""
    protect: bool
    """Refuse to delete it."""


def chart_values(release: str, args: VaultArgs) -> dict[str, Any]:
    """The chart's values: vault-helm 0.34.1, values.yaml."""
    server: dict[str, Any] = {
        "image": ImageReference.parse(args.image).helm_values(),
        # With the chart's default, OnDelete, a changed version or configuration would change the
        # StatefulSet and no pod.
        "updateStrategyType": "RollingUpdate",
        "includeConfigAnnotation": True,  # a changed configuration changes the pod template
        "resources": args.resources,
        "serviceAccount": {"annotations": args.service_account_annotations},
        "authDelegator": {"enabled": False},  # the component has its own binding
        "extraLabels": _pod_labels(args),
        "extraEnvironmentVars": _environment(args),
        "dataStorage": {
            "enabled": True,
            "size": args.storage_size,
            "storageClass": args.storage_class,
        },
        # The audit device writes to standard output.
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
        # The start script copies its configuration to /tmp, and the root file system is read-only.
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "tls", "secret": {"secretName": f"{release}-tls", "defaultMode": 0o440}},
        ],
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - an emptyDir of the pod
            {"name": "tls", "mountPath": _TLS_FOLDER, "readOnly": True},
        ],
        "affinity": "",
        **args.placement.on_nodes(),
    }
    if args.key_service is None:
        server["extraContainers"] = [_sidecar(release, args)]
    elif args.key_service.token is not None:
        server["extraSecretEnvironmentVars"] = [
            {"envName": "VAULT_TOKEN", "secretName": f"{release}-seal", "secretKey": "token"}
        ]
        for file in seal_files(args.key_service):
            item = {"key": file, "path": file}
            secret = {"secretName": f"{release}-seal", "items": [item], "defaultMode": 0o440}
            server["volumes"].append({"name": "seal", "secret": secret})
            server["volumeMounts"].append(
                {"name": "seal", "mountPath": _SEAL_FOLDER, "readOnly": True}
            )
    configuration = json.dumps(server_configuration(release, args))
    # Redirects and raft name a server by the host that its certificate names too. The variable is
    # the chart's, defined before the one that uses it.
    own = f"https://$(VAULT_K8S_POD_NAME).{release}-internal:8200"
    if args.mode == "standalone":
        server["standalone"] = {"enabled": True, "config": configuration}
        server["ha"] = {"apiAddr": own}
    else:
        server["topologySpreadConstraints"] = args.placement.spread(
            {**VAULT_SERVER.labels, "app.kubernetes.io/instance": release}
        )
        server["ha"] = {
            "enabled": True,
            "replicas": args.replicas,
            "apiAddr": own,
            "raft": {"enabled": True, "setNodeId": True, "config": configuration},
        }
    whole: dict[str, Any] = {"tlsDisable": False}
    if args.placement.pull_secret:
        whole["imagePullSecrets"] = args.placement.pull_secrets()
    return {
        "fullnameOverride": release,
        "global": whole,
        "injector": {"enabled": False},
        "csi": {"enabled": False},
        "server": server,
    }


def _environment(args: VaultArgs) -> dict[str, str]:
    """For a person's commands in the pod.

    A transit seal reads the same variable, before the authorities of the image (Vault 1.21.2,
    internalshared/configutil): with it no other Vault with a public certificate could be verified.
    """
    service = args.key_service
    if service is not None and service.type == "transit" and service.ca_pem is None:
        return dict(args.proxy)
    return {"VAULT_CACERT": _CA_FILE, **args.proxy}


def seal_files(service: KeyService) -> dict[str, str]:
    """What the seal needs as files, by their names."""
    if service.ca_pem is None:
        return {}
    return {_SEAL_CA: service.ca_pem}


def _seal(service: KeyService) -> dict[str, str]:
    """The parameters of the `seal` stanza."""
    parameters = dict(service.parameters)
    if service.ca_pem is not None:
        parameters["tls_ca_cert"] = f"{_SEAL_FOLDER}/{_SEAL_CA}"
    return parameters


def active_label(image: str) -> str:
    """The label with which the product marks its active server (`service_registration`)."""
    return "openbao-active" if ImageReference.parse(image).is_openbao else "vault-active"


def is_active(labels: Mapping[str, str]) -> bool:
    """Whether a pod with these labels is the active server, of either product."""
    return "true" in (labels.get("vault-active"), labels.get("openbao-active"))


def _allow_unauthenticated_root(configuration: dict[str, Any], image: str) -> None:
    """Let the init Job make a root token from the keys, where it has no token yet.

    Vault 2 and OpenBao ask for one otherwise. A digest without a tag says nothing of a version.
    """
    reference = ImageReference.parse(image)
    major = (reference.tag or "").partition(".")[0]
    if reference.is_openbao:
        configuration["listener"]["tcp"]["disable_unauthed_generate_root_endpoints"] = False
    elif major.isdigit() and int(major) > 1:
        configuration["enable_unauthenticated_access"] = ["generate-root"]


def _pod_labels(args: VaultArgs) -> dict[str, str]:
    labels = dict(args.pod_labels)
    if args.key_service is not None and args.key_service.type == "azurekeyvault":
        # https://azure.github.io/azure-workload-identity/docs/topics/service-account-labels-and-annotations.html
        labels["azure.workload.identity/use"] = "true"
    return labels


def _sidecar(release: str, args: VaultArgs) -> dict[str, Any]:
    """Unseals the server of its own pod, after every start; it retries by itself, for ever."""
    environment = bank_vaults(args, release, "https://127.0.0.1:8200", "/run/tls/ca.crt")
    return {
        "name": "unseal",
        "image": args.bank_vaults_image,
        "args": ["unseal"],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        # Of the Secret only this: the server's key is the server's.
        "volumeMounts": [
            {"name": "tls", "mountPath": "/run/tls/ca.crt", "subPath": "ca.crt", "readOnly": True}
        ],
        "securityContext": CONTAINER_SECURITY,
        "resources": _small(),
    }


def server_configuration(release: str, args: VaultArgs) -> dict[str, Any]:
    """Vault's own configuration: https://developer.hashicorp.com/vault/docs/configuration"""
    configuration: dict[str, Any] = {
        "ui": True,
        "disable_mlock": True,  # needs a capability that Pod Security `restricted` forbids
        "listener": {
            "tcp": {
                "address": "[::]:8200",
                "cluster_address": "[::]:8201",
                "tls_cert_file": f"{_TLS_FOLDER}/tls.crt",
                "tls_key_file": f"{_TLS_FOLDER}/tls.key",
                "tls_min_version": "tls12",
            }
        },
        "storage": {"file": {"path": "/vault/data"}},
    }
    _allow_unauthenticated_root(configuration, args.image)
    if ImageReference.parse(args.image).is_openbao:
        del configuration["disable_mlock"]  # unknown to it
        configuration["unsafe_allow_api_audit_creation"] = True  # the program's audit device
        # It loses `file` with 2.7.
        configuration["storage"] = {"raft": {"path": "/vault/data"}}
    if args.metrics:
        # Otherwise sys/metrics asks for a token. The network policies let only Prometheus come.
        listener = configuration["listener"]["tcp"]
        listener["telemetry"] = {"unauthenticated_metrics_access": True}
        configuration["telemetry"] = {"prometheus_retention_time": "1h", "disable_hostname": True}
    if args.mode == "ha":
        join = [
            {
                "leader_api_addr": f"https://{release}-{number}.{release}-internal:8200",
                "leader_ca_cert_file": _CA_FILE,
            }
            for number in range(args.replicas)
        ]
        configuration["storage"] = {"raft": {"path": "/vault/data", "retry_join": join}}
        configuration["service_registration"] = {"kubernetes": {}}  # labels the active pod
    if args.key_service is not None:
        configuration["seal"] = {args.key_service.type: _seal(args.key_service)}
    return configuration


def server_transform(args: ServerTransformArgs) -> pulumi.ResourceTransform:
    """Changes the chart's StatefulSet: its pods roll on a renewed certificate; it is protected.

    Nobody waits here for the servers, or for Services to lead to them: they are Ready once the init
    Job has run, which comes after the chart. The component waits for the servers itself.

    Not among the chart's values: a value that a preview does not know yet would make that preview
    show no object of the chart at all (pulumi-kubernetes, provider/helm/v4).
    """
    opts = pulumi.ResourceOptions(
        protect=args.protect, hooks=pulumi.ResourceHookBinding(before_update=[args.guard])
    )

    def transform(
        item: pulumi.ResourceTransformArgs,
    ) -> pulumi.ResourceTransformResult | None:
        if item.type_ not in _AWAITED:
            return None
        # In place of Pulumi's own wait; to skip it would skip the wait for a deletion too.
        _annotate(item.props, {"pulumi.com/waitFor": "jsonpath={.metadata.uid}"})
        if item.type_ == _SERVICE:
            service: Any = item.props["spec"]
            selector: dict[str, str] = service.get("selector", {})
            if "vault-active" in selector:
                selector[active_label(args.image)] = selector.pop("vault-active")
            return pulumi.ResourceTransformResult(props=item.props, opts=item.opts)
        _annotate(item.props, {RECORD: json.dumps(args.record)})
        spec: Any = item.props["spec"]
        _annotate(spec["template"], {"shlink.io/certificate": args.serial})
        if args.seal is not None:
            _annotate(spec["template"], {"shlink.io/seal": args.seal})
        merged = pulumi.ResourceOptions.merge(item.opts, opts)
        return pulumi.ResourceTransformResult(props=item.props, opts=merged)

    return transform


def recorded(inputs: Mapping[str, Any]) -> Record:
    """The settings that a StatefulSet was made of, and that may not simply change."""
    spec = inputs["spec"]
    annotations: Mapping[str, str] = inputs["metadata"].get("annotations") or {}
    (server,) = (item for item in spec["template"]["spec"]["containers"] if item["name"] == "vault")
    return {
        **json.loads(annotations.get(RECORD, "{}")),
        **volume("vault.storage", spec["volumeClaimTemplates"][0]["spec"]),
        "vault.replicas": spec["replicas"],
        "images.vault": server["image"],
    }


def _annotate(item: Any, annotations: Mapping[str, pulumi.Input[str]]) -> None:
    metadata: dict[str, Any] = item["metadata"]
    metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}


def bank_vaults(
    args: VaultArgs, release: str, address: pulumi.Input[str], ca_file: str
) -> dict[str, pulumi.Input[str]]:
    """Variables, not flags: the flags of `init` and `unseal` shadow each other in 1.33.1."""
    return {
        "VAULT_ADDR": address,
        "VAULT_CACERT": ca_file,
        "BANK_VAULTS_MODE": "k8s",
        "BANK_VAULTS_K8S_SECRET_NAMESPACE": args.namespace,
        "BANK_VAULTS_K8S_SECRET_NAME": f"{release}-unseal-keys",
    }


def _small() -> Mapping[str, Mapping[str, str]]:
    return {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}

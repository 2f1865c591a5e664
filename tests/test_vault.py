"""Vault: unsealed without hands, reached late, and nothing inside it in the way of a destroy."""

import json
from typing import Any

import pytest

from components.settings import parse
from components.vault import forward_target
from offline.record import Recorded, Recording, plain
from tests import configurations
from tests.conftest import REPRESENTATIVE, before, configuration, manifest, pod, reached, variables

RAFT = ["vault-awskms", "vault-gcpckms", "vault-azurekeyvault", "vault-transit"]
SEALED = [*RAFT, "vault-standalone-sealed"]


def server(recording: Recording) -> Any:
    return manifest(recording, "Chart", "vault")["values"]["server"]


def sidecar(recording: Recording) -> Any:
    return server(recording)["extraContainers"][0]


def init(recording: Recording) -> Any:
    return pod(recording, "Job", "vault-init")["spec"]["containers"][0]


def inside(recording: Recording) -> list[Recorded]:
    """What is in Vault, whichever component put it there."""
    return [one for one in recording.resources.values() if one.type.startswith("vault:")]


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_everything_inside_waits_for_both_gates_and_goes_with_the_server(name: str) -> None:
    recording = configurations.recording(name)
    gates = {recording.one("Job", "vault-init").urn, recording.one("Chart", "vault").urn}
    assert {one.kind for one in inside(recording)} >= {
        "Mount",
        "AuthBackend",
        "AuthBackendConfig",
        "AuthBackendRole",
        "Policy",
        "SecretV2",
    }
    for one in inside(recording):
        assert gates <= one.depends_on, one.name
        # Else a destroy would have to connect to a Vault that may be gone.
        assert one.deleted_with == recording.one("Chart", "vault").urn, one.name
        assert recording.one("vault", "vault").urn in one.provider, one.name


def test_server_and_initialisation_run_side_by_side(dev: Recording) -> None:
    # Each needs the other: the Job the sidecar's unseal, the server's readiness the Job.
    assert ("Chart", "vault") not in before(dev, "Job", "vault-init")
    assert ("Job", "vault-init") not in before(dev, "Chart", "vault")


@pytest.mark.parametrize("name", ["defaults", *SEALED])
def test_who_unseals(name: str) -> None:
    recording = configurations.recording(name)
    assert init(recording)["args"] == ["init"]
    # With a key service a server unseals itself; a second unsealer would need keys that don't exist.
    assert [one["args"] for one in server(recording).get("extraContainers", [])] == (
        [] if name in SEALED else [["unseal"]]
    )


def test_both_halves_use_one_place_for_the_keys_and_variables_only(dev: Recording) -> None:
    keys = {
        name: value
        for name, value in variables(init(dev)).items()
        if name.startswith("BANK_VAULTS_K8S")
    }
    assert keys == {
        "BANK_VAULTS_K8S_SECRET_NAMESPACE": "vault",
        "BANK_VAULTS_K8S_SECRET_NAME": "vault-unseal-keys",
    }
    assert keys.items() <= variables(sidecar(dev)).items()
    assert (
        variables(init(dev))["BANK_VAULTS_MODE"]
        == variables(sidecar(dev))["BANK_VAULTS_MODE"]
        == "k8s"
    )
    assert len(sidecar(dev)["args"]) == len(init(dev)["args"]) == 1
    assert variables(sidecar(dev))["VAULT_ADDR"] == "http://127.0.0.1:8200"
    # Not the Service: the steps of one initialisation belong to one pod.
    assert variables(init(dev))["VAULT_ADDR"].startswith("http://vault-0.vault-internal.vault.svc")


def test_the_root_token_is_chosen_here_and_kept_nowhere_else(dev: Recording) -> None:
    given = variables(init(dev))
    assert given["BANK_VAULTS_INIT_ROOT_TOKEN"] == ("vault-root-token", "token")
    assert given["BANK_VAULTS_STORE_ROOT_TOKEN"] == "false"
    token = manifest(dev, "Secret", "vault-root-token")["stringData"]["token"]
    assert manifest(dev, "vault", "vault")["token"] == token
    assert not token.startswith(
        ("hvs.", "s.")
    )  # Vault refuses it, and would be left initialised with a lost token


def test_an_interrupted_connection_is_tried_again(dev: Recording) -> None:
    # bank-vaults would leave before the chosen token exists, and its second run would find an initialised Vault and succeed.
    assert int(variables(init(dev))["VAULT_MAX_RETRIES"]) >= 10
    assert manifest(dev, "Job", "vault-init")["spec"]["backoffLimit"] >= 10


def test_the_unseal_keys_are_nobodys_to_overwrite_and_one_secret_is_all_that_is_read(
    dev: Recording,
) -> None:
    secret = dev.one("Secret", "vault-unseal-keys")
    assert not {"data", "stringData"} & secret.inputs.keys()
    assert set(secret.ignore_changes) == {"data", "stringData"}
    found = {
        name: manifest(dev, "Role", f"{name}-unseal-keys")["rules"]
        for name in ("vault", "vault-init")
    }
    for rules in found.values():
        assert [(rule["resources"], rule["resourceNames"]) for rule in rules] == [
            (["secrets"], ["vault-unseal-keys"])
        ]
    assert found["vault"][0]["verbs"] == ["get"]
    assert set(found["vault-init"][0]["verbs"]) == {"get", "update"}
    for later in (("Chart", "vault"), ("Job", "vault-init")):
        assert {
            ("Secret", "vault-unseal-keys"),
            ("RoleBinding", "vault-vault-init-unseal-keys"),
        } <= before(dev, *later)


def test_vault_reviews_tokens_with_its_own(dev: Recording) -> None:
    config = manifest(dev, "AuthBackendConfig", "vault-kubernetes")
    assert config["kubernetesHost"] == "https://kubernetes.default.svc:443"
    # A pasted token would expire with its pod, and its CA with the cluster's.
    assert not {"tokenReviewerJwt", "tokenReviewerJwtWo", "kubernetesCaCert"} & config.keys()
    assert not config.get("disableLocalCaJwt")
    assert (
        config["backend"]
        == manifest(dev, "AuthBackend", "vault-kubernetes")["path"]
        == "kubernetes"
    )


def test_the_store_is_kv_2_and_requests_are_audited_where_no_volume_fills_up(
    dev: Recording,
) -> None:
    mount = manifest(dev, "Mount", "vault-kv")
    assert (mount["path"], mount["type"], mount["options"]) == ("secret", "kv", {"version": "2"})
    audit = manifest(dev, "Audit", "vault-audit")
    assert (audit["type"], audit["options"]["file_path"]) == ("file", "stdout")


def test_a_change_reaches_the_pods(dev: Recording) -> None:
    # OnDelete, the chart's default, changes the StatefulSet and no pod, and Pulumi takes the old pods for the new.
    assert server(dev)["updateStrategyType"] == "RollingUpdate"
    assert server(dev)["includeConfigAnnotation"] is True


@pytest.mark.parametrize("name", ["defaults", *SEALED])
def test_sealed_is_alive_but_not_ready(name: str) -> None:
    probes = server(configurations.recording(name))
    assert {"sealedcode=204", "uninitcode=204", "standbyok=true"} <= set(
        probes["livenessProbe"]["path"].partition("?")[2].split("&")
    )
    assert set(probes["readinessProbe"]["path"].partition("?")[2].split("&")) == {"standbyok=true"}


def test_what_is_not_needed_is_off(dev: Recording) -> None:
    values = manifest(dev, "Chart", "vault")["values"]
    assert values["injector"]["enabled"] is values["csi"]["enabled"] is False


@pytest.mark.parametrize("name", ["defaults", "vault-standalone-sealed"])
def test_one_server_on_a_file_volume(name: str) -> None:
    values = server(configurations.recording(name))
    assert "ha" not in values
    config = json.loads(values["standalone"]["config"])
    assert config["storage"] == {"file": {"path": "/vault/data"}}
    assert config["disable_mlock"] is True
    assert ("seal" in config) is (name in SEALED)


@pytest.mark.parametrize("name", RAFT)
def test_a_raft_cluster_finds_itself_together(name: str) -> None:
    values = server(configurations.recording(name))
    assert "standalone" not in values
    replicas = values["ha"]["replicas"]
    assert replicas in (3, 5, 7)
    assert values["ha"]["raft"]["enabled"] is values["ha"]["raft"]["setNodeId"] is True
    config = json.loads(values["ha"]["raft"]["config"])
    joined = [one["leader_api_addr"] for one in config["storage"]["raft"]["retry_join"]]
    assert joined == [f"http://vault-{number}.vault-internal:8200" for number in range(replicas)]
    assert config["service_registration"] == {"kubernetes": {}}
    assert config["disable_mlock"] is True
    # The chart's default anti-affinity is required: on a single node two of three pods would stay Pending.
    assert values["affinity"] == ""


@pytest.mark.parametrize(
    ("name", "stanza"),
    [
        ("vault-awskms", {"awskms": {"region": "eu-central-1", "kms_key_id": "alias/vault"}}),
        (
            "vault-gcpckms",
            {"gcpckms": {"project": "p", "region": "global", "key_ring": "r", "crypto_key": "k"}},
        ),
        (
            "vault-azurekeyvault",
            {"azurekeyvault": {"tenant_id": "t", "vault_name": "v", "key_name": "k"}},
        ),
        (
            "vault-transit",
            {
                "transit": {
                    "address": "https://vault.example.org:8200",
                    "key_name": "shlink",
                    "mount_path": "transit/",
                }
            },
        ),
    ],
)
def test_the_seal_is_written_in_vaults_own_words(name: str, stanza: dict[str, Any]) -> None:
    values = server(configurations.recording(name))
    assert json.loads(values["ha"]["raft"]["config"])["seal"] == stanza


def test_the_transit_token_comes_from_a_secret() -> None:
    recording = configurations.recording("vault-transit")
    variable = server(recording)["extraSecretEnvironmentVars"]
    assert variable == [
        {"envName": "VAULT_TOKEN", "secretName": "vault-seal", "secretKey": "token"}
    ]
    assert manifest(recording, "Secret", "vault-seal")["stringData"] == {"token": "t"}
    assert ("Secret", "vault-seal") in before(recording, "Chart", "vault")


def test_workload_identity_is_an_annotation_of_the_account() -> None:
    account = server(configurations.recording("vault-standalone-sealed"))["serviceAccount"]
    assert account["annotations"] == {"eks.amazonaws.com/role-arn": "arn"}


def provider(name: str) -> Recorded:
    return configurations.recording(name).one("vault", "vault")


def test_the_provider_never_falls_back_to_what_is_around(dev: Recording) -> None:
    # To VAULT_ADDR and ~/.vault-token.
    inputs = plain(dev.one("vault", "vault").inputs)
    assert inputs["address"].startswith("http://127.0.0.1:")
    assert len(inputs["token"]) > 20
    assert (
        inputs["skipChildToken"] == "true"
    )  # a child token lives 20 minutes, less than an update may take


def test_another_token_or_a_login_takes_the_root_tokens_place() -> None:
    assert plain(provider("vault-token").inputs)["token"] == "limited"
    login = plain(provider("vault-login").inputs)
    assert "token" not in login
    assert json.loads(login["authLogin"]) == {
        "path": "auth/jwt/login",
        "method": "jwt",
        "parameters": {"role": "deploy", "jwt": "j"},
    }


def test_a_direct_address_needs_no_forward() -> None:
    found, forwards = reached({"vault": {"address": "http://10.0.0.7:8200"}})
    assert found.vault == "http://10.0.0.7:8200"
    assert forwards == ["postgres/shlink-db-primary"]


@pytest.mark.parametrize(("name", "active"), [("defaults", None), ("vault-awskms", "true")])
def test_the_forward_ends_in_the_pod_that_answers(name: str, active: str | None) -> None:
    settings = parse(configuration(configurations.SWITCHES[name]))[1]
    target = forward_target(settings.vault)
    assert target.pod_labels.get("vault-active") == active
    assert (target.namespace, target.port) == ("vault", 8200)

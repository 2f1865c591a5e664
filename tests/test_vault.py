"""Vault: TLS only, unsealed by itself, reached by a limited login, and no obstacle to a destroy."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any, Literal

import pulumi
import pytest

from components import pins, scripts
from components.cluster.access import ClusterAccess
from components.settings.changes import refusals
from components.vault.args import VaultArgs
from components.vault.component import chosen_login, forward_target
from components.vault.init import proven_login
from components.vault.server import (
    ServerTransformArgs,
    is_active,
    recorded,
    server_configuration,
    server_transform,
)
from offline.record import Recorded, Recording, Secret, plain
from tests import configurations
from tests.conftest import (
    REPRESENTATIVE,
    Program,
    before,
    manifest,
    pod,
    reached,
    strings,
    variables,
)

GUARD: Any = object()


def transform(
    item: Any, record: dict[str, str] | None = None, image: str = pins.VAULT_IMAGE, **given: Any
) -> Any:
    """The program's change of an object of the chart."""
    args = ServerTransformArgs(
        serial="serial-7",
        image=image,
        seal=given.get("seal"),
        record=record or {},
        guard=GUARD,
        protect=True,
    )
    return server_transform(args)(item)


RAFT = ["vault-awskms", "vault-gcpckms", "vault-azurekeyvault", "vault-transit"]
SEALED = [*RAFT, "vault-standalone-sealed"]


def server(recording: Recording) -> Any:
    """The group `server` of the chart's values."""
    return manifest(recording, "Chart", "vault")["values"]["server"]


def server_config(recording: Recording) -> Any:
    """Vault's own configuration."""
    values = server(recording)
    if "standalone" in values:
        return json.loads(values["standalone"]["config"])
    return json.loads(values["ha"]["raft"]["config"])


def sidecar(recording: Recording) -> Any:
    return server(recording)["extraContainers"][0]


def steps(recording: Recording) -> dict[str, Any]:
    """The containers of the Job in the order in which they run."""
    spec = pod(recording, "Job", "vault-init")["spec"]
    return {item["name"]: item for item in (*spec["initContainers"], *spec["containers"])}


def inside(recording: Recording) -> list[Recorded]:
    """Every resource inside Vault, whichever component made it."""
    return [item for item in recording.resources.values() if item.type.startswith("vault:")]


def policy(recording: Recording, name: str) -> dict[str, list[str]]:
    """Capabilities by path."""
    rules = json.loads(manifest(recording, "Policy", name)["policy"])["path"]
    return {path: rule["capabilities"] for path, rule in rules.items()}


def program_policy(recording: Recording) -> dict[str, list[str]]:
    rules = json.loads(manifest(recording, "Secret", "vault-login")["stringData"]["policy"])["path"]
    return {path: rule["capabilities"] for path, rule in rules.items()}


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_everything_inside_waits_for_both_gates_and_goes_with_the_server(name: str) -> None:
    """Otherwise a destroy would have to connect to a Vault that may be gone."""
    recording = configurations.recording(name)
    chart = recording.one("Chart", "vault").urn
    gates = {
        recording.one("Job", "vault-init").urn,
        recording.one("Stash", "vault-unsealed").urn,
        chart,
    }
    assert {item.kind for item in inside(recording)} >= {
        "Mount",
        "AuthBackend",
        "AuthBackendConfig",
        "AuthBackendRole",
        "Policy",
        "SecretV2",
    }
    for item in inside(recording):
        assert gates <= item.depends_on, item.name
        assert item.deleted_with == chart, item.name
        assert recording.one("vault", "vault").urn in item.provider, item.name


def test_each_step_waits_for_the_one_before_only() -> None:
    """With `--parallel 1` nothing else runs meanwhile: a wait in a circle would never end."""
    recording = configurations.recording("defaults")
    assert ("Chart", "vault") in before(recording, "Job", "vault-init")
    assert ("Job", "vault-init") in before(recording, "Stash", "vault-unsealed")
    hooks = recording.one("Stash", "vault-unsealed").hooks
    assert hooks == dict.fromkeys(("before_create", "before_update"), ("vault-unsealed",))


@pytest.mark.parametrize("kind", ["apps/v1:StatefulSet", "core/v1:Service"])
def test_nobody_waits_for_a_server_before_it_is_initialised(kind: str) -> None:
    """Pulumi's own waits end when servers are Ready: unsealed, which is what the Job brings."""
    props: Any = {"metadata": {}, "spec": {"template": {"metadata": {}}}}
    args: Any = SimpleNamespace(type_=f"kubernetes:{kind}", props=props, opts=None)
    result: Any = transform(args)
    annotations = result.props["metadata"]["annotations"]
    assert annotations["pulumi.com/waitFor"] == "jsonpath={.metadata.uid}"


def test_whatever_changes_the_servers_is_waited_for(program: Program) -> None:
    def state(**settings: Any) -> Any:
        return plain(program(**settings).one("Stash", "vault-unsealed").inputs)["input"]

    assert state() == state()
    for change in ({"resources": {"memory": "200Mi"}}, {"serviceAccountAnnotations": {"a": "b"}}):
        assert state(vault=change) != state()


@pytest.mark.parametrize("name", ["defaults", *SEALED])
def test_who_unseals(name: str) -> None:
    """With a key service a server unseals itself; a second unsealer would lack its keys."""
    containers = server(configurations.recording(name)).get("extraContainers", [])
    expected = [] if name in SEALED else [["unseal"]]
    assert [container["args"] for container in containers] == expected


def test_init_and_unseal_keep_the_keys_in_one_place(dev: Recording) -> None:
    """In variables, not flags: those of bank-vaults' two commands shadow each other."""
    init = variables(steps(dev)["init"])
    unseal = variables(sidecar(dev))
    place = {name: value for name, value in init.items() if name.startswith("BANK_VAULTS_K8S")}
    assert place == {
        "BANK_VAULTS_K8S_SECRET_NAMESPACE": "vault",
        "BANK_VAULTS_K8S_SECRET_NAME": "vault-unseal-keys",
    }
    assert place.items() <= unseal.items()
    assert init["BANK_VAULTS_MODE"] == unseal["BANK_VAULTS_MODE"] == "k8s"
    assert len(sidecar(dev)["args"]) == 1


def test_the_job_talks_to_one_pod_and_the_sidecar_to_its_own(dev: Recording) -> None:
    """A Service would balance the steps of one initialisation over several pods."""
    for name, step in steps(dev).items():
        address = variables(step)["VAULT_ADDR"]
        assert address == "https://vault-0.vault-internal.vault.svc:8200", name
    assert variables(sidecar(dev))["VAULT_ADDR"] == "https://127.0.0.1:8200"


def test_the_job_checks_then_initialises_then_logs_in(dev: Recording) -> None:
    assert list(steps(dev)) == ["check", "init", "login"]
    for name, step in steps(dev).items():
        assert step["command"] == ["sh", "-c", scripts.read(f"vault_{name}.sh")]


def test_an_interrupted_connection_is_tried_again(dev: Recording) -> None:
    """bank-vaults would end before the chosen token exists."""
    assert int(variables(steps(dev)["init"])["VAULT_MAX_RETRIES"]) >= 10
    assert manifest(dev, "Job", "vault-init")["spec"]["backoffLimit"] >= 10


def test_nobody_keeps_a_root_token(dev: Recording) -> None:
    """It lives in the memory of one pod, between two steps of the Job."""
    assert variables(steps(dev)["init"])["BANK_VAULTS_STORE_ROOT_TOKEN"] == "false"
    assert "root" not in str([item.name for item in dev.of_kind("Secret")])
    volumes = {item["name"]: item for item in pod(dev, "Job", "vault-init")["spec"]["volumes"]}
    assert volumes["init"]["emptyDir"]["medium"] == "Memory"


def test_the_login_is_the_same_for_job_and_provider(dev: Recording) -> None:
    ids = manifest(dev, "Secret", "vault-login")["stringData"]
    login = json.loads(manifest(dev, "vault", "vault")["authLogin"])
    assert login == {
        "path": "auth/pulumi/login",
        "parameters": {"role_id": ids["role-id"], "secret_id": ids["secret-id"]},
    }
    assert variables(steps(dev)["login"])["LOGIN"] == "pulumi"
    assert min(len(ids["role-id"]), len(ids["secret-id"])) > 20


def test_logins_take_turns_in_vault(program: Program) -> None:
    """The one before serves until the next one is proven, so both must fit beside each other."""
    for number, roles in ((1, ("pulumi", "pulumi-b")), (2, ("pulumi-b", "pulumi"))):
        recording = program(rotation={"vault": number})
        step = variables(steps(recording)["login"])
        assert (step["ROLE"], step["FORMER_ROLE"]) == roles
        assert program_policy(recording)[f"auth/pulumi/role/{roles[0]}"] == ["read"]


@pytest.mark.parametrize(
    ("ran", "expected"), [("the first again", "first"), ("the second", "second"), ("", None)]
)
def test_no_login_is_tried_that_vault_has_not_been_told(ran: str, expected: str | None) -> None:
    """A preview after a killed rotation would fail, and the provider ends in a panic."""
    number = 1 if "first" in ran else 2
    spec = {"template": {"metadata": {"annotations": {"shlink.io/login": f"pulumi {number} d"}}}}

    async def chosen() -> str | None:
        known = asyncio.get_running_loop().create_future()
        # Of a Job that a preview would run again the id is not known.
        known.set_result(bool(ran))
        id_: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        id_.set_result("vault/vault-init")
        none: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        none.set_result(set())
        job: Any = SimpleNamespace(id=pulumi.Output(none, id_, known), spec=spec)
        values = {1: pulumi.Output.from_input("first"), 2: pulumi.Output.from_input("second")}
        output = chosen_login(proven_login(job), values)
        return await output.future() if await output.is_known() else None

    assert asyncio.run(chosen()) == expected


def test_the_login_is_secret_everywhere(dev: Recording) -> None:
    ids = manifest(dev, "Secret", "vault-login")["stringData"]
    for item in dev.resources.values():
        for text, secret in strings(item.inputs):
            if ids["secret-id"] in text:
                assert secret, item.name


def test_a_changed_policy_or_a_lost_secret_runs_the_job_again(dev: Recording) -> None:
    annotations = pod(dev, "Job", "vault-init")["metadata"]["annotations"]
    assert annotations["shlink.io/login"].startswith("pulumi 1 ")
    assert "shlink.io/keys" in annotations


def test_the_program_may_not_change_its_own_rights(dev: Recording) -> None:
    """Nor reach another mount, a token, the seal or the keys."""
    paths = program_policy(dev)
    assert paths["sys/policies/acl/pulumi"] == ["read"]
    assert paths["auth/pulumi/role/pulumi"] == ["read"]
    assert not [path for path in paths if path in ("*", "sys/*", "auth/*", "sys/auth/*")]
    assert not [path for path in paths if path.startswith(("auth/token", "sys/seal", "sys/rekey"))]
    writable = {path.split("/")[0] for path, rights in paths.items() if "update" in rights}
    assert writable == {"sys", "auth", "secret"}


@pytest.mark.parametrize("name", ["viewer", "operator"])
def test_people_see_what_exists_and_no_value(dev: Recording, name: str) -> None:
    paths = policy(dev, f"vault-{name}")
    assert paths["secret/metadata/*"] == ["read", "list"]
    assert not [path for path in paths if path.startswith(("secret/data", "secret/*", "*"))]
    assert not [path for path in paths if path.startswith("auth/") and "update" in paths[path]]


def test_a_viewer_changes_nothing(dev: Recording) -> None:
    for path, capabilities in policy(dev, "vault-viewer").items():
        assert set(capabilities) <= {"read", "list"}, path


def test_no_update_touches_the_unseal_keys(dev: Recording) -> None:
    secret = dev.one("Secret", "vault-unseal-keys")
    assert not {"data", "stringData"} & secret.inputs.keys()
    assert set(secret.ignore_changes) == {"data", "stringData"}


def test_the_keys_secret_is_all_that_the_accounts_may_use(dev: Recording) -> None:
    verbs: dict[str, set[str]] = {}
    for name in ("vault", "vault-init"):
        for rule in manifest(dev, "Role", f"{name}-unseal-keys")["rules"]:
            assert (rule["resources"], rule["resourceNames"]) == (
                ["secrets"],
                ["vault-unseal-keys"],
            )
            verbs[name] = set(rule["verbs"])
    assert verbs == {"vault": {"get"}, "vault-init": {"get", "update"}}
    for later in (("Chart", "vault"), ("Job", "vault-init")):
        assert {
            ("Secret", "vault-unseal-keys"),
            ("RoleBinding", "vault-vault-init-unseal-keys"),
        } <= before(dev, *later)


@pytest.mark.parametrize("name", SEALED)
def test_with_a_key_service_the_server_may_not_read_the_recovery_keys(name: str) -> None:
    recording = configurations.recording(name)
    roles = {item.name for item in recording.of_kind("Role") if "unseal-keys" in item.name}
    assert roles == {"vault-vault-init-unseal-keys"}
    assert variables(steps(recording)["check"])["SELF_UNSEALED"] == "true"


def test_vault_reviews_tokens_with_its_own(dev: Recording) -> None:
    """A pasted token would expire with its pod, and its CA with the cluster's."""
    config = manifest(dev, "AuthBackendConfig", "vault-kubernetes")
    assert config["kubernetesHost"] == "https://kubernetes.default.svc:443"
    assert not {"tokenReviewerJwt", "tokenReviewerJwtWo", "kubernetesCaCert"} & config.keys()
    assert not config.get("disableLocalCaJwt")
    auth = manifest(dev, "AuthBackend", "vault-kubernetes")
    assert config["backend"] == auth["path"] == "kubernetes"


def test_the_right_to_review_tokens_has_the_namespace_in_its_name(dev: Recording) -> None:
    """The chart's own binding would collide with that of another Vault of the cluster."""
    assert server(dev)["authDelegator"] == {"enabled": False}
    binding = manifest(dev, "ClusterRoleBinding", "vault-token-review")
    assert binding["metadata"]["name"] == "vault-vault-token-review"
    assert binding["roleRef"]["name"] == "system:auth-delegator"
    subjects = [(item["name"], item["namespace"]) for item in binding["subjects"]]
    assert subjects == [("vault", "vault")]
    assert ("ClusterRoleBinding", "vault-token-review") in before(dev, "Chart", "vault")


def test_the_store_is_kv_2(dev: Recording) -> None:
    mount = manifest(dev, "Mount", "vault-kv")
    assert (mount["path"], mount["type"], mount["options"]) == ("secret", "kv", {"version": "2"})


def test_requests_are_audited_where_no_volume_fills_up(dev: Recording) -> None:
    audit = manifest(dev, "Audit", "vault-audit")
    assert (audit["type"], audit["options"]["file_path"]) == ("file", "stdout")


def test_nothing_is_written_while_the_audit_device_starts(dev: Recording) -> None:
    """Vault would answer 500 to what it has done, such as a mount that then is there already."""
    audit = dev.one("Audit", "vault-audit").urn
    others = [item for item in inside(dev) if item.urn != audit]
    assert all(audit in item.depends_on for item in others)


def test_a_change_reaches_the_pods(dev: Recording) -> None:
    """OnDelete, the chart's default, changes no pod, and Pulumi takes the old pods for the new."""
    assert server(dev)["updateStrategyType"] == "RollingUpdate"
    assert server(dev)["includeConfigAnnotation"] is True


def test_a_renewed_certificate_rolls_the_pods() -> None:
    """By a transform: an unknown chart value would hide every object of the chart in a preview."""
    template = {"metadata": {"annotations": {"checksum": "c"}}}
    args: Any = SimpleNamespace(
        type_="kubernetes:apps/v1:StatefulSet",
        props={"metadata": {}, "spec": {"template": template}},
        opts=None,
    )
    result: Any = transform(args)
    annotations = result.props["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"checksum": "c", "shlink.io/certificate": "serial-7"}
    assert result.opts.protect is True
    assert result.opts.hooks.before_update == [GUARD]


def stateful_set(**change: Any) -> Any:
    """As the chart renders it, after the transform."""
    claim = {"resources": {"requests": {"storage": change.get("size", "1Gi")}}}
    props = {
        "metadata": {},
        "spec": {
            "replicas": change.get("replicas", 3),
            "template": {
                "metadata": {},
                "spec": {"containers": [{"name": "vault", "image": "r.io/vault:1.21.2"}]},
            },
            "volumeClaimTemplates": [{"spec": claim}],
        },
    }
    args: Any = SimpleNamespace(type_="kubernetes:apps/v1:StatefulSet", props=props, opts=None)
    record = {"vault.mode": change.get("mode", "ha"), "vault.seal": change.get("seal", "a")}
    result: Any = transform(args, record)
    return result.props


@pytest.mark.parametrize(
    "change", [{"mode": "standalone"}, {"seal": "b"}, {"size": "2Gi"}, {"replicas": 2}], ids=str
)
def test_a_targeted_update_of_the_server_is_compared(change: dict[str, Any]) -> None:
    """`--target` leaves out the record of the settings."""
    before = recorded(stateful_set())
    assert refusals(before, before) == []
    assert len(refusals(before, recorded(stateful_set(**change)))) == 1


def test_another_token_for_the_key_service_rolls_the_pods(program: Program) -> None:
    """A server reads it at its start only; nothing of it may stand in the annotation."""
    props: Any = {"metadata": {}, "spec": {"template": {"metadata": {}}}}
    item: Any = SimpleNamespace(type_="kubernetes:apps/v1:StatefulSet", props=props, opts=None)
    result: Any = transform(item, seal="4f")
    assert result.props["spec"]["template"]["metadata"]["annotations"]["shlink.io/seal"] == "4f"
    seal = {"type": "transit", "address": "https://v.example.org", "keyName": "k", "token": "hvs.1"}
    recording = program(vault={"mode": "ha", "seal": seal})
    keepers = recording.one("RandomId", "vault-seal-version").inputs["keepers"]
    assert isinstance(keepers, Secret) or isinstance(keepers["token"], Secret)


@pytest.mark.parametrize("name", ["defaults", *RAFT])
def test_consumers_ask_a_server_that_is_unsealed(name: str) -> None:
    """The chart's other Service leads to sealed ones too (publishNotReadyAddresses)."""
    service = "vault-active" if name in RAFT else "vault"
    store = manifest(configurations.recording(name), "SecretStore", "vault-backend")
    address = store["spec"]["provider"]["vault"]["server"]
    assert address == f"https://{service}.vault.svc:8200"


def test_other_objects_of_the_chart_are_left_alone() -> None:
    args: Any = SimpleNamespace(type_="kubernetes:core/v1:ConfigMap", props={}, opts=None)
    assert transform(args) is None


@pytest.mark.parametrize("name", ["defaults", *SEALED])
def test_no_listener_without_tls(name: str) -> None:
    recording = configurations.recording(name)
    values = manifest(recording, "Chart", "vault")["values"]
    assert values["global"]["tlsDisable"] is False
    listener = server_config(recording)["listener"]["tcp"]
    assert "tls_disable" not in listener
    assert listener["tls_cert_file"] == "/vault/tls/tls.crt"
    assert "http://" not in json.dumps(values)


def test_the_servers_key_is_in_a_secret_and_only_the_server_has_it(dev: Recording) -> None:
    secret = dev.one("Secret", "vault-tls")
    assert isinstance(secret.inputs["stringData"], Secret)
    assert "PRIVATE KEY" in plain(secret.inputs)["stringData"]["tls.key"]
    paths = [mount["subPath"] for mount in sidecar(dev)["volumeMounts"]]
    assert paths == ["ca.crt"]
    volumes = {item["name"]: item for item in pod(dev, "Job", "vault-init")["spec"]["volumes"]}
    assert [item["key"] for item in volumes["tls"]["secret"]["items"]] == ["ca.crt"]


def test_the_certificate_names_every_way_to_the_server(dev: Recording) -> None:
    request = manifest(dev, "CertRequest", "vault-tls-request")
    assert {
        "localhost",
        "vault.vault.svc",
        "*.vault-internal",
        "*.vault-internal.vault.svc",
        "vault-active.vault.svc.cluster.local",
    } <= set(request["dnsNames"])
    assert request["ipAddresses"] == ["127.0.0.1"]


def test_every_client_verifies(dev: Recording) -> None:
    provider = manifest(dev, "vault", "vault")
    assert provider["caCertFile"] == "build/tls/dev-vault.pem"
    assert (provider["tlsServerName"], provider["skipTlsVerify"]) == ("localhost", "false")
    for container in (*steps(dev).values(), sidecar(dev)):
        assert variables(container)["VAULT_CACERT"].endswith("ca.crt"), container["name"]


@pytest.mark.parametrize("name", ["defaults", *SEALED])
def test_sealed_is_alive_but_not_ready(name: str) -> None:
    probes = server(configurations.recording(name))
    liveness = probes["livenessProbe"]["path"].partition("?")[2].split("&")
    readiness = probes["readinessProbe"]["path"].partition("?")[2].split("&")
    assert {"sealedcode=204", "uninitcode=204", "standbyok=true"} <= set(liveness)
    assert set(readiness) == {"standbyok=true"}


def test_what_is_not_needed_is_off(dev: Recording) -> None:
    values = manifest(dev, "Chart", "vault")["values"]
    assert values["injector"]["enabled"] is values["csi"]["enabled"] is False


@pytest.mark.parametrize("name", ["defaults", "vault-standalone-sealed"])
def test_one_server_on_a_file_volume(name: str) -> None:
    recording = configurations.recording(name)
    assert not server(recording)["ha"].get("enabled")
    config = server_config(recording)
    assert config["storage"] == {"file": {"path": "/vault/data"}}
    assert config["disable_mlock"] is True
    assert ("seal" in config) is (name in SEALED)


def _configuration(image: str) -> dict[str, Any]:
    nothing: Any = None
    args = VaultArgs(
        namespace="v",
        authority=nothing,
        provider_address="https://v",
        access=ClusterAccess("lab"),
        image=image,
    )
    return server_configuration("vault", args)


@pytest.mark.parametrize(
    ("image", "open_paths", "closed"),
    [
        ("docker.io/hashicorp/vault:1.21.2", None, None),
        ("docker.io/hashicorp/vault@sha256:" + 64 * "0", None, None),
        ("docker.io/hashicorp/vault:2.0.4", ["generate-root"], None),
        ("docker.io/openbao/openbao:2.6.2", None, False),
        ("mirror.example.org/openbao-ubi@sha256:" + 64 * "0", None, False),
    ],
)
def test_a_newer_server_lets_the_job_make_a_root_token_from_the_keys(
    image: str, open_paths: list[str] | None, closed: object
) -> None:
    """It asks for a token otherwise; an older Vault would warn of a field that it does not know."""
    configuration = _configuration(image)
    assert configuration.get("enable_unauthenticated_access") == open_paths
    listener = configuration["listener"]["tcp"]
    assert listener.get("disable_unauthed_generate_root_endpoints") is closed


def test_openbao_takes_the_audit_device_and_a_storage_that_stays() -> None:
    configuration = _configuration("docker.io/openbao/openbao:2.6.2")
    assert configuration["unsafe_allow_api_audit_creation"] is True
    assert configuration["storage"] == {"raft": {"path": "/vault/data"}}
    assert "disable_mlock" not in configuration
    assert "unsafe_allow_api_audit_creation" not in _configuration(pins.VAULT_IMAGE)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (pins.VAULT_IMAGE, "vault-active"),
        ("docker.io/openbao/openbao:2.6.2", "openbao-active"),
    ],
)
def test_the_leader_is_found_by_the_label_of_its_product(image: str, label: str) -> None:
    """By the chart's Service, the forward and doctor."""
    props: Any = {"metadata": {}, "spec": {"selector": {"vault-active": "true", "a": "b"}}}
    item: Any = SimpleNamespace(type_="kubernetes:core/v1:Service", props=props, opts=None)
    assert transform(item, image=image).props["spec"]["selector"] == {label: "true", "a": "b"}
    assert forward_target(mode="ha", image=image).pod_labels[label] == "true"
    assert is_active({label: "true"})
    assert not is_active({label: "false"})


@pytest.mark.parametrize("name", RAFT)
def test_a_raft_cluster_forms_by_itself_over_verified_tls(name: str) -> None:
    recording = configurations.recording(name)
    values = server(recording)
    assert "standalone" not in values
    replicas = values["ha"]["replicas"]
    assert replicas in (3, 5, 7)
    assert values["ha"]["raft"]["enabled"] is values["ha"]["raft"]["setNodeId"] is True
    config = server_config(recording)
    assert config["storage"]["raft"]["retry_join"] == [
        {
            "leader_api_addr": f"https://vault-{number}.vault-internal:8200",
            "leader_ca_cert_file": "/vault/tls/ca.crt",
        }
        for number in range(replicas)
    ]
    assert config["service_registration"] == {"kubernetes": {}}
    assert config["disable_mlock"] is True


@pytest.mark.parametrize("name", RAFT)
def test_raft_servers_fit_on_one_node(name: str) -> None:
    """The chart's default anti-affinity would leave two of three pods Pending there."""
    assert server(configurations.recording(name))["affinity"] == ""


@pytest.mark.parametrize("name", RAFT)
def test_no_raft_server_is_initialised_while_another_is_unreachable(name: str) -> None:
    recording = configurations.recording(name)
    servers = variables(steps(recording)["check"])["SERVERS"].split()
    assert len(servers) == server(recording)["ha"]["replicas"]
    assert servers[0] == variables(steps(recording)["check"])["VAULT_ADDR"]


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
    assert server_config(configurations.recording(name))["seal"] == stanza


def test_the_transit_token_comes_from_a_secret() -> None:
    recording = configurations.recording("vault-transit")
    variable = server(recording)["extraSecretEnvironmentVars"]
    assert variable == [
        {"envName": "VAULT_TOKEN", "secretName": "vault-seal", "secretKey": "token"}
    ]
    assert manifest(recording, "Secret", "vault-seal")["stringData"] == {"token": "t"}
    assert ("Secret", "vault-seal") in before(recording, "Chart", "vault")


def test_a_transit_seal_trusts_the_authority_of_the_other_vault() -> None:
    recording = configurations.recording("vault-transit-private")
    assert server_config(recording)["seal"]["transit"]["tls_ca_cert"] == "/vault/seal/ca.crt"
    assert set(manifest(recording, "Secret", "vault-seal")["stringData"]) == {"token", "ca.crt"}
    (volume,) = [item for item in server(recording)["volumes"] if item["name"] == "seal"]
    assert volume["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}], "not the token"
    mounts = {item["name"]: item["mountPath"] for item in server(recording)["volumeMounts"]}
    assert mounts["seal"] == "/vault/seal"


def test_a_transit_seal_without_an_authority_trusts_those_of_the_image() -> None:
    """Vault would take VAULT_CACERT before them, and verify no public certificate."""
    recording = configurations.recording("vault-transit")
    assert "VAULT_CACERT" not in server(recording)["extraEnvironmentVars"]
    assert not [item for item in server(recording)["volumes"] if item["name"] == "seal"]


def test_workload_identity_is_an_annotation_of_the_account() -> None:
    account = server(configurations.recording("vault-standalone-sealed"))["serviceAccount"]
    assert account["annotations"] == {"eks.amazonaws.com/role-arn": "arn"}


@pytest.mark.parametrize("name", ["defaults", *SEALED])
def test_azures_workload_identity_is_also_a_label_of_the_pods(name: str) -> None:
    labels = server(configurations.recording(name))["extraLabels"]
    expected = {"azure.workload.identity/use": "true"} if name == "vault-azurekeyvault" else {}
    assert labels == expected


def test_the_provider_ignores_its_surroundings(dev: Recording) -> None:
    """It would fall back to VAULT_ADDR, VAULT_SKIP_VERIFY and VAULT_TLS_SERVER_NAME."""
    inputs = manifest(dev, "vault", "vault")
    assert inputs["address"].startswith("https://127.0.0.1:")
    # A child token lives 20 minutes, less than an update may take.
    assert inputs["skipChildToken"] == "true"


def test_a_token_takes_the_place_of_the_programs_login() -> None:
    inputs = manifest(configurations.recording("vault-token"), "vault", "vault")
    assert inputs["token"] == "limited"
    assert "authLogin" not in inputs


def test_a_login_takes_the_place_of_the_programs_login() -> None:
    inputs = manifest(configurations.recording("vault-login"), "vault", "vault")
    assert "token" not in inputs
    assert json.loads(inputs["authLogin"]) == {
        "path": "auth/jwt/login",
        "method": "jwt",
        "parameters": {"role": "deploy", "jwt": "j"},
    }


@pytest.mark.parametrize("kind", ["oidc", "jwt"])
def test_people_get_a_policy_by_their_group(kind: str) -> None:
    recording = configurations.recording(f"vault-people-{kind}")
    backend = manifest(recording, "AuthBackend", "vault-people")
    assert (backend["type"], backend["path"]) == (kind, "people")
    for role, groups in (("viewer", "developers,support"), ("operator", "platform")):
        inputs = manifest(recording, "AuthBackendRole", f"vault-people-{role}")
        assert inputs["boundClaims"] == {"groups": groups}
        assert (inputs["roleName"], inputs["tokenPolicies"]) == (role, [role])
        assert inputs["roleType"] == kind
        assert inputs["tokenMaxTtl"] <= 8 * 3600


def test_a_key_is_written_as_vault_gives_it_back() -> None:
    """Vault drops a line break at the end, and every update would change the key again."""
    backend = manifest(configurations.recording("vault-people-jwt"), "AuthBackend", "vault-people")
    (key,) = backend["jwtValidationPubkeys"]
    assert key.endswith("-----END PUBLIC KEY-----")


def test_the_secret_of_the_identity_providers_client_stays_secret() -> None:
    recording = configurations.recording("vault-people-oidc")
    seen = False
    for item in recording.resources.values():
        for text, secret in strings(item.inputs):
            if "oidcsecret" in text:
                seen = True
                assert secret, item.name
    assert seen


def test_people_cannot_log_in_unless_it_is_set(dev: Recording) -> None:
    """The program may take the auth method away, so that the setting can go again; not make it."""
    assert not [item for item in inside(dev) if "people" in item.name]
    paths = program_policy(dev)
    assert set(paths["sys/auth/people"]) == {"read", "delete", "sudo"}
    assert not {"create", "update"} & {*paths["auth/people/config"], *paths["auth/people/role/*"]}


def test_the_program_makes_roles_for_people_of_two_names_only() -> None:
    paths = program_policy(configurations.recording("vault-people-jwt"))
    writable = {path for path, rights in paths.items() if "create" in rights}
    assert {path for path in writable if path.startswith("auth/people/role/")} == {
        "auth/people/role/viewer",
        "auth/people/role/operator",
    }


@pytest.mark.parametrize(("kind", "open_ports"), [("oidc", {8443}), ("jwt", set[int]())])
def test_vault_reaches_the_identity_provider(kind: str, open_ports: set[int]) -> None:
    recording = configurations.recording(f"vault-people-{kind}")
    policies = [
        item
        for item in recording.of_kind("NetworkPolicy")
        if item.inputs["metadata"]["name"] == "vault"
    ]
    ports: set[int] = set()
    for rule in plain(policies[0].inputs)["spec"]["egress"]:
        ports |= {port["port"] for port in rule["ports"]}
    assert ports & {8443} == open_ports


def test_a_direct_address_needs_no_forward() -> None:
    addresses, forwards = reached({"vault": {"address": "https://10.0.0.7:8200"}})
    assert addresses.vault == "https://10.0.0.7:8200"
    assert forwards == ["postgres/shlink-db-primary"]


@pytest.mark.parametrize(("mode", "active"), [("standalone", None), ("ha", "true")])
def test_the_forward_ends_in_the_pod_that_answers(
    mode: Literal["standalone", "ha"], active: str | None
) -> None:
    target = forward_target(mode=mode, release="other", namespace="elsewhere")
    assert target.pod_labels.get("vault-active") == active
    assert target.pod_labels["app.kubernetes.io/instance"] == "other"
    assert (target.namespace, target.port) == ("elsewhere", 8200)

"""External Secrets: a consumer reads only what is delivered to it, and waits for each change."""

import json
from typing import Any

import pytest

from components.cluster.waits import synced
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import REPRESENTATIVE, Later, before, manifest


def externals(recording: Recording) -> list[Any]:
    return [plain(resource.inputs) for resource in recording.of_kind("ExternalSecret")]


def stores(recording: Recording) -> list[Any]:
    """Every SecretStore, and there is at least one."""
    manifests = [plain(resource.inputs) for resource in recording.of_kind("SecretStore")]
    assert manifests
    return manifests


def values(recording: Recording) -> dict[str, Any]:
    """What is written to Vault, by path."""
    written: dict[str, Any] = {}
    for resource in recording.of_kind("SecretV2"):
        secret = plain(resource.inputs)
        written[secret["name"]] = json.loads(secret["dataJson"])
    return written


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_policy_reads_exactly_what_is_delivered(name: str) -> None:
    """One path for each delivery, and no wildcard."""
    recording = configurations.recording(name)
    policy = json.loads(manifest(recording, "Policy", "vault-backend-policy")["policy"])
    readable = {f"secret/data/{path}": {"capabilities": ["read"]} for path in values(recording)}
    assert policy == {"path": readable}
    assert not any("*" in path or "+" in path for path in policy["path"])


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_every_delivered_key_is_in_vault_where_it_is_looked_for(name: str) -> None:
    """And every key of Vault's secret is delivered."""
    recording = configurations.recording(name)
    written = values(recording)
    assert externals(recording)
    for external in externals(recording):
        entries = external["spec"]["data"]
        for entry in entries:
            source = entry["remoteRef"]
            assert written[source["key"]][source["property"]], external["metadata"]["name"]
        path = entries[0]["remoteRef"]["key"]
        assert {entry["secretKey"] for entry in entries} == set(written[path])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "defaults",
            {
                "postgres-credentials": (
                    "shlink-db-pguser-shlink",
                    "postgres/shlink",
                    {"user", "password"},
                ),
                "redis-credentials": ("shlink-redis", "redis/shlink", {"password"}),
                "shlink-api-key": ("shlink-api-key", "shlink/api-key", {"api-key"}),
            },
        ),
        (
            "redis-none",
            {
                "postgres-credentials": (
                    "shlink-db-pguser-shlink",
                    "postgres/shlink",
                    {"user", "password"},
                ),
                "shlink-api-key": ("shlink-api-key", "shlink/api-key", {"api-key"}),
            },
        ),
        (
            "app",
            {
                "postgres-credentials": (
                    "shlink-db-pguser-shlink",
                    "postgres/shlink",
                    {"user", "password"},
                ),
                "redis-credentials": ("shlink-redis", "redis/shlink", {"password"}),
                "shlink-api-key": ("shlink-api-key", "shlink/api-key", {"api-key"}),
                "shlink-geolite": ("shlink-geolite", "shlink/geolite", {"geolite-license-key"}),
                "shlink-environment": (
                    "shlink-environment",
                    "shlink/environment",
                    {"RABBITMQ_PASSWORD"},
                ),
            },
        ),
    ],
)
def test_what_is_delivered(name: str, expected: dict[str, tuple[str, str, set[str]]]) -> None:
    """By ExternalSecret: the Secret, the path in Vault and the keys."""
    deliveries: dict[str, tuple[str, str, set[str]]] = {}
    for external in externals(configurations.recording(name)):
        spec = external["spec"]
        path = spec["data"][0]["remoteRef"]["key"]
        keys = {entry["secretKey"] for entry in spec["data"]}
        deliveries[external["metadata"]["name"]] = (spec["target"]["name"], path, keys)
    assert deliveries == expected


def test_the_database_password_in_vault_is_the_one_in_the_database(dev: Recording) -> None:
    assert values(dev)["postgres/shlink"] == {
        "user": "shlink",
        "password": manifest(dev, "Secret", "shlink-db-pguser-shlink")["stringData"]["password"],
    }


def login(store: Any) -> Any:
    return store["spec"]["provider"]["vault"]["auth"]["kubernetes"]


def role_of(recording: Recording, store: Any) -> Any:
    """The role of Vault that a SecretStore logs in with."""
    roles = [plain(resource.inputs) for resource in recording.of_kind("AuthBackendRole")]
    (role,) = [role for role in roles if role["roleName"] == login(store)["role"]]
    return role


def test_each_store_asks_for_the_audience_that_its_role_demands(dev: Recording) -> None:
    for store in stores(dev):
        role = role_of(dev, store)
        assert role["audience"]
        assert login(store)["serviceAccountRef"]["audiences"] == [role["audience"]]
        assert login(store)["mountPath"] == role["backend"]


def test_each_role_is_for_the_account_of_its_store_with_one_policy(dev: Recording) -> None:
    """Its tokens are valid for an hour at most."""
    for store in stores(dev):
        role, account = role_of(dev, store), login(store)["serviceAccountRef"]["name"]
        assert role["boundServiceAccountNames"] == [account] == ["external-secrets-sa"]
        namespace = store["metadata"]["namespace"]
        assert role["boundServiceAccountNamespaces"] == [namespace] == ["shlink"]
        assert 0 < role["tokenTtl"] <= role["tokenMaxTtl"] <= 3600
    metadata = manifest(dev, "ServiceAccount", "vault-backend-account")["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("shlink", "external-secrets-sa")
    role = manifest(dev, "AuthBackendRole", "vault-backend-role")
    assert role["tokenPolicies"] == [manifest(dev, "Policy", "vault-backend-policy")["name"]]


def test_the_controller_gets_a_token_of_this_account_and_the_pods_none(dev: Recording) -> None:
    (rule,) = manifest(dev, "Role", "vault-backend-token")["rules"]
    assert rule["resources"] == ["serviceaccounts/token"]
    assert rule["resourceNames"] == ["external-secrets-sa"]
    assert rule["verbs"] == ["create"]
    account = manifest(dev, "ServiceAccount", "vault-backend-account")
    assert account["automountServiceAccountToken"] is False
    assert ("RoleBinding", "vault-backend-token") in before(dev, "SecretStore", "vault-backend")


def test_each_store_is_kv_2_at_vaults_address(dev: Recording) -> None:
    for store in stores(dev):
        vault = store["spec"]["provider"]["vault"]
        assert vault["path"] == manifest(dev, "Mount", "vault-kv")["path"]
        assert vault["version"] == "v2"
        assert vault["server"] == dev.outputs["vault_address"] == "https://vault.vault.svc:8200"


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_served_version_of_the_api(name: str) -> None:
    """The guide's v1beta1 is not served since External Secrets 0.17.0."""
    recording = configurations.recording(name)
    for resource in (*stores(recording), *externals(recording)):
        assert resource["apiVersion"] == "external-secrets.io/v1"


@pytest.mark.parametrize("name", ["defaults", "app", "redis-external"])
def test_a_delivered_secret_collides_with_no_operators(name: str) -> None:
    """PGO owns a Secret of the same name in its own namespace."""
    recording = configurations.recording(name)
    names = {store["metadata"]["name"] for store in stores(recording)}
    for external in externals(recording):
        assert external["metadata"]["namespace"] == "shlink"
        target, store = external["spec"]["target"], external["spec"]["secretStoreRef"]
        assert target["creationPolicy"] == "Owner"
        # A Vault that is away must not take Shlink's Secrets with it.
        assert target["deletionPolicy"] == "Retain"
        assert store == {"name": "vault-backend", "kind": "SecretStore"}
        assert store["name"] in names


def test_every_reference_is_pinned_to_the_version_that_was_written(later: Later) -> None:
    """So a Secret that holds an older version counts as not ready."""
    for external in later.recording.of_kind("ExternalSecret"):
        entries = plain(external.inputs)["spec"]["data"]
        assert entries
        for entry in entries:
            source = entry["remoteRef"]
            assert source["version"] == later.versions[source["key"]]
        assert later.recording.one("SecretV2", external.name).urn in external.depends_on


@pytest.mark.parametrize(
    ("kind", "consumer", "expected"),
    [
        (
            "Deployment",
            "shlink",
            {
                "postgres-credentials",
                "redis-credentials",
                "shlink-environment",
            },
        ),
        ("Deployment", "shlink-geolite", {"shlink-geolite"}),
        ("Job", "shlink-migration", {"postgres-credentials", "shlink-api-key"}),
    ],
)
def test_a_consumer_starts_when_its_secrets_hold_that_version(
    later: Later, kind: str, consumer: str, expected: set[str]
) -> None:
    """Before the consumer, not after the ExternalSecret: the next `up` repeats a failed one."""
    bound = later.recording.one(kind, consumer).hooks
    assert bound["before_create"] == bound["before_update"]
    awaited: set[str] = set()
    for hook in bound["before_create"]:
        for target in later.hooks[hook]:
            if target.resource == "externalsecrets.v1.external-secrets.io":
                assert target.namespace == "shlink"
                assert target.not_ready is synced
                awaited.add(str(target.name))
    assert awaited == expected
    earlier = before(later.recording, kind, consumer)
    assert {("ExternalSecret", f"vault-backend-{name}") for name in expected} <= earlier


def test_no_object_of_external_secrets_holds_a_value(dev: Recording) -> None:
    """They are readable by more people than Secrets are."""
    passwords: list[str] = []
    for secret in values(dev).values():
        passwords += [value for key, value in secret.items() if key != "user"]
    assert len(passwords) == 3
    text = str(externals(dev)) + str(stores(dev))
    assert [password for password in passwords if password in text] == []


def test_deliveries_do_not_wait_for_the_servers_whose_passwords_they_are(dev: Recording) -> None:
    """So Vault has each password before a consumer or a server needs it."""
    for delivery in dev.of_kind("SecretV2"):
        kinds = {kind for kind, _ in before(dev, "SecretV2", delivery.name)}
        assert not {"PostgresCluster", "RedisFailover", "Grant"} & kinds, delivery.name

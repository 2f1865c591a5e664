"""External Secrets: a consumer reads only what is delivered to it, and waits for each change."""

import json
from typing import Any

import pytest

from components.waits import synced
from offline.record import Recording, object_name, plain
from tests import configurations
from tests.conftest import REPRESENTATIVE, Later, before, manifest


def externals(recording: Recording) -> list[Any]:
    return [plain(one.inputs) for one in recording.of_kind("ExternalSecret")]


def values(recording: Recording) -> dict[str, Any]:
    """What is written to Vault, by path."""
    return {
        one["name"]: json.loads(one["dataJson"])
        for one in (plain(found.inputs) for found in recording.of_kind("SecretV2"))
    }


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_policy_reads_exactly_what_is_delivered(name: str) -> None:
    recording = configurations.recording(name)
    policy = json.loads(manifest(recording, "Policy", "vault-backend-policy")["policy"])
    assert policy == {
        "path": {f"secret/data/{path}": {"capabilities": ["read"]} for path in values(recording)}
    }
    assert not any("*" in path or "+" in path for path in policy["path"])


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_every_delivered_key_is_in_vault_where_it_is_looked_for(name: str) -> None:
    recording = configurations.recording(name)
    written = values(recording)
    assert externals(recording)
    for one in externals(recording):
        for item in one["spec"]["data"]:
            reference = item["remoteRef"]
            assert written[reference["key"]][reference["property"]], one["metadata"]["name"]
        assert {item["secretKey"] for item in one["spec"]["data"]} == set(
            written[one["spec"]["data"][0]["remoteRef"]["key"]]
        )


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
    found = {
        one["metadata"]["name"]: (
            one["spec"]["target"]["name"],
            one["spec"]["data"][0]["remoteRef"]["key"],
            {item["secretKey"] for item in one["spec"]["data"]},
        )
        for one in externals(configurations.recording(name))
    }
    assert found == expected


def test_the_database_password_in_vault_is_the_one_in_the_database(dev: Recording) -> None:
    given = values(dev)["postgres/shlink"]
    assert given == {
        "user": "shlink",
        "password": manifest(dev, "Secret", "shlink-db-pguser-shlink")["stringData"]["password"],
    }


def test_one_audience_is_asked_for_and_demanded(dev: Recording) -> None:
    store = manifest(dev, "SecretStore", "vault-backend")
    role = manifest(dev, "AuthBackendRole", "vault-backend-role")
    auth = store["spec"]["provider"]["vault"]["auth"]["kubernetes"]
    assert auth["serviceAccountRef"]["audiences"] == [role["audience"]]
    assert role["audience"]
    assert (auth["role"], auth["mountPath"]) == (role["roleName"], role["backend"])


def test_the_role_is_one_accounts_with_one_policy_for_minutes(dev: Recording) -> None:
    role = manifest(dev, "AuthBackendRole", "vault-backend-role")
    store = manifest(dev, "SecretStore", "vault-backend")
    account = manifest(dev, "ServiceAccount", "vault-backend-account")["metadata"]
    reference = store["spec"]["provider"]["vault"]["auth"]["kubernetes"]["serviceAccountRef"]
    assert (
        role["boundServiceAccountNames"]
        == [account["name"]]
        == [reference["name"]]
        == ["external-secrets-sa"]
    )
    assert (
        role["boundServiceAccountNamespaces"]
        == [account["namespace"]]
        == [store["metadata"]["namespace"]]
        == ["shlink"]
    )
    assert role["tokenPolicies"] == [manifest(dev, "Policy", "vault-backend-policy")["name"]]
    assert 0 < role["tokenTtl"] <= role["tokenMaxTtl"] <= 3600


def test_the_controller_gets_a_token_of_this_account_and_the_pods_none(dev: Recording) -> None:
    rules = manifest(dev, "Role", "vault-backend-token")["rules"]
    assert [(one["resources"], one["resourceNames"], one["verbs"]) for one in rules] == [
        (["serviceaccounts/token"], ["external-secrets-sa"], ["create"])
    ]
    assert (
        manifest(dev, "ServiceAccount", "vault-backend-account")["automountServiceAccountToken"]
        is False
    )
    assert ("RoleBinding", "vault-backend-token") in before(dev, "SecretStore", "vault-backend")


def test_the_store_is_kv_2_at_vaults_address(dev: Recording) -> None:
    vault = manifest(dev, "SecretStore", "vault-backend")["spec"]["provider"]["vault"]
    assert (vault["path"], vault["version"]) == (manifest(dev, "Mount", "vault-kv")["path"], "v2")
    assert vault["server"] == dev.outputs["vault_address"] == "https://vault.vault.svc:8200"


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_served_version_of_the_api(name: str) -> None:
    # v1beta1, the guide's, is not served since External Secrets 0.17.0.
    recording = configurations.recording(name)
    found = {
        one.inputs["apiVersion"]
        for kind in ("SecretStore", "ExternalSecret")
        for one in recording.of_kind(kind)
    }
    assert found == {"external-secrets.io/v1"}


@pytest.mark.parametrize("name", ["defaults", "app", "redis-external"])
def test_a_made_secret_collides_with_no_operators(name: str) -> None:
    for one in externals(configurations.recording(name)):
        assert (
            one["metadata"]["namespace"] == "shlink"
        )  # PGO owns a Secret of the same name in its own namespace
        assert one["spec"]["target"]["creationPolicy"] == "Owner"
        # A Vault that is away must not take Shlink's Secrets with it.
        assert one["spec"]["target"]["deletionPolicy"] == "Retain"
        assert one["spec"]["secretStoreRef"] == {"name": "vault-backend", "kind": "SecretStore"}


def test_every_reference_is_pinned_to_the_version_that_was_written(later: Later) -> None:
    for one in later.recording.of_kind("ExternalSecret"):
        references = [item["remoteRef"] for item in plain(one.inputs)["spec"]["data"]]
        assert references
        assert {later.versions[found["key"]] for found in references} == {
            found["version"] for found in references
        }
        assert later.recording.one("SecretV2", one.name).urn in one.depends_on


@pytest.mark.parametrize(
    ("kind", "consumer", "expected"),
    [
        (
            "Deployment",
            "shlink",
            {
                "postgres-credentials",
                "redis-credentials",
                "shlink-geolite",
                "shlink-environment",
            },
        ),
        ("Job", "shlink-migration", {"postgres-credentials", "shlink-api-key"}),
    ],
)
def test_a_consumer_starts_when_its_secrets_hold_that_version(
    later: Later, kind: str, consumer: str, expected: set[str]
) -> None:
    """Before the consumer, not after the ExternalSecret: the next `up` repeats a failed one."""
    bound = later.recording.one(kind, consumer).hooks
    assert bound["before_create"] == bound["before_update"]
    resource = "externalsecrets.external-secrets.io"
    awaited = [
        target
        for hook in bound["before_create"]
        for target in later.hooks[hook]
        if target.resource == resource
    ]
    assert {(target.namespace, target.name) for target in awaited} == {
        ("shlink", name) for name in expected
    }
    assert all(target.not_ready is synced for target in awaited)
    assert {("ExternalSecret", f"vault-backend-{name}") for name in expected} <= before(
        later.recording, kind, consumer
    )


def test_no_object_of_external_secrets_holds_a_value(dev: Recording) -> None:
    passwords = [
        value for written in values(dev).values() for key, value in written.items() if key != "user"
    ]
    text = str(externals(dev)) + str(manifest(dev, "SecretStore", "vault-backend"))
    assert [value for value in passwords if value in text] == []
    assert len(passwords) == 3


def test_deliveries_do_not_wait_for_the_servers_whose_passwords_they_are(dev: Recording) -> None:
    for one in dev.of_kind("SecretV2"):
        waited = {kind for kind, _ in before(dev, "SecretV2", one.name)}
        assert not {"PostgresCluster", "RedisFailover", "Grant"} & waited, (
            object_name(one) or one.name
        )

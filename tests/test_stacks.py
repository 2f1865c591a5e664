"""The environments: prod differs from dev in sizes, replicas and protections.

Prod can't be used before its placeholders are set.
"""

import re

import pytest

from components.settings.environment import Settings, parse
from offline import stacks
from offline.record import ROOT, Recording, object_name, record

PROD = (ROOT / "Pulumi.prod.yaml").read_text()


@pytest.fixture(scope="module")
def prod() -> Recording:
    return record("prod", *stacks.configuration(ROOT, "prod"))


def settings(stack: str) -> Settings:
    return parse(*stacks.configuration(ROOT, stack))[1]


def test_prod_has_the_same_topology(prod: Recording) -> None:
    """Dev has no route, and prod's Vault does not read its own keys: a key service unseals it."""

    def resources(recording: Recording) -> set[tuple[str, str]]:
        recorded = recording.resources.values()
        return {(resource.kind, object_name(resource) or resource.name) for resource in recorded}

    dev = record("dev", *stacks.configuration(ROOT, "dev"))
    unseals = {("Role", "vault-unseal-keys"), ("RoleBinding", "vault-unseal-keys")}
    assert resources(dev) - resources(prod) == unseals
    assert resources(prod) - resources(dev) == {("HTTPRoute", "shlink")}


def test_prod_protects_what_holds_data(prod: Recording) -> None:
    for kind, name in (
        ("PostgresCluster", "shlink-db"),
        ("RedisFailover", "shlink-redis"),
        ("Secret", "vault-unseal-keys"),
        ("Namespace", "vault"),
    ):
        (resource,) = [each for each in prod.of_kind(kind) if object_name(each) == name]
        assert resource.protect is True, name


def test_prod_survives_the_loss_of_a_pod() -> None:
    prod = settings("prod")
    assert prod.vault.mode == "ha"
    assert prod.vault.seal is not None
    assert prod.postgres.instances >= 3
    assert prod.shlink.replicas >= 3
    assert prod.shlink.https


def test_prod_stops_before_it_touches_a_cluster_while_something_is_not_set() -> None:
    placeholders = re.findall(r"CHANGE-ME\S*", PROD)
    assert placeholders
    assert parse(*stacks.configuration(ROOT, "prod"))[0].context.startswith("CHANGE-ME")


def test_one_message_lists_all_that_is_to_be_changed_in_prod(prod: Recording) -> None:
    (message,) = [text for text in prod.messages if "CHANGE-ME" in text]
    for key in (
        "kubernetes:context",
        "shlink:app.domain",
        "shlink:app.route.name",
        "shlink:app.route.namespace",
        "shlink:app.route.controllerNamespace",
        "shlink:vault.seal.kmsKeyId",
        "shlink:vault.serviceAccountAnnotations.eks",
    ):
        assert key in message


def test_no_secret_is_written_in_a_stack_file() -> None:
    for stack in stacks.names(ROOT):
        text = (ROOT / f"Pulumi.{stack}.yaml").read_text()
        live = re.sub(r"#.*", "", text)
        assert (
            re.findall(
                r"(?i)(?:password|token|secret|licen[cs]eKey|keySecret): *[\"']?[A-Za-z0-9+/]{12,}",
                live,
            )
            == []
        ), stack

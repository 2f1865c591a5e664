"""The program as a whole: its order, its one cluster, and what it does not do."""

from typing import Any, cast
from unittest import mock

import pytest
from pulumi.runtime.mocks import MockMonitor

from components.settings import SettingsError
from offline.record import Recorded, Recording, record
from tests import configurations
from tests.conftest import REPRESENTATIVE, before, configuration, manifest, reached

LAYERS = {
    "vault": "shlink:vault:Vault",
    "postgres": "shlink:postgres:Postgres",
    "redis": "shlink:redis:Redis",
}


def layer(recording: Recording, kind: str) -> set[str]:
    """The URNs of a component and its children, without random values: those are there at once."""
    return {
        urn
        for urn, one in recording.resources.items()
        if kind in urn and not one.type.startswith(("random:", "tls:"))
    }


@pytest.mark.parametrize("name", ["stack dev", "stack prod", "redis-rotated"])
@pytest.mark.parametrize(("one", "other"), [(a, b) for a in LAYERS for b in LAYERS if a != b])
def test_vault_postgres_and_redis_never_wait_for_one_another(
    name: str, one: str, other: str
) -> None:
    recording = configurations.recording(name)
    mine, others = layer(recording, LAYERS[one]), layer(recording, LAYERS[other])
    assert len(mine) > 3
    for urn in mine:
        assert recording.waits_for(recording.resources[urn]) & others == set(), urn


def test_operators_never_wait_for_one_another(dev: Recording) -> None:
    releases = {("Release", one.name) for one in dev.of_kind("Release")}
    assert len(releases) == 3
    for kind, name in releases:
        assert before(dev, kind, name) & releases == set()


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_shlink_waits_for_every_layer(name: str) -> None:
    recording = configurations.recording(name)
    waited = {kind for kind, _ in before(recording, "Deployment", "shlink")}
    assert {
        "PostgresCluster",
        "Grant",
        "Chart",
        "SecretStore",
        "ExternalSecret",
        "SecretV2",
        "Policy",
    } <= waited
    assert bool(recording.of_kind("RedisFailover")) is ("RedisFailover" in waited)


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_everything_goes_to_the_named_cluster(name: str) -> None:
    recording = configurations.recording(name)
    (provider,) = [
        one for one in recording.resources.values() if one.type == "pulumi:providers:kubernetes"
    ]
    objects = [
        one
        for one in recording.resources.values()
        if one.custom and one.type.startswith("kubernetes:")
    ]
    assert len(objects) >= 30
    assert {one.provider.rpartition("::")[0] for one in objects} == {provider.urn}
    # Else the current context of the kubeconfig decides what is replaced.
    assert provider.inputs["context"] == provider.inputs["clusterIdentifier"]


def test_nothing_is_read_and_the_provider_is_what_the_stack_says() -> None:
    given = {
        "kubernetes:context": "c",
        "kubernetes:kubeconfig": "/k",
        "kubernetes:clusterIdentifier": "i",
    }
    # The recorder itself refuses functions of providers (`get_secret` and the like). Everything optional is on.
    settings = {
        key: value for name in _OPTIONAL for key, value in configurations.SWITCHES[name].items()
    }
    with mock.patch.object(
        MockMonitor, "ReadResource", side_effect=AssertionError("the program reads")
    ) as read:
        recording = record("test", {**configuration(settings), **given})
    # A preview would need the right to read, and a lost Secret would stop every run.
    assert not read.called
    found = manifest(recording, "kubernetes", "cluster")
    assert (found["context"], found["kubeconfig"], found["clusterIdentifier"]) == ("c", "/k", "i")
    # A changed value changes its Secret in place, under the name that its product knows.
    assert found["enableSecretMutable"] == found["enableConfigMapMutable"] == "true"


_OPTIONAL = ("redis-rotated", "backups-s3", "vault-transit", "app")


def test_every_stack_and_project_has_ports_of_its_own() -> None:
    ports: set[Any] = set()
    for project, stack in (("shlink", "dev"), ("shlink", "prod"), ("links", "dev")):
        found, forwards = reached({}, project, stack)
        assert found == reached({}, project, stack)[0], "a provider's inputs must not change"
        assert sorted(forwards) == ["postgres/shlink-db-primary", "vault/vault"]
        ports |= {found.vault, f"http://127.0.0.1:{found.postgres_port}"}
    assert len(ports) == 6


def test_a_port_that_is_set_is_the_port() -> None:
    found, _ = reached({"vault": {"localPort": 18200}, "postgres": {"localPort": 15432}})
    assert (found.vault, found.postgres_host, found.postgres_port) == (
        "https://127.0.0.1:18200",
        "127.0.0.1",
        15432,
    )


PROTECTED = {
    "Namespace": 5,
    "PostgresCluster": 1,
    "RedisFailover": 1,
    "Secret": 1,  # the unseal keys
    "Mount": 1,
}


def test_protect_covers_what_holds_data() -> None:
    recording = configurations.recording("mirror")
    found = [one for one in recording.resources.values() if one.protect]
    assert {
        kind: sum(one.kind == kind for one in found) for kind in {one.kind for one in found}
    } == PROTECTED
    assert "vault-unseal-keys" in {one.name for one in found}


def test_nothing_is_protected_unless_it_is_said(dev: Recording) -> None:
    assert [one.name for one in dev.resources.values() if one.protect] == []


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_components_have_their_children_and_names_begin_with_theirs(name: str) -> None:
    recording = configurations.recording(name)
    components = {
        urn: one for urn, one in recording.resources.items() if one.type.startswith("shlink:")
    }
    assert {one.type.count(":") for one in components.values()} == {2}
    for urn, one in components.items():
        children: list[Recorded] = list(recording.children(urn))
        assert children, one.name
        assert [child.name for child in children if not child.name.startswith(one.name)] == [], (
            one.name
        )


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_program_warns_of_nothing_but_an_open_api_server(name: str) -> None:
    for message in configurations.recording(name).messages:
        assert "shlink:network.apiServer" in message


def test_a_faulty_configuration_registers_nothing() -> None:
    register: Any = cast("Any", MockMonitor).RegisterResource
    with (
        mock.patch.object(
            MockMonitor, "RegisterResource", autospec=True, side_effect=register
        ) as registered,
        pytest.raises(SettingsError, match=r"shlink:app\.replicas: -1"),
    ):
        record("test", configuration({"app": {"replicas": -1}}))
    assert [call.args[1].type for call in registered.call_args_list] == ["pulumi:pulumi:Stack"]

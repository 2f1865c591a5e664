"""The program as a whole: its order, its one cluster, and what it does not do."""

from collections import Counter
from itertools import permutations
from typing import Any, cast
from unittest import mock

import pytest
from pulumi.runtime.mocks import MockMonitor

from components.settings.reading import SettingsError
from offline.record import Recording, Secret, record
from tests import configurations
from tests.conftest import REPRESENTATIVE, before, configuration, manifest, reached

LAYERS = {
    "vault": "shlink:vault:Vault",
    "postgres": "shlink:postgres:Postgres",
    "redis": "shlink:redis:Redis",
}


def layer(recording: Recording, kind: str) -> set[str]:
    """The URNs of a component and its children.

    Without random values, which exist at once, and without what ends a rotation of Redis after
    Shlink.
    """
    return {
        urn
        for urn, resource in recording.resources.items()
        if kind in urn
        and not resource.type.startswith(("random:", "tls:"))
        and resource.kind != "RedisFailoverPatch"
    }


@pytest.mark.parametrize("name", ["stack dev", "stack prod", "redis-rotated"])
@pytest.mark.parametrize(("first", "second"), list(permutations(LAYERS, 2)))
def test_vault_postgres_and_redis_never_wait_for_one_another(
    name: str, first: str, second: str
) -> None:
    recording = configurations.recording(name)
    resources = layer(recording, LAYERS[first])
    assert len(resources) > 3
    for urn in resources:
        earlier = recording.waits_for(recording.resources[urn])
        assert earlier & layer(recording, LAYERS[second]) == set(), urn


def test_operators_never_wait_for_one_another(dev: Recording) -> None:
    releases = {("Release", release.name) for release in dev.of_kind("Release")}
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
    resources = recording.resources.values()
    (provider,) = [each for each in resources if each.type == "pulumi:providers:kubernetes"]
    objects = [each for each in resources if each.custom and each.type.startswith("kubernetes:")]
    assert len(objects) >= 30
    assert {each.provider.rpartition("::")[0] for each in objects} == {provider.urn}
    # Otherwise the current context of the kubeconfig decides what is replaced.
    assert provider.inputs["context"] == provider.inputs["clusterIdentifier"]


def test_nothing_is_read_and_the_provider_is_what_the_stack_says() -> None:
    cluster = {
        "kubernetes:context": "c",
        "kubernetes:kubeconfig": "/k",
        "kubernetes:clusterIdentifier": "i",
    }
    # The recorder itself refuses functions of providers (`get_secret` and the like).
    settings: dict[str, Any] = {}
    for name in ("redis-rotated", "backups-s3", "vault-transit", "app"):
        settings.update(configurations.SWITCHES[name])
    with mock.patch.object(
        MockMonitor, "ReadResource", side_effect=AssertionError("the program reads")
    ) as read:
        recording = record("test", {**configuration(settings), **cluster})
    # A preview would need the right to read, and a lost Secret would stop every run.
    assert not read.called
    provider = manifest(recording, "kubernetes", "cluster")
    assert (provider["context"], provider["kubeconfig"]) == ("c", "/k")
    assert provider["clusterIdentifier"] == "i"
    # A changed value changes its Secret in place, under the name that its product knows.
    assert provider["enableSecretMutable"] == provider["enableConfigMapMutable"] == "true"


def test_every_stack_and_project_has_ports_of_its_own() -> None:
    ports: set[Any] = set()
    for project, stack in (("shlink", "dev"), ("shlink", "prod"), ("links", "dev")):
        servers, forwards = reached({}, project, stack)
        assert servers == reached({}, project, stack)[0], "a provider's inputs must not change"
        assert sorted(forwards) == ["postgres/shlink-db-primary", "vault/vault"]
        ports |= {servers.vault, f"http://127.0.0.1:{servers.postgres_port}"}
    assert len(ports) == 6


def test_a_port_that_is_set_is_the_port() -> None:
    servers, _ = reached({"vault": {"localPort": 18200}, "postgres": {"localPort": 15432}})
    assert servers.vault == "https://127.0.0.1:18200"
    assert (servers.postgres_host, servers.postgres_port) == ("127.0.0.1", 15432)


PROTECTED = {
    "Namespace": 5,
    "PostgresCluster": 1,
    "RedisFailover": 1,
    "Secret": 1,  # the unseal keys
    "Mount": 1,
}


def test_protect_covers_what_holds_data() -> None:
    recording = configurations.recording("mirror")
    protected = [resource for resource in recording.resources.values() if resource.protect]
    assert Counter(resource.kind for resource in protected) == PROTECTED
    assert "vault-unseal-keys" in {resource.name for resource in protected}


def test_nothing_is_protected_by_default(dev: Recording) -> None:
    assert [resource.name for resource in dev.resources.values() if resource.protect] == []


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_components_have_their_children_and_names_begin_with_theirs(name: str) -> None:
    recording = configurations.recording(name)
    resources = recording.resources.values()
    components = [resource for resource in resources if resource.type.startswith("shlink:")]
    assert {component.type.count(":") for component in components} == {2}
    for component in components:
        children = [child.name for child in recording.children(component.urn)]
        assert children, component.name
        assert all(name.startswith(component.name) for name in children), component.name


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_program_warns_of_nothing_but_an_open_api_server(name: str) -> None:
    for message in configurations.recording(name).messages:
        expected = ("shlink:network.apiServer", "is a secret, and is in plain", "CHANGE-ME")
        assert any(text in message for text in expected)


def test_no_object_has_an_empty_map_of_labels_or_annotations() -> None:
    """The API server keeps none, so that each update would change a custom resource anew."""
    for name, thing in configurations.objects():
        metadata = thing["metadata"]
        for key in ("labels", "annotations"):
            assert metadata.get(key) != {}, (name, thing["kind"], metadata["name"], key)


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


@pytest.mark.parametrize(
    ("provider", "name", "key"),
    [("vault", "vault", "address"), ("postgresql", "shlink-db", "host")],
)
def test_an_address_that_the_stack_encrypts_stays_secret(
    provider: str, name: str, key: str
) -> None:
    resource = configurations.recording("direct").one(provider, name)
    assert isinstance(resource.inputs[key], Secret)

"""The outputs are a contract with other stacks: names and types are written down here once more."""

from dataclasses import asdict, fields
from typing import Any, get_type_hints

import pulumi
import pytest

from components.outputs import Outputs, OutputsError, SecretKey, export, parse
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import REPRESENTATIVE

PROMISED = {
    "internal_url": str,
    "external_url": str,
    "api_key": SecretKey,
    "vault_address": str,
    "vault_mount": str,
    "vault_auth_path": str,
    "database_host": str,
    "database_port": int,
    "database_name": str,
    "database_backups": dict[str, str],
    "redis_host": str | None,
    "redis_port": int | None,
    "redis_sentinel_service": str | None,
    "versions": dict[str, str],
}


@pytest.fixture
def outputs(dev: Recording) -> dict[str, Any]:
    return plain(dev.outputs)


def test_names_and_types_are_as_promised() -> None:
    assert get_type_hints(Outputs) == PROMISED
    assert get_type_hints(SecretKey) == {"namespace": str, "secret": str, "key": str}


def test_what_is_exported_is_read_again(outputs: dict[str, Any]) -> None:
    """An output that the reader does not know is ignored."""
    assert set(outputs) == set(PROMISED)
    read = parse(outputs)
    assert asdict(read) == outputs
    assert parse({**outputs, "another": 1}) == read


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_every_environment_keeps_the_promise(name: str) -> None:
    read = parse(plain(configurations.recording(name).outputs))
    assert read.api_key == SecretKey("shlink", "shlink-api-key", "api-key")
    expected = {
        "redis-none": (False, False),
        **dict.fromkeys(("redis-external", "redis-external-open", "redis-cluster"), (True, False)),
    }
    # Pulumi leaves out an output that is None; whoever reads it gets the None back.
    assert (read.redis_host is not None, read.redis_sentinel_service is not None) == expected.get(
        name, (True, True)
    )
    assert (read.redis_host is None) is (read.redis_port is None)


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Outputs) if not field.name.startswith("redis")]
)
def test_a_missing_output_is_named(outputs: dict[str, Any], name: str) -> None:
    del outputs[name]
    message = rf"stack a/b/c does not have .*\n  {name}: is missing\n"
    with pytest.raises(OutputsError, match=message):
        parse(outputs, "stack a/b/c")


@pytest.mark.parametrize(
    ("name", "value"),
    [("database_port", "many"), ("internal_url", 1), ("versions", []), ("api_key", "key")],
)
def test_an_output_of_another_type_is_named(outputs: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(OutputsError, match=rf"\n  {name}\S*: is (of another type|missing)"):
        parse({**outputs, name: value})


def test_a_mistyped_optional_output_is_not_taken_for_none(outputs: dict[str, Any]) -> None:
    outputs["redis_hots"] = outputs.pop("redis_host")
    with pytest.raises(OutputsError, match="redis_host: is missing, and there is `redis_hots`"):
        parse(outputs)


def test_the_program_exports_the_contract_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an output too many or too few it exports nothing."""
    exported: dict[str, Any] = {}
    monkeypatch.setattr(pulumi, "export", exported.__setitem__)
    outputs = dict.fromkeys(PROMISED, "x")
    wrong = {**outputs, "surplus": "x"}
    del wrong["redis_host"]
    with pytest.raises(ValueError, match="differ from the contract: redis_host, surplus"):
        export(wrong)
    assert exported == {}
    export(outputs)
    assert exported == outputs


def test_no_output_is_secret(dev: Recording) -> None:
    assert plain(dev.outputs) == dev.outputs


@pytest.mark.parametrize(
    ("name", "internal", "external"),
    [
        ("defaults", "http://shlink.shlink.svc:8080", "http://localhost:8080"),
        ("ingress", "http://shlink.shlink.svc:8080/s", "https://s.example.org/s"),
        ("gateway", "http://shlink.shlink.svc:8080", "https://s.example.org"),
    ],
)
def test_where_shlink_answers(name: str, internal: str, external: str) -> None:
    outputs = configurations.recording(name).outputs
    assert (outputs["internal_url"], outputs["external_url"]) == (internal, external)


def test_outputs_name_what_the_objects_are(outputs: dict[str, Any], dev: Recording) -> None:
    target = dev.one("ExternalSecret", "shlink-api-key").inputs
    assert outputs["api_key"] == {
        "namespace": target["metadata"]["namespace"],
        "secret": target["spec"]["target"]["name"],
        "key": target["spec"]["data"][0]["secretKey"],
    }
    assert (outputs["redis_port"], outputs["redis_sentinel_service"]) == (26379, "mymaster")
    assert outputs["vault_mount"] == dev.one("Mount", "vault-kv").inputs["path"]

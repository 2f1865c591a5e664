"""The policy pack, asked as Pulumi's engine asks it: over its own protocol, in its own process."""

import os
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2, struct_pb2
from pulumi.runtime.proto import analyzer_pb2 as protocol
from pulumi.runtime.proto import analyzer_pb2_grpc

from offline.record import ROOT

PYTHON = ROOT / "policy" / ".venv" / "bin" / "python"
SIGNATURE = "4dabf18193072939515e22adb298388d"
SECRET = "1b47061264138c4ac30d75fd1eb44270"
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
PASSWORD = "hunter2hunter2"

Ask = Callable[..., list[tuple[str, str]]]


def marked(value: str) -> dict[str, str]:
    """A secret as the engine sends it."""
    return {SIGNATURE: SECRET, "value": value}


def properties(values: dict[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)
    return struct


@pytest.fixture(scope="module")
def pack() -> Iterator[Any]:
    """A connection to the pack, started as the engine's language host starts it."""
    if not PYTHON.exists():
        pytest.skip("make setup makes policy/.venv")
    command = [str(PYTHON), "-u", "-m", "pulumi.policy", "127.0.0.1:1", str(ROOT / "policy")]
    with subprocess.Popen(  # noqa: S603 -- our words
        command,
        cwd=ROOT / "policy",
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield analyzer_pb2_grpc.AnalyzerStub(channel)
        process.terminate()


@pytest.fixture
def ask(pack: Any) -> Ask:
    """What the pack says of one resource: the names of the broken rules, with their messages."""

    def answer(kind: str, values: dict[str, Any], provider: str = "cluster") -> Any:
        request = protocol.AnalyzeRequest(
            type=kind,
            name="it",
            urn=f"urn:pulumi:dev::shlink::{kind}::it",
            properties=properties(values),
            provider=protocol.AnalyzerProviderResource(name=provider),
        )
        return [(item.policyName, item.message) for item in pack.Analyze(request).diagnostics]

    return answer


def names(diagnostics: list[tuple[str, str]]) -> list[str]:
    return [name for name, _ in diagnostics]


def test_a_secret_in_a_config_map_is_refused(ask: Ask) -> None:
    for value in (PASSWORD, UNKNOWN):
        ((name, message),) = ask("kubernetes:core/v1:ConfigMap", {"data": {"a": marked(value)}})
        assert name == "no-secret-in-clear"
        assert "data.a holds a secret" in message
        assert PASSWORD not in message


def test_a_secret_in_a_variable_of_a_pod_is_refused(ask: Ask) -> None:
    container = {"name": "c", "image": "redis:7.2.11", "env": [{"name": "A", "value": marked("x")}]}
    spec = {"template": {"spec": {"containers": [container]}}}
    broken = ask("kubernetes:apps/v1:Deployment", {"spec": spec})
    assert {"no-secret-in-clear", "restricted"} == set(names(broken))


def test_a_secret_in_a_secret_is_as_it_should_be(ask: Ask) -> None:
    assert ask("kubernetes:core/v1:Secret", {"stringData": marked("x")}) == []
    assert ask("vault:kv/secretV2:SecretV2", {"dataJson": marked("{}")}) == []


def test_what_is_not_known_yet_breaks_no_rule(ask: Ask) -> None:
    assert ask("kubernetes:core/v1:ConfigMap", {"data": UNKNOWN}) == []
    spec = {"template": {"spec": {"containers": UNKNOWN}}}
    assert ask("kubernetes:apps/v1:Deployment", {"spec": spec}) == []


def test_a_resource_without_a_provider_of_the_program_is_refused(ask: Ask) -> None:
    broken = ask("kubernetes:core/v1:ConfigMap", {}, provider="default_4_34_2")
    assert names(broken) == ["explicit-provider"]


def test_a_generated_password_that_lost_its_mark_is_refused(pack: Any) -> None:
    resources = [
        ("random:index/randomPassword:RandomPassword", "redis", {"result": marked(PASSWORD)}),
        ("kubernetes:core/v1:Secret", "auth", {"data": {"password": marked(PASSWORD)}}),
        ("kubernetes:core/v1:ConfigMap", "conf", {"data": {"a": f"requirepass {PASSWORD}"}}),
    ]
    request = protocol.AnalyzeStackRequest()
    for kind, name, values in resources:
        request.resources.add(type=kind, name=name, urn=name, properties=properties(values))
    (violation,) = pack.AnalyzeStack(request).diagnostics
    assert violation.policyName == "no-generated-value-in-clear"
    assert "conf: holds redis.result in clear" in violation.message
    assert PASSWORD not in violation.message


def test_every_rule_is_mandatory(pack: Any) -> None:
    policies = pack.GetAnalyzerInfo(empty_pb2.Empty()).policies
    assert len(policies) == 6
    assert {policy.enforcementLevel for policy in policies} == {protocol.MANDATORY}


def test_the_pack_is_made_for_the_engine_of_the_project() -> None:
    """Both lock files name one version of Pulumi's SDK."""
    versions = [_locked(ROOT / "uv.lock"), _locked(ROOT / "policy" / "uv.lock")]
    assert versions[0] == versions[1]


def _locked(path: Path) -> str:
    packages = tomllib.loads(path.read_text())["package"]
    return next(item["version"] for item in packages if item["name"] == "pulumi")


def test_make_hands_the_pack_to_the_engine() -> None:
    """By a variable that the engine reads as `--policy-pack` of each command that knows it."""
    show = "show-pack: ; @echo $$PULUMI_OPTION_POLICY_PACK"
    command = ["make", "-s", "-C", str(ROOT), "--eval", show, "show-pack", "TARGETS=show-pack"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == str(ROOT / "policy")

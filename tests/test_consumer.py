"""The example of another stack runs on our outputs, and notices a missing or changed one."""

# ruff: noqa: S603 -- a command of the test itself
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any, cast

import pytest
import yaml
from pulumi.runtime import mocks

from components.outputs import Outputs, parse
from offline import stacks
from offline.record import ROOT, plain, record
from offline.record import run as record_run
from tests.conftest import Program
from tests.flow_table import NAMESPACE_LABELS
from tests.netpol import End, allowed
from tests.test_network import SHLINK_POD, policies_of

FOLDER = ROOT / "examples" / "consumer"
CONFIGURATION = {
    "kubernetes:context": "kind-shlink",
    "shlink-release-links:shlink": "organization/shlink/dev",
    "shlink-release-links:release": "1.4.2",
    "shlink-release-links:notes": "https://example.com/notes/1.4.2",
}


class Provider(mocks.Mocks):
    """Answers the reference with these outputs, and keeps what the program registers."""

    def __init__(self, outputs: Mapping[str, Any]) -> None:
        self.outputs = outputs
        self.resources: dict[str, dict[str, Any]] = {}
        self.references: list[str] = []

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        inputs = cast("dict[str, Any]", args.inputs)  # pyright: ignore[reportUnknownMemberType] -- untyped in the SDK
        if args.typ == "pulumi:pulumi:StackReference":
            self.references.append(str(inputs["name"]))
            return args.name, {
                "name": args.name,
                "outputs": dict(self.outputs),
                "secretOutputNames": [],
            }
        self.resources[f"{args.typ.rpartition(':')[2]} {args.name}"] = inputs
        return f"{args.name}-id", inputs

    def call(self, args: mocks.MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise NotImplementedError(args.token)


@pytest.fixture(scope="module")
def promised() -> dict[str, Any]:
    """What the dev stack really exports."""
    return cast("dict[str, Any]", plain(record("dev", *stacks.configuration(ROOT, "dev")).outputs))


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs the example with these outputs of the stack it refers to."""
    # Pulumi puts a program's folder on the path.
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])

    def run(outputs: Mapping[str, Any]) -> Provider:
        provider = Provider(outputs)

        logger = logging.Logger("quiet")  # noqa: LOG001 -- its own, since one run of each test fails
        record_run(
            FOLDER / "__main__.py",
            mocks.MockMonitor(provider),
            CONFIGURATION,
            project="shlink-release-links",
            stack="test",
            logger=logger,
        )
        return provider

    yield run
    sys.modules.pop("shlink_outputs", None)


def test_the_job_uses_what_the_stack_says(consumer: Any, promised: dict[str, Any]) -> None:
    changed = {**promised, "internal_url": "http://elsewhere.urls.svc.cluster.local:8081/s"}
    changed["api_key"] = {"namespace": "urls", "secret": "the-secret", "key": "the-key"}
    provider = consumer(changed)
    assert provider.references == ["organization/shlink/dev"]
    job = provider.resources["Job release-link"]
    container = job["spec"]["template"]["spec"]["containers"][0]
    environment = {
        variable["name"]: variable.get("value", variable.get("valueFrom"))
        for variable in container["env"]
    }
    assert job["metadata"]["namespace"] == "urls"
    assert environment["SHLINK"] == "http://elsewhere.urls.svc.cluster.local:8081/s"
    assert environment["API_KEY"] == {"secretKeyRef": {"name": "the-secret", "key": "the-key"}}
    assert json.loads(environment["LINK"]) == {
        "longUrl": "https://example.com/notes/1.4.2",
        "customSlug": "1.4.2",
        "findIfExists": True,
    }


def test_shlinks_stack_opens_the_way_for_it_as_the_example_says(
    consumer: Any, promised: dict[str, Any], program: Program
) -> None:
    """Out of its pod and into Shlink's, with no policy of its own."""
    resources = consumer(promised).resources
    assert [name for name in resources if name.startswith("NetworkPolicy")] == []
    labels = resources["Job release-link"]["spec"]["template"]["metadata"]["labels"]
    (setting,) = re.findall("(?m)^#   shlink:app: (.*)$", (FOLDER / "__main__.py").read_text())
    rules = policies_of(program(app=yaml.safe_load(setting)))
    job: End = ("shlink", labels)
    assert allowed(rules, NAMESPACE_LABELS, job, SHLINK_POD, 8080)
    assert not allowed(rules, NAMESPACE_LABELS, job, SHLINK_POD, 2112)


def test_its_pod_passes_pod_security_restricted(consumer: Any, promised: dict[str, Any]) -> None:
    pod = consumer(promised).resources["Job release-link"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize(
    "name", [field.name for field in fields(Outputs) if field.default is MISSING]
)
def test_a_missing_output_ends_the_run_with_its_name(
    consumer: Any, promised: dict[str, Any], name: str
) -> None:
    renamed = {("renamed" if key == name else key): value for key, value in promised.items()}
    with pytest.raises(Exception, match=rf"{name}: is missing"):
        consumer(renamed)


def test_an_output_of_another_type_ends_the_run_with_its_name(
    consumer: Any, promised: dict[str, Any]
) -> None:
    with pytest.raises(Exception, match=r"api_key\.key: is missing"):
        consumer({**promised, "api_key": {"namespace": "shlink", "secret": "shlink-api-key"}})


def test_no_output_is_named_in_the_consumer_as_a_string() -> None:
    program = (FOLDER / "__main__.py").read_text()
    assert [field.name for field in fields(Outputs) if f'"{field.name}"' in program] == []


def test_the_helper_is_the_contract_itself() -> None:
    assert (FOLDER / "shlink_outputs.py").resolve() == ROOT / "components" / "outputs.py"
    code = "import sys, shlink_outputs; sys.exit('components' in sys.modules)"
    # It needs nothing else of this repository.
    assert subprocess.run([sys.executable, "-c", code], cwd=FOLDER, check=False).returncode == 0


def test_every_setting_it_reads_is_declared() -> None:
    declared = yaml.safe_load((FOLDER / "Pulumi.yaml").read_text())["config"]
    assert {
        key.partition(":")[2] for key in CONFIGURATION if key.startswith("shlink-release-links:")
    } == {key for key in declared if ":" not in key}


def test_the_contract_reads_its_own_values(promised: dict[str, Any]) -> None:
    assert set(asdict(parse(promised))) == set(promised)

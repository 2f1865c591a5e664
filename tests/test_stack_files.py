"""Every wrong stack file is refused with one message to act on, every right one is accepted."""

import json
import re
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jsonschema
import pulumi
import pytest
import yaml
from pulumi.runtime import config as runtime_config

from components.settings import reading as configuration
from components.settings.environment import load, parse
from components.settings.reading import SettingsError
from offline import policy, stacks
from offline.record import record
from offline.schema import json_schema
from tests import configurations
from tests.stack_files import bad, good


def refusal(folder: Path, content: str | bytes) -> str:
    """The message that refuses a stack file with this content. Empty if the file is accepted."""
    if isinstance(content, str):
        content = content.encode()
    (folder / "Pulumi.test.yaml").write_bytes(content)
    try:
        parse(*stacks.configuration(folder, "test"))
    except (stacks.StackError, SettingsError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("content", "words"), bad.files(), ids=lambda text: text[:60])
def test_a_wrong_file_is_refused_in_words_that_help(
    tmp_path: Path, content: str, words: str
) -> None:
    """No line is long, none quotes pydantic or a regular expression, none shows a secret."""
    message = refusal(tmp_path, content)
    assert words in message
    assert max(map(len, message.splitlines())) < 420
    jargon = re.search(r"Input should|should be|Value error|pydantic|\^|\[0-9\]|\\d", message)
    assert not jargon, message
    assert "hunter2" not in message


@pytest.mark.parametrize("content", good.files(), ids=lambda text: text[36:100])
def test_a_right_file_is_accepted(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content) == ""


_FROM_ESC = "environment: [team/cluster]\nconfig: {shlink:protect: true}\n"


def test_values_of_an_esc_environment_are_asked_of_pulumi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's own win; of a secret only its key is told."""
    command = tmp_path / "pulumi"
    answer = {
        "kubernetes:context": {"value": "lab", "secret": False},
        "kubernetes:kubeconfig": {"secret": True},
        "shlink:protect": {"value": "false", "secret": False},
        "shlink:app": {"value": '{"replicas": 2}', "secret": False},
    }
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "Pulumi.test.yaml").write_text(_FROM_ESC)
    values, encrypted = stacks.configuration(tmp_path, "test")
    cluster, settings = parse(values, encrypted)
    assert (cluster.context, settings.protect, settings.shlink.replicas) == ("lab", True, 2)
    assert encrypted == {"kubernetes:kubeconfig"}


@pytest.mark.parametrize("environment", ["[team/cluster]", "{imports: [team/cluster]}"])
def test_an_environment_that_is_not_seen_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: str,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    content = _FROM_ESC.replace("[team/cluster]", environment)
    assert "kubernetes:context: is missing" in refusal(tmp_path, content)
    assert "team/cluster (Pulumi ESC) are not seen here: the pulumi" in capsys.readouterr().err


@pytest.mark.parametrize("part", range(8))
def test_right_files_go_through_preview_and_the_policy_pack(tmp_path: Path, part: int) -> None:
    """Not through the settings alone: the pack judges what becomes of them."""
    for content in good.files()[part::8]:
        (tmp_path / "Pulumi.test.yaml").write_text(content)
        recording = record("test", *stacks.configuration(tmp_path, "test"))
        assert policy.faults(recording) == [], content


@pytest.mark.parametrize("name", configurations.SWITCHES)
def test_every_configuration_keeps_the_policies(name: str) -> None:
    assert policy.faults(configurations.recording(name)) == []


def test_a_chart_in_a_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "Chart.yaml").write_text("name: pgo\n")
    content = (
        "config:\n  kubernetes:context: lab\n"
        f"  shlink:charts: {{pgo: {{repository: {tmp_path}}}}}\n"
    )
    assert refusal(tmp_path, content) == ""


_SCHEMA: Any = jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("content", good.files(), ids=lambda text: text[36:100])
def test_an_editor_accepts_a_right_file(content: str) -> None:
    """The JSON schema finds no fault, except in keys of other programs and in the long spelling."""
    document = yaml.safe_load(content.replace("<<: *r, ", ""))
    for fault in _SCHEMA.iter_errors(document):
        text = f"{list(fault.path)}: {fault.message[:200]}"
        assert "other:" in text or "shlink:config" in text, text


_SINGLE = (*bad.SIZES, *bad.NUMBERS, *bad.ENVIRONMENT)
_BEYOND_SCHEMA = re.compile(
    r"is less than the request|is encrypted|is read as|is too|impossible|has the wrong|"
    r"never comes|CORS_ALLOW_CREDENTIALS|is in `secretEnvironment` too|set by this program|"
    r"names a file|secretEnvironment\.DISABLE_TRACKING"
)
"""Rules between keys, and what JSON Schema has no words for."""


@pytest.mark.parametrize("line", [line for line, _ in _SINGLE], ids=lambda line: line[:60])
def test_an_editor_refuses_a_wrong_value(tmp_path: Path, line: str) -> None:
    """As the program does, wherever the value alone is wrong."""
    content = f"config:\n  kubernetes:context: lab\n  {line}\n"
    message = refusal(tmp_path, content)
    if not _BEYOND_SCHEMA.search(message):
        # An editor reads YAML 1.2, in which these words are text.
        words = re.sub(r": (yes|no|on|off)\b", r': "\1"', content)
        assert not _SCHEMA.is_valid(yaml.safe_load(words)), message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("config: {kubernetes:context: lab}\nshlink:app: {replicas: 2}\n", "below `config:`"),
        (
            (
                "config: {kubernetes:context: lab, "
                "shlink:app: {environment: {MATOMO_API_TOKEN: {secure: x}}}}"
            ),
            "shlink:app.environment.MATOMO_API_TOKEN: is encrypted here",
        ),
    ],
)
def test_a_live_run_refuses_what_the_engine_ignores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, words: str
) -> None:
    """The program reads its own file too: the engine passes only `config:`, already decrypted."""
    (tmp_path / "Pulumi.live.yaml").write_text(content)
    values = {"kubernetes:context": "lab"}
    if "environment" in content:
        values["shlink:app"] = '{"environment": {"MATOMO_API_TOKEN": "hunter2"}}'
    monkeypatch.setattr(configuration, "_ROOT", tmp_path)
    monkeypatch.setattr(pulumi, "get_stack", lambda: "live")
    monkeypatch.setattr(runtime_config, "CONFIG", ContextVar("config", default=values))
    monkeypatch.setattr(runtime_config, "is_config_secret", lambda key: key == "shlink:app")  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    with pytest.raises(SettingsError) as error:
        load()
    assert words in str(error.value)
    assert "hunter2" not in str(error.value)


def test_another_file_than_the_one_in_use_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `pulumi up --config-file`, Pulumi.<stack>.yaml does not describe this run."""
    (tmp_path / "Pulumi.live.yaml").write_text(
        "config: {kubernetes:context: other}\nshlink:app: {}\n"
    )
    monkeypatch.setattr(configuration, "_ROOT", tmp_path)
    monkeypatch.setattr(pulumi, "get_stack", lambda: "live")
    values = {"kubernetes:context": "lab"}
    monkeypatch.setattr(runtime_config, "CONFIG", ContextVar("config", default=values))
    assert load()[0].context == "lab"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("config: {kubernetes:context: l\u00e4b}\n".encode("latin-1"), "is not text in UTF-8"),
        (b"\x00\x01", "is not text in UTF-8"),
        (b"a" * 2_000_000, "allowed: 1000000"),
    ],
    ids=["latin-1", "binary", "long"],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """Neither is a file that is too long to be a stack's."""
    assert words in refusal(tmp_path, content)


def test_utf_16_with_a_byte_order_mark_is_read_as_the_engine_does(tmp_path: Path) -> None:
    assert refusal(tmp_path, "config: {kubernetes:context: lab}\n".encode("utf-16")) == ""


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.test.yaml").mkdir()
    with pytest.raises(
        stacks.StackError, match=r"Pulumi\.test\.yaml can't be read: Is a directory"
    ):
        stacks.configuration(tmp_path, "test")


@pytest.mark.parametrize("stack", ["../x", "a b", "", "x; touch y", "a/b"])
def test_a_stack_has_a_plain_name(tmp_path: Path, stack: str) -> None:
    with pytest.raises(stacks.StackError, match="is no name of a stack"):
        stacks.configuration(tmp_path, stack)

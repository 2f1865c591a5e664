"""The kept stack files: every wrong one is refused by one message that a person can act on, every right one is accepted."""

import re
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jsonschema
import pulumi
import pytest
import yaml
from pulumi.runtime import config as runtime_config

from components import configuration
from components.settings import SettingsError, load, parse
from offline import stacks
from offline.schema import json_schema
from tests.stack_files import bad, good


def refusal(folder: Path, content: str | bytes) -> str:
    """What is said of a stack's file with this content; empty if it is accepted."""
    path = folder / "Pulumi.test.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        parse(*stacks.configuration(folder, "test"))
    except (stacks.StackError, SettingsError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("content", "words"), bad.files(), ids=lambda text: text[:60])
def test_a_wrong_file_is_refused_in_words_that_help(
    tmp_path: Path, content: str, words: str
) -> None:
    message = refusal(tmp_path, content)
    assert words in message
    lines = message.splitlines()
    assert max(map(len, lines)) < 420, "a person reads it at one look"
    # Neither pydantic's words nor an expression's.
    assert not re.search(r"Input should|should be|Value error|pydantic|\^|\[0-9\]|\\d", message), (
        message
    )
    assert "hunter2" not in message


@pytest.mark.parametrize("content", good.files(), ids=lambda text: text[36:100])
def test_a_right_file_is_accepted(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content) == ""


_SCHEMA: Any = jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("content", good.files(), ids=lambda text: text[36:100])
def test_an_editor_accepts_a_right_file(content: str) -> None:
    faults = [
        f"{list(fault.path)}: {fault.message[:200]}"
        for fault in _SCHEMA.iter_errors(yaml.safe_load(content.replace("<<: *r, ", "")))
    ]
    faults = [fault for fault in faults if "other:" not in fault and "shlink:config" not in fault]
    assert faults == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("config: {kubernetes:context: lab}\nshlink:app: {replicas: 2}\n", "below `config:`"),
        (
            "config: {kubernetes:context: lab, shlink:app: {environment: {MATOMO_API_TOKEN: {secure: x}}}}",
            "shlink:app.environment.MATOMO_API_TOKEN: is encrypted here",
        ),
    ],
)
def test_a_live_run_refuses_what_the_engine_ignores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, words: str
) -> None:
    """The engine hands over only what is below `config:`, decrypted, so the program reads its own file too."""
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
    """`pulumi up --config-file`: what lies in Pulumi.<stack>.yaml says nothing of this run."""
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
    assert words in refusal(tmp_path, content)


def test_utf_16_with_its_mark_is_read_as_the_engine_does(tmp_path: Path) -> None:
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

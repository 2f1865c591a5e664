"""The kept stack files: every wrong one is refused by one message that a person can act on, every right one is accepted."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from components.settings import SettingsError, parse
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

"""The command line: asking a person, the back end, make's targets."""

import io
import json
import subprocess
from pathlib import Path
from unittest import mock

import pytest

from offline import terminal
from offline.record import ROOT
from operate import __main__ as command
from operate import asking
from operate.repair.pulumi_cli import Pulumi, PulumiError

# Asking


def test_a_script_says_yes_by_the_engines_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(asking.VARIABLE, "true")
    monkeypatch.setattr(asking.Confirm, "ask", mock.Mock(side_effect=AssertionError))
    assert asking.agreed("Delete it?")


@pytest.mark.parametrize("value", ["", "false", "1"])
def test_without_a_terminal_nothing_happens_and_the_variable_is_named(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(asking.VARIABLE, value)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(asking.NotAgreedError, match=f"{asking.VARIABLE}=true.*Delete it?"):
        asking.agreed("Delete it?")


# The back end


@pytest.fixture(name="refusing")
def _refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pulumi command that says what the file holds, fails, and notes how it was called."""
    script = tmp_path / "pulumi"
    lines = ["#!/bin/sh", f'echo "$*" >> {tmp_path}/calls', f"cat {tmp_path}/answer >&2", "exit 1"]
    script.write_text("\n".join(lines))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def test_a_stack_that_is_missing_may_be_made(refusing: Path) -> None:
    (refusing / "answer").write_text("error: no stack named 'prod' found\n")
    with pytest.raises(PulumiError, match="pulumi stack init --no-select prod"):
        Pulumi("prod").check()


@pytest.mark.parametrize(
    "answer",
    [
        'unable to open state directory "file:///x": stat /x: no such file or directory',
        "PULUMI_ACCESS_TOKEN must be set for login during non-interactive CLI sessions",
    ],
)
@pytest.mark.parametrize("name", ["up", "refresh", "drift", "live-preview", "destroy", "recover"])
def test_a_back_end_that_fails_is_told_in_its_own_words(
    answer: str, name: str, refusing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No advice to make a stack: that is how a second one took over an environment."""
    (refusing / "answer").write_text(f"error: {answer}\n")
    assert command.main([name, "prod"]) == 2
    printed = capsys.readouterr().err
    assert f"the back end can't be used: {answer}" in printed
    assert "stack init" not in printed
    calls = (refusing / "calls").read_text().splitlines()
    assert calls == ["stack --non-interactive --stack prod"]


# Make


def make(*words: str) -> subprocess.CompletedProcess[str]:
    arguments = ["make", "--no-print-directory", *words]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 -- our words


@pytest.mark.parametrize("target", ["preview", "destroy", "up"])
def test_a_stacks_name_is_no_target(target: str) -> None:
    """Make would run the target for the default stack first."""
    done = make("-n", target, "prod")
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"make {target} STACK=prod" in done.stderr


def test_the_list_of_targets_fits_a_terminal_and_is_whole() -> None:
    listed = make("help").stdout
    assert max(map(len, listed.splitlines())) <= terminal.WIDTH
    text = (ROOT / "Makefile").read_text()
    targets = text.partition("TARGETS := ")[2].partition("\n\n")[0].replace("\\", " ").split()
    assert [name for name in targets if f"\n  {name} " not in listed] == []


def test_each_command_of_the_program_has_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["nope", "dev"])
    known = capsys.readouterr().err.partition("(choose from ")[2].rstrip(")\n")
    names = [word.strip(" '") for word in known.split(",")]
    assert len(names) > 10
    for name in names:
        assert f"-m operate {name} 'dev'" in make("-n", name).stdout, name


def test_json_is_all_that_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Of an environment without a cluster, too."""
    assert command.main(["doctor", "dev", "--json"]) == command.BLIND
    assert json.loads(capsys.readouterr().out)["findings"][0]["check"] == "cluster.reachable"

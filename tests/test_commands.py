"""The command line: asking a person, the back end, make's targets."""

import io
import json
import os
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
    with pytest.raises(asking.NotAgreedError, match=f"{asking.VARIABLE}=true"):
        asking.agreed("Delete it?")


def test_the_end_of_the_input_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(asking.VARIABLE, raising=False)
    monkeypatch.setattr("sys.stdin", mock.Mock(isatty=mock.Mock(return_value=True)))
    monkeypatch.setattr("builtins.input", mock.Mock(side_effect=EOFError))
    assert not asking.agreed("Delete it?")


@pytest.mark.parametrize("name", ["up", "refresh", "destroy", "recover", "vault-renew"])
def test_without_a_terminal_no_command_begins(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some ask after half of their work."""
    monkeypatch.delenv(asking.VARIABLE, raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr(Pulumi, "check", mock.Mock())
    monkeypatch.setattr(Pulumi, "_call", mock.Mock(side_effect=AssertionError))
    monkeypatch.setattr(Pulumi, "_stream", mock.Mock(side_effect=AssertionError))
    assert command.main([name, "dev"]) == command.BLIND
    printed = capsys.readouterr().err
    assert f"{asking.VARIABLE}=true" in printed
    assert len(printed.splitlines()) == 1


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
    ("answer", "remedy"),
    [
        (
            'unable to open state directory "file:///x": stat /x: no such file or directory',
            "PULUMI_BACKEND_URL",
        ),
        (
            "PULUMI_ACCESS_TOKEN must be set for login during non-interactive CLI sessions",
            "pulumi login",
        ),
        ("Unauthorized: No credentials provided or are invalid", "it has expired"),
        ("passphrase must be set with PULUMI_CONFIG_PASSPHRASE", "passphrase is missing"),
    ],
)
@pytest.mark.parametrize("name", ["up", "refresh", "drift", "live-preview", "destroy", "recover"])
def test_a_back_end_that_fails_is_told_in_its_own_words(
    answer: str, remedy: str, name: str, refusing: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No advice to make a stack: that is how a second one took over an environment."""
    told = f"Logging in using access token from PULUMI_ACCESS_TOKEN\nerror: {answer}.\n"
    (refusing / "answer").write_text(told)
    assert command.main([name, "prod"]) == 2
    printed = capsys.readouterr().err
    assert answer in printed
    assert remedy in printed
    assert "stack init" not in printed
    assert "Logging in" not in printed
    calls = (refusing / "calls").read_text().splitlines()
    assert calls == ["stack --non-interactive --stack prod"]


def test_drift_is_told_from_a_command_that_failed(
    refusing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pulumi, "check", mock.Mock())
    (refusing / "answer").write_text(
        "error: no changes were expected for preview but changes were proposed\n"
    )
    assert command.main(["drift", "prod"]) == command.ILL
    (refusing / "answer").write_text("error: no such file\n")
    assert command.main(["drift", "prod"]) == command.BLIND


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


def set_up(*words: str, cache: str = "/tmp") -> subprocess.CompletedProcess[str]:  # noqa: S108 -- nothing is written
    return subprocess.run(  # noqa: S603 -- our words
        [ROOT / "scripts/set_up", "the parts", *words],
        env={**os.environ, "UV_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_set_up_tells_its_steps() -> None:
    done = set_up("echo", "much")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "set-up: the parts\n")


@pytest.mark.parametrize(
    ("command_text", "cache", "reason"),
    [
        ("echo 'error: Failed to fetch: `x`'; false", "/tmp", "no answer from the package index"),  # noqa: S108
        ("echo 'cause: failed to create directory'; false", "/proc/cache", "/proc/cache can't be"),
        ("echo 'No solution found'; false", "/tmp", "No solution found"),  # noqa: S108
    ],
)
def test_the_set_up_says_in_one_line_why_it_stopped(
    command_text: str, cache: str, reason: str
) -> None:
    done = set_up("sh", "-c", command_text, cache=cache)
    assert done.returncode == 1
    _, line = done.stderr.splitlines()
    assert line.startswith(f"error: set-up stopped: {reason}")


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


def test_a_cluster_that_does_not_answer_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Port 0 is nobody's."""
    kubeconfig = tmp_path / "config"
    context = {"name": "kind-shlink", "context": {"cluster": "c", "user": "u"}}
    content = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:0"}}],
        "contexts": [context],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    kubeconfig.write_text(json.dumps(content))
    assert command.main(["rights", "dev", "--kubeconfig", str(kubeconfig)]) == command.BLIND
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no connection to http://127.0.0.1:0")

"""`make rights`: an authoriser's rules as lines that a person reads."""

import subprocess
from typing import Any

import pytest

from offline.record import ROOT
from operate.__main__ import main
from operate.rights import lines, rights

_READ: dict[str, Any] = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
_BASIC = rights([{"apiGroups": ["authorization.k8s.io"], "resources": ["x"], "verbs": ["create"]}])


def test_a_right_in_one_namespace_names_it() -> None:
    rule = {**_READ, "resourceNames": ["vault-unseal-keys"], "verbs": ["update", "get"]}
    held = {"vault": rights([rule]), "shlink": frozenset[Any](), "kube-system": frozenset[Any]()}
    assert lines(held, _BASIC) == ["get update: secrets vault-unseal-keys in vault"]


def test_a_right_that_holds_elsewhere_too_is_the_clusters() -> None:
    rule = {"apiGroups": ["a.example"], "resources": ["things"], "verbs": ["list"]}
    held = rights([rule])
    text = lines({"vault": held, "shlink": held, "kube-system": held}, _BASIC)
    assert text == ["list: a.example/things everywhere"]


def test_a_named_right_beside_a_general_one_is_not_lost() -> None:
    named = {**_READ, "resourceNames": ["a"], "verbs": ["delete"]}
    text = lines({"vault": rights([_READ, named]), "kube-system": frozenset()}, _BASIC)
    assert text == ["get: secrets in vault", "delete: secrets a in vault"]


def test_what_everybody_may_is_left_out() -> None:
    assert lines({"vault": _BASIC, "kube-system": _BASIC}, _BASIC) == []


def test_a_kubeconfig_of_the_command_line_takes_the_place_of_the_stacks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["rights", "dev", "--kubeconfig", "/nowhere/config"]) == 2
    assert "there is no kubeconfig at /nowhere/config" in capsys.readouterr().err


@pytest.mark.parametrize(
    "target",
    ["doctor", "rights", "smoke", "drill", "restore-drill", "import-links", "export-links"],
)
def test_make_hands_a_kubeconfig_over(target: str) -> None:
    """It has to be named: the environment's own would not be the stack's."""

    def recipe(*words: str) -> str:
        command = ["make", "-n", "-C", str(ROOT), target, *words]
        environment = {"PATH": "/usr/bin:/bin", "KUBECONFIG": "/other"}
        return subprocess.run(  # noqa: S603 -- our words
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    assert "--kubeconfig '/my config'" in recipe("KUBECONFIG=/my config")
    assert "--kubeconfig" not in recipe()

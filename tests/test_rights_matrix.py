"""`make rights`: an authoriser's rules as lines that a person reads."""

from typing import Any

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

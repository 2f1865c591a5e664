"""The project's own rules: each finds what it is for, and nothing in what the program registers."""

from typing import Any

import pytest

from offline.policy import as_resource, faults
from offline.record import plain
from policy.rules import RULES, Resource, leaks, violations
from tests import configurations
from tests.conftest import REPRESENTATIVE

_CONTAINER: Any = {
    "name": "c",
    "image": "docker.io/library/redis:7.2.11",
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}


def deployment(container: Any, provider: str = "cluster", **pod: Any) -> Resource:
    spec = {"template": {"spec": {"containers": [{**_CONTAINER, **container}], **pod}}}
    return Resource("kubernetes:apps/v1:Deployment", "d", {"spec": spec}, provider)


def found(resource: Resource) -> list[str]:
    return [rule.name for rule in RULES for _ in rule.faults(resource)]


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_the_program_keeps_every_rule(name: str) -> None:
    assert faults(configurations.recording(name)) == []


@pytest.mark.parametrize(
    ("resource", "rules"),
    [
        (deployment({}), []),
        (deployment({"securityContext": {}}), ["restricted"] * 4),
        (deployment({}, hostNetwork=True), ["restricted"]),
        (deployment({"image": "redis:7"}), ["pinned"]),
        (deployment({"image": "redis"}), ["pinned"]),
        (deployment({"image": f"redis@sha256:{'0' * 64}"}), []),
        (deployment({}, provider=""), ["explicit-provider"]),
        (deployment({}, provider="default_4_34_2"), ["explicit-provider"]),
        (
            deployment({"env": [{"name": "DB_PASSWORD", "value": "hunter2"}]}),
            ["no-literal-credential"],
        ),
        (deployment({"env": [{"name": "DB_PASSWORD", "valueFrom": {}}]}), []),
        (
            Resource("kubernetes:core/v1:Namespace", "n", {"metadata": {"name": "n"}}, "cluster"),
            ["restricted"],
        ),
        (
            Resource("kubernetes:helm.sh/v3:Release", "r", {"chart": "c"}, "cluster"),
            ["pinned"],
        ),
        (Resource("kubernetes:helm.sh/v4:Chart", "c", {"chart": "c"}, ""), ["pinned"]),
        (Resource("kubernetes:helm.sh/v4:Chart", "c", {}, ""), []),
        (Resource("vault:index/mount:Mount", "m", {}, ""), ["explicit-provider"]),
        (
            Resource("kubernetes:core/v1:ConfigMap", "c", {}, "cluster", marked=("data.a",)),
            ["no-secret-in-clear"],
        ),
        (Resource("kubernetes:core/v1:Secret", "s", {}, "cluster", marked=("data",)), []),
        (Resource("kubernetes:helm.sh/v4:Chart", "c", {"version": "1.0.0"}, ""), []),
        (Resource("random:index/randomPassword:RandomPassword", "p", {}, ""), []),
    ],
    ids=str,
)
def test_a_rule_finds_what_it_is_for(resource: Resource, rules: list[str]) -> None:
    assert found(resource) == rules


def test_a_leaked_password_is_named_and_not_shown() -> None:
    inputs = {"data": {"conf": "requirepass hunter2hunter2"}}
    config_map = Resource("kubernetes:core/v1:ConfigMap", "conf", inputs, "cluster")
    secret = Resource("kubernetes:core/v1:Secret", "auth", inputs, "cluster")
    (message,) = leaks([config_map, secret], {"redis-password": "hunter2hunter2"})
    assert "conf: holds redis-password in clear" in message
    assert "hunter2" not in message


def test_the_rules_see_every_pod_that_the_program_declares() -> None:
    """A Job or Deployment whose pod the rules do not find would pass them all."""
    for recorded in configurations.recording("placed-fork").resources.values():
        if recorded.kind in ("Job", "Deployment"):
            (pod,) = as_resource(recorded).pods
            assert pod == plain(recorded.inputs)["spec"]["template"]["spec"]
            assert list(violations(pod)) == []

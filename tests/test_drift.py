"""What differs between an object and its declaration, and who wrote it."""

import copy
import json
from typing import Any

import pytest
from pulumi.runtime import mocks

from components.settings.environment import parse
from offline.record import _Provider, record  # pyright: ignore[reportPrivateUsage]
from operate.declared import Declared, declared, of_recording
from operate.doctor.drift import by_hand, changes
from operate.view import Object
from tests import configurations

_LEAF: dict[str, Any] = {}
"""How a record marks a field."""


def _object(spec: Any, *records: tuple[str, Any]) -> Object:
    managed = [
        {"manager": manager, "time": "2026-11-24T01:00:00Z", "fieldsV1": {"f:spec": fields}}
        for manager, fields in records
    ]
    return {"kind": "Thing", "metadata": {"name": "x", "managedFields": managed}, "spec": spec}


def _told(declared: Any, actual: Any, *records: tuple[str, Any]) -> list[str]:
    return [str(change) for change in changes(_object(declared), _object(actual, *records))]


@pytest.mark.parametrize(
    ("declared", "actual"),
    [
        ({"cpu": "1000m"}, {"cpu": "1"}),
        ({"memory": "0.5Gi"}, {"memory": "512Mi"}),
        ({"items": [], "on": False, "text": ""}, {}),
        ({"port": 80}, {"port": 80, "protocol": "TCP"}),
        ({"password": None}, {"password": "x"}),
        (
            {"env": [{"name": "a", "value": "1"}]},
            {"env": [{"name": "b"}, {"name": "a", "value": "1"}]},
        ),
        ({"caBundle": "placeholder"}, {"caBundle": "real"}),
    ],
    ids=str,
)
def test_what_the_api_server_makes_of_a_declaration_is_no_difference(
    declared: Any, actual: Any
) -> None:
    assert _told(declared, actual) == []


@pytest.mark.parametrize(
    ("declared", "actual", "told"),
    [
        ({"replicas": 3}, {"replicas": 1}, "spec.replicas is 1, not 3"),
        ({"replicas": 3}, {}, "spec.replicas is gone"),
        ({"on": False}, {"on": True}, "spec.on is True, not False"),
        ({"on": 1}, {"on": True}, "spec.on is True, not 1"),
        ({"rules": [{"a": 1}, {"a": 2}]}, {"rules": [{"a": 1}]}, "spec.rules was changed"),
        (
            {"containers": [{"name": "a", "image": "a:1"}]},
            {"containers": [{"name": "a", "image": "a:2"}]},
            "spec.containers.a.image is a:2, not a:1",
        ),
        ({"env": [{"name": "A", "value": "1"}]}, {"env": []}, "spec.env.A is gone"),
        (
            {"env": [{"name": "A", "value": "1"}]},
            {"env": [{"name": "A", "value": "hunter2"}]},
            "spec.env.A.value was changed",
        ),
    ],
    ids=str,
)
def test_a_difference_is_told_by_its_field(declared: Any, actual: Any, told: str) -> None:
    assert _told(declared, actual) == [told]


def test_who_wrote_a_field_is_told_and_the_program_is_not() -> None:
    fields = {"f:replicas": _LEAF}
    hand = ("kubectl-edit", fields)
    told = "spec.replicas is 1, not 3"
    assert _told({"replicas": 3}, {"replicas": 1}, hand) == [
        f"{told} (kubectl-edit, 2026-11-24T01:00:00Z)"
    ]
    assert _told({"replicas": 3}, {"replicas": 1}, ("pulumi-kubernetes-a1", fields)) == [told]


def test_a_field_that_somebody_added_is_told() -> None:
    """Only the record tells it from what the API server adds."""
    record = ("kubectl-patch", {"f:paused": _LEAF})
    assert _told({"replicas": 3}, {"replicas": 3, "paused": True}, record) == [
        "spec.paused was set by hand (kubectl-patch, 2026-11-24T01:00:00Z)"
    ]
    assert _told({"replicas": 3}, {"replicas": 3, "paused": True}) == []
    assert _told({"paused": True}, {"paused": True}, record) == []


def test_the_number_of_pods_that_a_restore_has_set_is_no_change() -> None:
    """An autoscaler owns it, so it is not declared, and the program's own patch stays recorded."""
    record = ("kr8s", {"f:replicas": _LEAF})
    assert _told({"paused": False}, {"replicas": 2}, record) == []


def test_a_key_that_somebody_added_to_a_map_is_told() -> None:
    """A Service's selector is recorded as a whole."""
    record = ("kubectl-edit", {"f:selector": _LEAF})
    declared, actual = {"selector": {"a": "1"}}, {"selector": {"a": "1", "b": "2"}}
    assert _told(declared, actual, record) == [
        "spec.selector was set by hand (kubectl-edit, 2026-11-24T01:00:00Z)"
    ]
    assert _told(declared, declared, record) == []


def test_an_item_of_a_list_is_found_by_its_keys() -> None:
    item = f"k:{json.dumps({'containerPort': 80, 'protocol': 'TCP'})}"
    record = ("kubectl-edit", {"f:ports": {item: {".": _LEAF, "f:hostPort": _LEAF}}})
    declared = {"ports": [{"containerPort": 80}]}
    actual = {"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 80}]}
    (told,) = _told(declared, actual, record)
    assert told.startswith("spec.ports.")
    assert "hostPort was set by hand" in told


def test_an_item_that_is_recorded_by_its_keys_is_told_by_its_name() -> None:
    item = f"k:{json.dumps({'port': 80, 'protocol': 'TCP'})}"
    record = ("kubectl-edit", {"f:ports": {item: {".": _LEAF, "f:targetPort": _LEAF}}})
    declared = {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
    actual = {"ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 1}]}
    assert _told(declared, actual, record) == [
        "spec.ports.http.targetPort is 1, not http (kubectl-edit, 2026-11-24T01:00:00Z)"
    ]


def test_a_restart_by_hand_is_no_change() -> None:
    """`kubectl rollout restart`, which the runbook itself asks for, writes an annotation."""
    annotation = {"f:kubectl.kubernetes.io/restartedAt": _LEAF}
    fields = {"f:template": {"f:metadata": {"f:annotations": annotation}}}
    template = {"metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}}}
    item = _object({"template": template}, ("kubectl-rollout", fields))
    assert by_hand(item) == []


class _OtherValues(_Provider):
    """Providers that answer with other values, as those of another environment do."""

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        identifier, state = super().new_resource(_renamed(args, f"another {args.name}"))
        if args.typ == "vault:kv/secretV2:SecretV2":
            state["metadata"] = {"version": "7"}
        return identifier, state


def _renamed(args: mocks.MockResourceArgs, name: str) -> mocks.MockResourceArgs:
    copied = copy.copy(args)
    copied.name = name
    return copied


def _declared(name: str) -> Declared:
    """What one of the configurations declares, recorded now."""
    if name.startswith("stack "):
        return declared(name.removeprefix("stack "))
    settings = configurations.configuration(name)
    return of_recording(record("test", settings), *parse(settings))


def _place(item: Object) -> tuple[Any, Any]:
    return item["metadata"].get("namespace"), item["metadata"]["name"]


@pytest.mark.parametrize("name", ["stack dev", "stack prod", "backups-everywhere"])
def test_what_only_an_update_knows_is_no_difference(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doctor records the program without an update, so generated values are placeholders."""
    before = _declared(name)
    monkeypatch.setattr("offline.record._Provider", _OtherValues)
    after = _declared(name)
    assert before.manifests != after.manifests
    told: list[str] = []
    for left in before.manifests:
        for right in after.of_kind(left["kind"]):
            if _place(left) == _place(right):
                told += [f"{left['kind']}: {change}" for change in changes(left, right)]
    assert told == []


def test_the_pods_of_an_autoscaler_are_not_declared() -> None:
    """The program leaves their number alone."""
    name = next(
        name
        for name in configurations.NAMES
        if configurations.recording(name).of_kind("HorizontalPodAutoscaler")
    )
    settings = parse(configurations.configuration(name))
    deployment = of_recording(configurations.recording(name), *settings).named(
        "Deployment", "shlink"
    )
    assert deployment
    assert "replicas" not in deployment["spec"]


def test_a_record_without_a_time_tells_the_program_alone() -> None:
    """That of the subresource `scale` may have none."""
    actual: Any = _object({"replicas": 1}, ("kubectl", {"f:replicas": {}}))
    del actual["metadata"]["managedFields"][0]["time"]
    told = [str(change) for change in changes(_object({"replicas": 2}), actual)]
    assert told == ["spec.replicas is 1, not 2 (kubectl)"]

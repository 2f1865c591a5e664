"""Beside an update, what it has not reached yet is no fault; what somebody deleted still is."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from components.program.inventory import KEY, NAME, parse
from offline import stacks
from offline.record import ROOT, Recording, record
from operate.doctor.examine import HEALTHY, ILL, Report
from operate.doctor.findings import Severity
from tests import configurations
from tests.conftest import before as waited_for
from tests.conftest import configuration, manifest
from tests.test_doctor import report, stack
from tests.world import PGO, World, ago, by_program, healthy


def listed(recording: Recording) -> dict[tuple[str, str, str], str]:
    return parse(manifest(recording, "ConfigMap", NAME)["data"][KEY])


# The list


@pytest.mark.parametrize("name", ["stack dev", "monitored", "cilium"])
def test_the_list_names_every_object_but_secrets(name: str) -> None:
    recording = configurations.recording(name)
    objects: set[tuple[str, str, str]] = set()
    for resource in recording.resources.values():
        metadata: Any = resource.inputs.get("metadata")
        if resource.is_kubernetes_object and resource.kind != "Secret":
            namespace = metadata.get("namespace", "")
            objects.add((resource.kind, str(namespace), str(metadata["name"])))
        if resource.kind == "Release":
            place = str(resource.inputs["namespace"]), str(resource.inputs["name"])
            objects.add(("Release", *place))
    assert set(listed(recording)) == objects - {("ConfigMap", "shlink", NAME)}


@pytest.mark.parametrize("name", ["stack dev", "stack prod"])
def test_the_list_is_written_last(name: str) -> None:
    recording = configurations.recording(name)
    earlier = waited_for(recording, "ConfigMap", NAME)
    for resource in recording.resources.values():
        if resource.custom and not resource.type.startswith("pulumi:providers:"):
            assert (resource.kind, resource.name) in earlier or resource.name == "inventory"


def test_another_run_of_the_same_file_gives_the_same_list(dev: Recording) -> None:
    again = record("dev", *stacks.configuration(ROOT, "dev"))
    assert listed(again) == listed(dev)


def test_a_digest_changes_with_what_is_asked_for_and_with_nothing_else() -> None:
    before = listed(record("test", configuration({})))
    after = listed(record("test", configuration({"app": {"timezone": "Europe/Madrid"}})))
    changed = {key for key in before if before[key] != after[key]}
    assert {kind for kind, _, _ in changed} == {"Deployment", "Job"}


# Beside an update


def applied(name: str) -> World:
    """An environment to which the update of one file has been applied."""
    world = healthy(stack(name))
    for item in world.objects:
        if item["metadata"].get("generation") == 1:
            by_program(item)
    for peer in ("envoy", "ingress-nginx"):
        world.objects.append(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": peer, "labels": {}}}
        )
    return world


def beside(before: str, after: str, *faults: Callable[[World], object]) -> Report:
    """What doctor tells of it when the stack's file has become another one."""
    world = applied(before)
    for fault in faults:
        fault(world)
    world.declared = stack(after)
    return report(world)


PAIRS = [
    ("defaults", "autoscaled"),
    ("autoscaled", "defaults"),
    ("defaults", "pooler"),
    ("pooler", "defaults"),
    ("defaults", "monitored"),
    ("monitored", "defaults"),
    ("defaults", "gateway"),
    ("ingress", "gateway"),
    ("gateway", "ingress-domains"),
    ("gateway", "defaults"),
    ("defaults", "redis-sized"),
    ("defaults", "redis-rotated"),
    ("redis-none", "defaults"),
    ("defaults", "redis-none"),
    ("defaults", "database-rotated"),
    ("defaults", "database-sized"),
    ("database-sized", "defaults"),
    ("defaults", "backups-s3"),
    ("defaults", "app"),
    ("app", "defaults"),
    ("defaults", "redis-fork"),
    ("defaults", "vault-people-oidc"),
    ("defaults", "placed"),
    ("defaults", "api-server-narrow"),
    ("defaults", "autoscaled-stopped"),
    ("autoscaled-stopped", "autoscaled"),
]


@pytest.mark.parametrize(("before", "after"), PAIRS)
def test_what_no_update_has_applied_yet_is_no_fault(before: str, after: str) -> None:
    result = beside(before, after)
    told = [f"{item.severity} {item.check}: {item.message}" for item in result.findings]
    severities = {item.severity for item in result.findings}
    assert Severity.PENDING in severities
    assert severities <= {Severity.PENDING, Severity.PROGRESS}, told
    assert result.exit_code == HEALTHY


def policy_deleted(world: World) -> None:
    world.remove("NetworkPolicy", "shlink-redis-sentinel")


def account_deleted(world: World) -> None:
    world.remove("ServiceAccount", "external-secrets-sa")


def service_deleted(world: World) -> None:
    world.remove("Service", "shlink")


def policy_edited(world: World) -> None:
    world.edit(world.find("NetworkPolicy", "shlink-migration"), "spec.ingress", [{}])


def policy_opened(world: World) -> None:
    """Somebody adds a policy; the program did not write it."""
    policy = world.find("NetworkPolicy", "shlink-migration")
    managed = [{"manager": "kubectl-create", "time": "2026-11-28T00:00:00Z"}]
    metadata = {"name": "open", "namespace": "shlink", "managedFields": managed}
    world.objects.append({**policy, "metadata": metadata})


def service_led_away(world: World) -> None:
    world.edit(world.find("Service", "shlink"), "spec.ports.http.targetPort", 1234)


@pytest.mark.parametrize(
    ("fault", "check", "severity"),
    [
        (policy_deleted, "cluster.policies", Severity.ERROR),
        (account_deleted, "cluster.objects", Severity.ERROR),
        (service_deleted, "shlink.reached", Severity.ERROR),
        (policy_edited, "cluster.policies", Severity.ERROR),
        (policy_opened, "cluster.policies", Severity.WARNING),
        (service_led_away, "shlink.unchanged", Severity.ERROR),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("after", ["app", "monitored"])
def test_what_somebody_did_beside_an_update_is_told(
    after: str, fault: Callable[[World], object], check: str, severity: Severity
) -> None:
    findings = beside("defaults", after, fault).findings
    told = {(item.check, item.severity) for item in findings}
    assert {item for item in told if item[1] is not Severity.PENDING} == {(check, severity)}
    assert Severity.PENDING in {item.severity for item in findings}


def test_a_fault_is_told_beside_what_is_not_applied_yet() -> None:
    """It neither explains the fault nor is explained by it."""

    def image(world: World) -> None:
        world.waiting("shlink-7f8b-0", "ImagePullBackOff")

    first, *others = beside("defaults", "app", image).findings
    assert (first.runbook, first.severity) == (
        "docs/runbook.md#image-not-pulled",
        Severity.ERROR,
    )
    assert {item.severity for item in others} == {Severity.PENDING}
    assert beside("defaults", "app", image).exit_code == ILL


def test_a_policy_that_the_update_deletes_last_is_waited_for() -> None:
    """The list is written, and what the file no longer asks for is still there for a moment."""
    world = applied("pooler")
    world.objects = [item for item in world.objects if item["metadata"]["name"] != NAME]
    lists = [item for item in healthy(stack("defaults")).objects if item["kind"] == "ConfigMap"]
    inventory = next(item for item in lists if item["metadata"]["name"] == NAME)
    by_program(inventory, seconds=5)
    world.objects.append(inventory)
    world.declared = stack("defaults")
    severities = {
        item.severity for item in report(world).findings if item.check == "cluster.policies"
    }
    assert Severity.WARNING not in severities
    by_program(inventory, seconds=3600)
    later = [item for item in report(world).findings if item.check == "cluster.policies"]
    assert Severity.WARNING in {item.severity for item in later}


def test_a_file_that_is_set_back_after_half_an_update_is_not_applied_yet() -> None:
    """The list is that of the update before; the program was the last to write the field."""
    world = applied("defaults")
    deployment = world.find("Deployment", "shlink")
    deployment["spec"]["replicas"] = 2
    (finding,) = [item for item in report(world).findings if item.check == "shlink.unchanged"]
    assert finding.severity is Severity.PENDING


def test_a_field_that_somebody_deleted_is_no_change_of_the_file() -> None:
    world = applied("defaults")
    template = world.find("Deployment", "shlink")["spec"]["template"]
    template["spec"].pop("automountServiceAccountToken", None)
    template["spec"]["containers"][0].pop("readinessProbe")
    (finding,) = report(world).findings
    assert (finding.severity, finding.check) == (Severity.WARNING, "shlink.unchanged")


def test_without_a_list_what_is_missing_is_an_error_and_one_line_says_why() -> None:
    world = applied("defaults")
    world.remove("ConfigMap", NAME)
    world.declared = stack("monitored")
    findings = report(world).findings
    (line,) = [item for item in findings if item.check == "cluster.inventory"]
    assert line.severity is Severity.PENDING
    assert "no update with this version of the program has completed" in line.message
    assert "network-policy-missing" in {item.runbook.partition("#")[2] for item in findings}


def test_a_login_that_may_not_read_the_list_skips_it() -> None:
    world = applied("defaults")
    world.forbidden.add("configmaps")
    result = report(world)
    assert list(result.findings) == []
    assert [skip.check for skip in result.skipped] == ["cluster.inventory"]


# A restore in place


def restoring(world: World, **status: Any) -> None:
    """The program has stopped Shlink, and PGO restores the database."""
    deployment = world.find("Deployment", "shlink")
    deployment["spec"]["replicas"] = 0
    record = {"manager": "kr8s", "operation": "Update", "time": ago(30)}
    fields: Any = {"f:spec": {"f:replicas": {}}}
    deployment["metadata"]["managedFields"].append({**record, "fieldsV1": fields})
    world.remove("Pod", "shlink-7f8b")
    world.remove("Pod", "shlink-db-instance1")
    cluster = world.of("PostgresCluster")[0]
    cluster["metadata"]["annotations"] = {f"{PGO}/pgbackrest-restore": "2"}
    cluster["status"]["pgbackrest"]["restore"] = {"id": "2", "finished": False, **status}
    world.count()


def test_a_restore_in_place_is_under_way() -> None:
    world = applied("restore-in-place")
    restoring(world)
    result = report(world)
    severities = {item.severity for item in result.findings}
    assert severities == {Severity.PROGRESS, Severity.PENDING}
    assert "PostgreSQL is restored" in json.dumps(result.as_json())


def test_a_restore_that_has_failed_is_an_error() -> None:
    world = applied("restore-in-place")
    restoring(world, failed=3)
    assert report(world).findings[0].check.startswith("postgres.")
    assert report(world).exit_code == ILL


def test_a_restore_that_has_ended_hides_no_stopped_shlink() -> None:
    """The update that asked for it was killed before it started Shlink again."""
    world = applied("restore-in-place")
    restoring(world, finished=True, succeeded=1, completionTime=ago(3600))
    deployment = world.find("Deployment", "shlink")
    deployment["metadata"]["managedFields"][-1]["time"] = ago(3600)
    assert "Shlink is scaled to 0" in {item.message for item in report(world).findings}
    assert report(world).exit_code == ILL

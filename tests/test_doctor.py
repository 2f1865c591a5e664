"""Doctor names the cause first, says nothing of a healthy environment, and tells no secret."""

import ast
import asyncio
import dataclasses
import io
import json
import re
import shlex
from collections.abc import AsyncIterator
from functools import cache
from typing import Any
from unittest import mock

import httpx
import kr8s
import pytest
from rich.console import Console

from components.cluster.access import ClusterAccess
from components.settings.environment import parse
from offline import stacks
from offline.record import ROOT
from operate import __main__ as command
from operate.declared import Declared, declared, of_recording
from operate.doctor.checks import CHECKS, shlink
from operate.doctor.examine import BLIND, HEALTHY, ILL, Report, examine
from operate.doctor.findings import Check, Environment, Problem, Severity, fold
from operate.doctor.report import show
from tests import configurations, faults
from tests.faults import FAULTS, Fault
from tests.world import PGO, Api, World, ago, broken, healthy, pod, slices
from tests.world import scaled as scaled_as


@cache
def stack(name: str) -> Declared:
    """What one of the stacks declares, or one of the configurations."""
    if name in configurations.SWITCHES:
        settings = parse(configurations.configuration(name))
        return of_recording(configurations.recording(name), *settings)
    return declared(name)


class Access(ClusterAccess):
    """The way to a world in memory."""

    world: World

    async def client(self) -> Any:
        return Api(type(self).world)


def access(world: World) -> ClusterAccess:
    return type("AccessOfOneWorld", (Access,), {"world": world})("lab")


def report(world: World, confirm: float = 0) -> Report:
    return asyncio.run(examine(world.declared, access(world), confirm=confirm))


def printed(result: Report, width: int = 160) -> str:
    text = io.StringIO()
    show(result, Console(file=text, width=width))
    return text.getvalue()


async def nothing(_: Environment) -> AsyncIterator[Problem]:
    """A check that finds nothing."""
    for problem in ():
        yield problem


# Causes


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_first_finding_is_the_cause(fault: Fault) -> None:
    result = report(broken(stack(fault.stack), [fault.make]))
    first = result.findings[0]
    assert (first.check, first.runbook) == (fault.check, f"docs/runbook.md#{fault.anchor}")
    assert first.severity is Severity.ERROR
    roots = [item.message for item in result.findings if item.severity is Severity.ERROR]
    assert len(roots) == 1, roots
    assert {item.runbook.partition("#")[2] for item in result.findings} <= _headings()


def test_there_are_enough_faults() -> None:
    """The acceptance asks for thirty, the guide's cases among them."""
    assert len(FAULTS) >= 30
    only_warnings = {
        "cluster.inventory",
        "postgres.replicas",
        "cluster.peers",
        "shlink.autoscaler",
        "shlink.geolite",
        "shlink.web-client",
    }
    assert {fault.check for fault in FAULTS} >= {check.name for check in CHECKS} - only_warnings


def test_a_sealed_vault_is_one_finding() -> None:
    result = report(broken(stack("dev"), [faults.vault_is_sealed]))
    assert [finding.check for finding in result.findings] == ["vault.unsealed"]
    beneath = {finding.check for finding in result.findings[0].consequences}
    assert beneath == {"secrets.store", "secrets.synced", "shlink.running", "shlink.reached"}
    assert result.exit_code == ILL


def test_two_independent_faults_are_two_findings() -> None:
    """An image that can't be pulled has nothing to do with a sealed Vault."""

    def image(world: World) -> None:
        world.waiting("shlink-7f8b-0", "ImagePullBackOff")

    def sealed(world: World) -> None:
        world.health["vault-0"] = {"initialized": True, "sealed": True}

    result = report(broken(stack("dev"), [image, sealed]))
    assert [finding.runbook.partition("#")[2] for finding in result.findings] == [
        "vault-sealed",
        "image-not-pulled",
    ]


def test_what_the_primary_itself_tells_is_no_consequence() -> None:
    """It runs: neither a missing object nor what keeps Shlink's pods away explains it."""
    makes = [
        faults.a_disruption_budget_is_missing,
        faults.a_table_was_dropped,
        faults.the_api_key_was_disabled,
        faults.vault_may_not_review_tokens,
    ]
    result = report(broken(stack("prod"), makes))
    assert {item.check for item in result.findings} == {
        "cluster.objects",
        "cluster.reserves",
        "postgres.tables",
        "shlink.api-key",
    }


# No false findings


@pytest.mark.parametrize("name", ["dev", "prod", "pooler"])
def test_a_healthy_environment_has_no_finding(name: str) -> None:
    result = report(healthy(stack(name)))
    assert list(result.findings) == []
    assert len(result.passed) == len(CHECKS)
    assert result.exit_code == HEALTHY


def rollout(world: World) -> None:
    """A new pod of Shlink waits for PostgreSQL while the others serve."""
    world.waits("shlink-7f8b-0", "wait-for-postgres", seconds=4)


def starting(world: World) -> None:
    world.not_ready("shlink-7f8b-0", seconds=40)


def creating(world: World) -> None:
    world.waiting("shlink-7f8b-0", "ContainerCreating", seconds=20)


def stopping(world: World) -> None:
    world.pods("rfr-shlink-redis-0")[0]["metadata"]["deletionTimestamp"] = ago(-30)


def redis_restarts(world: World) -> None:
    """As in a rotation: the master has stopped, its label moves a moment later."""
    world.not_ready("rfr-shlink-redis-0", seconds=10)
    world.pods("rfr-shlink-redis-0")[0]["metadata"]["labels"].pop("redisfailovers-role")


def migrating(world: World) -> None:
    job = world.find("Job", "shlink-migration")
    job["status"] = {"active": 1}
    job["metadata"]["creationTimestamp"] = ago(30)


def scaled(world: World) -> None:
    """One more replica than a moment ago, not created yet."""
    world.remove("Pod", "shlink-7f8b-2")


def vault_starts(world: World) -> None:
    world.health["vault-0"] = {"initialized": True, "sealed": True}
    world.not_ready("vault-0", seconds=5)
    world.pods("vault-0")[0]["metadata"]["creationTimestamp"] = ago(10)


def first_up(world: World) -> None:
    """The Deployment was just created; the Service follows when its pods are available."""
    world.find("Deployment", "shlink")["metadata"]["creationTimestamp"] = ago(20)
    world.not_ready("shlink-7f8b", seconds=15)
    faults.the_service_of_shlink_is_missing(world)


def scheduling(world: World) -> None:
    world.unscheduled("shlink-7f8b-0", "0/1 nodes are available", seconds=10)


def vault_stops(world: World) -> None:
    """Vault seals itself before it ends."""
    world.health["vault-0"] = {"initialized": True, "sealed": True}
    world.pods("vault-0")[0]["metadata"]["deletionTimestamp"] = ago(2)


def vault_restarts_in_its_pod(world: World) -> None:
    world.health["vault-0"] = {"initialized": True, "sealed": True}
    world.not_ready("vault-0", seconds=5)
    for status in world.pods("vault-0")[0]["status"]["containerStatuses"]:
        status["state"] = {"running": {"startedAt": ago(5)}}


def vault_is_back(world: World) -> None:
    """External Secrets tries again a moment later."""
    faults.store_down(world, "cannot login")
    world.pods("vault-0")[0]["status"]["conditions"][1]["lastTransitionTime"] = ago(15)


def password_rotated(world: World) -> None:
    """The program has asked for another version three seconds ago."""
    for item in world.of("ExternalSecret"):
        item["metadata"]["generation"] = 2
        by_program(item)


def by_program(item: dict[str, Any]) -> None:
    item["metadata"]["managedFields"] = [
        {"manager": "pulumi-kubernetes-1a2b3c4d", "time": ago(3)},
        {"manager": "controller", "time": ago(1), "subresource": "status"},
    ]


def database_changed(world: World) -> None:
    """PGO has not looked at it yet, and makes another repository."""
    cluster = world.of("PostgresCluster")[0]
    cluster["metadata"]["generation"] = 2
    by_program(cluster)
    repositories = cluster["status"]["pgbackrest"]["repos"]
    repositories.append({"name": "repo2", "stanzaCreated": False})


def primary_stops(world: World) -> None:
    world.pods("shlink-db-instance1-axyz")[0]["metadata"]["deletionTimestamp"] = ago(2)
    shlink_waits(world)


def database_restarts(world: World) -> None:
    world.not_ready("shlink-db-instance1-axyz", seconds=20)
    shlink_waits(world)


def shlink_waits(world: World) -> None:
    """Its probe asks the database."""
    world.not_ready("shlink-7f8b", seconds=10)


def redis_master_stops(world: World) -> None:
    world.pods("rfr-shlink-redis-0")[0]["metadata"]["deletionTimestamp"] = ago(2)
    world.metrics["rfr-shlink-redis-1"] = "redis_master_link_up 0"


def authority_rotated(world: World) -> None:
    """Vault has its new certificate, and the stores learn of the authority a moment later."""
    world.shown["vault-0"] = "foreign"
    world.pods("vault-0")[0]["status"]["conditions"][1]["lastTransitionTime"] = ago(5)


def migration_tried_again(world: World) -> None:
    """Its first pod met a restart of PostgreSQL."""
    migrating(world)
    job = world.find("Job", "shlink-migration")
    labels = {**job["spec"]["template"]["metadata"]["labels"], "job-name": "shlink-migration"}
    pod(world, "shlink", "shlink-migration-x", labels, "migration")["status"]["phase"] = "Failed"
    world.logs["shlink-migration-x"] = "SQLSTATE[08006] connection refused"


def volume_was_missing(world: World) -> None:
    """PGO makes pods and their Secrets at the same time, so the first mounts fail."""
    starting(world)
    message = 'MountVolume.SetUp failed for volume "x": secret "y" not found'
    world.event("Pod", "shlink-7f8b-0", "shlink", "FailedMount", message)


@pytest.mark.parametrize(
    "change",
    [
        rollout,
        starting,
        creating,
        stopping,
        redis_restarts,
        migrating,
        scaled,
        vault_starts,
        scheduling,
        first_up,
        vault_stops,
        vault_restarts_in_its_pod,
        vault_is_back,
        password_rotated,
        database_changed,
        primary_stops,
        database_restarts,
        redis_master_stops,
        authority_rotated,
        migration_tried_again,
        volume_was_missing,
    ],
    ids=lambda change: change.__name__,
)
def test_an_environment_that_changes_has_nothing_to_mend(change: Any) -> None:
    result = report(broken(stack("dev"), [change]))
    assert {item.severity for item in result.findings} <= {Severity.PROGRESS}
    assert result.exit_code == HEALTHY


def test_a_server_that_leads_may_stop() -> None:
    """The next leader has its label a moment later."""
    world = healthy(configured("vault-awskms"))
    world.pods("vault-0")[0]["metadata"]["deletionTimestamp"] = ago(2)
    world.health["vault-0"] = {"initialized": True, "sealed": True}
    result = report(world)
    assert {item.severity for item in result.findings} == {Severity.PROGRESS}


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_a_rollout_is_under_way_until_every_pod_is_new(kind: str) -> None:
    """Each pod may be Ready between two steps of its controller."""
    world = healthy(stack("dev"))
    names: set[str] = set()
    for item in world.of(kind):
        item["status"]["updatedReplicas"] = 0
        if item["spec"]["replicas"]:
            names.add(item["metadata"]["name"])
    findings = report(world).findings
    assert {item.severity for item in findings} == {Severity.PROGRESS}
    for name in names:
        assert f"{name} is being rolled out, 0 of" in json.dumps(report(world).as_json())


def test_the_database_is_rolled_out_until_every_instance_is_new() -> None:
    """PGO replaces one instance after the other; its StatefulSets select by fewer labels."""
    world = healthy(stack("dev"))
    cluster = {f"{PGO}/cluster": "shlink-db"}
    template = {"metadata": {"labels": {**cluster, f"{PGO}/data": "postgres"}}}
    instance = "shlink-db-instance1-axyz"
    world.objects.append(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": instance, "namespace": "postgres", "generation": 2},
            "spec": {"replicas": 1, "selector": {"matchLabels": cluster}, "template": template},
            "status": {"observedGeneration": 2, "replicas": 1},
        }
    )
    (finding,) = report(world).findings
    assert finding.severity is Severity.PROGRESS
    assert finding.message == f"PostgreSQL: {instance} is being rolled out, 0 of 1 pods are new"


def test_pods_that_are_refused_in_a_rollout_are_an_error() -> None:
    world = healthy(stack("dev"))
    shlink = world.find("Deployment", "shlink")
    failure = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: q"}
    shlink["status"] |= {"updatedReplicas": 0, "conditions": [failure]}
    first = report(world).findings[0]
    assert first.message == "Shlink: new pods are refused: exceeded quota: q"
    assert first.severity is Severity.ERROR


def test_a_cause_under_way_does_not_hide_another_fault() -> None:
    """A wrong image has nothing to do with the database's restart."""

    def image(world: World) -> None:
        world.waiting("shlink-7f8b-0", "ImagePullBackOff")

    result = report(broken(stack("dev"), [database_restarts, image]))
    assert result.findings[0].runbook.endswith("#image-not-pulled")
    assert result.exit_code == ILL


# The autoscaler


@cache
def configured(name: str) -> Declared:
    settings = parse(configurations.configuration(name))
    return of_recording(configurations.recording(name), *settings)


@pytest.mark.parametrize(
    ("conditions", "page"),
    [
        ({"AbleToScale": "False", "ScalingActive": "True"}, "shlink-not-scaling"),
        ({"AbleToScale": "True", "ScalingActive": "False"}, "shlink-not-scaling"),
        ({"ScalingActive": "True", "ScalingLimited": "True"}, "shlink-at-its-maximum"),
    ],
    ids=str,
)
def test_an_autoscaler_that_stands_still_is_a_warning(
    conditions: dict[str, str], page: str
) -> None:
    world = healthy(configured("autoscaled"))
    scaled_as(world.of("HorizontalPodAutoscaler")[0], "FailedX", **conditions)
    (finding,) = report(world).findings
    assert (finding.severity, finding.check) == (Severity.WARNING, "shlink.autoscaler")
    assert finding.runbook.endswith(f"#{page}")


def test_a_cluster_without_a_metrics_server_is_named() -> None:
    world = healthy(configured("autoscaled"))
    message = (
        "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to "
        "get metrics for resource cpu: unable to fetch metrics from resource metrics API: the "
        "server could not find the requested resource (get pods.metrics.k8s.io)"
    )
    scaler = world.of("HorizontalPodAutoscaler")[0]
    scaled_as(scaler, "FailedGetResourceMetric", message, ScalingActive="False")
    assert "it has no metrics-server" in report(world).findings[0].message


def test_an_autoscaler_with_little_to_do_is_well() -> None:
    world = healthy(configured("autoscaled"))
    scaled_as(world.of("HorizontalPodAutoscaler")[0], "TooFewReplicas", ScalingLimited="True")
    assert list(report(world).findings) == []


@pytest.mark.parametrize("age_of_it", [10, 3600])
def test_a_new_autoscaler_is_waited_for(age_of_it: int) -> None:
    world = healthy(configured("autoscaled"))
    scaler = world.of("HorizontalPodAutoscaler")[0]
    scaler["metadata"]["creationTimestamp"] = ago(age_of_it)
    scaler["status"] = {}
    expected = Severity.PROGRESS if age_of_it < 60 else Severity.WARNING
    assert [item.severity for item in report(world).findings] == [expected]


def test_an_error_must_be_there_at_the_second_look() -> None:
    """A list that was read in the middle of a change is no finding."""
    world = broken(stack("dev"), [faults.redis_has_no_master])
    good = healthy(stack("dev"))

    class Healing(Access):
        """The first client sees the fault, the second look does not."""

        async def client(self) -> Any:
            return _Switching(world, good)

    result = asyncio.run(examine(world.declared, Healing("lab"), confirm=0.01))
    assert result.exit_code == HEALTHY


def test_an_error_counts_where_the_first_look_got_no_answer() -> None:
    """An API server under load: what the second look sees is no passing state."""
    faulty = [faults.vault_may_not_review_tokens, faults.a_table_was_dropped]
    unseen, broken_one = broken(stack("dev"), faulty[:1]), broken(stack("dev"), faulty)
    unseen.forbidden = {"pods"}

    class Busy(Access):
        async def client(self) -> Any:
            return _Switching(unseen, broken_one)

    result = asyncio.run(examine(unseen.declared, Busy("lab"), confirm=0.01))
    told = [(item.check, item.severity) for item in result.findings]
    assert told == [("cluster.objects", Severity.ERROR), ("postgres.tables", Severity.ERROR)]


class _Switching(Api):
    """An API server whose state changes after the first look."""

    def __init__(self, first: World, second: World) -> None:
        super().__init__(first)
        self._second = second

    def answer(self, method: str, path: str, body: Any = None) -> Any:
        if path == "/version" and f"GET {path}" in self.world.asked[:-1]:
            self.world = self._second
        return super().answer(method, path, body)


@pytest.mark.parametrize(
    ("fault", "check", "anchor"),
    [
        (faults.replica_behind, "postgres.replicas", "postgres-replica-behind"),
        (faults.redis_nearly_full, "redis.servers", "redis-memory"),
        (faults.certificate_ends, "vault.certificate", "certificate-near-its-end"),
        (faults.policy_peer_missing, "cluster.peers", "network-policy-peer-missing"),
        (faults.policy_added, "cluster.policies", "network-policy-changed"),
        (faults.redis_does_not_save, "redis.servers", "redis-not-saved"),
        (faults.redis_refuses_writes, "redis.servers", "redis-refuses-writes"),
        (faults.harmless_edit, "shlink.unchanged", "not-as-declared"),
        (faults.drain_blocked, "cluster.reserves", "drain-never-ends"),
        (faults.drain_blocked_by_a_count, "cluster.reserves", "drain-never-ends"),
        (faults.volume_nearly_full, "postgres.volumes", "volume-filling"),
        (faults.slot_unread, "postgres.settings", "postgres-slot-unread"),
        (faults.api_key_of_another_name, "shlink.api-key", "shlink-api-key-refused"),
        (faults.setting_by_hand, "postgres.settings", "postgres-settings-changed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_still_works_is_a_warning(fault: Any, check: str, anchor: str) -> None:
    result = report(broken(stack("prod"), [fault]))
    assert [(item.check, item.severity) for item in result.findings] == [(check, Severity.WARNING)]
    assert result.findings[0].runbook.endswith(f"#{anchor}")
    assert result.exit_code == HEALTHY


def test_a_webhook_is_up_once_a_pod_was_created() -> None:
    world = broken(stack("dev"), [faults.an_admission_webhook_is_down])
    for prefix, namespace in (("vault-", "vault"), ("rfr-", "redis"), ("shlink-", "shlink")):
        pod(world, namespace, f"{prefix}new", {})["metadata"]["creationTimestamp"] = ago(10)
    assert "cluster.admission" in report(world).passed


def test_a_webhook_explains_no_image() -> None:
    world = broken(stack("dev"), [faults.an_admission_webhook_is_down])
    world.waiting("vault-", "ErrImagePull")
    roots = [item.check for item in report(world).findings if item.severity is Severity.ERROR]
    assert roots == ["cluster.admission", "vault.running"]


def test_a_pod_that_its_stateful_set_left_behind_is_to_be_deleted() -> None:
    """The template is correct again; the pod is not replaced, as it never was Ready."""
    world = healthy(stack("dev"))
    world.waiting("rfr-shlink-redis-1", "ErrImagePull")
    item = world.pods("rfr-shlink-redis-1")[0]
    item["metadata"]["labels"]["controller-revision-hash"] = "rfr-shlink-redis-bad"
    item["metadata"]["ownerReferences"] = [{"kind": "StatefulSet", "name": "rfr-shlink-redis"}]
    servers = world.find("StatefulSet", "rfr-shlink-redis")
    servers["status"]["updateRevision"] = "rfr-shlink-redis-good"
    first = report(world).findings[0]
    assert first.runbook.endswith("#image-not-pulled")
    assert first.remedy.endswith("-n redis delete pod rfr-shlink-redis-1")


def test_a_budget_that_waits_for_a_pod_is_no_finding() -> None:
    assert not report(broken(stack("prod"), [faults.budget_of_a_missing_pod])).findings


def test_a_change_tells_the_field_and_who_wrote_it_and_no_value_of_a_variable() -> None:
    message = report(broken(stack("dev"), [faults.harmless_edit])).findings[0].message
    assert "containers.shlink.env.TIMEZONE.value was changed (kubectl-edit, " in message
    assert "Madrid" not in message


def test_what_somebody_wrote_into_a_chart_is_told_only_where_it_explains() -> None:
    """What it should be is not known: `kubectl scale` may have put it back."""

    def scaled_back(world: World) -> None:
        world.edit(world.find("Deployment", "pgo"), "spec.replicas", 1)

    assert list(report(broken(stack("dev"), [scaled_back])).findings) == []
    result = report(broken(stack("dev"), [scaled_back, faults.vault_is_sealed]))
    assert [item.check for item in result.findings] == ["vault.unsealed"]
    result = report(broken(stack("dev"), [scaled_back, faults.pgo_crashes]))
    assert [item.check for item in result.findings] == ["operators.unchanged"]


def test_a_harmless_change_does_not_hide_a_cause() -> None:
    """Vault is sealed: what waits for it has nothing to do with an edited variable."""
    result = report(broken(stack("dev"), [faults.harmless_edit, faults.vault_is_sealed]))
    severities = [(item.check, item.severity) for item in result.findings]
    assert severities == [
        ("vault.unsealed", Severity.ERROR),
        ("shlink.unchanged", Severity.WARNING),
    ]


def test_a_change_within_its_time_explains_an_error() -> None:
    """Vault has just restarted: the store's failed login belongs to that."""

    def restarted(world: World) -> None:
        vault_starts(world)
        faults.store_down(world, "Vault is sealed")

    result = report(broken(stack("dev"), [restarted]))
    severities = [(item.check, item.severity) for item in result.findings]
    assert severities == [("vault.unsealed", Severity.PROGRESS)]
    assert {item.check for item in result.findings[0].consequences} > {"secrets.store"}
    assert result.exit_code == HEALTHY


def test_a_container_that_the_kubelet_stops_tells_the_probe() -> None:
    """Its exit code is that of a server that was asked to stop."""
    world = broken(stack("dev"), [lambda world: world.crashed("rfr-shlink-redis-2", code=0)])
    message = 'Liveness probe failed: command timed out: "redis-cli ping" timed out after 1s'
    world.event("Pod", "rfr-shlink-redis-2", "redis", "Unhealthy", message)
    assert report(world).findings[0].message.endswith(f"(exit code 0, 7 restarts): {message}")


def test_a_server_of_redis_with_another_password_is_made_anew() -> None:
    """An update would not notice; the new server takes the Secret's password."""
    found = report(broken(stack("dev"), [faults.a_server_of_redis_has_another_password]))
    assert found.findings[0].remedy.endswith("-n redis delete pod rfr-shlink-redis-2")


@pytest.mark.parametrize(
    ("verbs", "account", "told"),
    [
        (["get", "list", "update"], "external-secrets", None),
        (["*"], "external-secrets", None),
        (["get"], "external-secrets", "may not list secretstores in namespace shlink"),
        (["*"], "other", "may not list secretstores in namespace shlink"),
    ],
)
def test_an_operators_rights_are_those_of_its_bindings(
    verbs: list[str], account: str, told: str | None
) -> None:
    world = healthy(stack("dev"))
    pods = {"spec": {"serviceAccountName": "external-secrets"}}
    world.find("Deployment", "external-secrets")["spec"]["template"] = pods
    groups, kinds = ["", "external-secrets.io"], ["secretstores", "externalsecrets", "secrets"]
    subject = {"kind": "ServiceAccount", "name": account, "namespace": "external-secrets"}
    metadata = {"name": "controller", "namespace": "shlink"}
    common = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": metadata}
    rules = [{"apiGroups": groups, "resources": kinds, "verbs": verbs}]
    reference = {"kind": "Role", "name": "controller"}
    account_of_it = {"name": "external-secrets", "namespace": "external-secrets"}
    world.objects += [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": account_of_it},
        {**common, "kind": "Role", "rules": rules},
        {**common, "kind": "RoleBinding", "roleRef": reference, "subjects": [subject]},
    ]
    findings = report(world).findings
    assert [(told or "") in item.message for item in findings] == [True] * (told is not None)


def test_the_step_that_shlinks_start_has_reached_is_told() -> None:
    world = broken(stack("dev"), [faults.shlink_down])
    for started in world.pods("shlink-7f8b"):
        log = "Initializing database if needed... Success!\nUpdating database... pw=hunter2"
        world.logs[started["metadata"]["name"]] = log
    first = report(world).findings[0]
    assert first.message.endswith("its start has reached: migrating the database (db:migrate)")
    assert "hunter2" not in first.message


def webhook(world: World, namespace: str, **more: Any) -> None:
    """Somebody's webhook that judges ExternalSecrets."""
    service = {"name": "webhook", "namespace": namespace}
    rules = [{"resources": ["externalsecrets"]}]
    entry = {"name": "v.example", "rules": rules, "clientConfig": {"service": service}, **more}
    world.objects.append(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "webhook"},
            "webhooks": [entry],
        }
    )


def test_a_webhook_without_a_ready_pod_is_found_before_it_refuses_anything() -> None:
    world = healthy(stack("dev"))
    webhook(world, "elsewhere")
    (finding,) = report(world).findings
    assert (finding.check, finding.severity) == ("cluster.admission", Severity.WARNING)
    assert "v.example" in finding.message
    slices(world, "elsewhere", "webhook", "coredns-")
    world.count()
    assert list(report(world).findings) == []


def test_a_webhook_that_refuses_nothing_is_no_finding() -> None:
    world = healthy(stack("dev"))
    webhook(world, "elsewhere", failurePolicy="Ignore")
    assert list(report(world).findings) == []


REFUSED = 'Internal error occurred: failed calling webhook "all.example": no endpoints available'


def test_a_webhook_that_refuses_a_question_of_rights_is_the_reason_that_is_told() -> None:
    """It is no missing right."""
    world = healthy(stack("dev"))
    world.reviews_refused = REFUSED
    result = report(world)
    assert [finding.check for finding in result.findings] == ["cluster.admission"]
    reasons = {skip.reason for skip in result.skipped}
    assert reasons
    assert all("all.example" in reason for reason in reasons)


def test_an_operator_of_somebody_else_that_is_down_is_found() -> None:
    world = healthy(stack("operators-there"))
    first = report(world).findings[0]
    assert (first.check, first.runbook) == (
        "operators.available",
        "docs/runbook.md#operator-down",
    )


def test_an_expired_login_is_told() -> None:
    class Expired(ClusterAccess):
        async def client(self) -> Any:
            raise kr8s.ServerError("Unauthorized", response=httpx.Response(401))

    (finding,) = asyncio.run(examine(stack("dev"), Expired("lab"))).findings
    assert "does not accept this login (401): its token or certificate has expired" in (
        finding.message
    )
    world = healthy(stack("dev"))
    world.unauthorized = True
    assert "(401)" in report(world).findings[0].message


def test_an_image_of_the_stacks_file_is_mended_by_its_setting() -> None:
    declared = stack("app")
    world = broken(declared, [lambda world: world.waiting("shlink-7f8b-0", "ErrImagePull")])
    images = declared.settings.images
    status = world.pods("shlink-7f8b-0")[0]["status"]["containerStatuses"][0]
    status["image"] = str(images.shlink)
    given = images.model_copy()
    given.model_fields_set.add("shlink")
    settings = declared.settings.model_copy(update={"images": given})
    world.declared = dataclasses.replace(declared, settings=settings)
    remedy = report(world).findings[0].remedy
    assert "--path shlink:images.shlink docker.io/shlinkio/shlink:VERSION" in remedy


def test_a_volume_that_stays_small_is_found() -> None:
    world = healthy(stack("dev"))
    claim = world.find("PersistentVolumeClaim", "data-vault-0")
    claim["spec"] = {"resources": {"requests": {"storage": "2Gi"}}}
    claim["status"]["capacity"] = {"storage": "1Gi"}
    world.event("PersistentVolumeClaim", "data-vault-0", "vault", "VolumeResizeFailed", "no room")
    (finding,) = report(world).findings
    assert finding.message.endswith("asks for 2Gi and has 1Gi: no room")
    entry = {"type": "Resizing", "status": "True", "lastTransitionTime": ago(10)}
    claim["status"]["conditions"] = [entry]
    assert [item.severity for item in report(world).findings] == [Severity.PROGRESS]


def test_a_volume_that_pgo_may_not_enlarge_is_found() -> None:
    world = healthy(stack("dev"))
    world.forbidden_inside = {"exec"}
    entry = {"type": "PersistentVolumeResizing", "status": "False", "message": "it is forbidden"}
    world.find("PostgresCluster", "")["status"]["conditions"].append(entry)
    (finding,) = report(world).findings
    assert (finding.check, finding.severity) == ("postgres.volumes", Severity.ERROR)
    assert "it is forbidden" in finding.message


@pytest.mark.parametrize(
    ("interval", "hours", "number"),
    [("1h", 2.1, 1), ("1h", 1.9, 0), ("1h0m0s", 2.1, 1), ("0", 99, 0)],
)
def test_two_missed_refreshes_are_found(interval: str, hours: float, number: int) -> None:
    world = healthy(stack("dev"))
    external = world.find("ExternalSecret", "redis-credentials")
    external["spec"]["refreshInterval"] = interval
    external["status"]["refreshTime"] = ago(hours * 3600)
    # An interval that somebody wrote in another way explains it.
    told = json.dumps(report(world).as_json())
    assert told.count("#secret-not-refreshed") == number


def _with_more(switch: str) -> Declared:
    """A stack with a setting of tests.configurations."""
    settings = parse(configurations.configuration(switch))
    return of_recording(configurations.recording(switch), *settings)


def test_a_web_client_without_pods_is_found() -> None:
    declared = _with_more("ingress-domains")
    before = [item for item in report(healthy(declared)).findings if item.layer == "shlink"]
    assert before == []
    world = broken(declared, [lambda world: world.not_ready("shlink-web-client")])
    assert report(world).findings[0].check == "shlink.web-client"


def test_an_ingress_of_an_unknown_class_is_found() -> None:
    world = broken(_with_more("ingress"), [lambda world: world.remove("IngressClass", "")])
    finding = report(world).findings[0]
    assert (finding.check, finding.severity) == ("shlink.reached", Severity.ERROR)
    assert "which does not exist" in finding.message


# What it can't see


def test_a_missing_right_is_told_and_is_no_health() -> None:
    world = healthy(stack("dev"))
    world.forbidden = {"postgresclusters"}
    result = report(world)
    assert {item.severity for item in result.findings} == {Severity.UNKNOWN}
    assert result.findings[0].remedy == "kubectl apply -f deploy/rbac/doctor.yaml"
    assert "postgresclusters" in result.findings[0].message
    assert result.exit_code == BLIND


BEYOND_READING = {
    "vault.certificate",
    "vault.login",
    "postgres.certificate",
    "postgres.volumes",
    "postgres.log",
    "postgres.settings",
    "postgres.logins",
    "postgres.grant",
    "postgres.tables",
    "postgres.archiving",
    "redis.sentinels",
    "shlink.api-key",
    "cluster.names",
}


def test_doctors_own_role_skips_what_goes_beyond_reading_and_is_healthy() -> None:
    world = healthy(stack("dev"))
    world.forbidden_inside = {"exec", "portforward", "log"}
    result = report(world)
    assert (list(result.findings), result.exit_code) == ([], HEALTHY)
    assert {skip.check for skip in result.skipped} == BEYOND_READING
    assert not BEYOND_READING & set(result.passed)
    text = printed(result)
    assert "pods/exec in namespace postgres; deploy/rbac/doctor-inside.yaml grants it" in text
    assert result.as_json()["skipped"][0]["check"] == "cluster.names"
    assert not [line for line in world.asked if line.startswith("WEBSOCKET")]


def test_a_pod_without_a_tool_to_ask_the_dns_says_nothing_of_it() -> None:
    world = healthy(stack("dev"))
    world.resolved = "127"
    result = report(world)
    assert (list(result.findings), result.exit_code) == ([], HEALTHY)
    (skip,) = [item for item in result.skipped if item.check == "cluster.names"]
    assert "can't ask for a name (127)" in skip.reason


def test_a_pod_that_does_not_answer_is_skipped_and_quotes_nothing() -> None:
    """Its own checks tell why; psql's words may quote a statement."""
    world = healthy(stack("dev"))
    world.psql = None
    result = report(world)
    assert result.exit_code == HEALTHY
    assert {skip.check for skip in result.skipped} == {
        "postgres.settings",
        "postgres.logins",
        "postgres.grant",
        "postgres.tables",
        "postgres.archiving",
        "shlink.api-key",
    }
    assert "hunter2" not in printed(result)


def test_a_right_that_many_checks_lack_is_one_finding() -> None:
    world = healthy(stack("dev"))
    world.forbidden = {"pods", "events"}
    result = report(world)
    assert [item.severity for item in result.findings] == [Severity.UNKNOWN]
    assert len(result.findings[0].consequences) > 5


def test_pods_that_do_not_exist_yet_are_awaited() -> None:
    """Between a pod's end and the next one's creation nothing else tells."""
    world = healthy(stack("dev"))
    world.remove("Pod", "rfr-shlink-redis-2")
    findings = report(world).findings
    assert [item.severity for item in findings] == [Severity.PROGRESS]
    assert findings[0].message == "Redis: 1 of 3 pods do not exist yet"


def test_without_the_proxy_a_ready_vault_counts_as_unsealed() -> None:
    world = healthy(stack("dev"))
    world.health["vault-0"] = None
    assert report(world).exit_code == HEALTHY


def test_a_slow_answer_of_the_dns_is_told_only_where_something_fails() -> None:
    def slow(world: World) -> None:
        world.resolved = "124"

    assert list(report(broken(stack("dev"), [slow])).findings) == []
    result = report(broken(stack("dev"), [slow, lambda world: world.not_ready("shlink-7f8b")]))
    assert [item.check for item in result.findings] == ["cluster.names"]


def test_an_unreachable_cluster_is_told_without_what_a_plugin_printed() -> None:
    class Broken(ClusterAccess):
        async def client(self) -> Any:
            raise RuntimeError("Process exited 1: token=hunter2")

    result = asyncio.run(examine(stack("dev"), Broken("lab")))
    assert result.exit_code == BLIND
    assert "hunter2" not in json.dumps(result.as_json())
    assert result.findings[0].remedy == "kubectl --context lab version"
    # A table of what nobody could look at would hide the only line that says something.
    assert printed(result).startswith("FAIL the cluster of context")
    assert len(printed(result).splitlines()) < 7


def test_a_silent_layer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that never ends does not keep the others from telling."""

    async def never(_: Environment) -> AsyncIterator[Problem]:
        await asyncio.Event().wait()
        yield Problem("", "")

    monkeypatch.setattr("operate.doctor.examine.LAYER_PATIENCE", 0.05)
    checks = (
        Check("cluster.reachable", "the API server answers", (), nothing),
        Check("vault.unsealed", "Vault is unsealed", (), never),
    )
    world = healthy(stack("dev"))
    result = asyncio.run(examine(world.declared, access(world), confirm=0, checks=checks))
    assert [item.check for item in result.findings] == ["vault.unsealed"]
    assert result.exit_code == BLIND


def test_a_check_that_fails_does_not_keep_the_others_from_telling() -> None:
    """An object may have a form that nobody has foreseen."""

    def odd(world: World) -> None:
        faults.vault_is_sealed(world)
        world.find("CronJob", "shlink-db-repo1-full")["status"] = {"lastScheduleTime": 7}

    result = report(broken(stack("dev"), [odd]))
    told = [(item.check, item.severity) for item in result.findings]
    assert told == [("vault.unsealed", Severity.ERROR), ("postgres.backups", Severity.UNKNOWN)]
    assert result.findings[1].runbook.endswith("#look-failed")


# What it tells


def test_no_text_of_a_log_is_ever_told() -> None:
    """A log may quote a password; only its meaning is told."""
    result = report(broken(stack("dev"), [faults.the_password_of_postgres_is_wrong]))
    assert "hunter2" not in json.dumps(result.as_json())
    assert "hunter2" not in printed(result)


def test_a_person_reads_cause_command_page_and_consequences() -> None:
    result = report(broken(stack("dev"), [faults.vault_is_sealed]))
    text = printed(result)
    assert "FAIL Vault is sealed (pod vault-0)" in text
    assert "-n vault logs vault-0 -c unseal --tail=20" in text
    assert "docs/runbook.md#vault-sealed" in text
    assert f"{len(result.findings[0].consequences)} more:" in text
    assert "\x1b[" not in text


def test_the_report_fits_80_columns_and_keeps_commands_whole() -> None:
    result = report(broken(stack("prod"), [faults.vault_is_sealed, faults.harmless_edit]))
    assert len(result.findings) > 1
    lines = printed(result, width=80).splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    long = [line for line in lines if len(line) > 80]
    assert [line for line in long if not line.startswith("     run   ")] == []
    for finding in result.findings:
        assert f"     run   {finding.remedy}" in lines


def test_json_keeps_its_promise() -> None:
    document = report(broken(stack("dev"), [faults.vault_is_sealed])).as_json()
    assert {*document} == {
        "stack",
        "context",
        "kubernetes",
        "exitCode",
        "seconds",
        "findings",
        "passed",
        "skipped",
    }
    assert {*document["findings"][0]} == {
        "check",
        "layer",
        "severity",
        "message",
        "runbook",
        "remedy",
        "consequences",
    }
    assert json.loads(json.dumps(document))["findings"][0]["severity"] == "error"


def test_doctor_reads_each_list_once() -> None:
    world = healthy(stack("prod"))
    report(world)
    # The reviews of rights are told apart by their bodies, which are not recorded here.
    read = [line for line in world.asked if not line.startswith("POST")]
    assert len(read) == len(set(read))


def test_an_encrypted_kubeconfig_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"kubernetes:context": "lab", "kubernetes:kubeconfig": stacks.PLACEHOLDER}
    encrypted = mock.Mock(return_value=(values, frozenset({"kubernetes:kubeconfig"})))
    monkeypatch.setattr("operate.declared.stacks.configuration", encrypted)
    assert command.main(["doctor", "dev"]) == BLIND
    assert "--kubeconfig ~/.kube/config" in capsys.readouterr().err


def test_an_unknown_stack_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["doctor", "nope"]) == BLIND
    assert capsys.readouterr().err.startswith("error: there is no stack 'nope'")


# The table


def test_dependencies_come_earlier_in_the_table() -> None:
    seen: set[str] = set()
    for check in CHECKS:
        assert set(check.depends_on) <= seen, check.name
        assert check.name not in seen
        seen.add(check.name)


def test_a_warning_explains_nothing() -> None:
    checks = [
        Check("a.first", "first", (), nothing),
        Check("b.second", "second", ("a.first",), nothing),
    ]
    warning = Problem("w", "x", "true", severity=Severity.WARNING)
    error = Problem("e", "y", "true")
    folded = fold(checks, {"a.first": [warning], "b.second": [error]})
    assert [finding.message for finding in folded] == ["e", "w"]


# The runbook


def _headings() -> set[str]:
    text = (ROOT / "docs/runbook.md").read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {heading.lower().replace(" ", "-") for heading in headings}


def _anchors_in_the_code() -> set[str]:
    """The second value of every Problem, and the third of each known cause in a log."""
    names: set[str] = set()
    for path in (ROOT / "operate").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Problem":
                anchor = node.args[1]
                if isinstance(anchor, ast.Constant):
                    names.add(str(anchor.value))
    causes = vars(shlink)["_CAUSES"]
    return names | {anchor for _, _, anchor in causes}


def test_every_finding_has_its_page() -> None:
    anchors = _anchors_in_the_code()
    assert len(anchors) > 35
    assert anchors <= _headings()


def test_every_page_says_what_to_do_and_how_to_know_that_it_worked() -> None:
    text = (ROOT / "docs/runbook.md").read_text()
    pages = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    incomplete = [
        page.splitlines()[0]
        for page in pages
        if not ("\nMeans: " in page and "\nDo: " in page and "\nWorked when " in page)
    ]
    assert incomplete == []


KUBECTL = {
    "annotate",
    "apply",
    "config",
    "delete",
    "describe",
    "drain",
    "edit",
    "exec",
    "get",
    "label",
    "logs",
    "rollout",
    "scale",
    "taint",
    "uncordon",
    "version",
}


def _verb(command: str) -> str:
    """The verb of a kubectl command; ValueError: the line does not parse."""
    words = shlex.split(command)
    position = 1
    while words[position].startswith("-"):
        position += 2
    return words[position]


def test_every_command_in_the_runbook_parses() -> None:
    text = (ROOT / "docs/runbook.md").read_text().replace("\n", " ")
    commands = [
        command for command in re.findall(r"`([^`]+)`", text) if command.startswith("kubectl ")
    ]
    assert len(commands) > 30
    assert {_verb(command) for command in commands} <= KUBECTL


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_every_remedy_is_a_command(fault: Fault) -> None:
    """It parses, and what it calls exists."""
    for finding in report(broken(stack(fault.stack), [fault.make])).findings:
        program, *words = shlex.split(finding.remedy)
        assert program in {"helm", "make", "kubectl", "pulumi"}
        if program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if program == "kubectl":
            assert _verb(finding.remedy) in KUBECTL

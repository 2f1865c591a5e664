"""The operators: their rights, their charts, and that they are deleted after what they manage."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic.alias_generators import to_snake

from components.network import flows
from components.operators.redis_operator import GROUP_LABEL
from components.settings import types
from components.settings.platform import Charts, Images
from offline.record import ROOT, Recording, object_name, plain, record
from tests import configurations
from tests.conftest import REPRESENTATIVE, Program, before, manifest, pod, strings, variables
from tests.netpol import allowed

_FOLDER = {"repository": "./charts/it", "version": "9.9.9"}
_MIRROR = {"repository": "oci://registry.example.org/charts/it", "version": "9.9.9"}
_REPOSITORY = {"repository": "https://charts.example.org", "version": "9.9.9"}
CHARTS = [
    ("externalSecrets", "Release", "external-secrets-operator", "external-secrets"),
    ("pgo", "Release", "pgo", "pgo"),
    ("redisOperator", "Release", "redis-operator", "redis-operator"),
    ("vault", "Chart", "vault", "vault"),
]


def rules(recording: Recording) -> Iterator[tuple[str, str, Any]]:
    """Kind and name of a role with each of its rules."""
    for kind in ("Role", "ClusterRole"):
        for role in recording.of_kind(kind):
            for rule in plain(role.inputs)["rules"]:
                yield kind, object_name(role), rule


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_no_role_of_the_program_reaches_further_than_one_named_secret(name: str) -> None:
    for kind, role, rule in rules(configurations.recording(name)):
        assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], role
        if {"secrets", "serviceaccounts/token"} & set(rule["resources"]):
            assert kind == "Role", role
            assert len(rule["resources"]) == len(rule["resourceNames"]) == 1, role
            assert not {"list", "watch", "deletecollection"} & set(rule["verbs"]), role
        if kind == "ClusterRole":
            assert rule["resources"] == ["redisfailovers"], role
            assert set(rule["verbs"]) <= {"list", "watch"}, role


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_every_binding_binds_an_account_that_exists_to_a_role_beside_it(name: str) -> None:
    recording = configurations.recording(name)
    declared = recording.of_kind("Role") + recording.of_kind("ClusterRole")
    roles = {(role.kind, object_name(role)) for role in declared}
    roles.add(("ClusterRole", "system:auth-delegator"))  # the cluster's own
    accounts = {
        (account.inputs["metadata"]["namespace"], object_name(account))
        for account in recording.of_kind("ServiceAccount")
    }
    # The charts create these. `platform` is where External Secrets is pre-installed in the tests.
    accounts |= {
        ("vault", "vault"),
        ("external-secrets", "external-secrets"),
        ("platform", "external-secrets"),
    }
    for binding in recording.of_kind("RoleBinding") + recording.of_kind("ClusterRoleBinding"):
        inputs = plain(binding.inputs)
        assert (inputs["roleRef"]["kind"], inputs["roleRef"]["name"]) in roles
        for subject in inputs["subjects"]:
            assert (subject["namespace"], subject["name"]) in accounts


def test_redis_operator_reads_one_secret(dev: Recording) -> None:
    read = [
        rule["resourceNames"]
        for _, role, rule in rules(dev)
        if role == "redis-operator" and "secrets" in rule["resources"]
    ]
    assert read == [[manifest(dev, "RedisFailover", "shlink-redis")["spec"]["auth"]["secretPath"]]]


def test_redis_operators_chart_makes_no_rights_of_its_own(dev: Recording) -> None:
    """It uses the program's ServiceAccount, whose rights are narrower than the chart's."""
    account = manifest(dev, "Release", "redis-operator")["values"]["serviceAccount"]
    declared = manifest(dev, "ServiceAccount", "redis-operator-account")["metadata"]["name"]
    assert account["create"] is False
    assert account["name"] == declared


@pytest.fixture(scope="module")
def fork() -> Recording:
    """With the maintained fork of redis-operator."""
    return configurations.recording("redis-fork")


def test_the_fork_gets_its_group(fork: Recording) -> None:
    """It exits without one, and looks after RedisFailovers with that label and no others."""
    labels = manifest(fork, "RedisFailover", "shlink-redis")["metadata"]["labels"]
    (container,) = pod(fork, "Deployment", "redis-operator-fork")["spec"]["containers"]
    assert (
        labels
        == {GROUP_LABEL: variables(container)["OPERATOR_GROUP_ID"]}
        == {GROUP_LABEL: "shlink"}
    )
    assert container["args"] == ["--supported-namespaces-regex=^redis$"]
    assert container["image"] == Images().redis_operator_fork


def test_the_forks_chart_brings_the_crd_and_runs_nothing(fork: Recording) -> None:
    """Its chart can't set the group. Where the archived operator ran, the release ends it first."""
    release = manifest(fork, "Release", "redis-operator")
    assert release["values"]["replicas"] == 0
    assert release["values"]["serviceAccount"]["create"] is False
    assert release["chart"] == Charts().redis_operator_fork.repository
    assert ("Release", "redis-operator") in before(fork, "Deployment", "redis-operator-fork")


def test_the_fork_outlives_the_redis_failover(fork: Recording) -> None:
    assert ("Deployment", "redis-operator-fork") in before(fork, "RedisFailover", "shlink-redis")


def test_the_network_lets_the_fork_work(fork: Recording) -> None:
    """By the labels of the chart's own pods."""
    labels = pod(fork, "Deployment", "redis-operator-fork")["metadata"]["labels"]
    assert flows.REDIS_OPERATOR.labels.items() <= labels.items()


def test_an_archived_operator_gets_no_label() -> None:
    """Another label would be a change for nothing."""
    defaults = configurations.recording("defaults")
    assert "labels" not in manifest(defaults, "RedisFailover", "shlink-redis")["metadata"]


def test_external_secrets_looks_after_one_namespace_and_asks_for_no_ones_token(
    dev: Recording,
) -> None:
    """Every SecretStore is in that namespace. Nothing that needs cluster-wide rights is watched."""
    values = manifest(dev, "Release", "external-secrets-operator")["values"]
    stores = dev.of_kind("SecretStore")
    assert stores
    for store in stores:
        assert store.inputs["metadata"]["namespace"] == values["scopedNamespace"]
    assert values["scopedRBAC"] is True
    assert values["rbac"]["serviceAccountTokenCreate"] is False
    for key, value in values.items():
        assert value is False or not key.startswith("processCluster"), key
    assert values["installCRDs"] is True
    # Deleted CRDs take every ExternalSecret of the cluster along, other environments' too.
    assert values["crds"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    # Nothing waits for the webhook, and its cert controller would read every Secret of the cluster.
    assert values["webhook"]["create"] is values["certController"]["create"] is False


def test_pgo_looks_after_its_own_namespace(dev: Recording) -> None:
    release = manifest(dev, "Release", "pgo")
    assert release["values"]["singleNamespace"] is True
    assert (
        release["namespace"]
        == manifest(dev, "PostgresCluster", "shlink-db")["metadata"]["namespace"]
    )


@pytest.mark.parametrize(("kind", "name"), [chart[1:3] for chart in CHARTS])
def test_charts_are_pinned_and_awaited(dev: Recording, kind: str, name: str) -> None:
    inputs = manifest(dev, kind, name)
    assert inputs["version"][0].isdigit()
    assert not inputs.get("skipAwait")
    if kind == "Release":
        assert inputs["atomic"] is True


def test_the_redis_operator_that_cannot_be_installed_is_not_the_default() -> None:
    """See spotahome/redis-operator#679."""
    assert Charts().redis_operator.version != "3.3.0"


@pytest.fixture
def chart_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of `_FOLDER`, beside a program elsewhere."""
    monkeypatch.setattr(types, "_PROGRAM", tmp_path)
    folder = tmp_path / _FOLDER["repository"]
    folder.mkdir(parents=True)
    (folder / "Chart.yaml").write_text("name: it\n")


@pytest.mark.usefixtures("chart_folder")
@pytest.mark.parametrize("source", [_MIRROR, _REPOSITORY, _FOLDER], ids=["oci", "https", "path"])
@pytest.mark.parametrize(("key", "kind", "name", "released"), CHARTS)
def test_a_chart_comes_from_a_registry_a_repository_or_a_folder(  # noqa: PLR0917 -- fixtures and cases
    program: Program, key: str, kind: str, name: str, released: str, source: Mapping[str, str]
) -> None:
    recording = program(charts={chart[0]: source for chart in CHARTS})
    inputs = manifest(recording, kind, name)
    listed = source["repository"].startswith("https://")
    assert inputs["chart"] == (released if listed else source["repository"]), key
    assert inputs.get("repositoryOpts") == ({"repo": source["repository"]} if listed else None)
    assert inputs["version"] == source["version"]
    # Object names, and so the network's selectors, don't depend on where the chart comes from.
    assert inputs["name"] == released


@pytest.mark.parametrize(("key", "kind", "name", "released"), CHARTS)
def test_the_default_source_of_a_chart_is_its_pin(
    key: str, kind: str, name: str, released: str
) -> None:
    inputs = manifest(configurations.recording("defaults"), kind, name)
    repository = getattr(Charts(), to_snake(key)).repository
    assert repository in (inputs["chart"], inputs.get("repositoryOpts", {}).get("repo"))
    assert inputs["name"] == released


def test_images_of_the_charts_are_the_settings(program: Program) -> None:
    registry = "registry.example.org/mirror"
    recording = program(
        images={
            "registry": registry,
            "pgo": f"{registry}/pgo:v1.0.0",
            "postgres": f"{registry}/postgres:16.11.0",
            "pgbackrest": f"{registry}/pgbackrest:2.1.0",
        }
    )
    vault = manifest(recording, "Chart", "vault")["values"]["server"]
    secrets = manifest(recording, "Release", "external-secrets-operator")["values"]
    redis = manifest(recording, "Release", "redis-operator")["values"]
    for image in (vault["image"], secrets["image"], redis["image"]):
        assert image["repository"].startswith(f"{registry}/")
        assert image["tag"].lstrip("v")[0].isdigit()
    assert vault["extraContainers"][0]["image"].startswith(f"{registry}/")
    assert manifest(recording, "Release", "pgo")["values"]["controllerImages"] == {
        "cluster": f"{registry}/pgo:v1.0.0"
    }
    assert (
        manifest(recording, "PostgresCluster", "shlink-db")["spec"]["backups"]["pgbackrest"][
            "image"
        ]
        == f"{registry}/pgbackrest:2.1.0"
    )
    failover = manifest(recording, "RedisFailover", "shlink-redis")["spec"]
    images = [
        failover["redis"]["image"],
        failover["sentinel"]["image"],
        failover["redis"]["exporter"]["image"],
    ]
    assert [image for image in images if not image.startswith(f"{registry}/")] == []


def test_a_mirror_serves_every_image_that_pgo_runs() -> None:
    """PostgreSQL and pgBackRest are named by PGO's chart, so an air gap would miss them."""
    values = manifest(configurations.recording("mirror"), "Release", "pgo")["values"]
    images = [related["image"] for related in values["relatedImages"].values()]
    images.append(values["controllerImages"]["cluster"])
    assert [image for image in images if not image.startswith("registry.example.org/mirror/")] == []
    versions = {f"postgres_{version}" for version in (15, 16, 17, 18)}
    assert versions | {"pgbackrest", "pgexporter"} <= values["relatedImages"].keys()


def test_without_a_mirror_the_charts_own_images_stay(dev: Recording) -> None:
    assert "relatedImages" not in manifest(dev, "Release", "pgo")["values"]


def test_nothing_is_pulled_past_the_mirror() -> None:
    """Every image that anything registered names, whatever kind it is in."""
    hosts = ("docker.io/", "quay.io/", "ghcr.io/", "registry.developers.crunchydata.com/")
    past: list[str] = []
    for resource in configurations.recording("mirror").resources.values():
        for text, _ in strings(resource.inputs):
            if text.startswith(hosts):
                past.append(f"{resource.name}: {text}")
    assert past == []


def test_an_image_that_is_set_is_not_taken_from_the_mirror() -> None:
    spec = manifest(configurations.recording("mirror"), "PostgresCluster", "shlink-db")["spec"]
    assert spec["image"] == "r.example.org/postgres:ubi9-16.11-2547"


@pytest.mark.parametrize(
    ("kind", "name", "operator"),
    [
        ("PostgresCluster", "shlink-db", "pgo"),
        ("RedisFailover", "shlink-redis", "redis-operator"),
        ("SecretStore", "vault-backend", "external-secrets-operator"),
        ("ExternalSecret", "postgres-credentials", "external-secrets-operator"),
        ("ExternalSecret", "redis-credentials", "external-secrets-operator"),
        ("ExternalSecret", "shlink-api-key", "external-secrets-operator"),
    ],
)
def test_an_operator_outlives_what_it_looks_after(
    dev: Recording, kind: str, name: str, operator: str
) -> None:
    # Its finalizer would never be removed.
    assert ("Release", operator) in before(dev, kind, name)


@pytest.mark.parametrize(
    "binding",
    [("ClusterRoleBinding", "redis-operator-watch"), ("RoleBinding", "redis-operator-manage")],
)
def test_redis_operator_keeps_its_rights_until_the_redis_failover_is_gone(
    dev: Recording, binding: tuple[str, str]
) -> None:
    assert binding in before(dev, "RedisFailover", "shlink-redis")


def test_operators_that_are_there_are_not_installed_but_still_served() -> None:
    recording = configurations.recording("operators-there")
    assert recording.of_kind("Release") == []
    assert recording.of_kind("PostgresCluster")
    assert recording.of_kind("RedisFailover")
    subjects = manifest(recording, "RoleBinding", "vault-backend-token")["subjects"]
    assert [(subject["name"], subject["namespace"]) for subject in subjects] == [
        ("external-secrets", "platform")
    ]


@pytest.fixture(scope="module")
def two_consumers() -> Recording:
    """A program with two namespaces that get Secrets from Vault."""
    program = ROOT / "tests" / "programs" / "two_consumers.py"
    settings = configurations.configuration("defaults") | {"reports:image": "registry/psql:16"}
    return record("test", settings, program=program)


def test_each_consumer_has_a_controller_of_its_own(two_consumers: Recording) -> None:
    """A controller watches one namespace or the whole cluster, and never the whole cluster here."""
    releases = {
        release.inputs["name"]: plain(release.inputs)
        for release in two_consumers.of_kind("Release")
        if release.inputs["name"].startswith("external-secrets")
    }
    watched = {name: release["values"]["scopedNamespace"] for name, release in releases.items()}
    assert watched == {"external-secrets": "shlink", "external-secrets-reports": "reports"}
    for name, release in releases.items():
        values = release["values"]
        assert release["namespace"] == "external-secrets"
        assert values["scopedRBAC"] is True
        # With one lease between them the second controller would wait for ever.
        assert values["leaderElectionID"] == f"{name}-controller"
        assert values["serviceAccount"]["name"] == name


def test_the_crds_have_one_owner_that_comes_first(two_consumers: Recording) -> None:
    """Helm refuses a second release that declares the same CRDs."""
    owners = {
        release.name: release.inputs["values"]["installCRDs"]
        for release in two_consumers.of_kind("Release")
        if "installCRDs" in release.inputs["values"]
    }
    assert owners == {
        "external-secrets-operator": True,
        "external-secrets-operator-reports": False,
    }
    earlier = before(two_consumers, "Release", "external-secrets-operator-reports")
    assert ("Release", "external-secrets-operator") in earlier


@pytest.mark.parametrize(
    ("consumer", "release"),
    [
        ("shlink", "external-secrets-operator"),
        ("reports", "external-secrets-operator-reports"),
    ],
)
def test_a_store_is_served_by_the_controller_of_its_namespace(
    two_consumers: Recording, consumer: str, release: str
) -> None:
    """Its token may be asked for by that controller alone, which outlives the store."""
    store = manifest(two_consumers, "SecretStore", f"{consumer}-store")
    assert store["metadata"]["namespace"] == consumer
    binding = manifest(two_consumers, "RoleBinding", f"{consumer}-store-token")
    account = manifest(two_consumers, "Release", release)["values"]["serviceAccount"]["name"]
    assert binding["metadata"]["namespace"] == consumer
    assert [(subject["name"], subject["namespace"]) for subject in binding["subjects"]] == [
        (account, "external-secrets")
    ]
    assert ("Release", release) in before(two_consumers, "SecretStore", f"{consumer}-store")


def test_a_second_consumer_has_a_database_of_its_own(two_consumers: Recording) -> None:
    """Its user, its grant and the way for its pods, which are closed to all others."""
    grants = {
        grant.inputs["role"]: (grant.inputs["database"], sorted(grant.inputs["privileges"]))
        for grant in two_consumers.of_kind("Grant")
    }
    assert grants == {
        "shlink": ("shlink", ["CREATE", "USAGE"]),
        "reports": ("reports", ["CREATE", "USAGE"]),
    }
    policies = [plain(policy.inputs) for policy in two_consumers.of_kind("NetworkPolicy")]
    labels = {
        name: {"kubernetes.io/metadata.name": name} for name in (*flows.NAMESPACES, "reports")
    }
    pods = ("reports", {"app.kubernetes.io/name": "reports"})
    database = (flows.DATABASE.namespace, flows.DATABASE.labels)
    vault = (flows.VAULT_SERVER.namespace, flows.VAULT_SERVER.labels)
    assert allowed(policies, labels, pods, database, 5432)
    assert not allowed(policies, labels, pods, vault, 8200)


@pytest.mark.parametrize("name", ["redis-none", "redis-external"])
def test_without_a_redis_failover_nobody_installs_its_operator(name: str) -> None:
    recording = configurations.recording(name)
    releases = {release.name for release in recording.of_kind("Release")}
    assert releases == {"pgo", "external-secrets-operator"}
    assert recording.of_kind("ClusterRole") == []

"""Whether a cluster can take an environment, asked before anything is created."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from components.cluster.access import ClusterAccess
from components.program.identity import MARK
from operate.declared import declared
from operate.doctor import preflight
from operate.doctor.examine import HEALTHY, ILL, Report, examine
from operate.doctor.findings import Severity
from operate.doctor.preflight import CHECKS
from tests.world import Api, World

TAKEN = 24680
"""The only local port that something holds."""


@pytest.fixture(autouse=True)
def _ports_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def bind(address: tuple[str, int]) -> mock.Mock:
        if address[1] == TAKEN:
            raise OSError
        return mock.Mock()

    monkeypatch.setattr(preflight.socket, "create_server", bind)


def empty() -> World:
    """A cluster without anything of ours."""
    world = World(declared("dev"))
    annotations = {"storageclass.kubernetes.io/is-default-class": "true"}
    world.objects.append(
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "standard", "annotations": annotations},
        }
    )
    return world


def report(world: World) -> Report:
    class Access(ClusterAccess):
        """The way to this world."""

        async def client(self) -> Any:
            return Api(world)

    return asyncio.run(examine(world.declared, Access("lab"), confirm=0, checks=CHECKS))


def test_an_empty_cluster_can_take_it() -> None:
    result = report(empty())
    assert [finding.message for finding in result.findings] == []
    assert result.exit_code == HEALTHY
    assert len(result.passed) == len(CHECKS)


def old(world: World) -> None:
    world.version = "v1.24.17"


def no_rights(world: World) -> None:
    world.forbidden = {"networkpolicies"}


def no_default_class(world: World) -> None:
    world.objects[0]["metadata"]["annotations"] = {}


def definition(release: str | None, namespace: str) -> dict[str, Any]:
    """A kind of External Secrets, and the Helm release that owns it."""
    annotations: dict[str, str] = {}
    if release is not None:
        annotations = {
            "meta.helm.sh/release-name": release,
            "meta.helm.sh/release-namespace": namespace,
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "externalsecrets.external-secrets.io", "annotations": annotations},
        "spec": {"group": "external-secrets.io"},
    }


def another_operator(world: World) -> None:
    world.objects.append(definition("platform-eso", "platform"))


def the_guides_operator(world: World) -> None:
    """Under the chart's own names, which are those of this program too."""
    world.objects.append(namespace("external-secrets", None))
    world.objects.append(definition("external-secrets", "external-secrets"))


def an_operator_by_hand(world: World) -> None:
    world.objects.append(definition(None, ""))


def its_cluster_role(world: World) -> None:
    world.objects.append(
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "external-secrets-controller"},
        }
    )


def namespace(name: str, mark: str | None) -> dict[str, Any]:
    annotations = {MARK: mark} if mark else {}
    metadata = {"name": name, "uid": name, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def another_environment(world: World) -> None:
    world.objects.append(namespace("vault", "shlink/prod/1a2b"))
    world.objects.append(namespace("redis", "shlink/prod/1a2b"))


def a_namespace_of_somebody(world: World) -> None:
    world.objects.append(namespace("redis", None))


FAULTS = [
    (old, "cluster.version", "1.27 or newer is needed"),
    (no_rights, "cluster.rights", "may not create: networkpolicies.networking.k8s.io in"),
    (no_default_class, "cluster.storage", "no default storage class"),
    (another_operator, "cluster.owners", "external-secrets.io (release platform-eso in platform)"),
    (an_operator_by_hand, "cluster.owners", "external-secrets.io (not by Helm)"),
    (its_cluster_role, "cluster.owners", "clusterroles external-secrets-controller"),
    (
        another_environment,
        "cluster.namespaces",
        "stack prod of project shlink (id 1a2b), in vault, redis",
    ),
    (a_namespace_of_somebody, "cluster.namespaces", "namespace redis exists already"),
]


@pytest.mark.parametrize(
    ("make", "check", "text"), FAULTS, ids=[item[0].__name__ for item in FAULTS]
)
def test_each_fault_is_told(make: Callable[[World], object], check: str, text: str) -> None:
    world = empty()
    make(world)
    result = report(world)
    assert [finding.check for finding in result.findings] == [check]
    assert text in result.findings[0].message
    assert result.exit_code == ILL


def test_a_class_that_does_not_exist_is_named() -> None:
    world = empty()
    settings = world.declared.settings
    storage = settings.postgres.storage.model_copy(update={"storage_class": "fast"})
    postgres = settings.postgres.model_copy(update={"storage": storage})
    changed = settings.model_copy(update={"postgres": postgres})
    world.declared = dataclasses.replace(world.declared, settings=changed)
    assert "does not exist: fast" in report(world).findings[0].message


def test_a_taken_port_is_told_with_the_setting() -> None:
    world = empty()
    settings = world.declared.settings
    vault = settings.vault.model_copy(update={"local_port": TAKEN})
    changed = settings.model_copy(update={"vault": vault})
    world.declared = dataclasses.replace(world.declared, settings=changed)
    finding = report(world).findings[0]
    assert finding.check == "machine.ports"
    assert "shlink:vault.localPort" in finding.remedy


def test_an_operator_that_is_there_is_told_with_what_to_set() -> None:
    world = empty()
    the_guides_operator(world)
    key = "pulumi config set --stack dev --path shlink:operators.externalSecrets"
    expected = f"{key}.install false && {key}.namespace external-secrets"
    finding = report(world).findings[0]
    assert "(release external-secrets in external-secrets)" in finding.message
    assert finding.remedy == expected


def test_an_environment_of_this_stack_is_no_obstacle() -> None:
    world = empty()
    world.objects.append(definition("external-secrets", "external-secrets"))
    for name in world.declared.namespaces:
        world.objects.append(namespace(name, "shlink/dev/1a2b"))
    assert report(world).findings == []


def test_kinds_that_a_destroyed_environment_left_are_no_obstacle() -> None:
    world = empty()
    world.objects.append(definition("external-secrets", "external-secrets"))
    assert report(world).findings == []


def test_a_webhook_that_is_down_is_told_by_a_finding() -> None:
    world = empty()
    world.reviews_refused = 'failed calling webhook "all.example": no endpoints available'
    (finding,) = report(world).findings
    assert finding.check == "cluster.rights"
    assert "all.example" in finding.message


def test_a_class_that_can_not_expand_is_told_where_a_size_is_set() -> None:
    world = empty()
    assert report(world).findings == []
    settings = world.declared.settings
    database = settings.postgres.model_copy()
    database.model_fields_set.add("storage")
    settings = settings.model_copy(update={"postgres": database})
    world.declared = dataclasses.replace(world.declared, settings=settings)
    (finding,) = report(world).findings
    assert (finding.severity, report(world).exit_code) == (Severity.WARNING, HEALTHY)
    world.of("StorageClass")[0]["allowVolumeExpansion"] = True
    assert report(world).findings == []

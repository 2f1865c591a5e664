"""Nobody else's environment and nobody else's cluster is touched."""

import asyncio
import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import httpx
import pulumi
import pytest

from components.cluster.access import ClusterAccess
from components.program import changes, identity
from components.program.identity import CLUSTER_UID, MARK, Identity, IdentityError, Sight, State
from offline.record import Recording, plain
from tests.test_changes import recorded, update

NAMES = ("vault", "redis")
OWN = Identity("shlink", "dev", "1a2b")
PROD = Identity("shlink", "prod", "3c4d")


def namespace(name: str, uid: str = "", mark: str | None = None) -> dict[str, Any]:
    """A Namespace as the API server shows it."""
    annotations = {MARK: mark} if mark else {}
    return {"metadata": {"name": name, "uid": uid or f"{name}-uid", "annotations": annotations}}


def sight(*namespaces: Mapping[str, Any], cluster: str = "here") -> Sight:
    return Sight.read([namespace("kube-system", cluster), *namespaces])


def verify(seen: Sight | None, own: str | None = "1a2b", **record: Any) -> None:
    """What the program does before it registers anything in the cluster."""

    async def verified() -> None:
        environment = SimpleNamespace(id=pulumi.Output.from_input(own))
        stash = SimpleNamespace(input=pulumi.Output.from_input(record))
        arguments = cast("Any", (stash, environment, NAMES, seen))
        assert await identity.verified(*arguments) is stash

    asyncio.run(verified())


def test_whatever_is_in_no_namespace_bears_the_mark(dev: Recording) -> None:
    kinds: set[str] = set()
    for resource in dev.resources.values():
        if resource.is_kubernetes_object:
            metadata = plain(resource.inputs)["metadata"]
            marked = MARK in metadata.get("annotations", {})
            assert marked == ("namespace" not in metadata), resource.urn
            kinds |= {resource.kind} if marked else set()
    assert kinds == {"Namespace", "ClusterRole", "ClusterRoleBinding"}


def test_the_mark_names_project_stack_and_id() -> None:
    assert Identity.parse(OWN.mark) == OWN
    assert Identity.parse("by hand") == Identity("by hand", "", "")


def test_its_own_namespaces_and_those_of_before_are_no_obstacle() -> None:
    record = {CLUSTER_UID: "here"}
    verify(sight(namespace("vault", mark=OWN.mark), namespace("redis")), **record)
    # A stack that was renamed keeps its id, and other namespaces are nobody's concern.
    renamed = namespace("vault", mark="shlink/before/1a2b")
    verify(sight(renamed, namespace("other", mark=PROD.mark)), **record)
    # An environment of before has no uid in its record.
    verify(sight(namespace("vault")))


def test_a_second_stack_in_one_cluster_is_refused() -> None:
    both = sight(namespace("vault", mark=PROD.mark), namespace("redis", mark=PROD.mark))
    expected = r"vault belongs to stack prod of project shlink \(id 3c4d\).*redis belongs to"
    with pytest.raises(IdentityError, match=expected):
        verify(both)
    # In a first preview the id is not known yet.
    with pytest.raises(IdentityError, match="namespace vault belongs to stack prod"):
        verify(both, own=None)


def test_another_cluster_under_the_same_name_is_refused_with_a_target_too() -> None:
    """With `--target` the record is not updated, and the engine answers with the state's."""
    with pytest.raises(IdentityError, match="is there, recorded is here"):
        verify(sight(cluster="there"), **{CLUSTER_UID: "here"})


def test_a_preview_needs_no_cluster() -> None:
    verify(None, **{CLUSTER_UID: "here"})


def test_adopting_is_left_to_the_command_that_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api(200, namespace("kube-system", "here"))
    monkeypatch.setenv(identity.ADOPT, "true")
    with pytest.raises(IdentityError, match="make recover"):
        look_first(api, preview=True)
    monkeypatch.setenv(identity.LOOKED, "true")
    assert look_first(api, preview=False) == sight()


def test_another_clusters_uid_is_refused_in_the_record_unless_allowed() -> None:
    with pytest.raises(changes.ChangeError, match=r"kubernetes\.uid: here -> there"):
        update({CLUSTER_UID: "here"}, {CLUSTER_UID: "there"})
    update({CLUSTER_UID: "here"}, {CLUSTER_UID: "there"}, ["kubernetes.uid: here -> there"])


@pytest.mark.parametrize("key", ["kubernetes.cluster", CLUSTER_UID])
@pytest.mark.parametrize("held", ["nothing", "objects", "unknown"])
def test_a_record_binds_once_something_exists(key: str, held: str) -> None:
    """A first update with the wrong context ended before it made anything."""
    state = None if held == "unknown" else State(OWN, "here", {}, empty=held == "nothing")
    with mock.patch("components.program.changes.exported", return_value=state):
        if held == "nothing":
            update({key: "a"}, {key: "b"})
            return
        with pytest.raises(changes.ChangeError, match=rf"{key}: a -> b"):
            update({key: "a"}, {key: "b"})


def exported(*resources: Mapping[str, Any]) -> State:
    return State.read({"resources": resources})


def resource(type_: str, name: str, **outputs: Any) -> dict[str, Any]:
    urn = f"urn:pulumi:dev::shlink::parent${type_}::{name}"
    return {"urn": urn, "type": type_, "custom": True, "outputs": outputs}


def test_the_state_tells_whose_it_is() -> None:
    state = exported(
        resource("random:index/randomId:RandomId", "environment", hex="1a2b"),
        resource("random:index/randomId:RandomId", "shlink-db-path", hex="ffff"),
        resource("pulumi:index:Stash", "settings", input={CLUSTER_UID: "here"}),
        resource(
            "kubernetes:core/v1:Namespace",
            "namespace-vault",
            kind="Namespace",
            metadata={"name": "vault", "uid": "u"},
        ),
        resource(
            "kubernetes:core/v1:Secret",
            "keys",
            kind="Secret",
            metadata={"name": "keys", "namespace": "vault", "uid": "v"},
        ),
    )
    assert state == State(OWN, "here", {("Namespace", "vault"): "u"}, empty=False)
    assert exported(resource("pulumi:index:Stash", "settings")) == State(None, None, {}, empty=True)


@pytest.mark.parametrize(
    ("metadata", "database"),
    [
        ({"annotations": {"shlink.io/database": "first"}}, "first"),
        ({}, None),
        # The one that follows it is another database.
        ({"annotations": {"shlink.io/database": "first"}, "deletionTimestamp": "now"}, None),
    ],
)
def test_a_database_is_known_while_its_cluster_lives(
    metadata: dict[str, Any], database: str | None
) -> None:
    kube_system = {"metadata": {"name": "kube-system", "uid": "here"}}
    assert Sight.read([kube_system], {"metadata": metadata}).database == database


class Shows:
    """An API server that shows these objects, by their URLs, and forbids the rest."""

    def __init__(self, **objects: Mapping[str, Any]) -> None:
        self._objects = objects

    def call_api(self, *_: Any, url: str, **__: Any) -> Any:
        shown = self._objects.get(url.partition("/")[0])
        answer = mock.AsyncMock()
        answer.__aenter__.return_value = httpx.Response(
            403 if shown is None else 200, text=json.dumps(shown)
        )
        return answer


@pytest.mark.parametrize(
    ("objects", "addresses"),
    [
        (
            {
                "services": {"spec": {"clusterIPs": ["10.96.0.1"]}},
                "endpointslices": {
                    "endpoints": [{"addresses": ["10.0.0.12"]}, {"addresses": ["10.0.0.11"]}]
                },
            },
            ("10.0.0.11/32", "10.0.0.12/32", "10.96.0.1/32"),
        ),
        ({"services": {"spec": {"clusterIPs": ["fd00::1"]}}}, ()),
        ({}, ()),
    ],
)
def test_the_api_servers_addresses_are_all_known_or_none(
    objects: dict[str, Any], addresses: tuple[str, ...]
) -> None:
    """Half of them would close the other half."""
    assert asyncio.run(identity.api_server(Shows(**objects))) == addresses


class Api:
    """An API server that shows its namespaces, or refuses to."""

    def __init__(self, status: int, *namespaces: Mapping[str, Any]) -> None:
        self._answer = httpx.Response(status, text=json.dumps({"items": namespaces}))

    def call_api(self, *_: Any, **__: Any) -> Any:
        answer = mock.AsyncMock()
        answer.__aenter__.return_value = self._answer
        return answer


def look_first(api: Api | Exception, *, preview: bool) -> Sight | None:
    class Access(ClusterAccess):
        """The way to this API server."""

        async def client(self) -> Any:
            if isinstance(api, Exception):
                raise api
            return api

    with (
        mock.patch.object(pulumi.runtime, "is_dry_run", return_value=preview),
        mock.patch("components.cluster.access.disconnect", mock.AsyncMock()),
    ):
        return identity.look_first(Access("lab"))


def test_the_cluster_is_looked_at_before_anything_is_registered() -> None:
    api = Api(200, namespace("kube-system", "here"), namespace("vault", mark=OWN.mark))
    seen = look_first(api, preview=False)
    assert seen is not None
    assert seen.cluster == "here"
    assert seen.namespaces["vault"].mark == OWN.mark


@pytest.mark.parametrize(
    ("api", "text"),
    [
        (Api(403), r"answers 403.*deploy/rbac/deploy\.yaml"),
        (OSError("token hunter2"), r"context lab can't be asked whose it is \(OSError\)"),
    ],
    ids=["forbidden", "unreachable"],
)
def test_an_update_that_can_not_look_touches_nothing(api: Any, text: str) -> None:
    with pytest.raises(IdentityError, match=text) as error:
        look_first(api, preview=False)
    assert "hunter2" not in str(error.value)
    assert look_first(api, preview=True) is None


def test_the_namespace_of_an_operator_that_was_there_is_forgotten_and_not_deleted() -> None:
    """Every version before declared it, whoever had made it."""
    there = recorded(operators={"externalSecrets": {"install": False, "namespace": "platform"}})
    usual = recorded(
        operators={"externalSecrets": {"install": False, "namespace": "external-secrets"}}
    )
    before = {key: value for key, value in usual.items() if "Secrets.namespace" not in key}
    change = "operators.externalSecrets.namespace: this environment's own -> external-secrets"
    with pytest.raises(changes.ChangeError, match=change):
        update(before, usual)
    update(before, usual, [change])
    # An empty one of its own goes, and a first update has none.
    update(before, there)
    update(usual, usual)

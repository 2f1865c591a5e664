"""Commands that act without the program look whose the cluster and its namespaces are."""

from collections.abc import Iterator, Mapping
from unittest import mock

import pytest

from components.cluster.access import ClusterAccess
from components.program.identity import Identity, IdentityError, Marked, Sight, State
from operate import ownership
from operate.declared import Declared, declared
from operate.ownership import check, check_adoption, check_by_stack
from operate.repair.pulumi_cli import Pulumi, PulumiError

ACCESS = ClusterAccess("lab")
OWN = Identity("shlink", "dev", "1a2b")
PROD = Identity("shlink", "prod", "3c4d")
ROLE = ("ClusterRole", "shlink-redis-operator")


def state(*namespaces: str, cluster: str | None = "here", own: Identity | None = OWN) -> State:
    """A state that holds these namespaces."""
    objects = {("Namespace", name): f"{name}-uid" for name in namespaces}
    return State(own, cluster, objects, empty=not objects)


class Live:
    """What the cluster shows."""

    def __init__(self) -> None:
        self.cluster = "here"
        self.namespaces: dict[str, Marked] = {}
        self.outside: dict[tuple[str, str], Marked] = {}

    def has(self, name: str, owner: Identity | None, uid: str = "") -> None:
        mark = owner.mark if owner else None
        self.namespaces[name] = Marked(uid or f"{name}-uid", mark)


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    cluster = Live()

    async def look(_: ClusterAccess) -> Sight:
        return Sight(cluster.cluster, cluster.namespaces)

    async def existing(*_: object) -> Mapping[tuple[str, str], Marked]:
        return cluster.outside

    monkeypatch.setattr(ownership.identity, "look", look)
    monkeypatch.setattr(ownership, "_existing", existing)
    with mock.patch.object(Pulumi, "export", side_effect=PulumiError("no pulumi here")):
        yield cluster


@pytest.fixture(scope="module")
def dev() -> Declared:
    return declared("dev")


def test_what_the_state_holds_is_its_own(live: Live) -> None:
    live.has("vault", OWN)
    live.has("redis", None)
    check(ACCESS, state("vault", "redis"))
    # One that was made again with its mark, as a backup of whole namespaces does.
    live.has("vault", OWN, uid="restored")
    check(ACCESS, state("vault"))


def test_another_kubeconfig_with_the_same_context_is_refused(live: Live) -> None:
    live.cluster = "there"
    with pytest.raises(IdentityError, match="is there, recorded is here"):
        check(ACCESS, state("vault"))
    # A record binds nobody while nothing exists.
    check(ACCESS, state())


def test_an_environment_of_before_is_known_by_its_namespaces(live: Live) -> None:
    """It has no mark, and no uid of the cluster in its record."""
    live.has("vault", None, uid="somebody else's")
    with pytest.raises(IdentityError, match="vault of context lab is not the one"):
        check(ACCESS, state("vault", cluster=None, own=None))


def test_what_bears_another_mark_is_neither_destroyed_nor_renewed(live: Live) -> None:
    live.has("vault", PROD)
    with pytest.raises(IdentityError, match=r"belongs to stack prod of project shlink \(id 3c4d\)"):
        check(ACCESS, state("vault"))


def test_a_recovery_adopts_what_bears_its_mark(live: Live, dev: Declared) -> None:
    """An interrupted first update made it, and the state does not know whether it did."""
    live.has("vault", OWN)
    live.outside[ROLE] = Marked("r", OWN.mark)
    check_adoption(ACCESS, state(), dev)
    # What the state holds needs no mark.
    live.has("redis", None)
    check_adoption(ACCESS, state("redis"), dev)


def test_a_recovery_of_a_second_stack_adopts_nothing(live: Live, dev: Declared) -> None:
    """The first one runs, and bears its own mark."""
    live.has("vault", PROD)
    with pytest.raises(IdentityError, match="vault belongs to stack prod"):
        check_adoption(ACCESS, state(), dev)


@pytest.mark.parametrize("own", [OWN, None])
def test_a_recovery_adopts_nothing_without_a_mark(
    live: Live, dev: Declared, own: Identity | None
) -> None:
    live.has("vault", None)
    with pytest.raises(IdentityError) as error:
        check_adoption(ACCESS, state(own=own), dev)
    command = "kubectl --context lab annotate namespace vault --overwrite"
    annotated = f"{command} shlink.io/environment=shlink/dev/1a2b"
    assert "Namespace vault: exists, is not in this stack's state" in str(error.value)
    assert (annotated if own else "`make up` first") in str(error.value)


def test_objects_outside_of_namespaces_are_looked_at_too(live: Live, dev: Declared) -> None:
    live.outside[ROLE] = Marked("r", None)
    with pytest.raises(IdentityError, match="annotate clusterrole shlink-redis-operator"):
        check_adoption(ACCESS, state(), dev)


def test_a_drill_asks_the_state_or_compares_names(live: Live, dev: Declared) -> None:
    live.has("vault", Identity("shlink", "dev", "another"))
    # Where no state can be read, project and stack must do.
    check_by_stack(ACCESS, dev)
    deployment = {
        "resources": [
            {
                "urn": "urn:pulumi:dev::shlink::kubernetes:core/v1:Namespace::namespace-vault",
                "type": "kubernetes:core/v1:Namespace",
                "outputs": {"kind": "Namespace", "metadata": {"name": "vault", "uid": "vault-uid"}},
            }
        ]
    }
    with (
        mock.patch.object(Pulumi, "export", return_value=deployment),
        pytest.raises(IdentityError, match=r"belongs to stack dev of project shlink \(id another"),
    ):
        check_by_stack(ACCESS, dev)


@pytest.mark.parametrize(
    ("owner", "text"), [(PROD, "belongs to stack prod"), (None, "bears no mark")]
)
def test_nobody_elses_environment_is_drilled(
    live: Live, dev: Declared, owner: Identity | None, text: str
) -> None:
    live.has("vault", owner)
    with pytest.raises(IdentityError, match=text):
        check_by_stack(ACCESS, dev)

"""`make vault-renew`: what it deletes, what it asks Pulumi for, and when it does nothing."""

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any
from unittest import mock

import pytest

from operate.repair import vault_forward, vault_renew
from operate.repair.pulumi_cli import PulumiError
from operate.repair.vault_renew import vault_records

_STACK = "urn:pulumi:dev::shlink::"
_VAULT = f"{_STACK}shlink:vault:Vault$"
JOB = f"{_VAULT}kubernetes:batch/v1:Job::vault-init"
KEYS = f"{_VAULT}kubernetes:core/v1:Secret::vault-unseal-keys"
SERVER = f"{_VAULT}kubernetes:helm.sh/v4:Chart$kubernetes:apps/v1:StatefulSet::vault:vault/vault"
STORE = f"{_VAULT}vault:index/mount:Mount::vault-kv"
VALUE = f"{_STACK}shlink:secrets:SecretDelivery$vault:kv/secretV2:SecretV2::vault-backend-api-key"
OTHERS = [
    f"{_STACK}kubernetes:core/v1:Secret::unrelated",
    f"{_STACK}shlink:shlink:Shlink$kubernetes:batch/v1:Job::shlink-migration",
    f"{_VAULT}pulumi:providers:vault::vault",
    f"{_STACK}shlink:vault:Vault::vault",
]


def _resource(urn: str) -> dict[str, str]:
    return {"urn": urn, "type": urn.split("::")[-2].rsplit("$", maxsplit=1)[-1]}


def deployment() -> dict[str, Any]:
    return {"resources": [_resource(urn) for urn in [JOB, KEYS, SERVER, STORE, VALUE, *OTHERS]]}


class Command:
    """A stand-in for the pulumi command."""

    stack = "dev"

    def __init__(self, *, answer: bool = True, vault: str = "{}") -> None:
        self._answer, self._vault = answer, vault
        self.calls: list[list[str]] = []

    def export(self) -> dict[str, Any]:
        return deployment()

    def configuration(self) -> tuple[dict[str, str], frozenset[str]]:
        return {"kubernetes:context": "lab", "shlink:vault": self._vault}, frozenset()

    def confirm(self, _: str) -> bool:
        return self._answer

    def run(self, *words: str, **_: Any) -> None:
        self.calls.append([*words])


class Item:
    """An object of the cluster that notes what is done to it."""

    def __init__(self, cluster: "Cluster", raw: dict[str, Any]) -> None:
        self._cluster, self.raw = cluster, raw
        self.name = raw["metadata"]["name"]

    async def patch(self, change: Mapping[str, Any]) -> None:
        self._cluster.did.append(("patch", self.name, change))

    async def delete(self) -> None:
        self._cluster.did.append(("delete", self.name, {}))
        self._cluster.objects["persistentvolumeclaims"].remove(self.raw)


class Cluster:
    """A cluster whose pods go when they are asked to."""

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        self.objects = {"pods": [], "persistentvolumeclaims": [], **objects}
        self.did: list[tuple[str, str, Mapping[str, Any]]] = []

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncGenerator["Cluster"]:
        yield self

    async def async_get(self, kind: Any, name: str | None = None, **_: Any) -> AsyncGenerator[Item]:
        for raw in list(self.objects.get(kind.plural, [])):
            if name in {None, raw["metadata"]["name"]}:
                yield Item(self, raw)


def named(name: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **fields}


Renew = Callable[[Command, Cluster], Cluster]


@pytest.fixture
def renew(monkeypatch: pytest.MonkeyPatch) -> Renew:
    async def create(api: Cluster, secret: Mapping[str, Any]) -> None:
        api.did.append(("create", secret["metadata"]["name"], secret["data"]))

    forward = mock.Mock()
    check = mock.Mock()

    def run(command: Command, cluster: Cluster) -> Cluster:
        monkeypatch.setattr(vault_renew, "access", mock.Mock(return_value=cluster))
        monkeypatch.setattr(vault_renew, "_create", create)
        monkeypatch.setattr(vault_renew.ownership, "check", check)
        monkeypatch.setattr(vault_forward, "Forward", forward)
        vault_renew.renew(command)  # pyright: ignore[reportArgumentType] -- a stand-in
        return cluster

    return run


def whole() -> Cluster:
    return Cluster(
        statefulsets=[named("vault", spec={"replicas": 3})],
        secrets=[named("vault-unseal-keys", data={"vault-unseal-0": "a2V5"})],
        persistentvolumeclaims=[named("data-vault-0"), named("data-vault-1")],
    )


def test_the_state_tells_what_is_in_vault_and_which_job_makes_it() -> None:
    records = vault_records(deployment())
    assert records.jobs == [JOB]
    assert records.inside == [STORE, VALUE]


def test_volumes_go_only_while_no_server_runs_and_the_keys_are_kept_aside(renew: Renew) -> None:
    did = renew(Command(), whole()).did
    kept, emptied, stopped, first, second = did
    assert kept[0] == "create"
    assert kept[1].startswith("vault-unseal-keys-until-")
    assert kept[2] == {"vault-unseal-0": "a2V5"}
    assert emptied == ("patch", "vault-unseal-keys", {"data": None})
    assert stopped == ("patch", "vault", {"spec": {"replicas": 0}})
    assert [first[:2], second[:2]] == [("delete", "data-vault-0"), ("delete", "data-vault-1")]


def test_what_is_lost_already_is_passed_over(renew: Renew) -> None:
    """Without Secret, StatefulSet and volumes the update alone makes everything."""
    command = Command()
    assert renew(command, Cluster()).did == []
    assert len(command.calls) == 4


SEAL = (
    '{"seal": {"type": "transit", "address": "https://keys.example.org", "keyName": "k", '
    '"token": "t"}}'
)


@pytest.mark.parametrize("seal", ["{}", SEAL], ids=["keys-in-the-secret", "key-service"])
@pytest.mark.parametrize(
    ("lost", "secret", "expected"),
    [
        # Kubernetes makes an empty volume for a pod that starts again.
        ("volume", "kept", ["create kept", "patch keys", "patch vault", "delete data-vault-0"]),
        ("secret", "lost", ["patch vault", "delete data-vault-0"]),
        # `make refresh` has made it again.
        ("secret", "empty", ["patch vault", "delete data-vault-0"]),
        ("both", "lost", ["patch vault"]),
        ("both", "empty", ["patch vault"]),
    ],
)
def test_whatever_is_lost_one_command_makes_vault_again(
    renew: Renew, lost: str, secret: str, expected: list[str], seal: str
) -> None:
    """Old keys are kept aside, an old volume goes, and the update is the same."""
    cluster = Cluster(statefulsets=[named("vault", spec={"replicas": 1})])
    if secret != "lost":
        data = {"data": {"vault-unseal-0": "a2V5"}} if secret == "kept" else {}
        cluster.objects["secrets"] = [named("vault-unseal-keys", **data)]
    if lost != "both":
        cluster.objects["persistentvolumeclaims"] = [named("data-vault-0")]
    command = Command(vault=seal)
    steps: list[str] = []
    for action, name, _ in renew(command, cluster).did:
        short = "kept" if "-until-" in name else name.replace("vault-unseal-keys", "keys")
        steps.append(f"{action} {short}")
    assert steps == expected
    assert [words[0] for words in command.calls] == ["refresh", "up", "refresh", "up"]


def test_the_job_runs_again_before_anything_in_vault_is_read(renew: Renew) -> None:
    """Reading it needs the login that the Job makes; and only what is gone is written again."""
    command = Command()
    renew(command, whole())
    look, initialise, forget, write = command.calls
    own, network = "**::shlink:vault:Vault$", "**::shlink:network:Namespace$**"
    assert look == [
        *("refresh", "--skip-preview"),
        *("--target", f"{own}kubernetes:**", "--target", network),
    ]
    assert initialise == [
        *("up", "--skip-preview"),
        *("--target", f"{own}**", "--target", network, "--replace", JOB),
    ]
    inside = ["--target", STORE, "--target", VALUE]
    assert forget == ["refresh", "--skip-preview", *inside]
    assert write == ["up", "--skip-preview"]


def test_nothing_is_deleted_before_a_person_agreed(renew: Renew) -> None:
    cluster = whole()
    with pytest.raises(PulumiError, match="nothing was changed"):
        renew(Command(answer=False), cluster)
    assert cluster.did == []
    assert renew(Command(answer=True), cluster).did


def test_a_login_of_ones_own_is_refused(renew: Renew) -> None:
    """A new Vault does not know it, so the program could not write anything."""
    cluster = whole()
    command = Command(vault='{"token": "t"}')
    with pytest.raises(PulumiError, match=r"shlink:vault\.token"):
        renew(command, cluster)
    assert cluster.did == command.calls == []

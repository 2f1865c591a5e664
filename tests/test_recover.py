"""What a killed run leaves behind, how it is recognised, and what `make recover` does about it."""

import asyncio
import contextlib
import json
import os
import stat
import subprocess
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from components.cluster.access import ClusterAccess
from components.program import identity
from components.program.identity import IdentityError
from offline.record import plain, record
from operate import __main__ as operate
from operate import asking
from operate.repair import recover
from operate.repair.pulumi_cli import Lock, Pulumi, PulumiError, locks
from operate.repair.recover import HelmRecord, blocking, leftovers
from tests.conftest import configuration

STACK = "urn:pulumi:dev::shlink::pulumi:pulumi:Stack::shlink-dev"
RELEASE = "urn:pulumi:dev::shlink::kubernetes:helm.sh/v3:Release::pgo"
MOUNT = "urn:pulumi:dev::shlink::vault:index/mount:Mount::vault-kv"
PEOPLE = "urn:pulumi:dev::shlink::vault:jwt/authBackend:AuthBackend::vault-people"
AUDIT = "urn:pulumi:dev::shlink::vault:index/audit:Audit::vault-audit"
SECRET = "urn:pulumi:dev::shlink::kubernetes:core/v1:Secret::x"


def resource(urn: str, **inputs: Any) -> dict[str, Any]:
    return {"urn": urn, "type": urn.split("::")[2], "inputs": inputs}


def creating(urn: str, **inputs: Any) -> dict[str, Any]:
    return {"type": "creating", "resource": resource(urn, **inputs)}


def deleting(urn: str, **fields: Any) -> dict[str, Any]:
    return {"type": "deleting", "resource": {**resource(urn), **fields}}


def deployment(*operations: Any, resources: Sequence[Any] = ()) -> dict[str, Any]:
    return {"resources": [resource(STACK), *resources], "pending_operations": list(operations)}


def test_creations_in_vault_are_read_by_their_path() -> None:
    """A mount, an auth method and an audit device can't be created twice at one path."""
    left = leftovers(
        deployment(
            creating(MOUNT, path="secret", type="kv"),
            creating(AUDIT, type="file"),
            creating(PEOPLE, path="people", type="jwt"),
            creating(SECRET, metadata={"name": "x"}),
        )
    )
    assert left.vault_paths == {MOUNT: "secret", AUDIT: "file", PEOPLE: "people"}
    assert left.creations == [MOUNT, AUDIT, PEOPLE, SECRET]


def test_releases_are_told_apart_by_what_the_state_knows() -> None:
    other = RELEASE.replace("pgo", "redis-operator")
    left = leftovers(
        deployment(
            creating(RELEASE, namespace="postgres", name="pgo"),
            resources=[resource(other, namespace="redis", name="redis-operator")],
        )
    )
    assert left.started_releases == {("postgres", "pgo")}
    assert left.releases == {("postgres", "pgo"), ("redis", "redis-operator")}


@pytest.mark.parametrize(
    ("record", "stuck"),
    [
        (HelmRecord("postgres", "a", "pgo", "pending-install"), True),
        # Helm finished, and the run died before it was recorded.
        (HelmRecord("postgres", "a", "pgo", "deployed"), True),
        (HelmRecord("redis", "a", "redis-operator", "deployed"), False),
        (HelmRecord("redis", "b", "redis-operator", "pending-upgrade"), True),
        (HelmRecord("redis", "b", "redis-operator", "superseded"), False),
    ],
)
def test_which_records_of_helm_are_in_the_way(record: HelmRecord, *, stuck: bool) -> None:
    left = leftovers(deployment(creating(RELEASE, namespace="postgres", name="pgo")))
    assert blocking([record], left) == ([record] if stuck else [])


@pytest.mark.parametrize("fields", [{"delete": True}, {"pendingReplacement": True}])
def test_the_deletion_of_a_replaced_resource_is_no_destroy(fields: Mapping[str, Any]) -> None:
    assert leftovers(deployment(deleting(SECRET, **fields))).deletions == []
    assert [item["urn"] for item in leftovers(deployment(deleting(SECRET))).deletions] == [SECRET]


def dead_pid() -> int:
    process = subprocess.Popen(["true"])  # noqa: S607 -- any command that ends
    process.wait()
    return process.pid


def lock_message(pid: int, host: str = "here") -> str:
    return (
        "error: the stack is currently locked by 1 lock(s). Either wait for the other process(es) "
        "to end or delete the lock file with `pulumi cancel`.\n"
        f"  file:///locks/1.json: created by root@{host} (pid {pid}) at 2026-11-24T12:00:00Z\n"
    )


def test_only_a_dead_process_of_this_machine_has_abandoned_its_lock() -> None:
    pid = dead_pid()
    assert [lock.abandoned for lock in locks(lock_message(pid), host="here")] == [True]
    assert [lock.abandoned for lock in locks(lock_message(pid), host="there")] == [False]
    assert [lock.abandoned for lock in locks(lock_message(os.getpid()), host="here")] == [False]
    busy = "error: [409] Conflict: Another update is currently in progress."
    assert [lock.abandoned for lock in locks(busy)] == [False]
    assert locks("error: no stack named 'dev' found") == []


Calls = Callable[[], list[str]]


@pytest.fixture
def pulumi_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Calls]:
    """A stand-in for the pulumi command: it notes how it is called, and answers from files."""

    def install(export: Any, *, lock: str = "") -> Calls:
        (tmp_path / "export.json").write_text(json.dumps({"deployment": export}))
        values = {"kubernetes:context": {"value": "lab", "secret": False}}
        (tmp_path / "config.json").write_text(json.dumps(values))
        if lock:
            (tmp_path / "lock").write_text(lock)
        script = tmp_path / "pulumi"
        script.write_text(
            f"""#!/bin/sh
cd {tmp_path}
echo "$* ${{PULUMI_K8S_UPSERT_EXISTING_OBJECTS:+adopting}}" >> calls
case $1 in
  stack) if [ $2 = import ]; then cp $4 imported.json; else cat export.json; fi ;;
  config) cat config.json ;;
  cancel) rm -f lock ;;
  *) if [ -f lock ]; then cat lock >&2; exit 255; fi ;;
esac
"""
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(recover.ownership, "check_adoption", mock.Mock())
        return lambda: [line.strip() for line in (tmp_path / "calls").read_text().splitlines()]

    return install


def test_vaults_paths_are_read_and_everything_else_is_forgotten(
    pulumi_command: Callable[..., Calls], tmp_path: Path
) -> None:
    """The forward to Vault is open for the refresh, and closed for `up`, which opens its own."""
    calls = pulumi_command(deployment(creating(MOUNT, path="secret"), creating(SECRET)))

    def note(line: str) -> None:
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{line}\n")

    with mock.patch("operate.repair.vault_forward.Forward") as forward:
        forward.return_value.start.side_effect = lambda: note("forward opened")
        forward.return_value.close.side_effect = lambda: note("forward closed")
        recover.recover(Pulumi("dev", confirm=lambda _: True))
    *_, imported, opened, refresh, closed, up = calls()
    assert imported.startswith("stack import --file ")
    assert (opened, closed) == ("forward opened", "forward closed")
    assert refresh == f"refresh --skip-preview --target {MOUNT} --stack dev"
    assert up == "up --stack dev adopting"
    state = json.loads((tmp_path / "imported.json").read_text())["deployment"]
    assert state["pending_operations"] == []
    mounts = [item for item in state["resources"] if item["urn"] == MOUNT]
    assert [(item["id"], item["outputs"]["path"]) for item in mounts] == [("secret", "secret")]
    assert not any(item["urn"] == SECRET for item in state["resources"])


def test_without_anything_in_vault_no_server_is_asked(
    pulumi_command: Callable[..., Calls],
) -> None:
    """A killed rotation may have left passwords half changed: a full refresh would fail on them."""
    calls = pulumi_command(deployment(creating(SECRET)))
    recover.recover(Pulumi("dev", confirm=lambda _: True))
    expected = f"refresh --clear-pending-creates --skip-preview --target {STACK} --stack dev"
    assert calls()[-2] == expected


def test_an_abandoned_lock_is_removed_and_the_command_repeated(
    pulumi_command: Callable[..., Calls], capfd: pytest.CaptureFixture[str]
) -> None:
    with mock.patch("socket.gethostname", return_value="here"):
        calls = pulumi_command(deployment(), lock=lock_message(dead_pid()))
        Pulumi("dev").run("destroy")
    assert calls() == ["destroy --stack dev", "cancel --yes dev", "destroy --stack dev"]
    assert "removing the lock of root@here" in capfd.readouterr().err


@pytest.mark.parametrize("answer", [True, False])
def test_a_lock_whose_holder_may_live_is_removed_only_by_a_person(
    pulumi_command: Callable[..., Calls], *, answer: bool
) -> None:
    calls = pulumi_command(deployment(), lock=lock_message(1, host="elsewhere"))
    command = Pulumi("dev", confirm=lambda _: answer)
    if answer:
        command.run("destroy")
        assert "cancel --yes dev" in calls()
        return
    with pytest.raises(PulumiError, match="pulumi cancel --stack dev"):
        command.run("destroy")
    assert calls() == ["destroy --stack dev"]


def test_helms_records_are_deleted_only_when_a_person_agrees(
    pulumi_command: Callable[..., Calls],
) -> None:
    calls = pulumi_command(deployment(creating(RELEASE, namespace="postgres", name="pgo")))
    stuck = [HelmRecord("postgres", "sh.helm.release.v1.pgo.v1", "pgo", "pending-install")]
    removed = mock.AsyncMock()
    with (
        mock.patch("operate.repair.recover.helm_records", mock.AsyncMock(return_value=stuck)),
        mock.patch("operate.repair.recover.remove_records", removed),
    ):
        with pytest.raises(PulumiError, match="nothing was changed"):
            recover.recover(Pulumi("dev", confirm=lambda _: False))
        assert not any(call.startswith(("refresh", "up")) for call in calls())
        removed.assert_not_called()
        recover.recover(Pulumi("dev", confirm=lambda _: True))
    assert removed.call_args.args[1] == stuck


def test_after_a_destroy_a_person_is_asked_which_way_to_go(
    pulumi_command: Callable[..., Calls],
) -> None:
    calls = pulumi_command(deployment(deleting(SECRET)))
    with pytest.raises(PulumiError, match="to go on deleting: make destroy"):
        recover.recover(Pulumi("dev", confirm=lambda _: False))
    assert all(call.startswith(("stack export", "config")) for call in calls())


def api(*objects: Mapping[str, Any]) -> ClusterAccess:
    """A cluster that shows one of these for each look, and then nothing."""
    looks = [(200, json.dumps(item)) for item in objects]

    class Access(ClusterAccess):
        """The way to it."""

        @contextlib.asynccontextmanager
        async def connected(self) -> AsyncGenerator[Any]:
            async def answer(*_: Any, **__: Any) -> tuple[int, str]:
                return looks.pop(0) if looks else (404, "")

            with mock.patch("components.cluster.access.answer", answer):
                yield self

    return Access("lab")


DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "shlink", "namespace": "shlink"},
}
ENDING = {"metadata": {"deletionTimestamp": "2026-12-01T00:00:00Z", "finalizers": ["x/y"]}}


def test_building_up_after_a_destroy_waits_and_reads_what_is_left(
    pulumi_command: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deletions go on in the cluster, while the state still has what they delete."""
    calls = pulumi_command(deployment(deleting(SECRET, outputs=DEPLOYMENT)))
    monkeypatch.setattr(recover, "_INTERVAL", 0)
    monkeypatch.setattr(recover, "access", mock.Mock(return_value=api(ENDING, ENDING)))
    monkeypatch.setattr(recover.vault_renew, "has_volumes", mock.AsyncMock(return_value=False))
    recover.recover(Pulumi("dev", confirm=lambda _: True))
    assert calls()[-1] == "up --refresh --run-program --stack dev adopting"


def test_what_waits_for_a_finalizer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "_PATIENCE", 0)
    resource = {"outputs": DEPLOYMENT}
    with pytest.raises(PulumiError, match=r"Deployment shlink/shlink \(waits for: x/y\)"):
        asyncio.run(recover.until_gone(api(ENDING), [resource]))
    # What nobody has deleted yet stays, and is in the state.
    asyncio.run(recover.until_gone(api({"metadata": {}}), [resource]))


def test_the_vault_before_goes_when_the_state_has_nothing_in_it_any_more(
    pulumi_command: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pulumi_command(deployment(deleting(SECRET, outputs=DEPLOYMENT)))
    monkeypatch.setattr(recover, "access", mock.Mock(return_value=api()))
    emptied = mock.AsyncMock()
    monkeypatch.setattr(recover.vault_renew, "has_volumes", mock.AsyncMock(return_value=True))
    monkeypatch.setattr(recover.vault_renew, "_empty", emptied)
    answers = iter([True, False])
    with pytest.raises(PulumiError, match="nothing was changed"):
        recover.recover(Pulumi("dev", confirm=lambda _: next(answers)))
    assert not any(call.startswith("up") for call in calls())
    recover.recover(Pulumi("dev", confirm=lambda _: True))
    emptied.assert_awaited_once()
    assert calls()[-1].startswith("up --refresh")


def test_a_second_stack_adopts_nothing(
    pulumi_command: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pulumi_command(deployment(creating(SECRET)))
    theirs = mock.Mock(side_effect=IdentityError("namespace vault belongs to stack prod"))
    monkeypatch.setattr(recover.ownership, "check_adoption", theirs)
    with pytest.raises(IdentityError):
        recover.recover(Pulumi("dev", confirm=lambda _: True))
    assert not any(call.startswith(("up", "refresh", "stack import")) for call in calls())


PASSPHRASE = (
    "urn:pulumi:dev::shlink::shlink:postgres:Postgres$random:index/randomPassword:RandomPassword"
    "::shlink-db-repo2-passphrase-1"
)


@pytest.mark.parametrize("saved", ["saved", ""])
def test_a_destroy_asks_for_the_passphrase_of_the_backups_that_stay(
    pulumi_command: Callable[..., Calls], monkeypatch: pytest.MonkeyPatch, saved: str
) -> None:
    type_ = "random:index/randomPassword:RandomPassword"
    resource: dict[str, Any] = {
        "urn": PASSPHRASE,
        "type": type_,
        "custom": True,
        "protect": True,
        "outputs": {},
    }
    config_map: dict[str, Any] = {
        "urn": "urn:pulumi:dev::shlink::x::y",
        "type": "kubernetes:core/v1:ConfigMap",
        "outputs": {},
    }
    calls = pulumi_command({"resources": [resource, config_map | {"custom": True}]})
    monkeypatch.setattr(recover.ownership, "check", mock.Mock())
    monkeypatch.setattr(recover.finalizers, "clear", mock.Mock())
    command = Pulumi("dev", confirm=lambda _: bool(saved))
    if saved:
        recover.destroy(command)
    else:
        with pytest.raises(PulumiError, match="save the passphrases first"):
            recover.destroy(command)
    unprotected = f"state unprotect {PASSPHRASE} --yes --stack dev"
    ran = [call for call in calls() if call.startswith(("state", "destroy"))]
    assert ran == ([unprotected, "destroy --stack dev"] if saved else [])


def test_nobody_elses_environment_is_destroyed(
    pulumi_command: Callable[..., Calls],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    namespace = resource("urn:pulumi:dev::shlink::kubernetes:core/v1:Namespace::namespace-vault")
    calls = pulumi_command(deployment(resources=[namespace]))
    theirs = mock.Mock(side_effect=IdentityError("namespace vault belongs to stack prod"))
    monkeypatch.setattr(recover.ownership, "check", theirs)
    monkeypatch.setenv(asking.VARIABLE, "true")
    assert operate.main(["destroy", "dev"]) == 2
    assert "belongs to stack prod" in capsys.readouterr().err
    assert not any(call.startswith("destroy") for call in calls())


def test_recovering_leaves_no_change_for_the_next_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would make an input of the provider from this variable."""
    monkeypatch.setenv(identity.ADOPT, "true")
    provider = record("test", configuration({})).one("kubernetes", "cluster")
    assert "upsertExistingObjects" not in plain(provider.inputs)


def test_the_fields_of_a_killed_run_can_be_changed_later() -> None:
    """Its field manager would hold them for ever: the next rotation ended in a conflict."""
    provider = record("test", configuration({})).one("kubernetes", "cluster")
    assert plain(provider.inputs)["enablePatchForce"] in (True, "true")


def test_locks_are_described_for_a_person() -> None:
    assert locks(lock_message(1, host="ci"), host="here") == [
        Lock("root@ci, process 1, since 2026-11-24T12:00:00Z", abandoned=False)
    ]

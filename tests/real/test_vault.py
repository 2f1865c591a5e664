"""The init Job's scripts and the policies, on a real Vault."""

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.vault.policies import operator_policy, program_policy, viewer_policy
from tests.real.vault_server import LOGIN, NO_VAULT, VaultServer, binary, vault_args


@pytest.fixture(name="fresh")
def _fresh(tmp_path: Path) -> Iterator[VaultServer]:
    """A new server, not initialised."""
    if binary("vault") is None:
        pytest.skip(NO_VAULT)
    server = VaultServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture(name="ready")
def _ready(fresh: VaultServer) -> VaultServer:
    """A server after a whole Job."""
    run_job(fresh)
    return fresh


def chosen_token(fresh: VaultServer) -> Path:
    return fresh.folder / "run/init/token"


def run_job(fresh: VaultServer) -> None:
    """All steps; bank-vaults' part is done by Vault's own command."""
    check = fresh.step("check")
    assert check.returncode == 0, check.stderr
    if fresh.vault("operator", "init", "-status").returncode != 0:
        fresh.initialise(chosen_token(fresh).read_text())
    login = fresh.step("login")
    assert login.returncode == 0, login.stdout + login.stderr
    chosen_token(fresh).unlink()


def test_the_job_ends_with_a_login_that_works_and_no_root_token(fresh: VaultServer) -> None:
    run_job(fresh)
    token = fresh.login()
    assert fresh.vault("token", "lookup", token=token).returncode == 0
    root = fresh.generate_root()
    assert len(fresh.root_tokens(root)) == 1, "only the one that was generated just now"


def test_the_whole_job_with_bank_vaults(fresh: VaultServer) -> None:
    """Its own initialisation and its own sidecar; then a restart, which the sidecar ends."""
    if binary("bank-vaults") is None:
        pytest.skip("no bank-vaults to try it with")
    sidecar = fresh.sidecar()
    try:
        assert fresh.step("check").returncode == 0
        chosen = chosen_token(fresh).read_text()
        init = fresh.step("init", **fresh.bank_vaults())
        assert init.returncode == 0, init.stdout + init.stderr
        login = fresh.step("login")
        assert login.returncode == 0, login.stdout + login.stderr
        assert "making a root token" not in login.stdout, "the chosen token was root"
        assert chosen not in init.stdout + init.stderr + login.stdout + login.stderr
        assert fresh.vault("token", "lookup", token=chosen).returncode != 0
        assert fresh.step("init", **fresh.bank_vaults()).returncode == 0
        fresh.stop()
        fresh.start()
        for _ in range(60):
            if fresh.vault("status").returncode == 0:
                break
            time.sleep(0.5)
        assert fresh.login()
    finally:
        sidecar.terminate()
        sidecar.wait(timeout=10)


def test_a_second_run_changes_nothing_and_makes_no_root_token(ready: VaultServer) -> None:
    login = ready.step("login")
    assert login.returncode == 0
    assert "nothing is to be done" in login.stdout
    assert "root token" not in login.stdout


def test_nothing_secret_is_printed(fresh: VaultServer) -> None:
    assert fresh.step("check").returncode == 0
    chosen = chosen_token(fresh).read_text()
    first = fresh.initialise(chosen)
    login = fresh.step("login")
    printed = login.stdout + login.stderr
    files = [*fresh.keys.iterdir(), *(fresh.folder / "run/login").glob("*-id")]
    for secret in (chosen, first, *(file.read_text() for file in files)):
        assert secret not in printed


def test_a_run_that_was_cut_off_after_the_initialisation_is_made_good(fresh: VaultServer) -> None:
    """The chosen token is lost with the pod; the keys in the Secret give another."""
    assert fresh.step("check").returncode == 0
    lost = chosen_token(fresh).read_text()
    fresh.initialise(lost)
    run_job(fresh)
    assert fresh.login()
    assert fresh.vault("token", "lookup", token=lost).returncode != 0


def test_a_run_that_was_cut_off_before_the_chosen_token_is_made_good(fresh: VaultServer) -> None:
    assert fresh.step("check").returncode == 0
    first = fresh.initialise(None)
    run_job(fresh)
    assert fresh.login()
    assert fresh.vault("token", "lookup", token=first).returncode != 0


def test_a_run_that_was_cut_off_in_the_middle_of_the_set_up_is_made_good(
    fresh: VaultServer,
) -> None:
    assert fresh.step("check").returncode == 0
    token = chosen_token(fresh).read_text()
    fresh.initialise(token)
    assert fresh.vault("auth", "enable", f"-path={LOGIN}", "approle", token=token).returncode == 0
    assert fresh.vault("write", "-force", "sys/generate-root/attempt").returncode == 0
    chosen_token(fresh).write_text("lost")
    run_job(fresh)
    assert fresh.login()


@pytest.mark.parametrize("line", ["limit_root", "revoke_other_root_tokens", "set_up"])
def test_a_login_step_that_was_cut_off_leaves_no_root_token_that_lasts(
    fresh: VaultServer, line: str
) -> None:
    assert fresh.step("check").returncode == 0
    chosen = chosen_token(fresh).read_text()
    fresh.initialise(chosen)
    assert fresh.step("login", cut_off_after=line).returncode == 137
    chosen_token(fresh).write_text("lost")
    run_job(fresh)
    assert fresh.login()
    assert fresh.vault("token", "lookup", token=chosen).returncode != 0
    root = fresh.generate_root()
    own = json.loads(fresh.vault("token", "lookup", "-format=json", token=root).stdout)["data"]
    for accessor in fresh.root_tokens(root):
        lookup = fresh.vault("token", "lookup", "-accessor", "-format=json", accessor, token=root)
        if accessor != own["accessor"]:
            assert 0 < json.loads(lookup.stdout)["data"]["ttl"] <= 300


def test_an_environment_with_a_kept_root_token_moves_over(fresh: VaultServer) -> None:
    """Before this login existed, the program kept a root token that it had chosen."""
    fresh.initialise("pOldRootToken")
    run_job(fresh)
    assert fresh.login()
    assert fresh.vault("token", "lookup", token="pOldRootToken").returncode != 0


def test_a_rotation_replaces_both_ids(ready: VaultServer) -> None:
    login = ready.folder / "run/login"
    before = shutil.copytree(login, ready.folder / "before")
    ready.new_login()
    run_job(ready)
    assert ready.login()
    for name in ("role-id", "secret-id"):
        shutil.copy(before / name, login / name)
        with pytest.raises(AssertionError, match="invalid"):
            ready.login()
        break


@pytest.mark.parametrize(
    "line", ["  write_role 60", '  vault delete "$role"', '  vault delete "$former_role"']
)
def test_the_login_before_serves_until_the_next_one_is_proven(
    ready: VaultServer, line: str
) -> None:
    """A preview after a killed run logs in with it, and a run that is repeated ends the turn."""
    login, before = ready.folder / "run/login", ready.folder / "before"
    shutil.copytree(login, before)
    ready.new_login()
    after = shutil.copytree(login, ready.folder / "after")
    chosen_token(ready).write_text("lost")
    assert ready.step("login", cut_off_after=line).returncode == 137
    proven = line == '  vault delete "$former_role"'
    shutil.copytree(after if proven else before, login, dirs_exist_ok=True)
    assert ready.login()
    shutil.copytree(after, login, dirs_exist_ok=True)
    run_job(ready)
    assert ready.login()
    shutil.copytree(before, login, dirs_exist_ok=True)
    with pytest.raises(AssertionError, match="invalid"):
        ready.login()


def test_an_id_that_an_earlier_version_gave_to_the_other_role_moves(ready: VaultServer) -> None:
    """It had one role for every number, and an environment may stand at an even one."""
    ready.rotation = 2
    policy = program_policy(vault_args(rotation=2))
    (ready.folder / "run/login/policy").write_text(policy)
    run_job(ready)
    assert ready.login()
    assert ready.vault(
        "list", f"auth/{LOGIN}/role", token=ready.generate_root()
    ).stdout.split() == [
        "Keys",
        "----",
        f"{LOGIN}-b",
    ]


def test_a_changed_policy_is_written(ready: VaultServer) -> None:
    policy = ready.folder / "run/login/policy"
    rules = json.loads(policy.read_text())
    rules["path"]["secret/more/*"] = {"capabilities": ["read"]}
    policy.write_text(json.dumps(rules))
    run_job(ready)
    stored = ready.vault("policy", "read", LOGIN, token=ready.login()).stdout
    assert json.loads(stored) == rules


def test_without_keys_a_login_that_must_change_is_refused_with_the_remedy(
    ready: VaultServer,
) -> None:
    for file in ready.keys.iterdir():
        file.unlink()
    ready.new_login()
    chosen_token(ready).write_text("pNoToken")
    login = ready.step("login")
    assert login.returncode == 1
    assert "Put the unseal or recovery keys back from the backup" in login.stderr


def test_a_sealed_vault_is_said_to_be_sealed(ready: VaultServer) -> None:
    ready.stop()
    ready.start()
    chosen_token(ready).write_text("pNoToken")
    login = ready.step("login")
    assert login.returncode == 1
    assert "it stays sealed" in login.stderr
    assert "vault/vault-unseal-keys" in login.stderr


def test_a_lost_volume_with_kept_keys_is_refused(ready: VaultServer) -> None:
    """An initialisation would replace the keys, or lose the new ones."""
    ready.lose_volume()
    check = ready.step("check")
    assert check.returncode == 1
    assert "holds the keys of an earlier Vault" in check.stderr
    assert not chosen_token(ready).exists()


def test_kept_recovery_keys_count_too(fresh: VaultServer) -> None:
    """bank-vaults 1.33.1 looks for unseal keys only, and would lose the new recovery keys."""
    (fresh.keys / "vault-recovery-0").write_text("key")
    assert fresh.step("check", SELF_UNSEALED="true").returncode == 1


def test_lost_keys_are_said_before_the_next_restart_needs_them(ready: VaultServer) -> None:
    for file in ready.keys.iterdir():
        file.unlink()
    check = ready.step("check")
    assert check.returncode == 1
    assert "holds no unseal keys" in check.stderr
    assert ready.step("check", SELF_UNSEALED="true").returncode == 0


def test_a_server_that_does_not_answer_stops_the_initialisation(fresh: VaultServer) -> None:
    other = "https://127.0.0.1:1"
    check = fresh.step("check", SERVERS=f"{fresh.address} {other}")
    assert check.returncode == 1
    assert f"{other} is unreachable" in check.stderr


def test_the_program_may_do_what_it_needs(ready: VaultServer) -> None:
    """What the provider does for the store, the auth method, a consumer and the audit device."""
    token = ready.login()
    policy = '{"path": {"secret/data/a": {"capabilities": ["read"]}}}'
    for command, text in (
        (("secrets", "enable", "-path=secret", "-version=2", "kv"), None),
        (("auth", "enable", "kubernetes"), None),
        (("audit", "enable", "-path=stdout", "file", "file_path=stdout"), None),
        (("audit", "list"), None),
        (("secrets", "list"), None),
        (("auth", "list"), None),
        (("read", "sys/mounts/secret/tune"), None),
        (("read", "sys/auth/kubernetes/tune"), None),
        (("secrets", "tune", "-description=d", "secret"), None),
        (
            (
                *("write", "auth/kubernetes/config"),
                "kubernetes_host=https://kubernetes.default.svc:443",
                "disable_local_ca_jwt=true",
                "kubernetes_ca_cert=" + (ready.folder / "run/tls/ca.crt").read_text(),
            ),
            None,
        ),
        (("policy", "write", "shlink", "-"), policy),
        (
            (
                *("write", "auth/kubernetes/role/shlink", "bound_service_account_names=a"),
                *("bound_service_account_namespaces=b", "audience=vault", "token_policies=shlink"),
            ),
            None,
        ),
        (("kv", "put", "secret/a", "password=p"), None),
        (("kv", "get", "secret/a"), None),
        (("kv", "metadata", "delete", "secret/a"), None),
        (("delete", "auth/kubernetes/role/shlink"), None),
        (("policy", "delete", "shlink"), None),
        (("audit", "disable", "stdout"), None),
        (("auth", "disable", "kubernetes"), None),
        (("secrets", "disable", "secret"), None),
    ):
        answer = ready.vault(*command, token=token, text=text)
        assert answer.returncode == 0, f"{command}: {answer.stderr}"


@pytest.mark.parametrize(
    "command",
    [
        ("policy", "write", LOGIN, "-"),
        ("write", f"auth/{LOGIN}/role/{LOGIN}", "token_policies=root"),
        ("write", "-f", f"auth/{LOGIN}/role/{LOGIN}/secret-id"),
        ("auth", "enable", "-path=other", "approle"),
        ("secrets", "enable", "-path=other", "kv"),
        ("token", "create", "-policy=root"),
        ("operator", "seal"),
        ("audit", "enable", "-path=other", "file", "file_path=stdout"),
        ("list", "auth/token/accessors"),
    ],
    ids=" ".join,
)
def test_the_program_may_not(ready: VaultServer, command: tuple[str, ...]) -> None:
    answer = ready.vault(*command, token=ready.login(), text='{"path": {}}')
    assert answer.returncode != 0
    assert "permission denied" in answer.stderr


def test_people_read_no_value(ready: VaultServer) -> None:
    program = ready.login()
    ready.vault("secrets", "enable", "-path=secret", "-version=2", "kv", token=program)
    ready.vault("kv", "put", "secret/a", "password=p", token=program)
    root = ready.generate_root()
    for name, text in (
        ("viewer", viewer_policy(vault_args())),
        ("operator", operator_policy(vault_args())),
    ):
        ready.vault("policy", "write", name, "-", token=program, text=text)
        token = ready.vault(
            "token", "create", f"-policy={name}", "-field=token", token=root
        ).stdout.strip()
        seen = ready.vault("kv", "metadata", "get", "secret/a", token=token)
        assert seen.returncode == 0, seen.stderr
        assert ready.vault("kv", "list", "secret", token=token).returncode == 0
        assert "permission denied" in ready.vault("kv", "get", "secret/a", token=token).stderr
        sealed = ready.vault("operator", "seal", token=token)
        assert (sealed.returncode == 0) is (name == "operator"), sealed.stderr

"""What a real Vault answers to the token of nobody's with which doctor asks it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from operate.doctor.checks.vault_login import NO_ROLE, Login, meant
from tests.certificates import made
from tests.real.vault_server import NO_VAULT, VaultServer, binary

LOGIN = Login(
    namespace="shlink",
    store="vault-backend",
    mount="kubernetes",
    role="shlink",
    account="external-secrets-sa",
    audiences=["vault"],
)


@pytest.fixture(name="vault", scope="module")
def _vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VaultServer, str]]:
    """A server with the role of a store, and a root token; no cluster stands behind it."""
    if binary("vault") is None:
        pytest.skip(NO_VAULT)
    server = VaultServer(tmp_path_factory.mktemp("vault"))
    server.start()
    root = server.initialise(None)
    server.must("auth", "enable", "kubernetes", token=root)
    authority = Path(made().folder) / "authority.crt"
    server.must(
        "write",
        "auth/kubernetes/config",
        "kubernetes_host=https://127.0.0.1:1",
        "disable_local_ca_jwt=true",
        f"kubernetes_ca_cert=@{authority}",
        token=root,
    )
    server.must(
        "write",
        "auth/kubernetes/role/shlink",
        "bound_service_account_names=external-secrets-sa",
        "bound_service_account_namespaces=shlink",
        "audience=vault",
        "token_policies=shlink",
        token=root,
    )
    yield server, root
    server.stop()


def _answer(server: VaultServer, login: Login, role: str) -> str:
    words = ("write", f"auth/{login.mount}/login", f"role={role}", f"jwt={login.token()}")
    answer = server.vault(*words, token="")
    assert answer.returncode != 0
    return answer.stderr


def test_a_role_as_declared_refuses_only_the_token(vault: tuple[VaultServer, str]) -> None:
    told = _answer(vault[0], LOGIN, LOGIN.role)
    assert "permission denied" in told
    assert meant(told) is None


@pytest.mark.parametrize(
    ("change", "role", "meaning"),
    [
        ({}, NO_ROLE, "has no role"),
        ({"audiences": ["x"]}, "shlink", "another audience"),
        ({"account": "x"}, "shlink", "other accounts"),
        ({"namespace": "x"}, "shlink", "other namespaces"),
    ],
)
def test_each_difference_has_its_answer(
    vault: tuple[VaultServer, str], change: dict[str, object], role: str, meaning: str
) -> None:
    told = _answer(vault[0], dataclasses.replace(LOGIN, **change), role)
    assert meaning in str(meant(told))


def test_a_mount_that_is_missing_knows_no_role_to_be_missing(
    vault: tuple[VaultServer, str],
) -> None:
    told = _answer(vault[0], dataclasses.replace(LOGIN, mount="other"), NO_ROLE)
    assert "invalid role name" not in told

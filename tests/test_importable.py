"""Vault and SecretDelivery in somebody else's program, installed from this repository's wheel."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path
from unittest import mock

import pytest

from offline.record import ROOT, Recording, object_name, plain, record

_PACKAGE = "shlink_components"


@pytest.fixture(name="wheel", scope="module")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(  # noqa: S603 - this interpreter, our own command line
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(name="foreign", scope="module")
def _foreign(wheel: Path) -> Recording:
    """The example, run with nothing of this repository but the wheel's contents."""
    folder = wheel.parent
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.chdir(folder)
        with mock.patch(f"{_PACKAGE}.cluster.forward.Forward.start"):
            return record(
                "test",
                {"kubernetes:context": "lab"},
                project="vault-and-secrets",
                program=ROOT / "examples/vault_and_secrets/__main__.py",
            )


def test_every_object_has_a_place_of_its_own(foreign: Recording) -> None:
    """Two of each in one stack; Kubernetes would refuse or overwrite the second."""
    places: list[tuple[str, str, str]] = []
    for resource in foreign.resources.values():
        if resource.is_kubernetes_object:
            metadata = plain(resource.inputs)["metadata"]
            places.append((resource.kind, metadata.get("namespace", ""), object_name(resource)))
    assert [place for place, count in Counter(places).items() if count > 1] == []
    assert len(places) > 20


def test_each_vault_has_its_own_login_store_and_consumer(foreign: Recording) -> None:
    for team in ("payments", "search"):
        vault = foreign.one("vault", f"{team}-vault").urn
        for kind, name in (
            ("Mount", f"{team}-vault-kv"),
            ("AuthBackendRole", f"{team}-secrets-role"),
            ("SecretV2", f"{team}-secrets-database"),
        ):
            assert vault in foreign.one(kind, name).provider, name
        store = plain(foreign.one("SecretStore", f"{team}-secrets").inputs)
        server = store["spec"]["provider"]["vault"]["server"]
        assert server == f"https://{team}-vault.{team}.svc:8200"
        policy = plain(foreign.one("Policy", f"{team}-secrets-policy").inputs)
        assert policy["name"] == team


def test_the_wheel_brings_the_scripts_of_the_job(foreign: Recording) -> None:
    job = plain(foreign.one("Job", "payments-vault-init").inputs)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert "revoke_other_root_tokens" in container["command"][-1]


MODULES = {
    "httpx_ws": "httpx-ws",
    "pydantic_core": "pydantic",
    "pulumi_kubernetes": "pulumi-kubernetes",
    "pulumi_postgresql": "pulumi-postgresql",
    "pulumi_random": "pulumi-random",
    "pulumi_tls": "pulumi-tls",
    "pulumi_vault": "pulumi-vault",
    "yaml": "pyyaml",
}
"""Where the name of a package on the index is not that of its module."""


def test_the_wheel_asks_for_what_it_imports_and_leaves_the_version_open() -> None:
    """It is installed beside other programs, whose lock decides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = dict(re.findall(r"^([\w-]+)(.*)$", "\n".join(project["dependencies"]), re.MULTILINE))
    imported: set[str] = set()
    for path in (ROOT / "components").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.partition(".")[0])
    foreign = imported - sys.stdlib_module_names
    assert {MODULES.get(name, name) for name in foreign} - required.keys() == set()
    assert [name for name, versions in required.items() if "==" in versions] == []


def test_the_wheel_is_typed(wheel: Path) -> None:
    """Without this file another program's type checker takes everything in it for unknown."""
    with zipfile.ZipFile(wheel) as archive:
        assert f"{_PACKAGE}/py.typed" in archive.namelist()

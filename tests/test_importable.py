"""Vault and SecretDelivery in somebody else's program, installed from this repository's wheel."""

import subprocess
import sys
import zipfile
from collections import Counter
from unittest import mock

import pytest

from offline.record import ROOT, Recording, object_name, plain, record

_PACKAGE = "shlink_components"


@pytest.fixture(name="foreign", scope="module")
def _foreign(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """The example, run with nothing of this repository but the wheel's contents."""
    folder = tmp_path_factory.mktemp("foreign")
    subprocess.run(  # noqa: S603 - this interpreter, our own command line
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
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

"""The authority of an environment: what it signs, what clients trust, what a rotation replaces."""

from pathlib import Path
from typing import Any

import pulumi
import pytest

from components import tls
from offline.record import Recording, Secret, plain, record

_PROGRAM = """
import pulumi
from components.tls import Authority, AuthorityArgs

authority = Authority("authority", AuthorityArgs(rotation={rotation}))
certificate = authority.certificate("db", dns_names=["db.example", pulumi.Output.from_input("db")])
pulumi.export("certificate", vars(certificate))
"""


def run(folder: Path, rotation: int = 1) -> Recording:
    program = folder / "program.py"
    program.write_text(_PROGRAM.format(rotation=rotation))
    return record("test", {}, program=program)


def inputs(recording: Recording, kind: str, name: str) -> Any:
    return plain(recording.one(kind, name).inputs)


def test_a_certificate_names_the_server_and_the_near_end_of_a_forward(tmp_path: Path) -> None:
    request = inputs(run(tmp_path), "CertRequest", "db-request")
    assert request["dnsNames"] == ["db.example", "db"]
    assert request["ipAddresses"] == ["127.0.0.1"]
    assert request["subject"] == {"commonName": "db"}


def test_the_authority_signs_and_the_server_does_not(tmp_path: Path) -> None:
    recording = run(tmp_path)
    authority = inputs(recording, "SelfSignedCert", "authority-certificate-1")
    server = inputs(recording, "LocallySignedCert", "db-certificate")
    assert authority["isCaCertificate"] is True
    assert "cert_signing" in authority["allowedUses"]
    assert not server.get("isCaCertificate")
    assert "cert_signing" not in server["allowedUses"]
    assert server["caPrivateKeyPem"] == authority["privateKeyPem"]


def test_any_update_in_the_second_half_renews_a_certificate(tmp_path: Path) -> None:
    server = inputs(run(tmp_path), "LocallySignedCert", "db-certificate")
    assert server["earlyRenewalHours"] * 2 == server["validityPeriodHours"]
    # An environment that is updated once a year must not run into an expired certificate.
    assert server["earlyRenewalHours"] >= 365 * 24


def test_private_keys_are_secret_wherever_they_go(tmp_path: Path) -> None:
    recording = run(tmp_path)
    for kind, key in (
        ("SelfSignedCert", "privateKeyPem"),
        ("CertRequest", "privateKeyPem"),
        ("LocallySignedCert", "caPrivateKeyPem"),
    ):
        for resource in recording.of_kind(kind):
            assert isinstance(resource.inputs[key], Secret), resource.name
    exported = recording.outputs["certificate"]
    assert isinstance(exported["private_key_pem"], Secret)
    assert not isinstance(exported["certificate_pem"], Secret)


def test_a_rotation_replaces_every_key_and_keeps_the_previous_authority_trusted(
    tmp_path: Path,
) -> None:
    first, second = run(tmp_path), run(tmp_path, rotation=2)
    keys = {resource.name for resource in first.of_kind("PrivateKey")}
    assert keys == {"authority-key-1", "db-key-1"}
    assert {resource.name for resource in second.of_kind("PrivateKey")} == {
        "authority-key-1",
        "authority-key-2",
        "db-key-2",
    }
    before = plain(first.outputs)["certificate"]["ca_pem"]
    after = plain(second.outputs)["certificate"]["ca_pem"]
    assert after.endswith(before)
    assert after != before


def test_a_rotation_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rotation: 0 .* allowed: 1 or more"):
        run(tmp_path, rotation=0)


def test_a_providers_file_is_whole_and_alone(tmp_path: Path) -> None:
    """Written beside its place and renamed: another run reads the old one or the new one."""
    path = tmp_path / "build" / "tls" / "dev-vault.pem"
    assert tls.ca_file("old", path) == str(path)
    tls.ca_file("new", path)
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_providers_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "build").touch()
    with pytest.raises(pulumi.RunError, match=r"dev-vault\.pem: .*may be written to"):
        tls.ca_file("PEM", tmp_path / "build" / "dev-vault.pem")

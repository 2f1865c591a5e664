"""The authority of an environment: what it signs, what clients trust, what a rotation replaces."""

from pathlib import Path
from typing import Any

import pulumi
import pytest

from components.credentials import tls
from offline.record import Recording, Secret, plain, record

_PROGRAM = """
import pulumi
from components.credentials.tls import Authority, AuthorityArgs

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


def trusted(folder: Path, rotation: int) -> set[str]:
    """The certificates that clients trust after so many rotations."""
    pem = plain(run(folder, rotation).outputs)["certificate"]["ca_pem"]
    end = "-----END CERTIFICATE-----"
    return {part.strip() for part in pem.split(end) if part.strip()}


def signer(folder: Path, rotation: int) -> str:
    """The authority's certificate by which the server's is signed, as `trusted` has it."""
    pem = inputs(run(folder, rotation), "LocallySignedCert", "db-certificate")["caCertPem"]
    return pem.split("-----END CERTIFICATE-----")[0].strip()


def test_a_rotation_replaces_every_key(tmp_path: Path) -> None:
    keys = [
        {resource.name for resource in run(tmp_path, number).of_kind("PrivateKey")}
        for number in (1, 2, 3)
    ]
    assert keys == [
        {"authority-key-1", "authority-key-2", "db-key-1"},
        {"authority-key-1", "authority-key-2", "authority-key-3", "db-key-2"},
        {"authority-key-2", "authority-key-3", "authority-key-4", "db-key-3"},
    ]


@pytest.mark.parametrize("rotation", [1, 2, 3])
def test_a_client_of_either_side_of_a_rotation_trusts_a_server_of_either_side(
    tmp_path: Path, rotation: int
) -> None:
    """An update reaches clients and servers one by one, in an order that nobody promises."""
    before, after = trusted(tmp_path, rotation), trusted(tmp_path, rotation + 1)
    old, new = signer(tmp_path, rotation), signer(tmp_path, rotation + 1)
    assert old != new
    assert {old, new} <= before
    assert {old, new} <= after


def test_an_authority_is_trusted_no_longer_than_one_rotation_after_its_own(tmp_path: Path) -> None:
    assert signer(tmp_path, 1) not in trusted(tmp_path, 3)


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

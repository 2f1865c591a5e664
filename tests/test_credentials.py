"""Passwords: made here, marked secret wherever they go, and fit for those who get them."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from offline.record import Recorded, Recording, plain
from tests import configurations
from tests.conftest import REPRESENTATIVE, Program, manifest, strings


def generated(recording: Recording) -> dict[str, str]:
    """The value of each password by its resource's name: what offline.record makes up for the provider."""
    return {
        one.name: hashlib.sha256(one.name.encode()).hexdigest()[: int(one.inputs["length"])]
        for one in recording.of_kind("RandomPassword")
    }


def places(recording: Recording, value: str) -> Iterator[tuple[Recorded | None, bool]]:
    """Where a value is: each resource, or None for the outputs; and whether it is marked secret there."""
    for holder, found in [
        *((one, one.inputs) for one in recording.resources.values()),
        (None, recording.outputs),
    ]:
        for text, secret in strings(found):
            if value in text:
                yield holder, secret


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_a_generated_password_is_secret_wherever_it_is(name: str) -> None:
    recording = configurations.recording(name)
    passwords = generated(recording)
    assert {"vault-secret-id-1", "shlink-api-key-1"} <= passwords.keys()
    for resource, value in passwords.items():
        found = list(places(recording, value))
        assert found, f"{resource} is used nowhere, or the recorder makes up other values"
        assert [holder and holder.name for holder, secret in found if not secret] == [], resource
        assert all(holder for holder, _ in found), f"{resource} is in the outputs"
        kinds = {holder.kind for holder, _ in found if holder}
        assert kinds <= {"Secret", "SecretV2", "vault", "postgresql"}, resource
    assert [
        message
        for message in recording.messages
        for value in passwords.values()
        if value in message
    ] == []


GIVEN: list[dict[str, Any]] = [
    {
        "app": {"geoliteLicenseKey": "hunter2geolite"},
        "redis": {
            "mode": "external",
            "servers": ["tls://r.example.org:6380"],
            "password": "hunter2redis",
        },
        "vault": {
            "mode": "ha",
            "seal": {
                "type": "transit",
                "address": "https://v.example.org",
                "keyName": "k",
                "token": "hunter2transit",
            },
            "token": "hunter2vault",
        },
        "postgres": {
            "backups": {
                "repositories": {
                    "repo2": {
                        "type": "s3",
                        "bucket": "backups",
                        "endpoint": "e",
                        "region": "r",
                        "key": "hunter2key",
                        "keySecret": "hunter2keysecret",
                    },
                    "repo3": {"type": "gcs", "bucket": "backups", "key": "{hunter2gcs}"},
                    "repo4": {
                        "type": "azure",
                        "container": "container",
                        "account": "account",
                        "key": "hunter2azure",
                    },
                }
            },
            "restore": {
                "type": "store",
                "store": {
                    "type": "s3",
                    "bucket": "backups",
                    "endpoint": "e",
                    "region": "r",
                    "key": "hunter2restorekey",
                    "keySecret": "hunter2restoresecret",
                },
                "path": "/p",
                "passphrase": "hunter2passphrase",
            },
        },
    },
    {"vault": {"authLogin": {"path": "auth/jwt/login", "parameters": {"jwt": "hunter2jwt"}}}},
]
VALUES = [
    (settings, value)
    for settings in GIVEN
    for value in json.dumps(settings).split('"')
    if value.startswith("hunter2")
]


@pytest.mark.parametrize(("settings", "value"), VALUES, ids=[value for _, value in VALUES])
def test_a_given_secret_stays_one(program: Program, settings: dict[str, Any], value: str) -> None:
    found = list(places(program(**settings), value))
    assert found
    assert [holder and holder.name for holder, secret in found if not secret] == []
    assert all(holder for holder, _ in found)
    assert not any(
        holder.kind in ("ConfigMap", "Chart", "Release", "Deployment", "Job")
        for holder, _ in found
        if holder
    )


def test_every_value_that_a_pod_may_take_for_a_number_starts_with_a_letter(dev: Recording) -> None:
    # Shlink makes an integer of digits and loses leading zeros.
    written = [json.loads(plain(one.inputs)["dataJson"]) for one in dev.of_kind("SecretV2")]
    values = [value for one in written for key, value in one.items() if key != "user"]
    assert len(values) == 3
    assert all(value[0].isalpha() and value.isalnum() for value in values)
    assert all(one.inputs["special"] is False for one in dev.of_kind("RandomPassword"))


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_passwords_are_long_and_no_two_are_the_same_resource(name: str) -> None:
    made = configurations.recording(name).of_kind("RandomPassword")
    assert all(int(one.inputs["length"]) >= 24 for one in made)
    assert len({one.name for one in made}) == len(made)


def test_the_kinds_of_password_are_independent(dev: Recording) -> None:
    passwords = {
        "login": manifest(dev, "Secret", "vault-login")["stringData"]["secret-id"],
        "redis": manifest(dev, "Secret", "shlink-redis-auth")["stringData"]["password"],
        "shlink": manifest(dev, "Secret", "shlink-db-pguser-shlink")["stringData"]["password"],
        "postgres": manifest(dev, "Secret", "shlink-db-pguser-postgres")["stringData"]["password"],
        "api key": json.loads(
            manifest(dev, "SecretV2", "vault-backend-shlink-api-key")["dataJson"]
        )["api-key"],
    }
    assert len(set(passwords.values())) == len(passwords)

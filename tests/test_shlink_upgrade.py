"""An upgrade of Shlink: versions never share a cache, and no URL is left without its hash."""

import pytest

from tests import configurations
from tests.conftest import Fault, Program, before, manifest, server

_DIGEST = "docker.io/shlinkio/shlink@sha256:" + "0123456789ab" + "0" * 52


def test_the_version_of_today_keeps_its_cache() -> None:
    """Its pods would roll for nothing otherwise."""
    recording = configurations.recording("stack dev")
    assert "CACHE_NAMESPACE" not in server(recording)
    assert not [job for job in recording.of_kind("Job") if job.name == "shlink-hashes"]


def test_a_newer_version_has_a_cache_of_its_own() -> None:
    assert server(configurations.recording("shlink-5"))["CACHE_NAMESPACE"] == "Shlink-5.1.5"


def test_a_digest_tells_versions_apart_too(program: Program) -> None:
    variables = server(program(images={"shlink": _DIGEST}))
    assert variables["CACHE_NAMESPACE"] == "Shlink-0123456789ab"


def test_a_namespace_of_the_file_tells_environments_apart_and_versions_too(
    program: Program,
) -> None:
    recording = program(
        images={"shlink": "docker.io/shlinkio/shlink:5.1.5"},
        app={"environment": {"CACHE_NAMESPACE": "staging"}},
    )
    assert server(recording)["CACHE_NAMESPACE"] == "staging-5.1.5"


def test_hashes_are_filled_once_every_pod_is_new() -> None:
    recording = configurations.recording("shlink-5")
    assert ("Deployment", "shlink") in before(recording, "Job", "shlink-hashes")
    template = manifest(recording, "Job", "shlink-hashes")["spec"]["template"]
    deployment = manifest(recording, "Deployment", "shlink")["spec"]["template"]["spec"]
    (container,) = template["spec"]["containers"]
    seconds = {item["name"]: item.get("value") for item in container["env"]}["STOP_SECONDS"]
    assert int(seconds) == deployment["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("version", ["5.1.0", "5.1.1"])
def test_a_version_that_keeps_a_poisoned_cache_is_refused(fault: Fault, version: str) -> None:
    message = fault(images={"shlink": f"docker.io/shlinkio/shlink:{version}"})
    assert "allowed: 5.1.2 or newer" in message

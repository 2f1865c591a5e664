"""Files that nobody thought of: what the settings accept, the API server accepts as manifests."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, event, given, settings

from offline.record import plain, record
from tests import configurations
from tests.conftest import configuration
from tests.real.cluster import Cluster
from tests.test_settings_properties import accepted, refusal, without_secrets


@pytest.mark.usefixtures("environment")
def test_manifests_of_accepted_settings_pass_a_strict_dry_run(
    cluster: Cluster, record_property: Callable[[str, object], None]
) -> None:
    """Settings that are accepted don't fail in the middle of an update, at a refused object."""
    checks = 0

    @settings(
        max_examples=25,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
        ],
    )
    @given(accepted())
    def try_it(document: dict[str, Any]) -> None:
        nonlocal checks
        assume(not refusal(document))
        encrypted: set[str] = set()
        groups = {
            key: without_secrets(value, f"shlink:{key}", encrypted)
            for key, value in document.items()
        }
        recording = record("test", configuration(groups), frozenset(encrypted))
        manifests = [
            plain(resource.inputs)
            for resource in recording.resources.values()
            if resource.is_kubernetes_object and resource.kind not in configurations.OPTIONAL_KINDS
        ]
        answers = cluster.apply(manifests, dry_run=True)
        refused: list[str] = []
        for manifest, answer in zip(manifests, answers, strict=True):
            if not answer.ok:
                name = manifest["metadata"]["name"]
                refused.append(f"{manifest['kind']} {name}: {answer.message}")
        assert not refused, f"{document}:\n" + "\n".join(refused)
        event("tried")
        checks += len(manifests)

    try_it()
    assert checks > 500
    record_property("checks", checks)

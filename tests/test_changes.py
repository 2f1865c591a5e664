"""Changes that would destroy something are refused first of all, in a preview too."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast
from unittest import mock

import pulumi
import pytest

from components.cluster.access import ClusterAccess
from components.cluster.execute import ExecuteError
from components.postgres.backup_info import Backup, RepositoryContent
from components.program import changes
from components.settings.environment import parse
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import configuration

_KMS = {"type": "awskms", "region": "eu-central-1", "kmsKeyId": "alias/a"}
FORK = {"operators": {"redisOperator": {"distribution": "freshworks"}}}
_STORE = {"type": "s3", "bucket": "backups", "endpoint": "s3.example.org", "region": "r-1"}


def recorded(context: str = "lab", **settings: Any) -> dict[str, Any]:
    """The record that a run with these settings keeps."""
    values = configuration(settings) | {"kubernetes:context": context}
    return changes.recorded(*parse(values))


def repositories(**stores: Any) -> dict[str, Any]:
    return {"postgres": {"backups": {"repositories": stores}}}


def images(postgres: float, pgbackrest: float) -> dict[str, Any]:
    """A pair of images by their versions."""
    pair = {"postgres": f"r.io/pg:{postgres}-1", "pgbackrest": f"r.io/br:{pgbackrest}-1"}
    return {"images": pair}


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ({}, {"context": "other"}, "kubernetes.cluster: lab -> other"),
        ({}, {"vault": {"mode": "ha", "seal": _KMS}}, "vault.mode: standalone -> ha"),
        ({}, {"vault": {"seal": _KMS}}, "vault.seal: none -> kmsKeyId alias/a, region"),
        (
            {"vault": {"seal": _KMS}},
            {"vault": {"seal": _KMS | {"kmsKeyId": "alias/b"}}},
            "vault.seal: kmsKeyId alias/a, region eu-central-1, type awskms -> kmsKeyId alias/b",
        ),
        ({}, {"vault": {"storage": {"size": "2Gi"}}}, "vault.storage.size: 1Gi -> 2Gi"),
        (
            {},
            {"vault": {"storage": {"storageClass": "fast"}}},
            "vault.storage.storageClass: default -> fast",
        ),
        (
            {"vault": {"mode": "ha", "seal": _KMS, "replicas": 5}},
            {"vault": {"mode": "ha", "seal": _KMS}},
            "vault.replicas: 5 -> 3",
        ),
        ({}, {"postgres": {"version": 17}}, "postgres.version: 16 -> 17"),
        ({}, {"postgres": {"version": 15}}, "postgres.version: 16 -> 15"),
        ({"postgres": {"instances": 3}}, {}, "postgres.instances: 3 -> 1"),
        ({}, {"postgres": {"storage": {"size": "1000Mi"}}}, "postgres.storage.size: 1Gi -> 1000Mi"),
        (
            {},
            {"postgres": {"backups": {"storage": {"size": "500Mi"}}}},
            "postgres.backups.storage.size: 1Gi -> 500Mi",
        ),
        ({}, {"redis": {"storage": {"size": "2Gi"}}}, "redis.storage.size: 1Gi -> 2Gi"),
        (
            FORK,
            {},
            "operators.redisOperator.distribution: freshworks -> spotahome",
        ),
        (
            {},
            {"operators": {"externalSecrets": {"install": False, "namespace": "platform"}}},
            "operators.externalSecrets.install: true -> false",
        ),
        ({"rotation": {"database": 3}}, {"rotation": {"database": 2}}, "rotation.database: 3 -> 2"),
        ({}, {"rotation": {"redis": 3}}, "rotation.redis: 1 -> 3"),
        (
            images(16.11, 2.56),
            images(16.12, 2.56),
            "images.postgres, images.pgbackrest: r.io/pg:16.11-1, r.io/br:2.56-1 -> r.io/pg:16.12",
        ),
        (
            repositories(repo2=_STORE),
            repositories(repo2=_STORE | {"bucket": "others"}),
            "postgres.backups.repositories.repo2: bucket backups",
        ),
    ],
    ids=str,
)
def test_a_change_that_destroys_is_refused_with_its_consequence_and_remedy(
    before: dict[str, Any], after: dict[str, Any], change: str
) -> None:
    texts = changes.refusals(recorded(**before), recorded(**after))
    refusals = [text for text in texts if text.strip().startswith(change)]
    assert len(refusals) == 1, texts
    assert "What would happen: " in refusals[0]
    assert "By hand: " in refusals[0]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({}, {"postgres": {"instances": 3}}),
        ({}, {"postgres": {"storage": {"size": "2Gi"}}}),
        (
            {"vault": {"mode": "ha", "seal": _KMS}},
            {"vault": {"mode": "ha", "seal": _KMS, "replicas": 5}},
        ),
        # The archived operator ends before the fork starts.
        ({}, FORK),
        ({}, {"redis": {"mode": "none"}}),
        ({"redis": {"mode": "none"}}, {"redis": {"storage": {"size": "4Gi"}}}),
        ({}, {"rotation": {"database": 2}}),
        # A minor version brings both images, and an environment without names gets them.
        (images(16.11, 2.56), images(16.12, 2.57)),
        ({}, images(16.12, 2.57)),
        (
            repositories(repo2=_STORE),
            repositories(repo2=_STORE, repo3=_STORE | {"bucket": "other"}),
        ),
        (repositories(repo2=_STORE), repositories(repo2=_STORE | {"retentionFull": 9})),
        (
            {"operators": {"externalSecrets": {"install": False, "namespace": "platform"}}},
            {},
        ),
    ],
    ids=str,
)
def test_an_ordinary_change_is_none_of_its_business(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert changes.refusals(recorded(**before), recorded(**after)) == []


def test_a_renamed_context_with_its_identifier_is_the_same_cluster() -> None:
    values = {"kubernetes:context": "new", "kubernetes:clusterIdentifier": "lab"}
    assert changes.refusals(recorded(), changes.recorded(*parse(values))) == []


def test_a_prepared_change_is_allowed_by_its_own_words_and_no_other() -> None:
    before = recorded(postgres={"version": 16, "instances": 3})
    after = recorded(postgres={"version": 17, "instances": 1})
    texts = changes.refusals(before, after, frozenset({"postgres.version: 16 -> 17"}))
    assert len(texts) == 1
    assert "postgres.instances: 3 -> 1" in texts[0]


def test_a_record_of_another_version_of_the_program_is_no_change() -> None:
    assert changes.refusals({"old.setting": 1}, recorded()) == []
    assert changes.refusals({}, recorded()) == []


def test_no_secret_is_in_the_record() -> None:
    """It stands in the state and in previews in plain text."""
    seal = {
        "type": "transit",
        "address": "https://v.example.org",
        "keyName": "k",
        "token": "hunter2",
    }
    record = recorded(
        vault={"seal": seal},
        **repositories(repo2=_STORE | {"key": "hunter2", "keySecret": "hunter2"}),
    )
    assert "hunter2" not in str(record)


def test_everything_in_the_cluster_waits_for_the_comparison(dev: Recording) -> None:
    guard = dev.one("Stash", "settings")
    assert guard.hooks == {"before_update": ("refuse-destructive-changes",)}
    objects = [resource for resource in dev.resources.values() if resource.is_kubernetes_object]
    assert objects
    for resource in objects:
        assert guard.urn in dev.waits_for(resource), resource.urn


def update(
    before: dict[str, Any],
    after: dict[str, Any],
    allowed: Sequence[str] = (),
    *,
    preview: bool = False,
) -> list[str]:
    """Run the hook of the record's update; returns what it warned of."""
    compare = changes.comparison(frozenset(allowed), ClusterAccess("lab"))
    old, new = {"input": before}, {"input": after}
    args = pulumi.ResourceHookArgs(urn="", id="", name="", type="", old_inputs=old, new_inputs=new)
    with (
        mock.patch.object(pulumi.runtime, "is_dry_run", return_value=preview),
        mock.patch.object(pulumi.log, "warn") as warn,
    ):
        asyncio.run(cast("Any", compare(args)))
    return [str(call.args[0]) for call in warn.call_args_list]


def test_numbers_arrive_from_the_engine_as_floats() -> None:
    """And are shown and compared as the whole numbers that the file has."""
    allowed = ["postgres.version: 16 -> 17"]
    update({"postgres.version": 16.0}, {"postgres.version": 17.0}, allowed)
    with pytest.raises(changes.ChangeError, match=r"postgres\.version: 16 -> 15"):
        update({"postgres.version": 16.0}, {"postgres.version": 15.0}, allowed)


FULL = RepositoryContent(
    None, [Backup("20261124-090000F", "full", datetime(2026, 11, 24, tzinfo=UTC), 1)]
)
EMPTY = RepositoryContent("no valid backups")
TWO = repositories(repo2=_STORE, repo3=_STORE | {"bucket": "other"})


def drop_repo2(
    before: dict[str, Any],
    holds: dict[str, RepositoryContent] | ExecuteError,
    allowed: Sequence[str] = (),
    *,
    preview: bool = False,
) -> list[str]:
    """Take repo2 away, where each repository that may be asked holds this."""

    async def contents(_: Any, namespace: str, cluster: str, name: str) -> Any:
        assert (namespace, cluster) == ("postgres", "shlink-db")
        if isinstance(holds, ExecuteError):
            raise holds
        return {name: holds[name]}

    after = recorded(**before)
    del after["postgres.backups.repositories.repo2"]
    with mock.patch.object(changes, "repository_contents", contents):
        return update(recorded(**before), after, allowed, preview=preview)


def test_a_repository_may_go_when_another_holds_a_full_backup() -> None:
    (warning,) = drop_repo2(repositories(repo2=_STORE), {"repo1": FULL})
    assert "no backup outlives the cluster" in warning
    assert drop_repo2(TWO, {"repo1": EMPTY, "repo3": FULL}) == []


@pytest.mark.parametrize(
    ("holds", "words"),
    [
        ({"repo1": EMPTY}, "`pgbackrest info` shows repo1: no valid backups"),
        (ExecuteError("no pod runs"), "Nobody could be asked: no pod runs"),
    ],
    ids=["empty", "unknown"],
)
def test_otherwise_it_stays(holds: Any, words: str) -> None:
    change = "repositories.repo2: bucket backups, encrypted True, type s3 -> removed"
    with pytest.raises(changes.ChangeError, match=change) as error:
        drop_repo2(repositories(repo2=_STORE), holds)
    assert words in str(error.value)


def test_a_repository_of_a_lost_cluster_is_given_up_by_its_own_words() -> None:
    """Where no cluster is left that could be asked."""
    change = "postgres.backups.repositories.repo2: bucket backups, encrypted True, type s3"
    lost = ExecuteError("must not be asked")
    assert drop_repo2(repositories(repo2=_STORE), lost, [f"{change} -> removed"]) == []


def test_a_preview_of_a_removal_asks_nobody() -> None:
    lost = ExecuteError("must not be asked")
    (warning,) = drop_repo2(repositories(repo2=_STORE), lost, preview=True)
    assert "the update asks repo1 for it" in warning


def test_a_refused_removal_comes_before_the_network_policies() -> None:
    """Otherwise they would have closed the store's way, while the database archives to it."""
    recording = configurations.recording("backups-s3")
    record = recording.one("Stash", "settings")
    assert "postgres.backups.repositories.repo2" in plain(record.inputs)["input"]
    policy = recording.one("NetworkPolicy", "namespace-postgres-shlink-db")
    assert record.urn in recording.waits_for(policy)

"""Changes that would destroy something are refused first of all, in a preview too."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from typing import Any, cast
from unittest import mock

import httpx
import pulumi
import pytest

from components.cluster.access import ClusterAccess
from components.cluster.execute import ExecuteError
from components.postgres import guard
from components.postgres.backup_info import Backup, RepositoryContent
from components.program import changes
from components.redis import component as redis
from components.settings.changes import ChangeError, refusal_hook, refusals
from components.settings.environment import parse
from offline.record import Recording, plain
from tests import configurations
from tests.conftest import configuration, manifest

_KMS = {"type": "awskms", "region": "eu-central-1", "kmsKeyId": "alias/a"}
FORK = {"operators": {"redisOperator": {"distribution": "freshworks"}}}
_STORE = {
    "type": "s3",
    "bucket": "backups",
    "endpoint": "s3.example.org",
    "region": "r-1",
    "key": "k",
    "keySecret": "s",
}
_LATER = {"full": "0 5 * * 0", "differential": "0 5 * * 1-6"}


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
        (
            {},
            {"operators": {"pgo": {"install": False, "namespace": "platform"}}},
            "operators.pgo.install: true -> false",
        ),
        (
            {},
            {"operators": {"redisOperator": {"install": False, "namespace": "platform"}}},
            "operators.redisOperator.install: true -> false",
        ),
        ({}, {"app": {"timezone": "Europe/Berlin"}}, "app.timezone: UTC -> Europe/Berlin"),
        ({}, {"charts": {"pgo": {"version": "6.0.2"}}}, "charts.pgo.version: 6.0.3 -> 6.0.2"),
        (
            {"images": {"vault": "r.io/vault:1.21.4"}},
            {"images": {"vault": "r.io/vault:1.21.2"}},
            "images.vault: r.io/vault:1.21.4 -> r.io/vault:1.21.2",
        ),
        (
            {"images": {"vault": "r.io/vault:1.21.4"}},
            {"images": {"vault": "r.io/openbao:2.6.2"}},
            "images.vault: r.io/vault:1.21.4 -> r.io/openbao:2.6.2",
        ),
        (
            {"images": {"redis": "r.io/redis:8.0.1-alpine"}},
            {"images": {"redis": "r.io/redis:7.2.11-alpine"}},
            "images.redis: r.io/redis:8.0.1-alpine -> r.io/redis:7.2.11-alpine",
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
    every = refusals(recorded(**before), recorded(**after))
    texts = [text for text in every if text.strip().startswith(change)]
    assert len(texts) == 1, every
    assert "What would happen: " in texts[0]
    assert "By hand: " in texts[0]


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
            repositories(repo2=_STORE, repo3=_STORE | _LATER | {"bucket": "other"}),
        ),
        (repositories(repo2=_STORE), repositories(repo2=_STORE | {"retentionFull": 9})),
        (
            {"operators": {"externalSecrets": {"install": False, "namespace": "platform"}}},
            {},
        ),
        ({}, {"charts": {"pgo": {"version": "6.0.10"}}}),
        # A patch of Redis changes no format, and a digest says nothing.
        (
            {"images": {"redis": "r.io/redis:7.2.14"}},
            {"images": {"redis": "r.io/redis:7.2.11"}},
        ),
        ({}, {"images": {"vault": "r.io/vault@sha256:" + 64 * "0"}}),
    ],
    ids=str,
)
def test_an_ordinary_change_is_none_of_its_business(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert refusals(recorded(**before), recorded(**after)) == []


def test_a_renamed_context_with_its_identifier_is_the_same_cluster() -> None:
    values = {"kubernetes:context": "new", "kubernetes:clusterIdentifier": "lab"}
    assert refusals(recorded(), changes.recorded(*parse(values))) == []


def test_a_prepared_change_is_allowed_by_its_own_words_and_no_other() -> None:
    before = recorded(postgres={"version": 16, "instances": 3})
    after = recorded(postgres={"version": 17, "instances": 1})
    texts = refusals(before, after, frozenset({"postgres.version: 16 -> 17"}))
    assert len(texts) == 1
    assert "postgres.instances: 3 -> 1" in texts[0]


def test_a_record_of_another_version_of_the_program_is_no_change() -> None:
    assert refusals({"old.setting": 1}, recorded()) == []
    assert refusals({}, recorded()) == []


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
    with pytest.raises(ChangeError, match=r"postgres\.version: 16 -> 15"):
        update({"postgres.version": 16.0}, {"postgres.version": 15.0}, allowed)


FULL = RepositoryContent(
    None, [Backup("20261124-090000F", "full", datetime(2026, 11, 24, tzinfo=UTC), 1)]
)
EMPTY = RepositoryContent("no valid backups")
TWO = repositories(repo2=_STORE, repo3=_STORE | _LATER | {"bucket": "other"})


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
    with mock.patch.object(guard, "repository_contents", contents):
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
    with pytest.raises(ChangeError, match=change) as error:
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


@pytest.mark.parametrize("status", [{}, {"postgresVersion": 16}])
def test_a_new_version_waits_for_its_upgrade(status: dict[str, int]) -> None:
    with (
        mock.patch.object(guard, "_status", mock.AsyncMock(return_value=status)),
        pytest.raises(ChangeError, match=r"postgres\.version: 16 -> 17"),
    ):
        update({"postgres.version": 16.0}, {"postgres.version": 17.0})


def test_a_finished_upgrade_needs_no_word_in_the_file() -> None:
    """PGO writes it into the status."""
    status = mock.AsyncMock(return_value={"postgresVersion": 17})
    with mock.patch.object(guard, "_status", status):
        update({"postgres.version": 16.0}, {"postgres.version": 17.0})
    status.assert_awaited_once()


def test_a_preview_of_a_new_version_warns() -> None:
    (warning,) = update({"postgres.version": 16.0}, {"postgres.version": 17.0}, preview=True)
    assert "a finished PGUpgrade comes first" in warning


def test_shlink_goes_back_with_a_word_for_the_next_upgrade() -> None:
    before, after = ({"images.shlink": f"r.io/shlink:{tag}"} for tag in ("5.1.5", "4.6.0"))
    (warning,) = update(before, after)
    assert "At the next upgrade" in warning
    assert update(after, before) == []


SIZE = "postgres.storage.size"


class Storage:
    """A kr8s client that knows the claim of a database and its class."""

    def __init__(self, *, expands: bool) -> None:
        self.expands = expands

    async def async_get(self, kind: type, *_: str, **asked: str) -> AsyncGenerator[Any]:
        assert kind.__name__ == "PersistentVolumeClaim"
        assert "role=pgdata" in asked["label_selector"]
        yield mock.Mock(raw={"spec": {"storageClassName": "slow"}})

    @contextlib.asynccontextmanager
    async def call_api(self, *_: str, **call: Any) -> AsyncGenerator[httpx.Response]:
        assert call["url"] == "storageclasses/slow"
        yield httpx.Response(200, json={"allowVolumeExpansion": self.expands})


@pytest.mark.parametrize("expands", ["expands", ""])
def test_a_volume_grows_only_where_its_class_lets_it(expands: str) -> None:
    """PGO would say nothing, and doctor's remedy for a full volume would do nothing."""
    access = mock.MagicMock()
    access.connected.return_value.__aenter__.return_value = Storage(expands=bool(expands))
    before, after = {SIZE: "1Gi"}, {SIZE: "2Gi"}
    place = guard.GuardedCluster(access, "postgres", "shlink-db")
    texts = asyncio.run(guard.asked(before, after, place))
    assert bool(texts) is not bool(expands)
    assert all("class slow cannot grow" in text for text in texts)


def resource_record(kind: str, recording: Recording) -> Any:
    if kind == "PostgresCluster":
        return guard.recorded(manifest(recording, kind, "shlink-db")["spec"])
    return redis.recorded(manifest(recording, kind, "shlink-redis"))


@pytest.mark.parametrize("kind", ["PostgresCluster", "RedisFailover"])
@pytest.mark.parametrize("name", ["defaults", "backups-everywhere", "stack prod"])
def test_a_resource_and_the_record_say_the_same_of_a_setting(kind: str, name: str) -> None:
    """So one line of allowedChanges allows a change in both places."""
    recording = configurations.recording(name)
    record = plain(recording.one("Stash", "settings").inputs)["input"]
    own = resource_record(kind, recording)
    assert own.items() <= record.items()
    assert {key for key in own if key.endswith(".storageClass")}


def test_a_targeted_update_meets_the_refusal_at_the_resource(dev: Recording) -> None:
    """`--target` leaves out the record, and `--exclude` may."""
    for kind, name in (("PostgresCluster", "shlink-db"), ("RedisFailover", "shlink-redis")):
        assert f"{name}-guard" in dev.one(kind, name).hooks["before_update"]
    with mock.patch("pulumi.resource_hooks.register_resource_hook"):
        hook = refusal_hook("guard", frozenset(), lambda inputs: inputs)
    assert hook.opts is not None
    assert hook.opts.on_dry_run
    args: Any = mock.Mock(
        old_inputs={"postgres.instances": 2.0}, new_inputs={"postgres.instances": 1}
    )
    with pytest.raises(ChangeError, match=r"postgres\.instances: 2 -> 1"):
        asyncio.run(cast("Any", hook.callback(args)))

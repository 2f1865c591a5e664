"""Refuses changes of settings that would destroy something, before anything is touched.

The state keeps a record of the settings that matter: a `pulumi.Stash`, which the engine provides
without a plugin or a cluster. The rest of the program waits for it. When a setting in the record
changes, a hook before the record's update compares the two and fails, in a preview too. If nothing
in the record changes, the hook does not run.

Some changes are refused only if the cluster says so (postgres/guard.py). To allow a change that was
prepared by hand, write it into `shlink:allowedChanges` exactly as the message does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import pulumi

from ..cluster.access import ClusterAccess, access
from ..network.flows import POSTGRES
from ..postgres.component import CLUSTER
from ..postgres.guard import GuardedCluster, asked
from ..settings.changes import (
    API_SERVER,
    CLUSTER_UID,
    DEFAULT,
    OWN,
    REPOSITORIES,
    SECRETS_NAMESPACE,
    ChangeError,
    Record,
    listed,
    refusals,
    sealed_by,
    warnings,
)
from ..settings.environment import Cluster, Settings
from ..settings.redis import FailoverRedis
from .identity import RECORD, Sight, exported

_WHERE = ("kubernetes.cluster", CLUSTER_UID)
"""Of the record: what counts only once something is in a cluster."""


def recorded(cluster: Cluster, settings: Settings, sight: Sight | None = None) -> dict[str, Any]:
    """What of the settings is compared with the next run, and of the cluster where it is seen."""
    vault, postgres, redis = settings.vault, settings.postgres, settings.redis
    record: dict[str, Any] = {
        "kubernetes.cluster": cluster.identifier,
        "vault.mode": vault.mode,
        "vault.seal": sealed_by(vault.seal),
        "vault.replicas": vault.replicas if vault.mode == "ha" else 1,
        "vault.storage.size": vault.storage.size,
        "vault.storage.storageClass": vault.storage.storage_class,
        "postgres.version": postgres.version,
        "postgres.instances": postgres.instances,
        "postgres.storage.size": postgres.storage.size,
        "postgres.storage.storageClass": postgres.storage.storage_class,
        "postgres.backups.storage.size": postgres.backups.storage.size,
        "postgres.backups.storage.storageClass": postgres.backups.storage.storage_class,
        "operators.externalSecrets.install": settings.operators.external_secrets.install,
        SECRETS_NAMESPACE: settings.operators.external_secrets.namespace or OWN,
        "operators.pgo.install": settings.operators.pgo.install,
        "charts.pgo.version": settings.charts.pgo.version,
        "images.vault": settings.images.vault,
        "images.shlink": settings.images.shlink,
        "app.timezone": settings.shlink.timezone,
    }
    if isinstance(redis, FailoverRedis):
        record["redis.storage.size"] = redis.storage.size
        record["redis.storage.storageClass"] = redis.storage.storage_class
        record["images.redis"] = settings.images.redis
        operator = settings.operators.redis_operator
        record["operators.redisOperator.install"] = operator.install
        if operator.install:
            record["operators.redisOperator.distribution"] = operator.distribution
    for name, store in postgres.backups.repositories.items():
        names = {"type", "bucket", "container", "account", "encrypted"}
        record[f"{REPOSITORIES}{name}"] = listed(store.model_dump(by_alias=True, include=names))
    images = settings.images
    if images.postgres and images.pgbackrest:
        record["images.postgres, images.pgbackrest"] = f"{images.postgres}, {images.pgbackrest}"
    rotations = settings.rotation.model_dump(by_alias=True)
    for name, number in rotations.items():
        record[f"rotation.{name}"] = number
    for key, value in record.items():
        if value is None:
            record[key] = DEFAULT
    if sight is not None:
        record[CLUSTER_UID] = sight.cluster
        if sight.api_server:
            record[API_SERVER] = [*sight.api_server]
    return record


def comparison(
    allowed: frozenset[str], cluster: ClusterAccess
) -> Callable[[pulumi.ResourceHookArgs], Awaitable[None]]:
    """A hook before the record's update. It raises ChangeError if a change would destroy data."""

    async def compare(args: pulumi.ResourceHookArgs) -> None:
        before = {SECRETS_NAMESPACE: OWN, **_input(args.old_inputs)}
        after = _input(args.new_inputs)
        if any(refusals(_where(before), _where(after), allowed)):
            # A first update with the wrong context may have ended before it made anything.
            state = await asyncio.to_thread(exported, pulumi.get_stack())
            if state is not None and state.empty:
                before = {key: value for key, value in before.items() if key not in _WHERE}
        texts = refusals(before, after, allowed)
        texts += await asked(before, after, GuardedCluster(cluster, POSTGRES, CLUSTER, allowed))
        if texts:
            raise ChangeError.of(texts)
        for text in warnings(before, after):
            pulumi.log.warn(text)

    return compare


def _where(record: Record) -> Record:
    return {key: value for key, value in record.items() if key in _WHERE}


def guard(cluster: Cluster, settings: Settings, sight: Sight | None) -> pulumi.Stash:
    """The record in the state. Whatever is to be protected depends on it.

    `sight`: what the cluster shows; None in a preview that does not see it.
    """
    hook = pulumi.ResourceHook(
        "refuse-destructive-changes",
        comparison(frozenset(settings.allowed_changes), access(cluster)),
        opts=pulumi.ResourceHookOptions(on_dry_run=True),
    )
    record = recorded(cluster, settings, sight)
    return pulumi.Stash(
        RECORD,
        input=record,
        opts=pulumi.ResourceOptions(
            hooks=pulumi.ResourceHookBinding(before_update=[hook]),
            # What was not seen has not changed.
            ignore_changes=[
                f'input["{key}"]' for key in (CLUSTER_UID, API_SERVER) if key not in record
            ],
        ),
    )


def api_server(record: pulumi.Stash) -> pulumi.Output[Sequence[str]]:
    """The API server's addresses as this run sees them, or as one before did; perhaps none.

    By the record, a preview that does not see the cluster differs in nothing.
    """
    return record.input.apply(lambda known: known.get(API_SERVER, []))


def ip_version(addresses: Sequence[str]) -> str:
    """The first family of a cluster's pods: the API server's Service has no other."""
    return "IPv6" if any(":" in address for address in addresses) else "IPv4"


def _input(inputs: Mapping[str, Any] | None) -> Record:
    value = (inputs or {}).get("input")
    return cast("Record", value) if isinstance(value, Mapping) else {}

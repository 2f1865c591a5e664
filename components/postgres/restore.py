"""What comes before a restore: is there a valid backup? Then the clients stop, and WAL is archived.

PGO restores without a question: it takes the running database down first, and where no valid backup
is, it stays down. So the look comes before anything is changed, in hooks of the PostgresCluster.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, cast

import pulumi

from ..cluster.access import ClusterAccess, answer, label_selector, named, objects
from ..cluster.execute import Container, ExecuteError, execute
from ..cluster.polling import poll
from ..manifests.placement import Placement
from ..manifests.pods import CONTAINER_SECURITY
from ..settings.postgres import InPlaceRestore, StoreRestore
from .backup_info import (
    BackupInfoError,
    RepositoryContent,
    beginning,
    contents,
    impossible,
    left_behind,
    summary,
)
from .backups import STANZA

_LABEL = "postgres-operator.crunchydata.com"

_SETTING = "shlink:postgres.restore"

_STOP_SECONDS = 240.0

_LOOK_SECONDS = 180.0

_INTERVAL = 2.0

# The emitted message is a transaction: PostgreSQL refuses to end a recovery at a moment that comes
# after the last transaction it can replay. The name of WAL's file says how far archiving has come.
_ARCHIVE = """
wal=$(psql -qAtX -c "SELECT pg_catalog.pg_logical_emit_message(true, 'shlink', 'restore')" \
  -c "SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())" | tail -n 1)
for _ in $(seq 60); do
  archived=$(psql -qAtX -c "SELECT last_archived_wal FROM pg_catalog.pg_stat_archiver")
  [[ "${archived}" < "${wal}" ]] || exit 0
  sleep 1
done
echo "WAL ${wal} is not archived after 60 s" >&2
exit 1
"""

# Errors go to the same log, a line each; the document is a line of its own.
_LOOK = (
    f"pgbackrest info --stanza={STANZA} --output=json --log-level-console=off "
    "--log-level-stderr=error"
)


@dataclass(frozen=True)
class Workload:
    """A Deployment whose pods use the database; stopped while it is restored."""

    namespace: str
    name: str
    autoscaled_from: int | None = None
    """The least number of pods, where an autoscaler owns `replicas`; it starts nothing from 0."""


@dataclass(frozen=True)
class RestoreArgs:
    """What a restore of one PostgresCluster needs to know."""

    access: ClusterAccess
    """The cluster in which it runs."""
    cluster: str
    """Name of the PostgresCluster."""
    workloads: Sequence[Workload] = ()
    """Stopped before a restore in place. Their own update starts them again, with the number of
    pods that is declared, so nothing here remembers it."""
    pgbackrest_image: str | None = None
    """For the look into a store; the one that PGO uses when None."""
    operator_namespace: str | None = None
    """Where PGO runs, if not beside the cluster."""
    placement: Placement = field(default_factory=Placement)
    """On which nodes the pod that looks into a store may run."""


async def repository_contents(
    access: ClusterAccess, namespace: str, cluster: str, repository: str | None = None
) -> Mapping[str, RepositoryContent]:
    """What each repository of a running PostgresCluster holds, or this one. Raises ExecuteError.

    It asks the repository host, which runs also while the database is down. A store that does not
    answer keeps pgBackRest busy for minutes, so ask for one repository where one is enough.
    """
    option = [f"--repo={repository.removeprefix('repo')}"] if repository else []
    host = _repository_host(namespace, cluster)
    try:
        return contents(await execute(access, host, [*_LOOK.split(), *option]))
    except BackupInfoError as error:
        raise ExecuteError(f"pgbackrest info: {error}") from None


def _repository_host(namespace: str, cluster: str) -> Container:
    labels = {f"{_LABEL}/cluster": cluster, f"{_LABEL}/pgbackrest-dedicated": ""}
    return Container(namespace, labels, "pgbackrest")


async def prepare_in_place(
    args: RestoreArgs, restore: InPlaceRestore, namespace: str, status: Mapping[str, Any]
) -> None:
    """Look, stop the clients, archive the last WAL.

    `status`: of the PostgresCluster. Raises pulumi.RunError before it changes anything, when the
    restore can't work.
    """
    last = status.get("pgbackrest", {}).get("restore", {})
    number = str(last.get("id", ""))
    if number.isdigit() and int(number) > restore.number:
        raise pulumi.RunError(
            f"{_SETTING}.number: {restore.number} is less than {number}, the last restore; "
            f"allowed: {int(number) + 1} for another one. Nothing was changed"
        )
    if number == str(restore.number) and last.get("finished") and last.get("succeeded"):
        # PGO does nothing for a number that it knows: the update that recorded it was killed.
        pulumi.log.warn(f"{_SETTING}: restore {number} was done before; for another raise `number`")
        return
    name = restore.repository
    known = await repository_contents(args.access, namespace, args.cluster, name)
    content = known.get(name)
    reason = impossible(restore, content, datetime.now(tz=UTC))
    if reason is None and content is not None:
        reason = await _left_behind(args, restore, namespace, content)
    if reason is not None:
        with contextlib.suppress(ExecuteError):
            known = await repository_contents(args.access, namespace, args.cluster)
        raise pulumi.RunError(_refusal(restore, known, reason))
    for workload in args.workloads:
        await _stop(args.access, workload)
    try:
        await _archive(args, namespace)
    except ExecuteError as error:
        # A broken database may be what the restore is for.
        pulumi.log.warn(f"the restore ends with the WAL that was archived before: {error}")


async def _left_behind(
    args: RestoreArgs, restore: InPlaceRestore, namespace: str, content: RepositoryContent
) -> str | None:
    backup = beginning(restore, content)
    if backup is None or backup.timeline == content.timeline:
        return None
    file = f"archive/{STANZA}/{content.archive}/{content.timeline:08X}.history"
    number = restore.repository.removeprefix("repo")
    command = ["pgbackrest", f"--stanza={STANZA}", f"--repo={number}", "repo-get", file]
    history = await execute(args.access, _repository_host(namespace, args.cluster), command)
    return left_behind(backup, restore, content, history)


def _refusal(restore: InPlaceRestore, known: Mapping[str, RepositoryContent], reason: str) -> str:
    head = f"{_SETTING}: {restore.repository} can't restore this database, so nothing was changed"
    lines = [f"{head}: {reason}. `pgbackrest info` shows:"]
    lines += [f"  {name}: {summary(content)}" for name, content in sorted(known.items())]
    lines.append(
        "Set another `repository`, `set` or `time`, or remove `restore`; "
        "docs/operations.md#restore-in-place"
    )
    return "\n".join(lines)


async def _stop(access: ClusterAccess, workload: Workload) -> None:
    """Scale to 0 and wait until no pod is left. Nothing when there is no such Deployment.

    Raises pulumi.RunError when pods are left; the Deployment then runs again.
    """
    async with access.connected() as api:
        deployment = await _deployment(api, workload)
        if deployment is None:
            return
        replicas = int(deployment.raw["spec"].get("replicas", 1))
        selector = label_selector(deployment.raw["spec"]["selector"]["matchLabels"])
        pulumi.log.info(f"Deployment {workload.namespace}/{workload.name} stops for the restore")

        async def look() -> str:
            # Each time: an autoscaler may have decided on a number just before, and leaves 0
            # alone. The Deployment's next server-side apply takes the field back, and with it
            # starts the pods.
            current = await _deployment(api, workload)
            if current is not None and current.raw["spec"].get("replicas") != 0:
                await current.patch({"spec": {"replicas": 0}})
            return ", ".join(await _pods(api, workload.namespace, selector))

        if left := await poll(look, _STOP_SECONDS, _INTERVAL):
            await deployment.patch({"spec": {"replicas": replicas}})
            raise pulumi.RunError(
                f"Deployment {workload.namespace}/{workload.name} was told to stop before the "
                f"restore, and has pods left after {_STOP_SECONDS:g} s: {left}. The database was "
                f"not touched, and the Deployment runs again. Inspect its pods with: "
                f"{access.kubectl} -n {workload.namespace} get pods -l {selector}"
            )


async def _deployment(api: Any, workload: Workload) -> Any:
    return await named(api, "Deployment", workload.namespace, workload.name)


def start_hook(name: str, access: ClusterAccess, workload: Workload) -> pulumi.ResourceHook:
    """A `before_update` hook that starts an autoscaled Deployment which a restore has stopped.

    The update that follows leaves the number of pods to the autoscaler, and that leaves 0 alone.
    """

    async def start(_: pulumi.ResourceHookArgs) -> None:
        async with access.connected() as api:
            deployment = await _deployment(api, workload)
            if deployment is not None and deployment.raw["spec"].get("replicas") == 0:
                await deployment.patch({"spec": {"replicas": workload.autoscaled_from}})

    return pulumi.ResourceHook(name, start)


async def _pods(api: Any, namespace: str, selector: str) -> list[str]:
    pods = objects(api, "Pod", namespace=namespace, labels=selector)
    return [str(pod.raw["metadata"]["name"]) async for pod in pods]


async def _archive(args: RestoreArgs, namespace: str) -> None:
    labels = {f"{_LABEL}/cluster": args.cluster, f"{_LABEL}/role": "master"}
    primary = Container(namespace, labels, "database")
    await execute(args.access, primary, ["bash", "-ceu", _ARCHIVE], patience=90)


async def look_into_store(
    args: RestoreArgs, restore: StoreRestore, namespace: str, source: Mapping[str, Any]
) -> None:
    """Refuse a new environment whose store has no valid backup. Raises pulumi.RunError.

    A Job with pgBackRest looks, before there is a database. `source`: the cluster's data source.
    Without keys in the settings nothing is looked at: the identity that may read the store is that
    of the cluster's own pods, which do not exist yet.
    """
    if "configuration" not in source:
        pulumi.log.warn(f"{_SETTING}: the store was not looked at, its pods' identity comes later")
        return
    async with args.access.connected() as api:
        image = args.pgbackrest_image or await _image(api, args.operator_namespace or namespace)
        if image is None:
            pulumi.log.warn(f"{_SETTING}: the store was not looked at, PGO names no image for it")
            return
        name = f"{args.cluster}-look-{secrets.token_hex(3)}"
        text = await _run(api, namespace, _job(name, args, image, source))
    try:
        content = contents(text).get("repo1")
        reason = impossible(restore, content, datetime.now(tz=UTC))
    except BackupInfoError as error:
        reason = str(error)
    if reason is not None:
        raise pulumi.RunError(
            f"{_SETTING}: the store can't start this database, so none was made: {reason}. "
            f"Looked at path {restore.path}. Check `store`, `path` and `passphrase` "
            "(docs/operations.md#a-new-environment-from-an-object-store)"
        )


async def _image(api: Any, namespace: str) -> str | None:
    """PGBackRest's image as PGO was told of it."""
    async for item in objects(api, "Deployment", namespace=namespace):
        for container in item.raw["spec"]["template"]["spec"]["containers"]:
            for variable in container.get("env", []):
                if variable["name"] == "RELATED_IMAGE_PGBACKREST":
                    return str(variable["value"])
    return None


def _job(name: str, args: RestoreArgs, image: str, source: Mapping[str, Any]) -> dict[str, Any]:
    options = {**source["global"], **_target(source["repo"])}
    environment = [
        {"name": f"PGBACKREST_{option.upper().replace('-', '_')}", "value": str(value)}
        for option, value in options.items()
    ]
    projections = source["configuration"]
    mounts = [
        {"name": "stores", "mountPath": "/etc/pgbackrest/conf.d"},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 -- an emptyDir of the pod
    ]
    container = {
        "name": "look",
        "image": image,
        "command": _LOOK.split(),
        "env": environment,
        "resources": source["resources"],
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": mounts,
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "containers": [container],
        "volumes": [
            {"name": "stores", "projected": {"sources": projections}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "imagePullSecrets": args.placement.pull_secrets(),
        **args.placement.on_nodes(),
    }
    # The label by which the network policies let the database reach the store.
    labels = {f"{_LABEL}/cluster": args.cluster}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(_LOOK_SECONDS),
            "ttlSecondsAfterFinished": 60,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _target(repository: Mapping[str, Any]) -> dict[str, str]:
    """A store of the custom resource as PGO tells pgBackRest of it (pgbackrest/config.go)."""
    for kind in ("s3", "gcs", "azure"):
        if kind in repository:
            fields = cast("Mapping[str, str]", repository[kind])
            named = {f"repo1-{kind}-{key}": value for key, value in fields.items()}
            return {"repo1-type": kind, **named}
    return {}


async def _run(api: Any, namespace: str, job: Mapping[str, Any]) -> str:
    """The log of a Job, which is deleted afterwards."""
    name = job["metadata"]["name"]
    await _call(api, "POST", "batch/v1", namespace, "jobs", json=job)
    try:
        async with asyncio.timeout(_LOOK_SECONDS + 30):
            while True:
                pods = objects(api, "Pod", namespace=namespace, labels=f"job-name={name}")
                async for pod in pods:
                    if pod.raw.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                        log = f"pods/{pod.raw['metadata']['name']}/log"
                        return await _call(api, "GET", "v1", namespace, log)
                await asyncio.sleep(_INTERVAL)
    except TimeoutError:
        return f"no answer within {_LOOK_SECONDS + 30:g} s"
    finally:
        background = {"propagationPolicy": "Background"}
        await _call(api, "DELETE", "batch/v1", namespace, f"jobs/{name}", params=background)


async def _call(api: Any, method: str, version: str, namespace: str, url: str, **more: Any) -> str:
    status, text = await answer(api, method, version, namespace, url, **more)
    if status >= HTTPStatus.BAD_REQUEST:
        raise pulumi.RunError(
            f"{_SETTING}: {method} {url} in namespace {namespace} is answered by "
            f"{status}: {text[:300]}"
        )
    return text

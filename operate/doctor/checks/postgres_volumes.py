"""How full the volumes of PostgreSQL are, which its pods tell where the caller may ask them."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator

from components.monitoring.thresholds import VOLUME_PERCENT
from operate.doctor import inside
from operate.doctor.findings import Environment, Problem, Severity
from operate.doctor.pod_problems import container_runs
from operate.view import NoAnswerError, Object, SkippedError, condition, labelled

from .postgres_cluster import LABEL, actual_cluster, place

_CONTAINERS = ("database", "pgbackrest")
"""Containers that mount the volumes; the database's stops when its own is full."""

_COMMAND = ("sh", "-c", "df -P /pgdata /pgwal /pgbackrest/repo* 2>/dev/null; true")

_FULL_PERCENT = 98
"""Of a volume, where PostgreSQL stops."""

_LINE = re.compile(r"\s(\d+)%\s+(/pg\S+)$", re.MULTILINE)

_SIZE = "postgres.storage.size"


async def look(environment: Environment) -> AsyncIterator[Problem]:
    """The volumes of the instances and of the backups have room, and the size that is asked for."""
    namespace, name = place(environment)
    resizing = condition(await actual_cluster(environment), "PersistentVolumeResizing")
    if resizing is not None and resizing["status"] != "True":
        # PGO may not change the claim: its class can't expand, or its size would shrink.
        text = f"PostgreSQL: a volume can't be enlarged: {resizing.get('message', '')}"
        remedy = environment.kubectl_in(namespace, f"describe postgrescluster {name}")
        yield Problem(text, "volume-not-enlarged", remedy)
    pods: list[tuple[Object, str]] = []
    for pod in await environment.view.objects("v1/pods", namespace):
        running = [name for name in _CONTAINERS if container_runs(pod, name)]
        if running and labelled(pod, {f"{LABEL}/cluster": name}):
            pods.append((pod, running[0]))
    answers = await asyncio.gather(*(_printed(environment, pod, name) for pod, name in pods))
    for (pod, _), answer in zip(pods, answers, strict=True):
        for problem in _filling(environment, pod, answer):
            yield problem


async def _printed(environment: Environment, pod: Object, container: str) -> str:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    try:
        return await inside.output(environment.view, namespace, name, container, _COMMAND)
    except NoAnswerError as error:
        raise SkippedError(str(error)) from None


def _filling(environment: Environment, pod: Object, text: str) -> Iterator[Problem]:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    for percent, where in _LINE.findall(text):
        if int(percent) < VOLUME_PERCENT:
            continue
        remedy = environment.kubectl_in(namespace, f"describe pod {name}")
        if not where.startswith("/pgbackrest"):
            size = environment.declared.settings.postgres.storage.size
            doubled = re.sub(r"\d+", lambda digits: str(2 * int(digits[0])), size)
            remedy = environment.setting(_SIZE, doubled)
        message = f"PostgreSQL: the volume {where} of pod {name} is {percent} % full"
        severity = Severity.ERROR if int(percent) >= _FULL_PERCENT else Severity.WARNING
        yield Problem(message, "volume-filling", remedy, severity=severity)

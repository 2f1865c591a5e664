"""How full the volumes of PostgreSQL are, which its pods tell where the caller may ask them."""

import asyncio
import re
from collections.abc import Iterator

from operate.doctor import inside
from operate.doctor.findings import Environment, Problem, Severity, skip
from operate.doctor.pod_problems import container_runs
from operate.view import NoAnswerError, Object, SkippedError, labelled

from .postgres_cluster import LABEL, place

_CONTAINERS = ("database", "pgbackrest")
"""Containers that mount the volumes; the database's stops when its own is full."""

_COMMAND = ("sh", "-c", "df -P /pgdata /pgwal /pgbackrest/repo* 2>/dev/null; true")

_NEAR, _FULL = 85, 98
"""Percent of a volume that are a warning, as the alert's, and an error: PostgreSQL stops."""

_LINE = re.compile(r"\s(\d+)%\s+(/pg\S+)$", re.MULTILINE)


async def look(environment: Environment) -> list[Problem]:
    """The volumes of the instances and of the backups have room."""
    namespace, cluster = place(environment)
    pods: list[tuple[Object, str]] = []
    for pod in await environment.view.objects("v1/pods", namespace):
        running = [name for name in _CONTAINERS if container_runs(pod, name)]
        if running and labelled(pod, {f"{LABEL}/cluster": cluster}):
            pods.append((pod, running[0]))
    told = await asyncio.gather(*(_asked(environment, pod, name) for pod, name in pods))
    problems: list[Problem] = []
    for (pod, _), answer in zip(pods, told, strict=True):
        if isinstance(answer, Problem):
            return [answer]
        problems += _judged(environment, pod, answer)
    return problems


async def _asked(environment: Environment, pod: Object, container: str) -> str | Problem:
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    try:
        return await inside.output(environment.view, namespace, name, container, _COMMAND)
    except (NoAnswerError, SkippedError) as error:
        return skip(str(error))


def _judged(environment: Environment, pod: Object, told: str) -> Iterator[Problem]:
    for percent, where in _LINE.findall(told):
        if int(percent) < _NEAR:
            continue
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        remedy = environment.kubectl_in(namespace, f"describe pod {name}")
        if not where.startswith("/pgbackrest"):
            stack, size = environment.declared.stack, _doubled(environment)
            setting = "shlink:postgres.storage.size"
            remedy = f"pulumi config set --stack {stack} --path {setting} {size}"
        text = f"PostgreSQL: the volume {where} of pod {name} is {percent} % full"
        severity = Severity.ERROR if int(percent) >= _FULL else Severity.WARNING
        yield Problem(text, "volume-filling", remedy, severity=severity)


def _doubled(environment: Environment) -> str:
    """Twice the size that the stack's file asks for."""
    size = environment.declared.settings.postgres.storage.size
    return re.sub(r"\d+", lambda digits: str(2 * int(digits[0])), size)

"""Vault: its pods, whether it is initialised and unsealed, and who leads."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from components.vault.server import is_active
from operate.doctor import certificates, drift
from operate.doctor.endpoints import unnamed
from operate.doctor.findings import Checks, Environment, Problem, Severity, error_unless
from operate.doctor.pod_problems import (
    GRACE,
    Workload,
    container_runs,
    moved,
    pod_problems,
    pods_of,
    ready,
    stopping,
)
from operate.view import LookError, Object, age, at, condition, labels_of, listed, mapped

from . import vault_login
from .cluster import CLUSTER

CHECKS = Checks()

check = CHECKS.check

_LABELS = {"app.kubernetes.io/name": "vault", "component": "server"}

_PROXY_SECONDS = 2.0
"""Seconds for an answer through the API server's proxy, which some networks fence out."""

_UNSEAL_SECONDS = 30.0
"""Seconds after a restart in its pod in which the sidecar or the key service unseals Vault."""

_SEALED = "statuscode: 503"

_NOT_INITIALISED = "statuscode: 501"
"""What a failed readiness probe says: https://developer.hashicorp.com/vault/api-docs/system/health"""


async def _workload(environment: Environment) -> Workload:
    install, settings = environment.declared.vault, environment.declared.settings.vault
    replicas = settings.replicas if settings.mode == "ha" else 1
    return Workload(
        title="Vault",
        namespace=install.namespace,
        labels=_LABELS,
        owners=(install.name,),
        replicas=replicas,
        memory_setting="shlink:vault.resources.memoryLimit",
        secrets=("cluster.objects",),
        unchanged="vault.unchanged",
    )


@check("vault.unchanged", "nobody has changed Vault's StatefulSet and Services", after=CLUSTER)
async def _unchanged(environment: Environment) -> list[Problem]:
    """An update would not notice."""
    problems: list[Problem] = []
    namespace = environment.declared.vault.namespace
    for kind, resource in (("StatefulSet", "apps/v1/statefulsets"), ("Service", "v1/services")):
        for item in await environment.view.objects(resource, namespace):
            problems += drift.told(environment, kind, item, drift.by_hand(item), hidden=True)
    return problems


@check(
    "vault.running",
    "Vault's pods run",
    after=(
        *CLUSTER,
        "cluster.nodes",
        "cluster.objects",
        "cluster.volumes",
        "vault.unchanged",
    ),
)
async def _running(environment: Environment) -> list[Problem]:
    """Whether they are Ready is the next check's, which knows why not."""
    workload = await _workload(environment)
    problems = await pod_problems(environment, workload)
    pods = await pods_of(environment.view, workload)
    if not pods and not problems:
        namespace = workload.namespace
        stateful_set = await environment.view.named(
            "apps/v1/statefulsets", namespace, environment.declared.vault.name
        )
        if stateful_set is None:
            text = "Vault: its StatefulSet does not exist"
            return [Problem(text, "vault-not-running", environment.make("refresh"))]
        if stateful_set["spec"].get("replicas") == 0:
            name = stateful_set["metadata"]["name"]
            command = f"scale statefulset {name} --replicas={workload.replicas}"
            text = "Vault: its StatefulSet is scaled to 0"
            remedy = environment.kubectl_in(namespace, command)
            return [Problem(text, "vault-not-running", remedy)]
        text = "Vault: no pod exists"
        remedy = environment.kubectl_in(namespace, "describe statefulset")
        return [Problem(text, "vault-not-running", remedy)]
    return [problem for problem in problems if problem.anchor != "pod-not-ready"]


@check(
    "vault.initialised",
    "the Job that initialises Vault succeeded",
    after=("vault.running", "cluster.policies"),
)
async def _initialised(environment: Environment) -> list[Problem]:
    job = environment.declared.named("Job", "vault-init")
    if job is None:
        return []
    namespace = job["metadata"]["namespace"]
    actual = await environment.view.named("batch/v1/jobs", namespace, "vault-init")
    if actual is None:
        return []
    failed = condition(actual, "Failed")
    if failed is None or failed["status"] != "True":
        return []
    return [
        Problem(
            f"Vault: the Job that initialises it has failed ({failed.get('reason', '')})",
            "vault-init-failed",
            environment.make("up"),
        )
    ]


@check(
    "vault.unsealed",
    "Vault is initialised and unsealed",
    after=("vault.running", "vault.initialised", "vault.unchanged"),
)
async def _unsealed(environment: Environment) -> list[Problem]:
    workload = await _workload(environment)
    pods = [pod for pod in await pods_of(environment.view, workload) if not stopping(pod)]
    told: list[tuple[Object, Mapping[str, Any]]] = []
    answers = await asyncio.gather(*(_health(environment, pod) for pod in pods))
    for pod, answer in zip(pods, answers, strict=True):
        health = answer or await _health_by_probe(environment, pod)
        if health is not None:
            told.append((pod, health))
    serving = any(not health["sealed"] for _, health in told)
    problems: list[Problem] = []
    for pod, health in told:
        problems += _judge(environment, pod, health, serving=serving)
    if not problems:
        waiting = await pod_problems(environment, workload)
        problems = [problem for problem in waiting if problem.anchor == "pod-not-ready"]
    return problems[:1]


def _judge(
    environment: Environment, pod: Object, health: Mapping[str, Any], *, serving: bool
) -> Sequence[Problem]:
    """`serving`: another server answers, so this one is missed and no more."""
    if health["initialized"] and not health["sealed"]:
        return ()
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    young = _young(environment, pod)
    severity = Severity.WARNING if serving else Severity.ERROR
    if young:
        severity = Severity.PROGRESS
    if not health["initialized"]:
        return (
            Problem(
                f"Vault is not initialised (pod {name})",
                "vault-not-initialised",
                environment.kubectl_in(namespace, "logs job/vault-init --tail=20"),
                severity=severity,
            ),
        )
    container = "vault" if environment.declared.settings.vault.seal else "unseal"
    return (
        Problem(
            f"Vault is sealed (pod {name}): nothing can be read from it",
            "vault-sealed",
            environment.kubectl_in(namespace, f"logs {name} -c {container} --tail=20"),
            severity=severity,
        ),
    )


def _young(environment: Environment, pod: Object) -> bool:
    """Whether a server may still be sealed because it has just started."""
    if age(environment.view, pod["metadata"].get("creationTimestamp")) < GRACE:
        return True
    for status in listed(pod, "status", "containerStatuses"):
        if status["name"] == "vault":
            started = mapped(status, "state", "running").get("startedAt")
            return age(environment.view, started) < _UNSEAL_SECONDS
    return False


async def _health(environment: Environment, pod: Object) -> Mapping[str, Any] | None:
    """What Vault says of itself, through the API server's proxy; None where nothing comes back."""
    address = urlsplit(environment.declared.outputs.vault_address)
    scheme = "https:" if address.scheme == "https" else ""
    place = f"v1/pods/{scheme}{pod['metadata']['name']}:{address.port or 8200}/proxy/v1/sys/health"
    try:
        reply = await environment.view.reply(
            place, pod["metadata"]["namespace"], patience=_PROXY_SECONDS
        )
    except LookError:
        # A network that fences out the control plane, or no right to the proxy: the probe tells.
        return None
    return reply.fields if "sealed" in reply.fields else None


async def _health_by_probe(environment: Environment, pod: Object) -> Mapping[str, Any] | None:
    """The same from labels and the readiness probe's last failure."""
    if ready(pod):
        return {"initialized": True, "sealed": False}
    labels = labels_of(pod)
    if "vault-sealed" in labels:
        return {
            "initialized": labels.get("vault-initialized") == "true",
            "sealed": labels["vault-sealed"] == "true",
        }
    namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
    for event in reversed(await environment.view.objects("v1/events", namespace)):
        if at(event, "involvedObject", "name") != name:
            continue
        message = str(event.get("message", ""))
        if "Readiness" in message and _SEALED in message:
            return {"initialized": True, "sealed": True}
        if "Readiness" in message and _NOT_INITIALISED in message:
            return {"initialized": False, "sealed": True}
    return None


@check(
    "vault.certificate",
    "Vault's certificate is one that its clients accept, and does not end soon",
    after=("vault.running",),
)
async def _certificate(environment: Environment) -> list[Problem]:
    """Sealed servers show one too."""
    address = urlsplit(environment.declared.outputs.vault_address)
    pods = await pods_of(environment.view, await _workload(environment))
    return await certificates.problems(
        environment,
        [pod for pod in pods if container_runs(pod, "vault")],
        title="Vault",
        port=address.port or 8200,
        name=address.hostname or "",
        server="vault.running",
    )


async def restarted(environment: Environment, seconds: float) -> bool:
    """Whether a server of Vault stops, or has become Ready within some seconds."""
    pods = await pods_of(environment.view, await _workload(environment))
    return any(moved(environment.view, pod, seconds) for pod in pods)


@check("vault.leader", "one Vault server leads", after=("vault.unsealed", "cluster.policies"))
async def _leader(environment: Environment) -> list[Problem]:
    if environment.declared.settings.vault.mode != "ha":
        return []
    pods = await pods_of(environment.view, await _workload(environment))
    active = [pod for pod in pods if is_active(labels_of(pod)) and ready(pod)]
    if len(active) == 1 or not pods:
        return []
    moving = any(moved(environment.view, pod) for pod in pods)
    text = f"Vault: {len(active)} of {len(pods)} servers are active, there must be one"
    remedy = environment.kubectl_in(environment.declared.vault.namespace, "get pods --show-labels")
    severity = error_unless(changing=moving)
    return [Problem(text, "vault-no-leader", remedy, severity=severity)]


@check(
    "vault.names",
    "Vault's Service leads to it",
    after=(*CLUSTER, "vault.running", "vault.leader", "vault.unchanged"),
)
async def _names(environment: Environment) -> list[Problem]:
    host = urlsplit(environment.declared.outputs.vault_address).hostname or ""
    service, namespace, *_ = *host.split("."), ""
    if namespace != environment.declared.vault.namespace:
        # An address of its own, outside the cluster.
        return []
    described = environment.kubectl_in(namespace, f"describe service {service}")
    if await environment.view.named("v1/services", namespace, service) is None:
        text = f"Vault: Service {namespace}/{service} does not exist"
        return [Problem(text, "vault-no-names", environment.make("refresh"))]
    pods = await pods_of(environment.view, await _workload(environment))
    serving = [pod for pod in pods if ready(pod)]
    missing = await unnamed(environment.view, namespace, service, serving)
    if not serving or len(missing) < len(serving):
        return []
    changed = condition(serving[0], "Ready") or {}
    moving = age(environment.view, changed.get("lastTransitionTime")) < GRACE
    text = f"Vault: Service {namespace}/{service} leads to none of its pods"
    severity = error_unless(changing=moving)
    return [Problem(text, "vault-no-names", described, severity=severity)]


@check(
    "vault.login",
    "Vault knows the roles of the stores",
    after=("vault.leader", "vault.certificate"),
)
async def _login(environment: Environment) -> list[Problem]:
    return await vault_login.look(environment, await _workload(environment))

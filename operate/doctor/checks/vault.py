"""Vault: its pods, whether it is initialised and unsealed, and who leads."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from components import ports
from components.network.flows import VAULT_SERVER
from components.vault.server import is_active
from operate.doctor import certificates
from operate.doctor.as_declared import by_hand
from operate.doctor.endpoints import unnamed
from operate.doctor.findings import CLUSTER, Checks, Environment, Problem, Severity, error_unless
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
from operate.view import LookError, Object, age, at, condition, labels_of, listed, mapped, place

from . import vault_login

CHECKS = Checks()

check = CHECKS.check

_PROXY_SECONDS = 2.0
"""Seconds for an answer through the API server's proxy, which some networks fence out."""

_UNSEAL_SECONDS = 30.0
"""Seconds after a restart in its pod in which the sidecar or the key service unseals Vault."""

_SEALED = "statuscode: 503"

_NOT_INITIALISED = "statuscode: 501"
"""What a failed readiness probe says: https://developer.hashicorp.com/vault/api-docs/system/health"""


def _workload(environment: Environment) -> Workload:
    install, settings = environment.declared.vault, environment.declared.settings.vault
    replicas = settings.replicas if settings.mode == "ha" else 1
    return Workload(
        title="Vault",
        namespace=install.namespace,
        labels=VAULT_SERVER.labels,
        owners=(install.name,),
        replicas=replicas,
        memory_setting="vault.resources.memoryLimit",
        secrets=("cluster.objects",),
        unchanged="vault.unchanged",
    )


@check("vault.unchanged", "nobody has changed Vault's StatefulSet and Services", after=CLUSTER)
async def _unchanged(environment: Environment) -> AsyncIterator[Problem]:
    """An update would not notice."""
    namespace = environment.declared.vault.namespace
    for kind, resource in (("StatefulSet", "apps/v1/statefulsets"), ("Service", "v1/services")):
        for item in await environment.view.objects(resource, namespace):
            for problem in by_hand(environment, kind, item):
                yield problem


@check(
    "vault.running",
    "Vault's pods run",
    after=(*CLUSTER, "cluster.nodes", "cluster.objects", "cluster.volumes", "vault.unchanged"),
)
async def _running(environment: Environment) -> AsyncIterator[Problem]:
    """Whether they are Ready is the next check's, which knows why not."""
    workload = _workload(environment)
    problems = await pod_problems(environment, workload)
    for problem in problems:
        if problem.anchor != "pod-not-ready":
            yield problem
    if problems or await pods_of(environment.view, workload):
        return
    namespace, name = workload.namespace, environment.declared.vault.name
    controller = await environment.view.named("apps/v1/statefulsets", namespace, name)
    text, remedy = "no pod exists", environment.kubectl_in(namespace, "describe statefulset")
    if controller is None:
        text, remedy = "its StatefulSet does not exist", ""
    elif controller["spec"].get("replicas") == 0:
        command = f"scale statefulset {name} --replicas={workload.replicas}"
        text, remedy = "its StatefulSet is scaled to 0", environment.kubectl_in(namespace, command)
    yield Problem(f"Vault: {text}", "vault-not-running", remedy)


@check(
    "vault.initialised",
    "the Job that initialises Vault succeeded",
    after=("vault.running", "cluster.policies"),
)
async def _initialised(environment: Environment) -> AsyncIterator[Problem]:
    namespace = environment.declared.vault.namespace
    job = await environment.view.named("batch/v1/jobs", namespace, "vault-init")
    failed = condition(job or {}, "Failed") or {}
    if failed.get("status") == "True":
        text = f"Vault: the Job that initialises it has failed ({failed.get('reason', '')})"
        yield Problem(text, "vault-init-failed", environment.make("up"))


@check(
    "vault.unsealed",
    "Vault is initialised and unsealed",
    after=("vault.running", "vault.initialised", "vault.unchanged"),
)
async def _unsealed(environment: Environment) -> AsyncIterator[Problem]:
    workload = _workload(environment)
    pods = [pod for pod in await pods_of(environment.view, workload) if not stopping(pod)]
    states: list[tuple[Object, Mapping[str, Any]]] = []
    answers = await asyncio.gather(*(_health(environment, pod) for pod in pods))
    for pod, answer in zip(pods, answers, strict=True):
        health = answer or await _health_by_probe(environment, pod)
        if health is not None:
            states.append((pod, health))
    serving = any(not health["sealed"] for _, health in states)
    for pod, health in states:
        for problem in _closed(environment, pod, health, serving=serving):
            yield problem
            return
    for problem in await pod_problems(environment, workload):
        if problem.anchor == "pod-not-ready":
            yield problem
            return


def _closed(
    environment: Environment, pod: Object, health: Mapping[str, Any], *, serving: bool
) -> Iterator[Problem]:
    """Why a server gives nothing. `serving`: another one answers, so it is missed and no more."""
    namespace, name = place(pod)
    severity = Severity.WARNING if serving else Severity.ERROR
    if _young(environment, pod):
        severity = Severity.PROGRESS
    if not health["initialized"]:
        logs = environment.kubectl_in(namespace, "logs job/vault-init --tail=20")
        text = f"Vault is not initialised (pod {name})"
        yield Problem(text, "vault-not-initialised", logs, severity=severity)
    elif health["sealed"]:
        container = "vault" if environment.declared.settings.vault.seal else "unseal"
        logs = environment.kubectl_in(namespace, f"logs {name} -c {container} --tail=20")
        text = f"Vault is sealed (pod {name}): nothing can be read from it"
        yield Problem(text, "vault-sealed", logs, severity=severity)


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
    address, (namespace, name) = urlsplit(environment.declared.outputs.vault_address), place(pod)
    scheme = "https:" if address.scheme == "https" else ""
    path = f"v1/pods/{scheme}{name}:{address.port or ports.VAULT}/proxy/v1/sys/health"
    try:
        reply = await environment.view.reply(path, namespace, patience=_PROXY_SECONDS)
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
    namespace, name = place(pod)
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
async def _certificate(environment: Environment) -> AsyncIterator[Problem]:
    """Sealed servers show one too."""
    address = urlsplit(environment.declared.outputs.vault_address)
    pods = await pods_of(environment.view, _workload(environment))
    for problem in await certificates.problems(
        environment,
        [pod for pod in pods if container_runs(pod, "vault")],
        title="Vault",
        port=address.port or ports.VAULT,
        name=address.hostname or "",
        server="vault.running",
    ):
        yield problem


async def restarted(environment: Environment, seconds: float) -> bool:
    """Whether a server of Vault stops, or has become Ready within some seconds."""
    pods = await pods_of(environment.view, _workload(environment))
    return any(moved(environment.view, pod, seconds) for pod in pods)


@check("vault.leader", "one Vault server leads", after=("vault.unsealed", "cluster.policies"))
async def _leader(environment: Environment) -> AsyncIterator[Problem]:
    if environment.declared.settings.vault.mode != "ha":
        return
    pods = await pods_of(environment.view, _workload(environment))
    active = [pod for pod in pods if is_active(labels_of(pod)) and ready(pod)]
    if len(active) == 1 or not pods:
        return
    moving = any(moved(environment.view, pod) for pod in pods)
    text = f"Vault: {len(active)} of {len(pods)} servers are active, there must be one"
    remedy = environment.kubectl_in(environment.declared.vault.namespace, "get pods --show-labels")
    yield Problem(text, "vault-no-leader", remedy, severity=error_unless(changing=moving))


@check(
    "vault.names",
    "Vault's Service leads to it",
    after=(*CLUSTER, "vault.running", "vault.leader", "vault.unchanged"),
)
async def _names(environment: Environment) -> AsyncIterator[Problem]:
    view, host = environment.view, urlsplit(environment.declared.outputs.vault_address).hostname
    service, namespace, *_ = *(host or "").split("."), ""
    if namespace != environment.declared.vault.namespace:
        # An address of its own, outside the cluster.
        return
    text, page = f"Vault: Service {namespace}/{service}", "vault-no-names"
    if await view.named("v1/services", namespace, service) is None:
        yield Problem(f"{text} does not exist", page)
        return
    pods = await pods_of(view, _workload(environment))
    serving = [pod for pod in pods if ready(pod)]
    missing = await unnamed(view, namespace, service, serving)
    if serving and len(missing) == len(serving):
        changed = condition(serving[0], "Ready") or {}
        moving = age(view, changed.get("lastTransitionTime")) < GRACE
        remedy = environment.kubectl_in(namespace, f"describe service {service}")
        severity = error_unless(changing=moving)
        yield Problem(f"{text} leads to none of its pods", page, remedy, severity=severity)


@check(
    "vault.login",
    "Vault knows the roles of the stores",
    after=("vault.leader", "vault.certificate"),
)
async def _login(environment: Environment) -> AsyncIterator[Problem]:
    problem = await vault_login.problem(environment, _workload(environment))
    if problem:
        yield problem

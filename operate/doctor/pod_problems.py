"""Why the pods of a workload are not Ready, read from their statuses and events.

If several things are wrong with a pod, the first on its way to Ready counts: refused, not
scheduled, no image, a Secret is missing, an init container waits, a crash, a probe.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from operate.view import Object, View, age, at, condition, labelled, labels_of, listed, mapped

from .findings import Environment, Problem, Severity, error_unless

GRACE = 180.0
"""Seconds in which a pod may start, or stop, before that is a finding."""

_PENDING_GRACE = 60.0
"""Seconds in which the scheduler and the autoscaler may find a node."""

_RECENT = 3600.0
"""Seconds for which an event or a past crash still says something."""

_WAIT_GRACE = 45.0
"""Seconds that an init container may wait for a server."""

_IMAGE_REASONS = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "ImageInspectError",
    "SignatureValidationFailed",
}

_STARTED = {"running", "terminated"}
"""States of a container that the kubelet has started."""

_REFUSALS = {"FailedCreate", "ReplicaSetCreateError"}

_FROM_THE_CLUSTER = (
    "cluster.reachable",
    "cluster.namespaces",
    "cluster.nodes",
)
"""What explains a fault that no server of the environment can cause."""


@dataclass(frozen=True)
class Workload:
    """Some pods that belong together, and what is said of them in a remedy."""

    title: str
    """`PostgreSQL`, at the start of a message."""
    namespace: str
    labels: Mapping[str, str]
    """Of the pods."""
    owners: tuple[str, ...]
    """Names with which the controllers of these pods begin, for the events of refused pods."""
    replicas: int
    """Pods that should be Ready."""
    memory_setting: str = ""
    """The setting of the memory limit: `shlink:app.resources.memoryLimit`."""
    secrets: tuple[str, ...] = ()
    """Checks whose failure explains a missing Secret."""
    unchanged: str = ""
    """The check that notices what somebody changed by hand, such as an image."""
    grace: float = GRACE
    """Seconds in which one of these pods may become Ready."""

    @property
    def outside(self) -> tuple[str, ...]:
        """The checks that explain a fault which no server of the environment can cause."""
        return (*_FROM_THE_CLUSTER, self.unchanged) if self.unchanged else _FROM_THE_CLUSTER

    @property
    def refusing(self) -> tuple[str, ...]:
        """The checks that explain why the API server lets nobody create such a pod."""
        return (*self.outside, "cluster.admission")


async def pod_problems(environment: Environment, workload: Workload) -> list[Problem]:
    """What is wrong with the pods of a workload."""
    view = environment.view
    pods = await pods_of(view, workload)
    events = await view.objects("v1/events", workload.namespace)
    problems: list[Problem] = []
    revisions = await _revisions(view, workload.namespace)
    for pod in pods:
        own = list(_of_pod(environment, workload, pod, events))
        if _is_left(pod, revisions):
            # A StatefulSet waits until a pod is Ready, and this one never will be.
            remedy = environment.kubectl_in(
                workload.namespace, f"delete pod {pod['metadata']['name']}"
            )
            own = [dataclasses.replace(problem, remedy=remedy) for problem in own]
        problems += own
    problems += await _rollouts(environment, workload)
    missing = workload.replicas - len([pod for pod in pods if not stopping(pod)])
    if missing > 0:
        refused = list(_refused(environment, workload, missing, pods, events))
        problems += refused
        if pods and not refused:
            problems.append(_awaited(environment, workload, missing))
    return _distinct(problems)


async def _revisions(view: View, namespace: str) -> Mapping[str, str]:
    """The newest revision of each StatefulSet."""
    return {
        item["metadata"]["name"]: str(at(item, "status", "updateRevision") or "")
        for item in await view.objects("apps/v1/statefulsets", namespace)
    }


def _is_left(pod: Object, revisions: Mapping[str, str]) -> bool:
    """Whether a pod is of a revision that its StatefulSet no longer asks for, and not Ready."""
    if ready(pod) or stopping(pod):
        return False
    own = labels_of(pod).get("controller-revision-hash")
    owners = [owner["name"] for owner in listed(pod, "metadata", "ownerReferences")]
    newest = [revisions[name] for name in owners if revisions.get(name)]
    return bool(own and newest and own not in newest)


def _awaited(environment: Environment, workload: Workload, missing: int) -> Problem:
    """Pods that nobody refuses and that are not there: a controller makes them within seconds."""
    return Problem(
        f"{workload.title}: {missing} of {workload.replicas} pods do not exist yet",
        "pod-not-ready",
        environment.kubectl_in(workload.namespace, "get pods"),
        severity=Severity.PROGRESS,
    )


async def _rollouts(environment: Environment, workload: Workload) -> list[Problem]:
    """Controllers that have not replaced all their pods yet, though each pod may be Ready."""
    problems: list[Problem] = []
    for kind in ("deployments", "statefulsets"):
        for item in await environment.view.objects(f"apps/v1/{kind}", workload.namespace):
            # A selector may say less than the pods' labels, as PGO's.
            template = mapped(item, "spec", "template", "metadata", "labels")
            labels = {**mapped(item, "spec", "selector", "matchLabels"), **template}
            if workload.labels.items() <= labels.items():
                problems += _rollout(environment, workload, item)
    return problems


def _rollout(environment: Environment, workload: Workload, controller: Object) -> Iterator[Problem]:
    name, replicas = controller["metadata"]["name"], int(controller["spec"].get("replicas", 1))
    failure = condition(controller, "ReplicaFailure")
    if failure is not None and failure["status"] == "True":
        yield Problem(
            f"{workload.title}: new pods are refused: {_line(str(failure.get('message', '')))}",
            "pod-refused",
            environment.kubectl_in(workload.namespace, f"describe deployment {name}"),
            causes=workload.refusing,
        )
        return
    seen = int(at(controller, "status", "observedGeneration") or 0)
    new = int(at(controller, "status", "updatedReplicas") or 0)
    if seen < int(controller["metadata"].get("generation", 1)) or new < replicas:
        state, severity, remedy = "is being rolled out", Severity.PROGRESS, "get pods"
        if controller["spec"].get("paused"):
            state, severity = "is paused in a rollout", Severity.ERROR
            remedy = f"rollout resume deployment {name}"
        yield Problem(
            f"{workload.title}: {name} {state}, {new} of {replicas} pods are new",
            "pod-not-ready",
            environment.kubectl_in(workload.namespace, remedy),
            severity=severity,
        )


def moved(view: View, pod: Object, seconds: float = GRACE) -> bool:
    """Whether a pod stops, or has become or ceased to be Ready within some seconds."""
    if stopping(pod):
        return True
    changed = (condition(pod, "Ready") or {}).get("lastTransitionTime")
    return age(view, changed or pod["metadata"]["creationTimestamp"]) < seconds


async def pods_of(view: View, workload: Workload) -> list[Object]:
    """The pods of a workload; Jobs' pods that have ended are not among them."""
    pods = await view.objects("v1/pods", workload.namespace)
    own = [pod for pod in pods if labelled(pod, workload.labels)]
    return [pod for pod in own if _phase(pod) != "Succeeded"]


def ready(pod: Object) -> bool:
    """Whether a pod is Ready and stays."""
    status = condition(pod, "Ready")
    return status is not None and status["status"] == "True" and not stopping(pod)


def container_runs(pod: Object, name: str) -> bool:
    """Whether a container of a pod runs and the pod stays; its probe may fail."""
    for status in listed(pod, "status", "containerStatuses"):
        if status["name"] == name and "running" in mapped(status, "state"):
            return not stopping(pod)
    return False


def _of_pod(
    environment: Environment, workload: Workload, pod: Object, events: Sequence[Object]
) -> Iterator[Problem]:
    view, name = environment.view, pod["metadata"]["name"]
    describe = environment.kubectl_in(workload.namespace, f"describe pod {name}")
    if stopping(pod):
        late = age(view, pod["metadata"]["deletionTimestamp"]) > GRACE
        text = "should have stopped and has not; its node may be lost" if late else "is stopping"
        yield Problem(
            f"{workload.title}: pod {name} {text}",
            "pod-does-not-stop",
            describe,
            severity=error_unless(changing=not late),
            causes=workload.outside,
        )
        return
    if _phase(pod) == "Failed":
        reason = pod["status"].get("reason") or "failed"
        yield Problem(
            f"{workload.title}: pod {name} has ended ({reason})",
            "pod-evicted",
            environment.kubectl_in(workload.namespace, f"delete pod {name}"),
            severity=Severity.WARNING,
            causes=workload.outside,
        )
        return
    killed = list(_out_of_memory(environment, workload, pod))
    yield from killed
    if killed or ready(pod):
        return
    for cause in (_unscheduled, _unstarted, _crashed):
        problem = cause(environment, workload, pod, events)
        if problem:
            yield problem
            return
    yield _not_ready(environment, workload, pod, events)


def _unscheduled(
    environment: Environment, workload: Workload, pod: Object, _: Sequence[Object]
) -> Problem | None:
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None and not mapped(pod, "spec").get("nodeName"):
        scheduler = mapped(pod, "spec").get("schedulerName", "default-scheduler")
        scheduled = {"status": "False", "message": f"{scheduler} has not looked at it"}
    if scheduled is None or scheduled["status"] != "False":
        return None
    name, message = pod["metadata"]["name"], str(scheduled.get("message", ""))
    causes = workload.outside
    if "PersistentVolumeClaim" in message or "persistentvolumeclaim" in message:
        causes = (*workload.outside, "cluster.volumes")
    waiting = age(environment.view, pod["metadata"]["creationTimestamp"])
    return Problem(
        f"{workload.title}: no node takes pod {name}: {_line(message)}",
        "pod-pending",
        environment.kubectl_in(workload.namespace, f"describe pod {name}"),
        severity=error_unless(changing=waiting <= _PENDING_GRACE),
        causes=causes,
    )


def _unstarted(
    environment: Environment, workload: Workload, pod: Object, events: Sequence[Object]
) -> Problem | None:
    """A container that the kubelet can't start: its image, its variables, its volumes."""
    name = pod["metadata"]["name"]
    for status in _containers(pod):
        waiting = mapped(status, "state", "waiting")
        reason, message = waiting.get("reason", ""), str(waiting.get("message", ""))
        if reason in _IMAGE_REASONS:
            return Problem(
                f"{workload.title}: the image {status.get('image', '')} of pod {name} "
                f"can't be pulled ({reason})",
                "image-not-pulled",
                environment.make("up"),
                causes=workload.outside,
            )
        if reason == "CreateContainerConfigError":
            return Problem(
                f"{workload.title}: pod {name} can't start: {_line(message)}",
                "secret-not-found",
                environment.make("refresh"),
                causes=(*workload.outside, *workload.secrets),
            )
    if any(mapped(status, "state").keys() & _STARTED for status in _containers(pod)):
        return None  # Its volumes are mounted, whatever an event told before.
    young = age(environment.view, pod["metadata"]["creationTimestamp"]) < _WAIT_GRACE
    for event in _of(events, "Pod", (name,)):
        if _recent(environment.view, event) and event.get("reason") == "FailedMount":
            message = str(event.get("message", ""))
            if "not found" in message:
                return Problem(
                    f"{workload.title}: pod {name} can't start: {_line(message)}",
                    "secret-not-found",
                    environment.make("refresh"),
                    severity=error_unless(changing=young),
                    causes=(*workload.outside, *workload.secrets),
                )
    return None


def _crashed(
    environment: Environment, workload: Workload, pod: Object, events: Sequence[Object]
) -> Problem | None:
    name = pod["metadata"]["name"]
    for status in _containers(pod):
        waiting = mapped(status, "state", "waiting")
        if waiting.get("reason") not in ("CrashLoopBackOff", "RunContainerError"):
            continue
        ended = mapped(status, "lastState", "terminated")
        if ended.get("reason") == "OOMKilled":
            return None
        logs = f"logs {name} -c {status['name']} --previous --tail=30"
        code, restarts = ended.get("exitCode", "unknown"), status.get("restartCount", 0)
        return Problem(
            f"{workload.title}: container {status['name']} of pod {name} stops again and again "
            f"(exit code {code}, {restarts} restarts){_liveness(environment.view, events, name)}",
            "container-crashes",
            environment.kubectl_in(workload.namespace, logs),
        )
    return None


def _out_of_memory(environment: Environment, workload: Workload, pod: Object) -> Iterator[Problem]:
    """A container that the kernel killed in the last hour: an error while its pod is not Ready."""
    for status in _containers(pod):
        for state in ("state", "lastState"):
            ended = mapped(status, state, "terminated")
            if ended.get("reason") != "OOMKilled":
                continue
            if age(environment.view, ended.get("finishedAt")) > _RECENT:
                continue
            setting = workload.memory_setting
            remedy = environment.kubectl_in(
                workload.namespace, f"describe pod {pod['metadata']['name']}"
            )
            if setting:
                stack = environment.declared.stack
                remedy = f"pulumi config set --stack {stack} --path {setting} 1Gi"
            severity = Severity.WARNING if ready(pod) else Severity.ERROR
            yield Problem(
                f"{workload.title}: container {status['name']} of pod {pod['metadata']['name']} "
                "was killed because it reached its memory limit",
                "out-of-memory",
                remedy,
                severity=severity,
                causes=workload.outside,
            )
            return


def _not_ready(
    environment: Environment, workload: Workload, pod: Object, events: Sequence[Object]
) -> Problem:
    view, name = environment.view, pod["metadata"]["name"]
    describe = environment.kubectl_in(workload.namespace, f"describe pod {name}")
    for status in listed(pod, "status", "initContainerStatuses"):
        running = mapped(status, "state", "running")
        # A sidecar is an init container that goes on running; it counts as started.
        if running and not status.get("started"):
            waited = age(view, running.get("startedAt"))
            return Problem(
                f"{workload.title}: pod {name} waits in its init container {status['name']} "
                f"({waited:.0f} s)",
                "init-container-waits",
                environment.kubectl_in(
                    workload.namespace, f"logs {name} -c {status['name']} --tail=20"
                ),
                severity=error_unless(changing=waited <= _WAIT_GRACE),
            )
    since = condition(pod, "Ready")
    started = pod["status"].get("startTime") or pod["metadata"].get("creationTimestamp")
    changed = since.get("lastTransitionTime") if since else None
    waited = age(view, changed or started)
    probe = _last_probe(view, events, name)
    return Problem(
        f"{workload.title}: pod {name} is not Ready ({waited:.0f} s){probe}",
        "pod-not-ready",
        describe,
        severity=error_unless(changing=waited <= workload.grace),
    )


def _liveness(view: View, events: Sequence[Object], pod: str) -> str:
    """Whether the kubelet itself stops a container, because a probe of it fails."""
    for event in reversed(list(_of(events, "Pod", (pod,)))):
        message = str(event.get("message", ""))
        if message.startswith(("Liveness", "Startup")) and _recent(view, event):
            return f": {_line(message)}"
    return ""


def _last_probe(view: View, events: Sequence[Object], pod: str) -> str:
    """What the last failed probe said: a status code or a refused connection, never a body."""
    for event in reversed(list(_of(events, "Pod", (pod,)))):
        if event.get("reason") == "Unhealthy" and _recent(view, event):
            return f": {_line(str(event.get('message', '')))}"
    return ""


def _refused(
    environment: Environment,
    workload: Workload,
    missing: int,
    pods: Sequence[Object],
    events: Sequence[Object],
) -> Iterator[Problem]:
    """Pods that the API server does not let a controller create."""
    view = environment.view
    # A pod that was created since tells that nobody refuses them any more.
    created = max((pod["metadata"]["creationTimestamp"] for pod in pods), default="")
    for event in reversed(list(events)):
        owner = str(at(event, "involvedObject", "name"))
        if event.get("reason") not in _REFUSALS or not owner.startswith(workload.owners):
            continue
        if _recent(view, event) and last_seen(event) >= created:
            yield Problem(
                f"{workload.title}: {missing} of {workload.replicas} pods are refused: "
                f"{_line(str(event.get('message', '')))}",
                "pod-refused",
                environment.kubectl_in(
                    workload.namespace, "get events --field-selector reason=FailedCreate"
                ),
                causes=workload.refusing,
            )
            return


def _of(events: Sequence[Object], kind: str, names: Sequence[str]) -> Iterator[Object]:
    for event in events:
        about = mapped(event, "involvedObject")
        if about.get("kind") == kind and about.get("name") in names:
            yield event


def _recent(view: View, event: Object) -> bool:
    return age(view, last_seen(event)) < _RECENT


def last_seen(event: Object) -> str:
    """When an event was told last."""
    series = mapped(event, "series")
    moment = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(moment or event["metadata"].get("creationTimestamp") or "")


def _containers(pod: Object) -> list[Object]:
    return [
        *listed(pod, "status", "initContainerStatuses"),
        *listed(pod, "status", "containerStatuses"),
    ]


def stopping(pod: Object) -> bool:
    """Whether a pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def _phase(pod: Object) -> str:
    return str(at(pod, "status", "phase") or "Pending")


def _line(text: str) -> str:
    """The first line of a message, short enough for a report."""
    lines = text.strip().splitlines()
    return lines[0][:240] if lines else "no reason is told"


def _distinct(problems: Sequence[Problem]) -> list[Problem]:
    """One problem per kind and severity: three pods with one fault are one finding."""
    kept: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        kept.setdefault((problem.anchor, problem.severity), problem)
    return list(kept.values())

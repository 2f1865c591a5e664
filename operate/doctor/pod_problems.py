"""Why the pods of a workload are not Ready, read from their statuses and events.

If several things are wrong with a pod, the first on its way to Ready counts: refused, not
scheduled, no image, a Secret is missing, an init container waits, a crash, a probe.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from components.settings.images import ImageReference
from operate.view import (
    Object,
    View,
    age,
    at,
    condition,
    labelled,
    labels_of,
    listed,
    mapped,
    place,
)

from .findings import CLUSTER, Environment, Problem, Severity, error_unless

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

_FROM_THE_CLUSTER = (*CLUSTER, "cluster.nodes")
"""What explains a fault that no server of the environment can cause."""


@dataclass(frozen=True)
class Workload:
    """Some pods that belong together, and what is written of them in a remedy."""

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
    """The setting of the memory limit: `app.resources.memoryLimit`."""
    secrets: tuple[str, ...] = ()
    """Checks whose failure explains a missing Secret."""
    unchanged: str = ""
    """The check that notices what somebody changed by hand, such as an image."""
    grace: float = GRACE
    """Seconds in which one of these pods may become Ready."""

    @classmethod
    def of_deployment(cls, deployment: Object, title: str, **options: Any) -> Self:
        """The pods of a Deployment."""
        namespace, name = place(deployment)
        return cls(
            title=title,
            namespace=namespace,
            labels=deployment["spec"]["selector"]["matchLabels"],
            owners=(name,),
            replicas=int(deployment["spec"].get("replicas", 1)),
            **options,
        )

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
    view, namespace = environment.view, workload.namespace
    pods = await pods_of(view, workload)
    events = await view.objects("v1/events", namespace)
    stateful_sets = await view.objects("apps/v1/statefulsets", namespace)
    controllers = [*await view.objects("apps/v1/deployments", namespace), *stateful_sets]
    look = _Look(environment, workload, events)
    problems: list[Problem] = []
    for pod in pods:
        problems += look.of_pod(pod, stateful_sets)
    problems += look.rollouts(controllers)
    absent = workload.replicas - len([pod for pod in pods if not stopping(pod)])
    if absent > 0:
        problems += look.absent(absent, pods)
    # Three pods with one fault are one finding.
    kinds: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        message = f"{workload.title}: {problem.message}"
        kind = problem.anchor, problem.severity
        kinds.setdefault(kind, dataclasses.replace(problem, message=message))
    return list(kinds.values())


async def deployment_problems(
    environment: Environment, deployment: Object, workload: Workload, page: str
) -> list[Problem]:
    """What is wrong with a Deployment: its pods, or that it has none.

    `page`: the runbook's, for a Deployment without pods.
    """
    namespace, name = place(deployment)
    replicas = int(deployment["spec"].get("replicas", 1))
    if replicas == 0:
        text = f"{workload.title}: Deployment {name} is scaled to 0"
        remedy = environment.kubectl_in(namespace, f"scale deployment {name} --replicas=1")
        return [Problem(text, page, remedy, causes=CLUSTER)]
    problems = await pod_problems(environment, workload)
    if not problems and not at(deployment, "status", "availableReplicas"):
        text = f"{workload.title}: none of its {replicas} pods is available"
        remedy = environment.kubectl_in(namespace, f"describe deployment {name}")
        problems = [Problem(text, page, remedy, causes=CLUSTER)]
    return problems


async def pods_of(view: View, workload: Workload) -> list[Object]:
    """The pods of a workload; Jobs' pods that have ended are not among them."""
    pods = await view.objects("v1/pods", workload.namespace)
    own = [pod for pod in pods if labelled(pod, workload.labels)]
    return [pod for pod in own if _phase(pod) != "Succeeded"]


def ready(pod: Object) -> bool:
    """Whether a pod is Ready and stays."""
    return (condition(pod, "Ready") or {}).get("status") == "True" and not stopping(pod)


def stopping(pod: Object) -> bool:
    """Whether a pod is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def moved(view: View, pod: Object, seconds: float = GRACE) -> bool:
    """Whether a pod stops, or has become or ceased to be Ready within some seconds."""
    if stopping(pod):
        return True
    changed = (condition(pod, "Ready") or {}).get("lastTransitionTime")
    return age(view, changed or pod["metadata"]["creationTimestamp"]) < seconds


def container_runs(pod: Object, name: str) -> bool:
    """Whether a container of a pod runs and the pod stays; its probe may fail."""
    for status in listed(pod, "status", "containerStatuses"):
        if status["name"] == name and "running" in mapped(status, "state"):
            return not stopping(pod)
    return False


def last_seen(event: Object) -> str:
    """When an event was reported last."""
    series = mapped(event, "series")
    moment = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(moment or event["metadata"].get("creationTimestamp") or "")


@dataclass(frozen=True)
class _Look:
    """One look at a workload; the titles of its problems are added at the end."""

    environment: Environment
    workload: Workload
    events: Sequence[Object]

    def _kubectl(self, command: str) -> str:
        return self.environment.kubectl_in(self.workload.namespace, command)

    def _age(self, moment: str | None) -> float:
        return age(self.environment.view, moment)

    def _recent_events(self, pod: str) -> Iterator[tuple[str, str]]:
        """Reason and message of each recent event of a pod, the last one first."""
        for event in reversed(self.events):
            about = mapped(event, "involvedObject")
            is_own = about.get("kind") == "Pod" and about.get("name") == pod
            if is_own and self._age(last_seen(event)) < _RECENT:
                yield str(event.get("reason")), str(event.get("message", ""))

    def absent(self, number: int, pods: Sequence[Object]) -> Iterator[Problem]:
        """Pods that do not exist: refused, or made by a controller within seconds."""
        text = f"{number} of {self.workload.replicas} pods"
        # A pod that was created since tells that nobody refuses them any more.
        created = max((pod["metadata"]["creationTimestamp"] for pod in pods), default="")
        for event in reversed(self.events):
            owner, seen = str(at(event, "involvedObject", "name")), last_seen(event)
            if event.get("reason") not in _REFUSALS or not owner.startswith(self.workload.owners):
                continue
            if self._age(seen) < _RECENT and seen >= created:
                refusal = f"{text} are refused: {_line(str(event.get('message', '')))}"
                remedy = self._kubectl("get events --field-selector reason=FailedCreate")
                yield Problem(refusal, "pod-refused", remedy, causes=self.workload.refusing)
                return
        if pods:
            remedy, progress = self._kubectl("get pods"), Severity.PROGRESS
            yield Problem(f"{text} do not exist yet", "pod-not-ready", remedy, severity=progress)

    def rollouts(self, controllers: Sequence[Object]) -> Iterator[Problem]:
        """Controllers that have not replaced all their pods yet, though each pod may be Ready."""
        for controller in controllers:
            # A selector may name less than the pods' labels, as PGO's.
            template = mapped(controller, "spec", "template", "metadata", "labels")
            labels = {**mapped(controller, "spec", "selector", "matchLabels"), **template}
            if self.workload.labels.items() <= labels.items():
                yield from self._rollout(controller)

    def _rollout(self, controller: Object) -> Iterator[Problem]:
        name, replicas = controller["metadata"]["name"], int(controller["spec"].get("replicas", 1))
        failure = condition(controller, "ReplicaFailure")
        if failure is not None and failure["status"] == "True":
            text = f"new pods are refused: {_line(str(failure.get('message', '')))}"
            remedy = self._kubectl(f"describe deployment {name}")
            yield Problem(text, "pod-refused", remedy, causes=self.workload.refusing)
            return
        seen = int(at(controller, "status", "observedGeneration") or 0)
        new = int(at(controller, "status", "updatedReplicas") or 0)
        if seen >= int(controller["metadata"].get("generation", 1)) and new >= replicas:
            return
        state, severity, remedy = "is being rolled out", Severity.PROGRESS, "get pods"
        if controller["spec"].get("paused"):
            state, severity = "is paused in a rollout", Severity.ERROR
            remedy = f"rollout resume deployment {name}"
        text = f"{name} {state}, {new} of {replicas} pods are new"
        yield Problem(text, "pod-not-ready", self._kubectl(remedy), severity=severity)

    def of_pod(self, pod: Object, stateful_sets: Sequence[Object]) -> Iterator[Problem]:
        """What is wrong with one pod."""
        name, outside = pod["metadata"]["name"], self.workload.outside
        if stopping(pod):
            late = self._age(pod["metadata"]["deletionTimestamp"]) > GRACE
            text = "is stopping"
            if late:
                text = "should have stopped and has not; its node may be lost"
            severity, remedy = error_unless(changing=not late), f"describe pod {name}"
            yield Problem(
                f"pod {name} {text}",
                "pod-does-not-stop",
                self._kubectl(remedy),
                severity=severity,
                causes=outside,
            )
            return
        if _phase(pod) == "Failed":
            text = f"pod {name} has ended ({pod['status'].get('reason') or 'failed'})"
            remedy, warning = self._kubectl(f"delete pod {name}"), Severity.WARNING
            yield Problem(text, "pod-evicted", remedy, severity=warning, causes=outside)
            return
        problems = [*self._out_of_memory(pod)]
        if not problems and not ready(pod):
            causes = (self._unscheduled, self._unstarted, self._crashed, self._not_ready)
            problems = next(filter(None, (list(cause(pod)) for cause in causes)))[:1]
        for problem in problems:
            if not _is_left_behind(pod, stateful_sets):
                yield problem
                continue
            # A StatefulSet waits until a pod is Ready, and this one never will be.
            yield dataclasses.replace(problem, remedy=self._kubectl(f"delete pod {name}"))

    def _out_of_memory(self, pod: Object) -> Iterator[Problem]:
        """A container that the kernel killed in the last hour: an error if its pod isn't Ready."""
        name = pod["metadata"]["name"]
        for status in _containers(pod):
            ends = [mapped(status, state, "terminated") for state in ("state", "lastState")]
            killed = [end for end in ends if end.get("reason") == "OOMKilled"]
            if not any(self._age(end.get("finishedAt")) <= _RECENT for end in killed):
                continue
            remedy = self._kubectl(f"describe pod {name}")
            if self.workload.memory_setting:
                remedy = self.environment.setting(self.workload.memory_setting, "1Gi")
            severity = Severity.WARNING if ready(pod) else Severity.ERROR
            yield Problem(
                f"container {status['name']} of pod {name} was killed because it reached its "
                "memory limit",
                "out-of-memory",
                remedy,
                severity=severity,
                causes=self.workload.outside,
            )
            return

    def _unscheduled(self, pod: Object) -> Iterator[Problem]:
        scheduled = condition(pod, "PodScheduled")
        if scheduled is None and not mapped(pod, "spec").get("nodeName"):
            scheduler = mapped(pod, "spec").get("schedulerName", "default-scheduler")
            scheduled = {"status": "False", "message": f"{scheduler} has not looked at it"}
        if scheduled is None or scheduled["status"] != "False":
            return
        name, message = pod["metadata"]["name"], str(scheduled.get("message", ""))
        causes = self.workload.outside
        if "persistentvolumeclaim" in message.lower():
            causes = (*causes, "cluster.volumes")
        waiting = self._age(pod["metadata"]["creationTimestamp"])
        yield Problem(
            f"no node takes pod {name}: {_line(message)}",
            "pod-pending",
            self._kubectl(f"describe pod {name}"),
            severity=error_unless(changing=waiting <= _PENDING_GRACE),
            causes=causes,
        )

    def _unstarted(self, pod: Object) -> Iterator[Problem]:
        """A container that the kubelet can't start: its image, its variables, its volumes."""
        name, outside = pod["metadata"]["name"], self.workload.outside
        page, causes = "secret-not-found", (*outside, *self.workload.secrets)
        for status in _containers(pod):
            waiting = mapped(status, "state", "waiting")
            reason, image = waiting.get("reason", ""), str(status.get("image", ""))
            if reason in _IMAGE_REASONS:
                text = f"the image {image} of pod {name} can't be pulled ({reason})"
                remedy = self._image_setting(image) or self._kubectl(f"describe pod {name}")
                yield Problem(text, "image-not-pulled", remedy, causes=outside)
            if reason == "CreateContainerConfigError":
                text = f"pod {name} can't start: {_line(str(waiting.get('message', '')))}"
                yield Problem(text, page, causes=causes)
        if any(mapped(status, "state").keys() & _STARTED for status in _containers(pod)):
            return  # Its volumes are mounted, whatever an event reported before.
        young = self._age(pod["metadata"]["creationTimestamp"]) < _WAIT_GRACE
        for reason, message in self._recent_events(name):
            if reason == "FailedMount" and "not found" in message:
                text = f"pod {name} can't start: {_line(message)}"
                severity = error_unless(changing=young)
                yield Problem(text, page, severity=severity, causes=causes)

    def _image_setting(self, image: str) -> str:
        """The command that names another image; empty where the stack's file names none."""
        images = self.environment.declared.settings.images
        for name, field in type(images).model_fields.items():
            if name in images.model_fields_set and str(getattr(images, name)) == image:
                example = f"{ImageReference.parse(image).repository}:VERSION"
                return self.environment.setting(f"images.{field.alias or name}", example)
        return ""

    def _crashed(self, pod: Object) -> Iterator[Problem]:
        name = pod["metadata"]["name"]
        for status in _containers(pod):
            waiting = mapped(status, "state", "waiting")
            ended = mapped(status, "lastState", "terminated")
            if waiting.get("reason") not in ("CrashLoopBackOff", "RunContainerError"):
                continue
            if ended.get("reason") == "OOMKilled":
                return
            code, restarts = ended.get("exitCode", "unknown"), status.get("restartCount", 0)
            yield Problem(
                f"container {status['name']} of pod {name} stops again and again "
                f"(exit code {code}, {restarts} restarts){self._liveness(name)}",
                "container-crashes",
                self._kubectl(f"logs {name} -c {status['name']} --previous --tail=30"),
            )

    def _not_ready(self, pod: Object) -> Iterator[Problem]:
        name = pod["metadata"]["name"]
        for status in listed(pod, "status", "initContainerStatuses"):
            running = mapped(status, "state", "running")
            # A sidecar is an init container that goes on running; it counts as started.
            if running and not status.get("started"):
                waited = self._age(running.get("startedAt"))
                yield Problem(
                    f"pod {name} waits in its init container {status['name']} ({waited:.0f} s)",
                    "init-container-waits",
                    self._kubectl(f"logs {name} -c {status['name']} --tail=20"),
                    severity=error_unless(changing=waited <= _WAIT_GRACE),
                )
        started = pod["status"].get("startTime") or pod["metadata"].get("creationTimestamp")
        changed = (condition(pod, "Ready") or {}).get("lastTransitionTime")
        waited = self._age(changed or started)
        yield Problem(
            f"pod {name} is not Ready ({waited:.0f} s){self._last_probe(name)}",
            "pod-not-ready",
            self._kubectl(f"describe pod {name}"),
            severity=error_unless(changing=waited <= self.workload.grace),
        )

    def _liveness(self, pod: str) -> str:
        """Whether the kubelet itself stops a container, because a probe of it fails."""
        for _, message in self._recent_events(pod):
            if message.startswith(("Liveness", "Startup")):
                return f": {_line(message)}"
        return ""

    def _last_probe(self, pod: str) -> str:
        """What the last failed probe saw: a status code or a refused connection, never a body."""
        for reason, message in self._recent_events(pod):
            if reason == "Unhealthy":
                return f": {_line(message)}"
        return ""


def _is_left_behind(pod: Object, stateful_sets: Sequence[Object]) -> bool:
    """Whether a pod is of a revision that its StatefulSet no longer asks for, and not Ready."""
    revision = labels_of(pod).get("controller-revision-hash")
    owners = [owner["name"] for owner in listed(pod, "metadata", "ownerReferences")]
    newest: set[str] = set()
    for item in stateful_sets:
        if item["metadata"]["name"] in owners and at(item, "status", "updateRevision"):
            newest.add(str(at(item, "status", "updateRevision")))
    return bool(revision and newest and revision not in newest and not ready(pod))


def _containers(pod: Object) -> list[Object]:
    return [
        *listed(pod, "status", "initContainerStatuses"),
        *listed(pod, "status", "containerStatuses"),
    ]


def _phase(pod: Object) -> str:
    return str(at(pod, "status", "phase") or "Pending")


def _line(text: str) -> str:
    """The first line of a message, short enough for a report."""
    lines = text.strip().splitlines()
    return lines[0][:240] if lines else "no reason is given"

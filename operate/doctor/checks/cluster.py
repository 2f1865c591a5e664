"""The cluster itself: its namespaces, nodes, network and volumes."""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, cast

from components import ports
from components.network.flows import POSTGRES
from components.program.inventory import NAME
from components.settings.types import amount
from operate.doctor.as_declared import actual, as_declared
from operate.doctor.endpoints import Served, any_ready, endpoints, pods_behind, served
from operate.doctor.findings import (
    CLUSTER,
    Checks,
    Environment,
    Problem,
    Severity,
    error_unless,
    skip,
)
from operate.doctor.inside import output
from operate.doctor.last_update import inventory, last_update, pending
from operate.doctor.pod_problems import GRACE, container_runs, last_seen, pods_of
from operate.view import (
    ForbiddenError,
    NoAnswerError,
    Object,
    age,
    at,
    condition,
    labels_of,
    listed,
    mapped,
    names,
    place,
    plural,
)

from .postgres_cluster import instances

CHECKS = Checks()

check = CHECKS.check

_GRANTED = "deploy/rbac/doctor.yaml grants it"

_PRESSURES = ("DiskPressure", "MemoryPressure", "PIDPressure")

_A_NAME = "kubernetes.default.svc"
"""A name that every cluster has."""

_TIMED_OUT = "124"
"""How `timeout` ends where it had to."""

_NO_ADDRESS = {"2": f"does not know {_A_NAME}", _TIMED_OUT: "does not answer"}
"""What the exit codes of getent and timeout mean."""

_STATES = "node.kubernetes.io/"

_WEBHOOK = re.compile(r'failed calling webhook "([^"]+)"')

_WEBHOOK_SECONDS = 600
"""How long an event of a webhook that does not answer still counts."""

_WEBHOOKS = ("validatingwebhookconfigurations", "mutatingwebhookconfigurations")

_NAMESPACE_LABEL = "kubernetes.io/metadata.name"

_POD_SECURITY = "pod-security.kubernetes.io/enforce"


@check("cluster.reachable", "the API server answers")
async def reachable(environment: Environment) -> AsyncIterator[Problem]:
    """Whether what answers is an API server."""
    reply = await environment.view.reply("/version")
    if "gitVersion" not in reply.fields:
        context = environment.declared.cluster.context
        text = f"what answers at context {context} is no API server (status {reply.status})"
        yield Problem(text, "cluster-unreachable", f"{environment.kubectl} version")


@check(
    "cluster.namespaces",
    "the namespaces exist, with their Pod Security level",
    after=("cluster.reachable",),
)
async def _namespaces(environment: Environment) -> AsyncIterator[Problem]:
    declared, existing = environment.declared, dict[str, Object]()
    for namespace in await environment.view.objects("v1/namespaces"):
        existing[namespace["metadata"]["name"]] = namespace
    update = await last_update(environment)
    absent = [name for name in declared.namespaces if name not in existing]
    missing = [name for name in absent if update.has("Namespace", "", name)]
    new = [name for name in absent if name not in missing]
    if new:
        yield pending(environment, f"namespaces that do not exist yet: {', '.join(new)}")
    if missing:
        command = "up" if len(missing) == len(declared.namespaces) else "refresh"
        text = f"missing namespaces: {', '.join(missing)}"
        yield Problem(text, "namespace-missing", environment.make(command))
    for manifest in declared.of_kind("Namespace"):
        name = manifest["metadata"]["name"]
        if name not in existing:
            continue
        if at(existing[name], "status", "phase") == "Terminating":
            remedy = f"{environment.kubectl} describe namespace {name}"
            yield Problem(f"namespace {name} is being deleted", "namespace-terminating", remedy)
        level = labels_of(manifest).get(_POD_SECURITY)
        enforced = labels_of(existing[name]).get(_POD_SECURITY)
        if level != enforced:
            text = f"namespace {name} enforces Pod Security {enforced or 'privileged'}, not {level}"
            yield Problem(text, "pod-security-changed", severity=Severity.WARNING)


@check(
    "cluster.inventory", "an update with this version of the program has completed", after=CLUSTER
)
async def _inventory(environment: Environment) -> AsyncIterator[Problem]:
    try:
        applied = await inventory(environment)
    except ForbiddenError as error:
        yield skip(f"{error}; {_GRANTED}")
        return
    if environment.declared.named("ConfigMap", NAME) is None:
        return
    if not (await last_update(environment)).exists:
        reason = "the list of what was applied can't be read"
        if applied is None:
            reason = "no update with this version of the program has completed"
        yield pending(environment, f"{reason}, so what is not applied yet counts as deleted")


@check("cluster.nodes", "the nodes in use are Ready and take pods", after=CLUSTER)
async def _nodes(environment: Environment) -> AsyncIterator[Problem]:
    view = environment.view
    used: set[str] = set()
    for namespace in environment.declared.namespaces:
        for pod in await view.objects("v1/pods", namespace):
            used.add(str(pod.get("spec", {}).get("nodeName", "")))
    nodes = await view.objects("v1/nodes")
    closed = all(mapped(node, "spec").get("unschedulable") for node in nodes)
    for node in nodes:
        name, ready = node["metadata"]["name"], condition(node, "Ready")
        if name in used and (ready is None or ready["status"] != "True"):
            reason = ready.get("reason", "") if ready else "no status"
            text = f"node {name}, which runs pods of this environment, is not Ready ({reason})"
            remedy = f"{environment.kubectl} describe node {name}"
            yield Problem(text, "node-not-ready", remedy)
        elif name in used or closed:
            for problem in _full(environment, node):
                yield problem


def _full(environment: Environment, node: Object) -> Iterator[Problem]:
    """Why a node that is Ready takes no more pods; that matters when one looks for a place."""
    name = node["metadata"]["name"]
    reasons = [kind for kind in _PRESSURES if (condition(node, kind) or {}).get("status") == "True"]
    remedy = f"{environment.kubectl} describe node {name}"
    if mapped(node, "spec").get("unschedulable"):
        reasons.append("cordoned")
        remedy = f"{environment.kubectl} uncordon {name}"
    taints = [taint["key"] for taint in listed(node, "spec", "taints") if _by_hand(taint)]
    # A taint may be there on purpose; it is told only where a pod finds no place.
    hidden = not reasons
    reasons += [f"tainted ({key})" for key in taints]
    if not reasons:
        return
    if hidden:
        remedy = f"{environment.kubectl} taint node {name} {taints[0]}-"
    text, page = f"node {name} takes no more pods: {', '.join(reasons)}", "node-takes-no-pods"
    warning = Severity.WARNING
    yield Problem(text, page, remedy, severity=warning, may_explain=True, hidden=hidden)


def _by_hand(taint: Object) -> bool:
    """Whether a taint keeps pods away and is none of those by which Kubernetes tells a state."""
    return taint["effect"] != "PreferNoSchedule" and not taint["key"].startswith(_STATES)


@check("cluster.admission", "no admission webhook is down", after=CLUSTER)
async def _admission(environment: Environment) -> AsyncIterator[Problem]:
    view = environment.view
    names = [await _unanswered(environment), *await _without_endpoints(environment)]
    for namespace in environment.declared.namespaces:
        pods = await view.objects("v1/pods", namespace)
        # A pod that was created since tells that nobody refuses them any more.
        created = max((pod["metadata"]["creationTimestamp"] for pod in pods), default="")
        for event in await view.objects("v1/events", namespace):
            match = _WEBHOOK.search(str(event.get("message", "")))
            seen = last_seen(event)
            if match and seen >= created and age(view, seen) < _WEBHOOK_SECONDS:
                names.append(match[1])
    down = next(filter(None, names), "")
    if down:
        text = f"admission webhook {down} does not answer, and what it judges is refused"
        remedy = f"{environment.kubectl} get {','.join(_WEBHOOKS)}"
        warning = Severity.WARNING
        yield Problem(text, "admission-webhook-down", remedy, severity=warning, may_explain=True)


async def _unanswered(environment: Environment) -> str:
    """The webhook that even a question about this login's rights can't pass."""
    try:
        await environment.view.may("get", "pods", "exec", POSTGRES)
    except NoAnswerError as error:
        match = _WEBHOOK.search(str(error))
        return match[1] if match else ""
    return ""


async def _without_endpoints(environment: Environment) -> list[str]:
    """The webhooks that judge what this environment has, and whose Service has no Ready pod."""
    view, down = environment.view, list[str]()
    kinds = {plural(item["kind"]) for item in environment.declared.manifests} | {"pods", "*"}
    for resource in _WEBHOOKS:
        try:
            configurations = await view.objects(f"admissionregistration.k8s.io/v1/{resource}")
        except ForbiddenError:
            continue
        for configuration in configurations:
            for webhook in listed(configuration, "webhooks"):
                judged: set[str] = set()
                for rule in listed(webhook, "rules"):
                    judged.update(rule["resources"])
                service = mapped(webhook, "clientConfig", "service")
                if webhook.get("failurePolicy") == "Ignore" or not service or not judged & kinds:
                    continue
                try:
                    entries = await endpoints(view, service["namespace"], service["name"])
                except ForbiddenError:
                    continue
                if not any_ready(entries):
                    down.append(webhook["name"])
    return down


@check(
    "cluster.kinds", "the cluster serves every kind that is declared", after=("cluster.reachable",)
)
async def _served_kinds(environment: Environment) -> AsyncIterator[Problem]:
    declared: dict[str, set[str]] = {}
    for item in environment.declared.manifests:
        declared.setdefault(item["apiVersion"], set()).add(item["kind"])
    update = await last_update(environment)
    for version in sorted(declared.keys() - {"v1"}):
        reply = await environment.view.reply(f"/apis/{version}")
        served = {str(resource["kind"]) for resource in listed(reply.fields, "resources")}
        missing = declared[version] - served
        needed = {kind for kind in missing if update.has_kind(kind)}
        if needed:
            kinds = ", ".join(sorted(needed))
            text = f"the cluster does not know {kinds} of {version}"
            text = f"{text}: the CustomResourceDefinition is missing"
            yield Problem(text, "custom-resource-missing")
        if missing - needed:
            kinds = ", ".join(sorted(missing - needed))
            yield pending(environment, f"the cluster does not know {kinds} of {version} yet")


@check("cluster.objects", "accounts and their rights are as declared", after=CLUSTER)
async def _objects(environment: Environment) -> AsyncIterator[Problem]:
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    async for problem in as_declared(environment, kinds):
        yield problem


@check("cluster.reserves", "disruption budgets and the autoscaler are as declared", after=CLUSTER)
async def _reserves(environment: Environment) -> AsyncIterator[Problem]:
    """Nothing needs them that runs, unless a budget stops a drain for ever."""
    kinds = ("PodDisruptionBudget", "HorizontalPodAutoscaler")
    async for problem in as_declared(environment, kinds):
        yield problem
    for namespace in environment.declared.namespaces:
        for budget in await environment.view.objects("policy/v1/poddisruptionbudgets", namespace):
            reason = _stops_drains(budget)
            if reason and not await _lacks_pods(environment, budget):
                name = budget["metadata"]["name"]
                text = f"PodDisruptionBudget {namespace}/{name} lets no pod move, {reason}"
                text = f"{text}: a drain of its nodes never ends"
                remedy = environment.kubectl_in(namespace, f"describe poddisruptionbudget {name}")
                yield Problem(text, "drain-never-ends", remedy, severity=Severity.WARNING)


async def _lacks_pods(environment: Environment, budget: Object) -> bool:
    """Whether pods are missing that a budget counts; then it lets none of the others move."""
    selector = mapped(budget, "spec", "selector", "matchLabels")
    wanted = 0
    for kind in ("deployments", "statefulsets"):
        for item in await environment.view.objects(f"apps/v1/{kind}", place(budget)[0]):
            labels = mapped(item, "spec", "template", "metadata", "labels")
            if selector and selector.items() <= labels.items():
                wanted += int(item["spec"].get("replicas", 1))
    return wanted > int(at(budget, "status", "expectedPods") or 0)


def _stops_drains(budget: Object) -> str:
    """Why a budget lets no pod move though none is missed; empty where it does."""
    status = mapped(budget, "status")
    if (condition(budget, "DisruptionAllowed") or {}).get("reason") == "SyncFailed":
        return "as its pods can't be counted"
    healthy, pods = int(status.get("currentHealthy", 0)), int(status.get("expectedPods", 0))
    if pods and healthy >= pods and not status.get("disruptionsAllowed", 1):
        return f"though all {pods} are healthy"
    return ""


@check("cluster.policies", "NetworkPolicies are as declared", after=CLUSTER)
async def _policies(environment: Environment) -> AsyncIterator[Problem]:
    async for problem in as_declared(environment, ("NetworkPolicy",)):
        yield problem
    update, declared = await last_update(environment), environment.declared
    known = {place(policy) for policy in declared.of_kind("NetworkPolicy")}
    surplus: dict[Severity, list[str]] = {}
    for namespace in declared.namespaces:
        policies = await environment.view.objects("networking.k8s.io/v1/networkpolicies", namespace)
        for policy in policies:
            if place(policy) not in known:
                severity = update.surplus(environment.view, policy, "NetworkPolicy")
                surplus.setdefault(severity, []).append("/".join(place(policy)))
    for severity, places in surplus.items():
        listing = ", ".join(places)
        if severity is Severity.PENDING:
            yield pending(environment, f"NetworkPolicies that the next update deletes: {listing}")
            continue
        # They can only open: all is closed already.
        text = f"NetworkPolicies that are not declared, and open what they name: {listing}"
        namespace, _, name = places[0].partition("/")
        remedy = environment.kubectl_in(namespace, f"describe networkpolicy {name}")
        yield Problem(text, "network-policy-changed", remedy, severity=severity)


@check(
    "cluster.peers", "the namespaces that NetworkPolicies name exist", after=("cluster.policies",)
)
async def _peers(environment: Environment) -> AsyncIterator[Problem]:
    existing = set(names(await environment.view.objects("v1/namespaces")))
    named: set[str] = set()
    for manifest in environment.declared.of_kind("NetworkPolicy"):
        policy = await actual(environment, manifest)
        named |= _namespaces_in(mapped(policy or {}, "spec"))
    missing = sorted(named - existing - set(environment.declared.namespaces))
    if missing:
        text = f"NetworkPolicies open a way for namespaces that do not exist: {', '.join(missing)}"
        remedy, warning = f"{environment.kubectl} get namespaces", Severity.WARNING
        yield Problem(text, "network-policy-peer-missing", remedy, severity=warning)


def _namespaces_in(value: Any) -> set[str]:
    """The names that the namespace selectors of a policy ask for."""
    named: set[str] = set()
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        labels = mapped(fields, "namespaceSelector", "matchLabels")
        if _NAMESPACE_LABEL in labels:
            named.add(str(labels[_NAMESPACE_LABEL]))
        for item in fields.values():
            named |= _namespaces_in(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            named |= _namespaces_in(item)
    return named


@check("cluster.strays", "the Services lead to no pod but their own", after=CLUSTER)
async def _strays(environment: Environment) -> AsyncIterator[Problem]:
    """A pod with a Service's labels gets requests that are for the others."""
    view, deployments = environment.view, set(names(environment.declared.of_kind("Deployment")))
    for namespace in environment.declared.namespaces:
        pods = {pod["metadata"]["name"]: pod for pod in await view.objects("v1/pods", namespace)}
        for service, served_pods in sorted((await pods_behind(view, namespace)).items()):
            declared = environment.declared.named("Service", service) is not None
            own = deployments if declared else set[str]()
            running = sorted(served_pods & pods.keys())
            strays = [name for name in running if _is_stray(pods[name], own)]
            # A Service that leads to no other pod is somebody's own.
            if strays and len(strays) < len(running):
                yield await _stray(environment, namespace, service, pods[strays[0]])


def _is_stray(pod: Object, deployments: set[str]) -> bool:
    """Whether nobody controls a pod, or none of these Deployments does."""
    for owner in listed(pod, "metadata", "ownerReferences"):
        if owner.get("controller"):
            of_another = owner["name"].rpartition("-")[0] not in deployments
            return bool(deployments) and owner["kind"] == "ReplicaSet" and of_another
    return True


async def _stray(environment: Environment, namespace: str, service: str, pod: Object) -> Problem:
    name = pod["metadata"]["name"]
    text = f"Service {namespace}/{service} leads to pod {name} too, which is none of its own"
    remedy = environment.kubectl_in(namespace, f"get pod {name} --show-labels")
    item = await environment.view.named("v1/services", namespace, service)
    labels = list(mapped(item or {}, "spec", "selector"))
    if labels and not listed(pod, "metadata", "ownerReferences"):
        remedy = environment.kubectl_in(namespace, f"label pod {name} {labels[0]}-")
    return Problem(text, "stray-pod", remedy)


@check("cluster.dns", "the cluster's DNS answers", after=("cluster.reachable", "cluster.nodes"))
async def _dns(environment: Environment) -> AsyncIterator[Problem]:
    """Without a Ready pod of it every server "can't be reached"."""
    namespace = environment.declared.settings.network.dns_namespace
    try:
        state = await served(environment.view, namespace, ports.DNS, "dns")
    except ForbiddenError as error:
        yield skip(f"{error}; {_GRANTED}")
        return
    page = "name-does-not-resolve"
    remedy = environment.kubectl_in(namespace, "get services,deployments,pods")
    if state is Served.NO_SERVICE:
        # A cloud may answer from outside the cluster.
        text = f"no Service of namespace {namespace} is the cluster's DNS (port {ports.DNS})"
        warning = Severity.WARNING
        yield Problem(text, page, remedy, severity=warning, may_explain=True, hidden=True)
    if state is Served.NO_READY_POD:
        text = f"the cluster's DNS has no Ready pod in namespace {namespace}"
        yield Problem(text, page, remedy)


@check(
    "cluster.names",
    "the cluster's DNS tells a pod the address of a name",
    after=("cluster.dns", "cluster.policies"),
)
async def _names(environment: Environment) -> AsyncIterator[Problem]:
    """Its own pods may be Ready and serve another zone."""
    pods = await pods_of(environment.view, instances(environment))
    running = [pod for pod in pods if container_runs(pod, "database")]
    if not running:
        return
    namespace, name = place(running[0])
    script = f"timeout 4 getent hosts {_A_NAME} >/dev/null; echo $?"
    try:
        text = await output(environment.view, namespace, name, "database", ("sh", "-c", script))
    except NoAnswerError as error:
        yield skip(str(error))
        return
    status = text.strip()
    if status == "0":
        return
    if status not in _NO_ADDRESS:
        yield skip(f"container database of pod {name} can't ask for a name ({status})")
        return
    dns = environment.declared.settings.network.dns_namespace
    # A busy machine is that slow too: told only where something fails behind it.
    slow = status == _TIMED_OUT
    severity = Severity.WARNING if slow else Severity.ERROR
    yield Problem(
        f"the cluster's DNS {_NO_ADDRESS[status]} (asked in pod {namespace}/{name})",
        "name-does-not-resolve",
        environment.kubectl_in(dns, "get services,pods,configmaps"),
        severity=severity,
        may_explain=slow,
        hidden=slow,
    )


@check("cluster.volumes", "every volume claim is bound", after=(*CLUSTER, "cluster.nodes"))
async def _volumes(environment: Environment) -> AsyncIterator[Problem]:
    """It also has the size that is asked for, and is not being deleted."""
    view = environment.view
    for namespace in environment.declared.namespaces:
        events = await view.objects("v1/events", namespace)
        for claim in await view.objects("v1/persistentvolumeclaims", namespace):
            name, phase = claim["metadata"]["name"], at(claim, "status", "phase")
            remedy = environment.kubectl_in(namespace, f"describe pvc {name}")
            where = f"volume claim {namespace}/{name}"
            if "deletionTimestamp" in claim["metadata"]:
                users = await _users(environment, claim)
                text = f"{where} was deleted: its data is lost as soon as pod"
                if users:
                    yield Problem(f"{text} {users[0]} stops", "volume-being-deleted", remedy)
            elif phase == "Bound":
                text, since = _not_enlarged(claim, events)
                if text:
                    severity = error_unless(changing=since is not None and age(view, since) < GRACE)
                    page = "volume-not-enlarged"
                    yield Problem(f"{where} {text}", page, remedy, severity=severity)
            else:
                reason = _volume_reason(events, name)
                young = age(view, claim["metadata"]["creationTimestamp"]) < GRACE / 3
                severity = error_unless(changing=young and phase != "Lost")
                text = f"{where} is {phase or 'Pending'}: {reason}"
                if reason is not None:
                    yield Problem(text, "volume-not-bound", remedy, severity=severity)


async def _users(environment: Environment, claim: Object) -> list[str]:
    """The pods that keep a claim from being deleted, as what is on the volume goes with both."""
    namespace, name = place(claim)
    users: list[str] = []
    for pod in await environment.view.objects("v1/pods", namespace):
        volumes = listed(pod, "spec", "volumes")
        claims = [at(volume, "persistentVolumeClaim", "claimName") for volume in volumes]
        ended = at(pod, "status", "phase") in ("Succeeded", "Failed")
        if name in claims and not ended and "deletionTimestamp" not in pod["metadata"]:
            users.append(pod["metadata"]["name"])
    return users


def _not_enlarged(claim: Object, events: Sequence[Object]) -> tuple[str, str | None]:
    """Why a volume has not the size that its claim asks for, and since when; empty if it has.

    https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims
    """
    size = at(claim, "spec", "resources", "requests", "storage")
    capacity = at(claim, "status", "capacity", "storage")
    if not size or not capacity or amount(size) <= amount(capacity):
        return "", None
    conditions = listed(claim, "status", "conditions")
    since = max((str(entry.get("lastTransitionTime")) for entry in conditions), default=None)
    failures = [event for event in events if event.get("reason") == "VolumeResizeFailed"]
    reason = _volume_reason(failures, claim["metadata"]["name"])
    return f"asks for {size} and has {capacity}: {reason}", since


def _volume_reason(events: Sequence[Object], claim: str) -> str | None:
    """Why a claim is not bound; None while it only waits for the pod that will use it."""
    for event in reversed(events):
        about = mapped(event, "involvedObject")
        if about.get("kind") != "PersistentVolumeClaim" or about.get("name") != claim:
            continue
        if event.get("reason") in ("WaitForFirstConsumer", "WaitForPodScheduled"):
            return None
        return str(event.get("message", "")).splitlines()[0][:240]
    return "nothing is known of why"

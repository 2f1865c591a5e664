"""The cluster itself, its namespaces and network, and the operators that everything else needs."""

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, cast

from components import ports
from operate.doctor import drift, last_update
from operate.doctor.endpoints import behind, serves
from operate.doctor.findings import Checks, Environment, Problem, Severity, error_unless, skip
from operate.doctor.inside import output
from operate.doctor.pod_problems import (
    GRACE,
    Workload,
    container_runs,
    last_seen,
    pod_problems,
    pods_of,
)
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
)

from . import operator_rights
from .postgres_cluster import instances

CHECKS = Checks()

check = CHECKS.check

CLUSTER = ("cluster.reachable", "cluster.namespaces")
"""What every check of an object in a namespace depends on."""

_PRESSURES = ("DiskPressure", "MemoryPressure", "PIDPressure")

_A_NAME = "kubernetes.default.svc"
"""A name that every cluster has."""

_TIMED_OUT = "124"
"""How `timeout` ends where it had to."""

_NO_ADDRESS = {"2": f"does not know {_A_NAME}", _TIMED_OUT: "does not answer"}
"""What getent's and timeout's exit codes say."""

_STATES = "node.kubernetes.io/"

_WEBHOOK = re.compile(r'failed calling webhook "([^"]+)"')

_WEBHOOK_SECONDS = 600
"""How long an event of a webhook that does not answer still says something."""

_NAMESPACE_LABEL = "kubernetes.io/metadata.name"

_POLICIES = "networking.k8s.io/v1/networkpolicies"

_RBAC = "rbac.authorization.k8s.io/v1"

_POD_SECURITY = "pod-security.kubernetes.io/enforce"


@check("cluster.reachable", "the API server answers")
async def _reachable(environment: Environment) -> list[Problem]:
    reply = await environment.view.reply("/version")
    if "gitVersion" in reply.fields:
        return []
    return [
        Problem(
            f"what answers at context {environment.declared.cluster.context} is no API server "
            f"(status {reply.status})",
            "cluster-unreachable",
            f"{environment.kubectl} version",
        )
    ]


@check(
    "cluster.namespaces",
    "the namespaces exist, with their Pod Security level",
    after=("cluster.reachable",),
)
async def _namespaces(environment: Environment) -> list[Problem]:
    declared = environment.declared
    there: dict[str, Object] = {}
    for namespace in await environment.view.objects("v1/namespaces"):
        there[namespace["metadata"]["name"]] = namespace
    problems: list[Problem] = []
    absent = [name for name in declared.namespaces if name not in there]
    before = await last_update.applied(environment)
    missing = [name for name in absent if before.has("Namespace", "", name)]
    new = [name for name in absent if name not in missing]
    if new:
        text = f"namespaces that do not exist yet: {', '.join(new)}"
        problems.append(last_update.pending(environment, text))
    if missing:
        command = "up" if len(missing) == len(declared.namespaces) else "refresh"
        problems.append(
            Problem(
                f"missing namespaces: {', '.join(missing)}",
                "namespace-missing",
                environment.make(command),
            )
        )
    for manifest in declared.of_kind("Namespace"):
        name = manifest["metadata"]["name"]
        if name not in there:
            continue
        if at(there[name], "status", "phase") == "Terminating":
            problems.append(
                Problem(
                    f"namespace {name} is being deleted",
                    "namespace-terminating",
                    f"{environment.kubectl} describe namespace {name}",
                )
            )
        level = labels_of(manifest).get(_POD_SECURITY)
        actual = labels_of(there[name]).get(_POD_SECURITY)
        if level != actual:
            problems.append(
                Problem(
                    f"namespace {name} enforces Pod Security {actual or 'privileged'}, not {level}",
                    "pod-security-changed",
                    environment.make("refresh"),
                    severity=Severity.WARNING,
                )
            )
    return problems


CHECKS.append(last_update.CHECK)


@check("cluster.nodes", "the nodes in use are Ready and take pods", after=CLUSTER)
async def _nodes(environment: Environment) -> list[Problem]:
    view = environment.view
    used: set[str] = set()
    for namespace in environment.declared.namespaces:
        for pod in await view.objects("v1/pods", namespace):
            used.add(str(pod.get("spec", {}).get("nodeName", "")))
    nodes = await view.objects("v1/nodes")
    closed = all(mapped(node, "spec").get("unschedulable") for node in nodes)
    problems: list[Problem] = []
    for node in nodes:
        name, ready = node["metadata"]["name"], condition(node, "Ready")
        describe = f"{environment.kubectl} describe node {name}"
        if name in used and (ready is None or ready["status"] != "True"):
            reason = ready.get("reason", "") if ready else "no status"
            text = f"node {name}, which runs pods of this environment, is not Ready ({reason})"
            problems.append(Problem(text, "node-not-ready", describe))
        elif name in used or closed:
            problems += _full(environment, node)
    return problems


def _full(environment: Environment, node: Object) -> list[Problem]:
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
        return []
    if hidden:
        remedy = f"{environment.kubectl} taint node {name} {taints[0]}-"
    text = f"node {name} takes no more pods: {', '.join(reasons)}"
    return [
        Problem(
            text,
            "node-takes-no-pods",
            remedy,
            severity=Severity.WARNING,
            may_explain=True,
            hidden=hidden,
        )
    ]


def _by_hand(taint: Object) -> bool:
    """Whether a taint keeps pods away and is none of those by which Kubernetes tells a state."""
    return taint["effect"] != "PreferNoSchedule" and not taint["key"].startswith(_STATES)


@check("cluster.admission", "no admission webhook is down", after=CLUSTER)
async def _admission(environment: Environment) -> list[Problem]:
    view = environment.view
    for namespace in environment.declared.namespaces:
        pods = await view.objects("v1/pods", namespace)
        # A pod that was created since tells that nobody refuses them any more.
        created = max((pod["metadata"]["creationTimestamp"] for pod in pods), default="")
        for event in await view.objects("v1/events", namespace):
            match = _WEBHOOK.search(str(event.get("message", "")))
            seen = last_seen(event)
            if match and seen >= created and age(view, seen) < _WEBHOOK_SECONDS:
                text = (
                    f"admission webhook {match[1]} does not answer, and what it judges is refused"
                )
                remedy = f"{environment.kubectl} get validatingwebhookconfigurations,"
                remedy = f"{remedy}mutatingwebhookconfigurations"
                return [
                    Problem(
                        text,
                        "admission-webhook-down",
                        remedy,
                        severity=Severity.WARNING,
                        may_explain=True,
                    )
                ]
    return []


@check(
    "cluster.kinds", "the cluster serves every kind that is declared", after=("cluster.reachable",)
)
async def _served(environment: Environment) -> list[Problem]:
    problems: list[Problem] = []
    before = await last_update.applied(environment)
    versions = {item["apiVersion"] for item in environment.declared.manifests}
    for version in sorted(versions):
        if version == "v1":
            continue
        reply = await environment.view.reply(f"/apis/{version}")
        known = {str(resource["kind"]) for resource in listed(reply.fields, "resources")}
        declared = {
            str(item["kind"])
            for item in environment.declared.manifests
            if item["apiVersion"] == version
        }
        missing = declared - known
        needed = {kind for kind in missing if before.has_kind(kind)}
        if needed:
            kinds = ", ".join(sorted(needed))
            problems.append(
                Problem(
                    f"the cluster does not know {kinds} of {version}: "
                    "the CustomResourceDefinition is missing",
                    "custom-resource-missing",
                    environment.make("refresh"),
                )
            )
        if missing - needed:
            kinds = ", ".join(sorted(missing - needed))
            text = f"the cluster does not know {kinds} of {version} yet"
            problems.append(last_update.pending(environment, text))
    return problems


@check("cluster.objects", "accounts and their rights are as declared", after=CLUSTER)
async def _objects(environment: Environment) -> list[Problem]:
    return await _exist(environment, _OBJECTS)


@check("cluster.reserves", "disruption budgets and the autoscaler are as declared", after=CLUSTER)
async def _reserves(environment: Environment) -> list[Problem]:
    """Nor does a budget stop a drain for ever."""
    problems = await _exist(environment, _RESERVES)
    for namespace in environment.declared.namespaces:
        for budget in await environment.view.objects(_BUDGETS, namespace):
            reason = _stops_drains(budget)
            if reason and not await _lacks_pods(environment, budget):
                name = budget["metadata"]["name"]
                text = f"PodDisruptionBudget {namespace}/{name} lets no pod move, {reason}"
                text = f"{text}: a drain of its nodes never ends"
                remedy = environment.kubectl_in(namespace, f"describe poddisruptionbudget {name}")
                warning = Severity.WARNING
                problems.append(Problem(text, "drain-never-ends", remedy, severity=warning))
    return problems


async def _lacks_pods(environment: Environment, budget: Object) -> bool:
    """Whether pods are missing that a budget counts; then it lets none of the others move."""
    asked = mapped(budget, "spec", "selector", "matchLabels")
    wanted = 0
    for kind in ("deployments", "statefulsets"):
        for item in await environment.view.objects(
            f"apps/v1/{kind}", budget["metadata"]["namespace"]
        ):
            labels = mapped(item, "spec", "template", "metadata", "labels")
            if asked and asked.items() <= labels.items():
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


async def _exist(environment: Environment, kinds: Mapping[str, str]) -> list[Problem]:
    missing: dict[Severity, list[str]] = {}
    changed: list[Problem] = []
    before = await last_update.applied(environment)
    unseen: list[Problem] = []
    for kind, resource in kinds.items():
        for item in environment.declared.of_kind(kind):
            namespace = str(item["metadata"].get("namespace", ""))
            name = item["metadata"]["name"]
            try:
                actual = await _object(environment, resource, namespace, name)
            except ForbiddenError as error:
                if _RBAC not in resource:
                    raise
                unseen = [skip(f"{error}; deploy/rbac/doctor.yaml grants it")]
                continue
            if actual is None:
                place = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
                severity = before.missing(kind, namespace, name)
                missing.setdefault(severity, []).append(place)
            else:
                differences = await drift.compared(environment, item, actual)
                changed += drift.told(environment, kind, actual, differences)
    problems: list[Problem] = []
    if Severity.ERROR in missing:
        text = f"declared, but not there: {', '.join(missing[Severity.ERROR])}"
        problems.append(Problem(text, "object-missing", environment.make("refresh")))
    if Severity.PENDING in missing:
        text = f"declared, and not there yet: {', '.join(missing[Severity.PENDING])}"
        problems.append(last_update.pending(environment, text))
    return [*problems, *changed, *unseen]


async def _object(
    environment: Environment, resource: str, namespace: str, name: str
) -> Object | None:
    """An object; of the cluster's own kinds nothing but this one may be read."""
    if namespace:
        return await environment.view.named(resource, namespace, name)
    reply = await environment.view.reply(f"{resource}/{name}")
    return reply.fields if reply.status == HTTPStatus.OK else None


@check("cluster.policies", "NetworkPolicies are as declared", after=CLUSTER)
async def _policies(environment: Environment) -> list[Problem]:
    missing: list[str] = []
    changed: list[str] = []
    ahead: list[str] = []
    declared: set[tuple[str, str]] = set()
    before = await last_update.applied(environment)
    for policy in environment.declared.of_kind("NetworkPolicy"):
        namespace, name = policy["metadata"]["namespace"], policy["metadata"]["name"]
        declared.add((namespace, name))
        actual = await environment.view.named(_POLICIES, namespace, name)
        if actual is None:
            is_new = not before.has("NetworkPolicy", namespace, name)
            (ahead if is_new else missing).append(f"{namespace}/{name}")
            continue
        differences = await drift.compared(environment, policy, actual)
        by_hand = [change for change in differences if not change.pending]
        if by_hand:
            changed.append(f"{namespace}/{name} ({drift.listing(by_hand)})")
        elif differences:
            ahead.append(f"{namespace}/{name} ({drift.listing(differences)})")
    problems: list[Problem] = []
    if missing:
        text = f"missing NetworkPolicies: {', '.join(missing)}"
        problems.append(Problem(text, "network-policy-missing", environment.make("refresh")))
    if changed:
        text = f"NetworkPolicies that differ from what is declared: {', '.join(changed)}"
        problems.append(Problem(text, "network-policy-changed", environment.make("refresh")))
    if ahead:
        text = f"NetworkPolicies that are not yet as the stack's file asks: {', '.join(ahead)}"
        problems.append(last_update.pending(environment, text))
    return [*problems, *await _other_policies(environment, declared)]


async def _other_policies(
    environment: Environment, declared: set[tuple[str, str]]
) -> list[Problem]:
    """Policies that the program does not declare. They can only open: all is closed already."""
    before = await last_update.applied(environment)
    others: dict[Severity, list[str]] = {}
    for namespace in environment.declared.namespaces:
        for policy in await environment.view.objects(_POLICIES, namespace):
            name = policy["metadata"]["name"]
            if (namespace, name) not in declared:
                severity = before.surplus(environment.view, policy, "NetworkPolicy")
                others.setdefault(severity, []).append(f"{namespace}/{name}")
    problems: list[Problem] = []
    for severity, places in others.items():
        listed_places = ", ".join(places)
        text = f"NetworkPolicies that are not declared, and open what they name: {listed_places}"
        if severity is Severity.PENDING:
            text = f"NetworkPolicies that the next update deletes: {listed_places}"
            problems.append(last_update.pending(environment, text))
            continue
        namespace, _, name = places[0].partition("/")
        remedy = environment.kubectl_in(namespace, f"describe networkpolicy {name}")
        problems.append(Problem(text, "network-policy-changed", remedy, severity=severity))
    return problems


@check(
    "cluster.peers", "the namespaces that NetworkPolicies name exist", after=("cluster.policies",)
)
async def _peers(environment: Environment) -> list[Problem]:
    there = {item["metadata"]["name"] for item in await environment.view.objects("v1/namespaces")}
    named: set[str] = set()
    for policy in environment.declared.of_kind("NetworkPolicy"):
        namespace, name = policy["metadata"]["namespace"], policy["metadata"]["name"]
        actual = await environment.view.named(_POLICIES, namespace, name)
        named |= _namespaces_in(actual["spec"]) if actual else set[str]()
    missing = sorted(named - there - set(environment.declared.namespaces))
    if not missing:
        return []
    text = f"NetworkPolicies open a way for namespaces that do not exist: {', '.join(missing)}"
    remedy = f"{environment.kubectl} get namespaces"
    return [Problem(text, "network-policy-peer-missing", remedy, severity=Severity.WARNING)]


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
async def _strays(environment: Environment) -> list[Problem]:
    """A pod with a Service's labels gets requests that are for the others."""
    problems: list[Problem] = []
    view = environment.view
    own = {item["metadata"]["name"] for item in environment.declared.of_kind("Deployment")}
    for namespace in environment.declared.namespaces:
        pods = {pod["metadata"]["name"]: pod for pod in await view.objects("v1/pods", namespace)}
        for service, names in sorted((await behind(view, namespace)).items()):
            declared = environment.declared.named("Service", service) is not None
            known = own if declared else set[str]()
            there = sorted(names & pods.keys())
            strays = [name for name in there if _stray(pods[name], known)]
            # A Service that leads to no other pod is somebody's own.
            if strays and len(strays) < len(there):
                problems.append(await _led_to(environment, namespace, service, pods[strays[0]]))
    return problems


def _stray(pod: Object, deployments: set[str]) -> bool:
    """Whether nobody controls a pod, or none of these Deployments does."""
    for owner in listed(pod, "metadata", "ownerReferences"):
        if owner.get("controller"):
            of_another = owner["name"].rpartition("-")[0] not in deployments
            return bool(deployments) and owner["kind"] == "ReplicaSet" and of_another
    return True


async def _led_to(environment: Environment, namespace: str, service: str, pod: Object) -> Problem:
    name = pod["metadata"]["name"]
    text = f"Service {namespace}/{service} leads to pod {name} too, which is none of its own"
    remedy = environment.kubectl_in(namespace, f"get pod {name} --show-labels")
    actual = await environment.view.named("v1/services", namespace, service)
    labels = list(mapped(actual or {}, "spec", "selector"))
    if labels and not listed(pod, "metadata", "ownerReferences"):
        remedy = environment.kubectl_in(namespace, f"label pod {name} {labels[0]}-")
    return Problem(text, "stray-pod", remedy)


@check("cluster.dns", "the cluster's DNS answers", after=("cluster.reachable", "cluster.nodes"))
async def _dns(environment: Environment) -> list[Problem]:
    """Without a Ready pod of it every server "can't be reached"."""
    namespace = environment.declared.settings.network.dns_namespace
    try:
        ready = await serves(environment.view, namespace, ports.DNS, "dns")
    except ForbiddenError as error:
        return [skip(f"{error}; deploy/rbac/doctor.yaml grants it")]
    if ready:
        return []
    page = "name-does-not-resolve"
    remedy = environment.kubectl_in(namespace, "get services,deployments,pods")
    if ready is None:
        # A cloud may answer from outside the cluster.
        text = f"no Service of namespace {namespace} is the cluster's DNS (port {ports.DNS})"
        warning = Severity.WARNING
        return [Problem(text, page, remedy, severity=warning, may_explain=True, hidden=True)]
    return [Problem(f"the cluster's DNS has no Ready pod in namespace {namespace}", page, remedy)]


@check(
    "cluster.names",
    "the cluster's DNS tells a pod the address of a name",
    after=("cluster.dns", "cluster.policies"),
)
async def _names(environment: Environment) -> list[Problem]:
    """Its own pods may be Ready and serve another zone."""
    for pod in await pods_of(environment.view, instances(environment)):
        if not container_runs(pod, "database"):
            continue
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        script = f"timeout 4 getent hosts {_A_NAME} >/dev/null; echo $?"
        try:
            told = await output(environment.view, namespace, name, "database", ("sh", "-c", script))
        except NoAnswerError as error:
            return [skip(str(error))]
        status = told.strip()
        if status == "0":
            return []
        if status not in _NO_ADDRESS:
            return [skip(f"container database of pod {name} can't ask for a name ({status})")]
        dns = environment.declared.settings.network.dns_namespace
        # A busy machine is that slow too: told only where something fails behind it.
        slow = status == _TIMED_OUT
        problem = Problem(
            f"the cluster's DNS {_NO_ADDRESS[status]} (asked in pod {namespace}/{name})",
            "name-does-not-resolve",
            environment.kubectl_in(dns, "get services,pods,configmaps"),
            severity=Severity.WARNING if slow else Severity.ERROR,
            may_explain=slow,
            hidden=slow,
        )
        return [problem]
    return []


@check("cluster.volumes", "every volume claim is bound", after=(*CLUSTER, "cluster.nodes"))
async def _volumes(environment: Environment) -> list[Problem]:
    view = environment.view
    problems: list[Problem] = []
    for namespace in environment.declared.namespaces:
        events = await view.objects("v1/events", namespace)
        for claim in await view.objects("v1/persistentvolumeclaims", namespace):
            name, phase = claim["metadata"]["name"], at(claim, "status", "phase")
            if "deletionTimestamp" in claim["metadata"]:
                problems += await _deleted(environment, claim)
                continue
            if phase == "Bound":
                continue
            reason = _volume_reason(events, name)
            if reason is None:
                continue
            young = age(view, claim["metadata"]["creationTimestamp"]) < GRACE / 3
            problems.append(
                Problem(
                    f"volume claim {namespace}/{name} is {phase or 'Pending'}: {reason}",
                    "volume-not-bound",
                    environment.kubectl_in(namespace, f"describe pvc {name}"),
                    severity=error_unless(changing=young and phase != "Lost"),
                )
            )
    return problems


async def _deleted(environment: Environment, claim: Object) -> list[Problem]:
    """A claim whose deletion waits for its pod, as what is on the volume goes with both."""
    namespace, name = claim["metadata"]["namespace"], claim["metadata"]["name"]
    users: list[str] = []
    for pod in await environment.view.objects("v1/pods", namespace):
        claims = [
            at(volume, "persistentVolumeClaim", "claimName")
            for volume in listed(pod, "spec", "volumes")
        ]
        ended = at(pod, "status", "phase") in ("Succeeded", "Failed")
        if name in claims and not ended and "deletionTimestamp" not in pod["metadata"]:
            users.append(pod["metadata"]["name"])
    if not users:
        return []
    return [
        Problem(
            f"volume claim {namespace}/{name} was deleted: its data is lost as soon as pod "
            f"{users[0]} stops",
            "volume-being-deleted",
            environment.kubectl_in(namespace, f"describe pvc {name}"),
        )
    ]


def _volume_reason(events: Sequence[Object], claim: str) -> str | None:
    """Why a claim is not bound; None while it only waits for the pod that will use it."""
    for event in reversed(list(events)):
        about = mapped(event, "involvedObject")
        if about.get("kind") != "PersistentVolumeClaim" or about.get("name") != claim:
            continue
        if event.get("reason") in ("WaitForFirstConsumer", "WaitForPodScheduled"):
            return None
        return str(event.get("message", "")).splitlines()[0][:240]
    return "nothing is known of why"


@check("operators.unchanged", "nobody has changed the operators' Deployments", after=CLUSTER)
async def _unchanged(environment: Environment) -> list[Problem]:
    """Helm would not notice."""
    problems: list[Problem] = []
    releases = {operator.name for operator in environment.declared.operators}
    for namespace in sorted({operator.namespace for operator in environment.declared.operators}):
        for item in await environment.view.objects("apps/v1/deployments", namespace):
            annotations = mapped(item, "metadata", "annotations")
            if annotations.get("meta.helm.sh/release-name") in releases:
                changes = drift.by_hand(item)
                problems += drift.told(environment, "Deployment", item, changes, hidden=True)
    return problems


async def deployment_problems(
    environment: Environment,
    deployment: Object,
    *,
    title: str,
    memory_setting: str = "",
    unchanged: str = "operators.unchanged",
    page: str = "operator-down",
) -> list[Problem]:
    """What is wrong with a Deployment: its pods, or that it has none.

    `page`: the runbook's, for a Deployment without pods.
    """
    name = deployment["metadata"]["name"]
    namespace = deployment["metadata"]["namespace"]
    replicas = int(deployment["spec"].get("replicas", 1))
    if replicas == 0:
        return [
            Problem(
                f"{title}: Deployment {name} is scaled to 0",
                page,
                environment.kubectl_in(namespace, f"scale deployment {name} --replicas=1"),
                causes=CLUSTER,
            )
        ]
    workload = Workload(
        title=title,
        namespace=namespace,
        labels=deployment["spec"]["selector"]["matchLabels"],
        owners=(name,),
        replicas=replicas,
        memory_setting=memory_setting,
        unchanged=unchanged,
    )
    problems = await pod_problems(environment, workload)
    available = int(at(deployment, "status", "availableReplicas") or 0)
    if available == 0 and not problems:
        problems.append(
            Problem(
                f"{title}: none of its {replicas} pods is available",
                page,
                environment.kubectl_in(namespace, f"describe deployment {name}"),
                causes=CLUSTER,
            )
        )
    return problems


_OBJECTS = {
    "ServiceAccount": "v1/serviceaccounts",
    "Role": f"{_RBAC}/roles",
    "RoleBinding": f"{_RBAC}/rolebindings",
    "ClusterRole": f"{_RBAC}/clusterroles",
    "ClusterRoleBinding": f"{_RBAC}/clusterrolebindings",
}

_BUDGETS = "policy/v1/poddisruptionbudgets"

_RESERVES = {
    "PodDisruptionBudget": _BUDGETS,
    "HorizontalPodAutoscaler": "autoscaling/v2/horizontalpodautoscalers",
}
"""What nothing needs that runs."""


check("operators.rights", "the operators have the rights that their charts granted", after=CLUSTER)(
    operator_rights.look
)


@check(
    "operators.available",
    "the operators run",
    after=(
        *CLUSTER,
        "cluster.nodes",
        "cluster.objects",
        "operators.rights",
        "cluster.policies",
        "operators.unchanged",
    ),
)
async def _operators(environment: Environment) -> list[Problem]:
    problems: list[Problem] = []
    for operator in environment.declared.operators:
        problems += await _operator(environment, operator.name, operator.namespace)
    return problems


async def _operator(environment: Environment, release: str, namespace: str) -> list[Problem]:
    deployments: list[Object] = []
    for item in await environment.view.objects("apps/v1/deployments", namespace):
        annotations = mapped(item, "metadata", "annotations")
        if annotations.get("meta.helm.sh/release-name") == release:
            deployments.append(item)
    if not deployments:
        text = f"operator {release}: its Deployment does not exist in namespace {namespace}"
        if not (await last_update.applied(environment)).has("Release", namespace, release):
            return [last_update.pending(environment, f"operator {release} is not installed yet")]
        remedy = environment.chart_again(namespace, release)
        return [Problem(text, "operator-down", remedy, causes=CLUSTER)]
    problems: list[Problem] = []
    for deployment in deployments:
        problems += await deployment_problems(
            environment,
            deployment,
            title=f"operator {release}",
            memory_setting=f"shlink:operators.{_setting(release)}.resources.memoryLimit",
        )
    return problems


def _setting(release: str) -> str:
    first, *others = release.split("-")
    return first + "".join(part.capitalize() for part in others)

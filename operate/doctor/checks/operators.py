"""The operators that everything else needs: that they run, with the rights of their charts."""

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

from components.network.flows import CONTROLLER, PGO, REDIS_OPERATOR
from operate.declared import HelmInstall
from operate.doctor.as_declared import actual, by_hand, missing
from operate.doctor.findings import CLUSTER, Checks, Environment, Problem, skip
from operate.doctor.last_update import last_update, pending
from operate.doctor.pod_problems import Workload, deployment_problems
from operate.view import ForbiddenError, Object, at, listed, mapped

CHECKS = Checks()

check = CHECKS.check

_DEPLOYMENTS = "apps/v1/deployments"

_RBAC = "rbac.authorization.k8s.io/v1"

_DOWN = "operator-down"

SETTINGS = {
    "external-secrets": ("externalSecrets", CONTROLLER.labels),
    "pgo": ("pgo", PGO.labels),
    "redis-operator": ("redisOperator", REDIS_OPERATOR.labels),
}
"""Each operator's key in the stack's file, and the labels of its pods, by its Helm release."""


async def _deployments(environment: Environment, install: HelmInstall) -> list[Object]:
    """Those that a release has made."""
    deployments: list[Object] = []
    for item in await environment.view.objects(_DEPLOYMENTS, install.namespace):
        notes = mapped(item, "metadata", "annotations")
        if notes.get("meta.helm.sh/release-name") == install.name:
            deployments.append(item)
    return deployments


@check("operators.unchanged", "nobody has changed the operators' Deployments", after=CLUSTER)
async def _unchanged(environment: Environment) -> AsyncIterator[Problem]:
    for operator in environment.declared.operators:
        for item in await _deployments(environment, operator):
            for problem in by_hand(environment, "Deployment", item):
                yield problem


@dataclass(frozen=True)
class _Right:
    """A verb on a kind of object."""

    verb: str
    group: str
    resource: str

    def granted(self, rule: Object) -> bool:
        """Whether a Role's rule grants it."""
        right = {"apiGroups": self.group, "resources": self.resource, "verbs": self.verb}
        return not rule.get("resourceNames") and all(
            {value, "*"} & set(rule.get(key) or []) for key, value in right.items()
        )


_NEEDED: Mapping[str, tuple[str, tuple[_Right, ...]]] = {
    "external-secrets": (
        "ExternalSecret",
        (
            _Right("list", "external-secrets.io", "secretstores"),
            _Right("list", "external-secrets.io", "externalsecrets"),
            _Right("update", "", "secrets"),
        ),
    ),
    "pgo": (
        "PostgresCluster",
        (
            _Right("list", "postgres-operator.crunchydata.com", "postgresclusters"),
            _Right("patch", "apps", "statefulsets"),
        ),
    ),
}
"""The kind that an operator looks after, and the rights without which it does nothing with it.

Those of redis-operator are the program's own, which another check compares."""


@check("operators.rights", "the operators have the rights that their charts granted", after=CLUSTER)
async def _rights(environment: Environment) -> AsyncIterator[Problem]:
    """Helm notices no edit of a Role."""
    page = "operator-rights-missing"
    for operator in environment.declared.operators:
        name, home = operator.name, operator.namespace
        kind, needed = _NEEDED.get(name, ("", ()))
        deployment = await environment.view.named(_DEPLOYMENTS, home, name)
        account = at(deployment or {}, "spec", "template", "spec", "serviceAccountName")
        if account is None:
            continue
        remedy = environment.chart_again(home, name)
        if not await environment.view.named("v1/serviceaccounts", home, str(account)):
            text = f"operator {name} may do nothing: its ServiceAccount {account} is gone"
            # The token of the pod that runs is one of the account that is gone.
            restart = environment.kubectl_in(home, f"rollout restart deployment {name}")
            yield Problem(text, page, f"{remedy} && {restart}")
            continue
        for place in {item["metadata"]["namespace"] for item in environment.declared.of_kind(kind)}:
            rules = await _rules(environment, place, home, str(account))
            lacking = [right for right in needed if not any(map(right.granted, rules))]
            if lacking:
                text = (
                    f"operator {name} may not {lacking[0].verb} {lacking[0].resource} in "
                    f"namespace {place}: a Role or a RoleBinding of its chart is gone or was edited"
                )
                yield Problem(text, page, remedy)


async def _rules(environment: Environment, namespace: str, home: str, account: str) -> list[Object]:
    """The rules of the Roles that are bound to an account. `home`: the account's namespace."""
    roles: dict[str, Object] = {}
    for role in await environment.view.objects(f"{_RBAC}/roles", namespace):
        roles[role["metadata"]["name"]] = role
    rules: list[Object] = []
    for binding in await environment.view.objects(f"{_RBAC}/rolebindings", namespace):
        reference = binding["roleRef"]
        if (home, account) in _accounts(binding, namespace) and reference["kind"] == "Role":
            rules += listed(roles.get(reference["name"], {}), "rules")
    return rules


def _accounts(binding: Object, namespace: str) -> Iterator[tuple[str, str]]:
    """The ServiceAccounts of a binding, each with its namespace."""
    for subject in listed(binding, "subjects"):
        if subject.get("kind") == "ServiceAccount":
            yield str(subject.get("namespace") or namespace), str(subject["name"])


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
async def _available(environment: Environment) -> AsyncIterator[Problem]:
    for operator in environment.declared.operators:
        name, namespace = operator.name, operator.namespace
        deployments = await _deployments(environment, operator)
        declared = environment.declared.of_kind("Deployment")
        # The fork of redis-operator runs beside its chart, which has no pods of its own then.
        fork = [item for item in declared if _makes(item, SETTINGS[name][1])]
        if fork:
            item = await actual(environment, fork[0])
            deployments = [item] if item else []
            if item is None:
                yield await missing(environment, fork[0], "up")
        elif not deployments:
            if (await last_update(environment)).has("Release", namespace, name):
                text = f"operator {name}: its Deployment does not exist in namespace {namespace}"
                remedy = environment.chart_again(namespace, name)
                yield Problem(text, _DOWN, remedy, causes=CLUSTER)
            else:
                yield pending(environment, f"operator {name} is not installed yet")
        for deployment in deployments:
            for problem in await _stopped(environment, name, deployment):
                yield problem
    for name, namespace in _installed_by_others(environment):
        async for problem in _foreign(environment, name, namespace):
            yield problem


async def _stopped(environment: Environment, name: str, deployment: Object) -> list[Problem]:
    memory = f"operators.{SETTINGS[name][0]}.resources.memoryLimit"
    workload = Workload.of_deployment(
        deployment, f"operator {name}", unchanged="operators.unchanged", memory_setting=memory
    )
    return await deployment_problems(environment, deployment, workload, _DOWN)


def _installed_by_others(environment: Environment) -> Iterator[tuple[str, str]]:
    """The operators with `install: false`, each with its namespace."""
    settings = environment.declared.settings
    operators = {"external-secrets": settings.operators.external_secrets}
    operators["pgo"] = settings.operators.pgo
    if settings.redis.mode == "failover":
        operators["redis-operator"] = settings.operators.redis_operator
    for name, operator in operators.items():
        if not operator.install and operator.namespace:
            yield name, operator.namespace


async def _foreign(environment: Environment, name: str, namespace: str) -> AsyncIterator[Problem]:
    """What is wrong with an operator that somebody else installed; doctor may not see it."""
    labels = SETTINGS[name][1]
    try:
        deployments = await environment.view.objects(_DEPLOYMENTS, namespace)
        own = [item for item in deployments if _makes(item, labels)]
        for deployment in own:
            for problem in await _stopped(environment, name, deployment):
                yield problem
    except ForbiddenError as error:
        yield skip(f"operator {name} is not installed by this program: {error}")
        return
    if not own and not any(at(item, "status", "availableReplicas") for item in deployments):
        text = f"operator {name}: no Deployment in namespace {namespace} has an available pod"
        remedy = environment.kubectl_in(namespace, "get deployments,pods")
        yield Problem(text, _DOWN, remedy, causes=CLUSTER)


def _makes(deployment: Object, labels: Mapping[str, str]) -> bool:
    """Whether a Deployment's pods have these labels."""
    return labels.items() <= mapped(deployment, "spec", "template", "metadata", "labels").items()

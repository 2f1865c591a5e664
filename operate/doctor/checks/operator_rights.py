"""Whether each operator still has the rights that its chart granted; Helm notices no edit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from operate.doctor.findings import Environment, Problem
from operate.view import Object, at, listed

_RBAC = "rbac.authorization.k8s.io/v1"


@dataclass(frozen=True)
class _Right:
    """A verb on a kind of object."""

    verb: str
    group: str
    resource: str

    def granted(self, rule: Object) -> bool:
        """Whether a Role's rule grants it."""
        asked = {"apiGroups": self.group, "resources": self.resource, "verbs": self.verb}
        return not rule.get("resourceNames") and all(
            {value, "*"} & set(rule.get(key) or []) for key, value in asked.items()
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


async def look(environment: Environment) -> list[Problem]:
    """What an operator's account may no longer do in the namespace of its objects."""
    problems: list[Problem] = []
    for operator in environment.declared.operators:
        kind, needed = _NEEDED.get(operator.name, ("", ()))
        deployment = await environment.view.named(
            "apps/v1/deployments", operator.namespace, operator.name
        )
        account = at(deployment or {}, "spec", "template", "spec", "serviceAccountName")
        if account is None:
            continue
        remedy = environment.chart_again(operator.namespace, operator.name)
        accounts = "v1/serviceaccounts"
        if not await environment.view.named(accounts, operator.namespace, str(account)):
            text = f"operator {operator.name} may do nothing: its ServiceAccount {account} is gone"
            # The token of the pod that runs is one of the account that is gone.
            restart = environment.kubectl_in(
                operator.namespace, f"rollout restart deployment {operator.name}"
            )
            remedy = f"{remedy} && {restart}"
            problems.append(Problem(text, "operator-rights-missing", remedy))
            continue
        for place in {item["metadata"]["namespace"] for item in environment.declared.of_kind(kind)}:
            rules = await _rules(environment, place, operator.namespace, str(account))
            missing = [right for right in needed if not any(map(right.granted, rules))]
            if missing:
                text = (
                    f"operator {operator.name} may not {missing[0].verb} {missing[0].resource} in "
                    f"namespace {place}: a Role or a RoleBinding of its chart is gone or was edited"
                )
                problems.append(Problem(text, "operator-rights-missing", remedy))
    return problems


async def _rules(environment: Environment, namespace: str, home: str, account: str) -> list[Object]:
    """The rules of the Roles that are bound to an account. `home`: the account's namespace."""
    roles = {
        role["metadata"]["name"]: role
        for role in await environment.view.objects(f"{_RBAC}/roles", namespace)
    }
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

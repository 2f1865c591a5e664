"""`make rights`: every ServiceAccount of an environment and what it may do, as the cluster answers.

The answer is the authoriser's own (SelfSubjectRulesReview, asked in each account's name), so what
operators' charts and others granted is in it. It needs the right to impersonate ServiceAccounts.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import pulumi

from components.cluster.access import ClusterAccess
from components.network.flows import NAMESPACES

_ELSEWHERE = "kube-system"
"""A right that holds there too holds in the whole cluster."""
_NOBODY = "system:serviceaccount:kube-system:nobody-has-this-name"
"""What this account may, everybody who is logged in may."""
_REVIEWS = "selfsubjectrulesreviews"


class RightsError(pulumi.RunError):
    """The cluster refuses an answer; the message names the right that is missing."""


class Right(NamedTuple):
    """One verb on one kind of object."""

    verb: str
    resource: str
    """`group/resource/subresource`, without the group for the core's."""
    name: str
    """Of the only object that it holds for; empty: all."""


Rights: TypeAlias = Mapping[str, frozenset[Right]]
"""By namespace."""


def rights(rules: Iterable[Mapping[str, Any]]) -> frozenset[Right]:
    """The rules of one review, one by one."""
    single: set[Right] = set()
    for rule in rules:
        groups: Sequence[str] = rule.get("apiGroups") or [""]
        resources: Sequence[str] = rule.get("resources") or []
        names: Sequence[str] = rule.get("resourceNames") or [""]
        for group, resource, name in itertools.product(groups, resources, names):
            kind = f"{group}/{resource}" if group else resource
            single |= {Right(verb, kind, name) for verb in rule["verbs"]}
    return frozenset(single)


def lines(by_namespace: Rights, everybody: frozenset[Right]) -> list[str]:
    """Text for one account: a line per kind of object and place. Empty: it may nothing."""
    everywhere = by_namespace[_ELSEWHERE] - everybody
    text = _grouped(everywhere, "everywhere")
    for namespace, held in by_namespace.items():
        if namespace != _ELSEWHERE:
            text += _grouped(held - everywhere - everybody, f"in {namespace}")
    return text


def _grouped(held: frozenset[Right], place: str) -> list[str]:
    verbs: dict[tuple[str, str], set[str]] = {}
    for right in held:
        verbs.setdefault((right.resource, right.name), set()).add(right.verb)
    text: list[str] = []
    for (resource, name), held_verbs in sorted(verbs.items()):
        subject = f"{resource} {name}" if name else resource
        text.append(f"{' '.join(sorted(held_verbs))}: {subject} {place}")
    return text


async def look(cluster: ClusterAccess) -> dict[str, list[str]]:
    """Each account's lines. Raises RightsError."""
    places = (*NAMESPACES, _ELSEWHERE)
    by_account: dict[str, list[str]] = {}
    async with cluster.connected() as api:
        everybody = (await _ask(api, _NOBODY, [_ELSEWHERE]))[_ELSEWHERE]
        for namespace in NAMESPACES:
            for account in await _accounts(api, namespace):
                user = f"system:serviceaccount:{namespace}:{account}"
                held = await _ask(api, user, places)
                by_account[f"{namespace}/{account}"] = lines(held, everybody)
    return by_account


async def _accounts(api: Any, namespace: str) -> list[str]:
    async with api.call_api(
        "GET", namespace=namespace, url="serviceaccounts", raise_for_status=False
    ) as response:
        if response.status_code != 200:  # noqa: PLR2004 - HTTP's own number
            raise RightsError(f"ServiceAccounts of {namespace}: {response.status_code}")
        return [item["metadata"]["name"] for item in response.json()["items"]]


async def _ask(api: Any, user: str, places: Sequence[str]) -> dict[str, frozenset[Right]]:
    namespace = user.split(":")[2]
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    headers = [("Impersonate-User", user), ("Impersonate-Group", "system:authenticated")]
    headers += [("Impersonate-Group", group) for group in groups]
    answers: dict[str, frozenset[Right]] = {}
    for place in places:
        async with api.call_api(
            "POST",
            version="authorization.k8s.io/v1",
            url=_REVIEWS,
            headers=headers,
            json={"spec": {"namespace": place}},
            raise_for_status=False,
        ) as response:
            if response.status_code != 201:  # noqa: PLR2004 - HTTP's own number
                raise RightsError(
                    f"asking in the name of {user}: {response.status_code}; this needs the right "
                    "to impersonate ServiceAccounts and groups"
                )
            answers[place] = rights(response.json()["status"]["resourceRules"])
    return answers

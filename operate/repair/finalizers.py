"""What `make destroy` would wait for in vain: finalizers that only an operator removes.

An object with a finalizer goes once somebody has removed that. Where the operator that does so does
not run any more, the object stays for ever, and so does the destroy.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast

from components.cluster.access import ClusterAccess, answer
from components.network.flows import CONTROLLER, EXTERNAL_SECRETS, PGO, POSTGRES
from components.settings.environment import Settings
from operate.view import condition, labelled

from .pulumi_cli import Pulumi, PulumiError, say

_KINDS: Mapping[str, Sequence[str]] = {
    "PGO": ("postgres-operator.crunchydata.com/v1beta1/postgresclusters",),
    "External Secrets": (
        "external-secrets.io/v1/externalsecrets",
        "external-secrets.io/v1/secretstores",
    ),
}
"""What each operator puts a finalizer on."""


@dataclass(frozen=True)
class Waiting:
    """An object that nothing would remove the finalizers of."""

    resource: str
    """Group, version and plural name."""
    namespace: str
    name: str
    finalizers: Sequence[str]
    operator: str
    """Who removes them, and where it does not run."""

    def __str__(self) -> str:
        kind = self.resource.rpartition("/")[2]
        return (
            f"{kind} {self.namespace}/{self.name} waits for {', '.join(self.finalizers)}, which "
            f"{self.operator} removes"
        )


def clear(
    command: Pulumi,
    cluster: ClusterAccess,
    settings: Settings,
    namespaces: Sequence[str],
) -> None:
    """Look into the environment's own namespaces, and remove such finalizers after a question.

    Raises PulumiError.
    """
    waiting = asyncio.run(look(cluster, settings, namespaces))
    if not waiting:
        return
    for item in waiting:
        say(str(item))
    question = (
        "Nobody would remove these finalizers, so the destroy would stand for ever. Start the "
        "operator again, or: remove the finalizers and go on deleting?"
    )
    if not command.confirm(question):
        raise PulumiError("nothing was changed: the operator must run first, see make doctor")
    asyncio.run(_remove(cluster, waiting))


async def look(
    cluster: ClusterAccess, settings: Settings, namespaces: Sequence[str]
) -> list[Waiting]:
    """Objects with finalizers in these namespaces whose operator has no pod that is Ready."""
    places = {
        "PGO": (settings.operators.pgo.namespace or POSTGRES, PGO.labels),
        "External Secrets": (
            settings.operators.external_secrets.namespace or EXTERNAL_SECRETS,
            CONTROLLER.labels,
        ),
    }
    waiting: list[Waiting] = []
    async with cluster.connected() as api:
        for operator, (place, labels) in places.items():
            pods = await _list(api, "v1/pods", place)
            if any(labelled(pod, labels) and _is_ready(pod) for pod in pods):
                continue
            for resource in _KINDS[operator]:
                for namespace in namespaces:
                    for item in await _list(api, resource, namespace):
                        metadata = item["metadata"]
                        if finalizers := metadata.get("finalizers"):
                            who = f"{operator} (no pod of it is Ready in namespace {place})"
                            waiting.append(
                                Waiting(resource, namespace, metadata["name"], finalizers, who)
                            )
    return waiting


def _is_ready(pod: Mapping[str, Any]) -> bool:
    status = condition(pod, "Ready")
    return status is not None and status["status"] == "True"


async def _list(api: Any, resource: str, namespace: str) -> list[Mapping[str, Any]]:
    """The objects; none where the cluster does not know the kind. Raises PulumiError."""
    version, _, plural = resource.rpartition("/")
    status, text = await answer(api, "GET", version, namespace, plural)
    if status == HTTPStatus.NOT_FOUND:
        return []
    if status != HTTPStatus.OK:
        raise PulumiError(f"{status} from the API server to a list of {plural} in {namespace}")
    return cast("list[Mapping[str, Any]]", json.loads(text)["items"])


async def _remove(cluster: ClusterAccess, waiting: Sequence[Waiting]) -> None:
    async with cluster.connected() as api:
        for item in waiting:
            version, _, plural = item.resource.rpartition("/")
            status, text = await answer(
                api,
                "PATCH",
                version,
                item.namespace,
                f"{plural}/{item.name}",
                headers={"Content-Type": "application/merge-patch+json"},
                content=json.dumps({"metadata": {"finalizers": None}}),
            )
            if status not in (HTTPStatus.OK, HTTPStatus.NOT_FOUND):
                raise PulumiError(f"{status} from the API server: {text}")

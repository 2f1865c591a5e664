"""`make doctor PRE=1`: whether a cluster can take an environment, asked before anything is created.

Needs the rights of whoever will run `up`: the API server is asked what that login may do.
"""

import asyncio
import re
import socket
from collections.abc import Sequence
from typing import Any

from components.cluster.forward import local_port
from components.network.flows import POSTGRES, VAULT
from components.postgres import component as postgres
from components.vault import component as vault
from operate.view import ACCESS_REVIEW, labels_of, mapped, plural

from .findings import Check, Environment, Problem, Severity

OLDEST = (1, 27)
"""The oldest Kubernetes that serves everything declared: policies, Pod Security, slices."""

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

_HELM = {
    "external-secrets.io": "external-secrets",
    "postgres-operator.crunchydata.com": "pgo",
    "databases.spotahome.com": "redis-operator",
}
"""Which of our Helm releases brings a group of kinds."""


async def _version(environment: Environment) -> list[Problem]:
    reply = await environment.view.reply("/version")
    text = str(reply.fields.get("gitVersion", ""))
    match = re.match(r"v(\d+)\.(\d+)", text)
    if match and (int(match[1]), int(match[2])) >= OLDEST:
        return []
    oldest = ".".join(map(str, OLDEST))
    return [
        Problem(
            f"the cluster runs Kubernetes {text or 'of an unknown version'}; "
            f"{oldest} or newer is needed",
            "cluster-too-old",
            f"{environment.kubectl} version",
        )
    ]


async def _rights(environment: Environment) -> list[Problem]:
    """Whether this login may create Helm's own Secrets and every kind that the program declares."""
    namespaces = environment.declared.namespaces
    asked = {("", "secrets", namespace) for namespace in namespaces}
    for item in environment.declared.manifests:
        group = item["apiVersion"].rpartition("/")[0]
        namespace = str(item["metadata"].get("namespace", ""))
        asked.add((group, plural(item["kind"]), namespace))
    questions = sorted(asked)
    answers = await asyncio.gather(*(_may_create(environment, *item) for item in questions))
    lacking: list[str] = []
    for (group, resource, namespace), allowed in zip(questions, answers, strict=True):
        if not allowed:
            kind = f"{resource}.{group}" if group else resource
            place = f" in {namespace}" if namespace else ""
            lacking.append(f"{kind}{place}")
    if not lacking:
        return []
    shown = ", ".join(lacking[:5])
    more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""  # noqa: PLR2004 -- shown
    return [
        Problem(
            f"this login may not create: {shown}{more}",
            "rights-missing",
            f"{environment.kubectl} apply -f deploy/rbac/deploy.yaml",
        )
    ]


async def _may_create(environment: Environment, group: str, resource: str, namespace: str) -> bool:
    attributes = {"verb": "create", "group": group, "resource": resource, "namespace": namespace}
    body: dict[str, Any] = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    reply = await environment.view.post(ACCESS_REVIEW, body)
    return bool(mapped(reply.fields, "status").get("allowed"))


async def _storage(environment: Environment) -> list[Problem]:
    """Each storage class that is named exists; otherwise there is a default."""
    classes = await environment.view.objects("storage.k8s.io/v1/storageclasses")
    names = {item["metadata"]["name"] for item in classes}
    defaults = [
        item
        for item in classes
        if mapped(item, "metadata", "annotations").get(_DEFAULT_CLASS) == "true"
    ]
    named = _named_classes(environment)
    missing = sorted({name for name in named if name} - names)
    remedy = f"{environment.kubectl} get storageclass"
    if missing:
        text = f"the storage class does not exist: {', '.join(missing)}"
        return [Problem(text, "volume-not-bound", remedy)]
    if None in named and not defaults:
        text = "the cluster has no default storage class, and the stack's file names none"
        return [Problem(text, "volume-not-bound", remedy)]
    return []


def _named_classes(environment: Environment) -> set[str | None]:
    settings = environment.declared.settings
    volumes = [settings.vault.storage, settings.postgres.storage]
    if settings.redis.mode == "failover":
        volumes.append(settings.redis.storage)
    return {volume.storage_class for volume in volumes}


async def _owners(environment: Environment) -> list[Problem]:
    """CustomResourceDefinitions that are there already belong to this program's releases."""
    definitions = await environment.view.objects(
        "apiextensions.k8s.io/v1/customresourcedefinitions"
    )
    ours = {install.name for install in environment.declared.operators}
    foreign: set[str] = set()
    for definition in definitions:
        release = _HELM.get(str(definition["spec"]["group"]))
        owner = mapped(definition, "metadata", "annotations").get("meta.helm.sh/release-name")
        if release in ours and owner is not None and owner not in ours:
            foreign.add(f"{definition['spec']['group']} (release {owner})")
    if not foreign:
        return []
    return [
        Problem(
            f"another installation owns these kinds: {', '.join(sorted(foreign))}; "
            "two operators would work against each other",
            "operator-there-already",
            f"{environment.kubectl} get customresourcedefinitions",
        )
    ]


async def _admission(environment: Environment) -> list[Problem]:
    """A namespace of ours that exists already enforces the level that the program sets."""
    problems: list[Problem] = []
    for namespace in await environment.view.objects("v1/namespaces"):
        name = namespace["metadata"]["name"]
        if name not in environment.declared.namespaces:
            continue
        level = labels_of(namespace).get("pod-security.kubernetes.io/enforce")
        if level != "restricted":
            problems.append(
                Problem(
                    f"namespace {name} exists already, and not by this program: "
                    f"Pod Security {level or 'is not set'}",
                    "namespace-there-already",
                    f"{environment.kubectl} describe namespace {name}",
                    severity=Severity.WARNING,
                )
            )
    return problems


async def _ports(environment: Environment) -> list[Problem]:
    """The local ports of the forwards are free on this machine."""
    settings, stack = environment.declared.settings, environment.declared.stack
    ports: dict[str, int] = {}
    if settings.vault.address is None:
        service = vault.forward_target(mode=settings.vault.mode).service
        ports[VAULT] = settings.vault.local_port or local_port("shlink", stack, service)
    if settings.postgres.address is None:
        service = postgres.PRIMARY.service
        ports[POSTGRES] = settings.postgres.local_port or local_port("shlink", stack, service)
    problems: list[Problem] = []
    for layer, port in ports.items():
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            problems.append(
                Problem(
                    f"port {port} of this machine is taken; the forward to {layer} needs it",
                    "local-port-taken",
                    f"pulumi config set --stack {stack} --path shlink:{layer}.localPort 20001",
                    causes=(),
                )
            )
    return problems


async def _reachable(environment: Environment) -> list[Problem]:
    await environment.view.reply("/version")
    return []


async def _optional(environment: Environment) -> list[Problem]:
    """Kinds that the cluster itself must bring: the Gateway API, Prometheus' operator, Cilium."""
    problems: list[Problem] = []
    for version in sorted({item["apiVersion"] for item in environment.declared.manifests}):
        group = version.partition("/")[0]
        if "." not in group or group.endswith(".k8s.io") or group in _HELM:
            continue
        reply = await environment.view.reply(f"/apis/{version}")
        if "resources" not in reply.fields:
            problems.append(
                Problem(
                    f"the cluster does not serve {version}, which the stack's file asks for",
                    "custom-resource-missing",
                    f"{environment.kubectl} get customresourcedefinitions",
                )
            )
    return problems


_FIRST = ("cluster.reachable",)

CHECKS: Sequence[Check] = (
    Check(
        name="cluster.reachable",
        description="the API server answers",
        depends_on=(),
        look=_reachable,
    ),
    Check(
        name="cluster.version",
        description="Kubernetes is new enough",
        depends_on=_FIRST,
        look=_version,
    ),
    Check(
        name="cluster.rights",
        description="this login may create everything that is declared",
        depends_on=_FIRST,
        look=_rights,
    ),
    Check(
        name="cluster.storage",
        description="the storage classes exist",
        depends_on=_FIRST,
        look=_storage,
    ),
    Check(
        name="cluster.owners",
        description="no other installation owns the operators' kinds",
        depends_on=_FIRST,
        look=_owners,
    ),
    Check(
        name="cluster.optional",
        description="the cluster serves what it must bring itself",
        depends_on=_FIRST,
        look=_optional,
    ),
    Check(
        name="cluster.namespaces",
        description="the namespaces are new, or this program's",
        depends_on=_FIRST,
        look=_admission,
    ),
    Check(
        name="machine.ports",
        description="the ports of the forwards are free",
        depends_on=(),
        look=_ports,
    ),
)

"""`make doctor PRE=1`: whether a cluster can take an environment, asked before anything is created.

Needs the rights of whoever will run `up`: the API server is asked what that login may do.
"""

import asyncio
import contextlib
import re
import socket
from typing import Any

from components.cluster.forward import local_port
from components.network.flows import EXTERNAL_SECRETS, POSTGRES, VAULT
from components.postgres import component as postgres
from components.program.identity import Identity, Marked
from components.vault import component as vault
from operate.ownership import PROJECT
from operate.view import ACCESS_REVIEW, ForbiddenError, Object, mapped, plural

from .findings import Checks, Environment, Problem

CHECKS = Checks()

check = CHECKS.check

OLDEST = (1, 27)
"""The oldest Kubernetes that serves everything declared: policies, Pod Security, slices."""

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

_HELM = {
    "external-secrets.io": "external-secrets",
    "postgres-operator.crunchydata.com": "pgo",
    "databases.spotahome.com": "redis-operator",
}
"""Which Helm release brings a group of kinds."""

_SECRETS = "external-secrets"
"""The chart of External Secrets, and its default release."""

_SETTING = {_SECRETS: "externalSecrets", "pgo": "pgo", "redis-operator": "redisOperator"}
"""The key of each operator in the stack's file."""

_WEBHOOKS = "admissionregistration.k8s.io/v1/validatingwebhookconfigurations"

_SECRETS_OBJECTS = (
    ("rbac.authorization.k8s.io/v1/clusterroles", "external-secrets-controller"),
    (_WEBHOOKS, "externalsecret-validate"),
    (_WEBHOOKS, "secretstore-validate"),
)
"""What the chart of External Secrets makes by default outside of its namespace (2.9.0)."""


@check("cluster.reachable", "the API server answers")
async def _reachable(environment: Environment) -> list[Problem]:
    await environment.view.reply("/version")
    return []


@check("cluster.version", "Kubernetes is new enough", after=("cluster.reachable",))
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


@check(
    "cluster.rights",
    "this login may create everything that is declared",
    after=("cluster.reachable",),
)
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


@check("cluster.storage", "the storage classes exist", after=("cluster.reachable",))
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


@check(
    "cluster.owners",
    "no other installation owns the operators' kinds",
    after=("cluster.reachable",),
)
async def _owners(environment: Environment) -> list[Problem]:
    """The operators' kinds that are there already belong to this environment's own releases."""
    definitions = await environment.view.objects(
        "apiextensions.k8s.io/v1/customresourcedefinitions"
    )
    own = await _own_releases(environment)
    # By the chart's name: what is there, and the namespace of who owns it.
    foreign: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for definition in definitions:
        group = str(definition["spec"]["group"])
        release = _HELM.get(group)
        notes = mapped(definition, "metadata", "annotations")
        owner = notes.get("meta.helm.sh/release-name")
        place = str(notes.get("meta.helm.sh/release-namespace", ""))
        if release is None or release not in _installed(environment) or (owner, place) in own:
            continue
        if owner is None and release != _SECRETS:
            # Helm notes no owner on the CRDs of a chart's crds/ folder.
            continue
        by = f"release {owner} in {place}" if owner else "not by Helm"
        _note(foreign, release, f"{group} ({by})")
        places[release] = places.get(release) or place
    if _SECRETS in _installed(environment) and (_SECRETS, EXTERNAL_SECRETS) not in own:
        for text in await _secrets_objects(environment):
            _note(foreign, _SECRETS, text)
    return [
        _there(environment, release, texts, places.get(release) or "NAMESPACE")
        for release, texts in sorted(foreign.items())
    ]


def _note(texts: dict[str, list[str]], key: str, text: str) -> None:
    if text not in texts.setdefault(key, []):
        texts[key].append(text)


def _installed(environment: Environment) -> set[str]:
    """The operators' releases that this stack would install."""
    return {install.name for install in environment.declared.operators}


async def _own_releases(environment: Environment) -> set[tuple[str, str]]:
    """The operators' releases in namespaces that bear this stack's mark: name and namespace."""
    own: set[tuple[str, str]] = set()
    for namespace in await environment.view.objects("v1/namespaces"):
        owner = _owner(namespace)
        if owner is not None and _is_own(environment, owner):
            own |= {(release, namespace["metadata"]["name"]) for release in _HELM.values()}
    return own


async def _secrets_objects(environment: Environment) -> list[str]:
    """What a chart of External Secrets makes in the cluster, under its default names."""
    there: list[str] = []
    for resource, name in _SECRETS_OBJECTS:
        # The webhooks are seen by an administrator only.
        with contextlib.suppress(ForbiddenError):
            if await environment.view.named(resource, "", name) is not None:
                there.append(f"{resource.rpartition('/')[2]} {name}")
    return there


def _there(environment: Environment, release: str, texts: list[str], place: str) -> Problem:
    key = f"shlink:operators.{_SETTING[release]}"
    command = f"pulumi config set --stack {environment.declared.stack} --path {key}"
    return Problem(
        f"another installation of {release} is in the cluster: {', '.join(texts)}; two operators "
        f"would work against each other. If that one is to serve, set {key}.install to false and "
        "its namespace",
        "operator-there-already",
        f"{command}.install false && {command}.namespace {place}",
    )


@check(
    "cluster.optional", "the cluster serves what it must bring itself", after=("cluster.reachable",)
)
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


@check(
    "cluster.namespaces",
    "the namespaces are new or this stack's, and no other environment is here",
    after=("cluster.reachable",),
)
async def _marks(environment: Environment) -> list[Problem]:
    """The namespaces of this stack are new or bear its mark, and nobody else's mark is here."""
    others: dict[str, list[str]] = {}
    unmarked: list[str] = []
    for namespace in await environment.view.objects("v1/namespaces"):
        name, owner = namespace["metadata"]["name"], _owner(namespace)
        if owner is not None and not _is_own(environment, owner):
            others.setdefault(str(owner), []).append(name)
        elif owner is None and name in environment.declared.namespaces:
            unmarked.append(name)
    problems = [
        Problem(
            f"another environment is in this cluster, {owner}, in {', '.join(names)}; each needs "
            "a cluster of its own",
            "another-environment",
            f"{environment.kubectl} get namespaces",
        )
        for owner, names in sorted(others.items())
    ]
    problems += [
        Problem(
            f"namespace {name} exists already and bears no mark of this stack, so an update would "
            "stop at it",
            "namespace-there-already",
            f"{environment.kubectl} describe namespace {name}",
        )
        for name in unmarked
    ]
    return problems


def _owner(namespace: Object) -> Identity | None:
    mark = Marked.read(namespace).mark
    return None if mark is None else Identity.parse(mark)


def _is_own(environment: Environment, owner: Identity) -> bool:
    """By project and stack: the id is in the state, which nothing here reads."""
    return (owner.project, owner.stack) == (PROJECT, environment.declared.stack)


@check("machine.ports", "the ports of the forwards are free")
async def _ports(environment: Environment) -> list[Problem]:
    """The local ports of the forwards are free on this machine."""
    settings, stack = environment.declared.settings, environment.declared.stack
    ports: dict[str, int] = {}
    if settings.vault.address is None:
        service = vault.forward_target(mode=settings.vault.mode).service
        ports[VAULT] = settings.vault.local_port or local_port(PROJECT, stack, service)
    if settings.postgres.address is None:
        service = postgres.PRIMARY.service
        ports[POSTGRES] = settings.postgres.local_port or local_port(PROJECT, stack, service)
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

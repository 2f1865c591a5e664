"""`make doctor PRE=1`: whether a cluster can take an environment, asked before anything is created.

Needs the rights of whoever will run `up`: the API server is asked what that login may do.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Iterable

from components.cluster.forward import local_port
from components.network.flows import EXTERNAL_SECRETS, POSTGRES, VAULT
from components.postgres import component as postgres
from components.program.identity import Identity, Marked
from components.vault import component as vault
from operate.ownership import PROJECT
from operate.view import ForbiddenError, Object, mapped, place, plural

from .checks import cluster
from .checks.operators import SETTINGS
from .findings import Checks, Environment, Problem, Severity

CHECKS = Checks()

check = CHECKS.check

OLDEST = (1, 27)
"""The oldest Kubernetes that serves everything declared: policies, Pod Security, slices."""

_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"

_NO_VOLUME = "volume-not-bound"

_HELM = {
    "external-secrets.io": "external-secrets",
    "postgres-operator.crunchydata.com": "pgo",
    "databases.spotahome.com": "redis-operator",
}
"""Which Helm release brings a group of kinds."""

_SECRETS = "external-secrets"
"""The chart of External Secrets, and its default release."""

_WEBHOOKS = "admissionregistration.k8s.io/v1/validatingwebhookconfigurations"

_SECRETS_OBJECTS = (
    ("rbac.authorization.k8s.io/v1/clusterroles", "external-secrets-controller"),
    (_WEBHOOKS, "externalsecret-validate"),
    (_WEBHOOKS, "secretstore-validate"),
)
"""What the chart of External Secrets makes by default outside of its namespace (2.9.0)."""


check("cluster.reachable", "the API server answers")(cluster.reachable)


@check("cluster.version", "Kubernetes is new enough", after=("cluster.reachable",))
async def _version(environment: Environment) -> AsyncIterator[Problem]:
    reply = await environment.view.reply("/version")
    text = str(reply.fields.get("gitVersion", ""))
    match = re.match(r"v(\d+)\.(\d+)", text)
    if not match or (int(match[1]), int(match[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        text = f"the cluster runs Kubernetes {text or 'of an unknown version'}; {oldest} or newer"
        yield Problem(f"{text} is needed", "cluster-too-old", f"{environment.kubectl} version")


@check(
    "cluster.rights",
    "this login may create everything that is declared",
    after=("cluster.reachable",),
)
async def _rights(environment: Environment) -> AsyncIterator[Problem]:
    """Whether this login may create Helm's own Secrets and every kind that the program declares."""
    rights = {("secrets", "", namespace) for namespace in environment.declared.namespaces}
    for item in environment.declared.manifests:
        group = item["apiVersion"].rpartition("/")[0]
        rights.add((plural(item["kind"]), group, place(item)[0]))
    questions = sorted(rights)
    answers = await asyncio.gather(
        *(
            environment.view.may("create", kind, "", namespace, group)
            for kind, group, namespace in questions
        )
    )
    lacking: list[str] = []
    for (kind, group, namespace), allowed in zip(questions, answers, strict=True):
        if not allowed:
            where = f" in {namespace}" if namespace else ""
            lacking.append(f"{'.'.join(filter(None, (kind, group)))}{where}")
    if lacking:
        more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""  # noqa: PLR2004 -- shown
        text = f"this login may not create: {', '.join(lacking[:5])}{more}"
        remedy = f"{environment.kubectl} apply -f deploy/rbac/deploy.yaml"
        yield Problem(text, "rights-missing", remedy)


@check("cluster.storage", "the storage classes exist", after=("cluster.reachable",))
async def _storage(environment: Environment) -> AsyncIterator[Problem]:
    """Each storage class that is named exists; otherwise there is a default."""
    classes: dict[str, Object] = {}
    default: str | None = None
    for item in await environment.view.objects("storage.k8s.io/v1/storageclasses"):
        classes[item["metadata"]["name"]] = item
        if mapped(item, "metadata", "annotations").get(_DEFAULT_CLASS) == "true":
            default = item["metadata"]["name"]
    named = _named_classes(environment)
    missing = sorted({name for name in named if name} - classes.keys())
    remedy = f"{environment.kubectl} get storageclass"
    if missing:
        text = f"the storage class does not exist: {', '.join(missing)}"
        yield Problem(text, _NO_VOLUME, remedy)
    elif None in named and default is None:
        text = "the cluster has no default storage class, and the stack's file names none"
        yield Problem(text, _NO_VOLUME, remedy)
    settings = environment.declared.settings
    used = classes.get(settings.postgres.storage.storage_class or default or "")
    is_set = "storage" in settings.postgres.model_fields_set
    if is_set and used is not None and not used.get("allowVolumeExpansion"):
        text = f"volumes of class {used['metadata']['name']} can't be enlarged"
        text = f"{text} (allowVolumeExpansion): shlink:postgres.storage.size is for good"
        yield Problem(text, "volume-not-enlarged", remedy, severity=Severity.WARNING)


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
async def _owners(environment: Environment) -> AsyncIterator[Problem]:
    """The operators' kinds that are there already belong to this environment's own releases."""
    namespaces = await environment.view.objects("v1/namespaces")
    own = _own_releases(environment, namespaces)
    occupied = {namespace["metadata"]["name"] for namespace in namespaces}
    installed = {install.name for install in environment.declared.operators}
    # By the chart's name: what exists, and the namespace of who owns it.
    foreign: dict[str, list[str]] = {}
    places: dict[str, str] = {}
    for definition in await environment.view.objects(
        "apiextensions.k8s.io/v1/customresourcedefinitions"
    ):
        group = str(definition["spec"]["group"])
        release = _HELM.get(group)
        notes = mapped(definition, "metadata", "annotations")
        owner = notes.get("meta.helm.sh/release-name")
        home = str(notes.get("meta.helm.sh/release-namespace", ""))
        if release is None or release not in installed or (owner, home) in own:
            continue
        if (owner, home) == (_SECRETS, EXTERNAL_SECRETS) and home not in occupied:
            # An environment that was destroyed left its CRDs; Helm takes them over by these names.
            continue
        if owner is None and release != _SECRETS:
            # Helm notes no owner on the CRDs of a chart's crds/ folder.
            continue
        by = f"release {owner} in {home}" if owner else "not by Helm"
        _note(foreign, release, f"{group} ({by})")
        places[release] = places.get(release) or home
    if _SECRETS in installed and (_SECRETS, EXTERNAL_SECRETS) not in own:
        for text in await _secrets_objects(environment):
            _note(foreign, _SECRETS, text)
    for release, texts in sorted(foreign.items()):
        key = f"operators.{SETTINGS[release][0]}"
        text = f"another installation of {release} is in the cluster: {', '.join(texts)}"
        text = f"{text}; two operators would work against each other. If that one is to serve, set"
        text = f"{text} shlink:{key}.install to false and its namespace"
        command = environment.setting(f"{key}.install", "false")
        home = places.get(release) or "NAMESPACE"
        remedy = f"{command} && {environment.setting(f'{key}.namespace', home)}"
        yield Problem(text, "operator-there-already", remedy)


def _note(texts: dict[str, list[str]], key: str, text: str) -> None:
    if text not in texts.setdefault(key, []):
        texts[key].append(text)


def _own_releases(environment: Environment, namespaces: Iterable[Object]) -> set[tuple[str, str]]:
    """The operators' releases in namespaces that bear this stack's mark: name and namespace."""
    own: set[tuple[str, str]] = set()
    for namespace in namespaces:
        owner = _owner(namespace)
        if owner is not None and _is_own(environment, owner):
            own |= {(release, namespace["metadata"]["name"]) for release in _HELM.values()}
    return own


async def _secrets_objects(environment: Environment) -> list[str]:
    """What a chart of External Secrets makes in the cluster, under its default names."""
    existing: list[str] = []
    for resource, name in _SECRETS_OBJECTS:
        # The webhooks are seen by an administrator only.
        with contextlib.suppress(ForbiddenError):
            if await environment.view.named(resource, "", name) is not None:
                existing.append(f"{resource.rpartition('/')[2]} {name}")
    return existing


@check(
    "cluster.optional", "the cluster serves what it must bring itself", after=("cluster.reachable",)
)
async def _optional(environment: Environment) -> AsyncIterator[Problem]:
    """Kinds that the cluster itself must bring: the Gateway API, Prometheus' operator, Cilium."""
    for version in sorted({item["apiVersion"] for item in environment.declared.manifests}):
        group = version.partition("/")[0]
        if "." not in group or group.endswith(".k8s.io") or group in _HELM:
            continue
        reply = await environment.view.reply(f"/apis/{version}")
        if "resources" not in reply.fields:
            text = f"the cluster does not serve {version}, which the stack's file asks for"
            remedy = f"{environment.kubectl} get customresourcedefinitions"
            yield Problem(text, "custom-resource-missing", remedy)


@check(
    "cluster.namespaces",
    "the namespaces are new or this stack's, and no other environment is here",
    after=("cluster.reachable",),
)
async def _marks(environment: Environment) -> AsyncIterator[Problem]:
    """The namespaces of this stack are new or bear its mark, and nobody else's mark is here."""
    others: dict[str, list[str]] = {}
    unmarked: list[str] = []
    for namespace in await environment.view.objects("v1/namespaces"):
        name, owner = namespace["metadata"]["name"], _owner(namespace)
        if owner is not None and not _is_own(environment, owner):
            others.setdefault(str(owner), []).append(name)
        elif owner is None and name in environment.declared.namespaces:
            unmarked.append(name)
    for owner, spaces in sorted(others.items()):
        text = f"another environment is in this cluster, {owner}, in {', '.join(spaces)}"
        remedy = f"{environment.kubectl} get namespaces"
        yield Problem(f"{text}; each needs a cluster of its own", "another-environment", remedy)
    for name in unmarked:
        text = f"namespace {name} exists already and bears no mark of this stack, so an update"
        remedy = f"{environment.kubectl} describe namespace {name}"
        yield Problem(f"{text} would stop at it", "namespace-there-already", remedy)


def _owner(namespace: Object) -> Identity | None:
    mark = Marked.read(namespace).mark
    return None if mark is None else Identity.parse(mark)


def _is_own(environment: Environment, owner: Identity) -> bool:
    """By project and stack: the id is in the state, which nothing here reads."""
    return (owner.project, owner.stack) == (PROJECT, environment.declared.stack)


@check("machine.ports", "the ports of the forwards are free")
async def _ports(environment: Environment) -> AsyncIterator[Problem]:
    """The local ports of the forwards are free on this machine."""
    settings, stack = environment.declared.settings, environment.declared.stack
    ports: dict[str, int] = {}
    if settings.vault.address is None:
        service = vault.forward_target(mode=settings.vault.mode).service
        ports[VAULT] = settings.vault.local_port or local_port(PROJECT, stack, service)
    if settings.postgres.address is None:
        service = postgres.PRIMARY.service
        ports[POSTGRES] = settings.postgres.local_port or local_port(PROJECT, stack, service)
    for layer, port in ports.items():
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            text = f"port {port} of this machine is taken; the forward to {layer} needs it"
            remedy = environment.setting(f"{layer}.localPort", 20001)
            yield Problem(text, "local-port-taken", remedy, causes=())

"""The project's own rules for what is about to be deployed, each a function of one resource.

`make preview` holds what the program registers to them; policy/__main__.py lets Pulumi's engine do
the same with what it is about to do, where it sees the objects of Vault's chart too.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from components.settings.images import ImageReference

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
_SELINUX_TYPES = {"", *(f"container_{word}t" for word in ("", "init_", "kvm_", "engine_"))}
# SECRET alone is where a script of this program finds a Secret's name.
_CREDENTIAL = re.compile(r"(PASSWORD|PASSWD|TOKEN|API_KEY|.SECRET|SECRET_KEY|PRIVATE_KEY)$")
_CONFIGURED_ELSEWHERE = ("kubernetes", "vault", "postgresql")
"""Packages whose default provider would take its target from the environment. Those that only
compute (random, tls) have no target."""
_COMPONENTS = re.compile(r"kubernetes:(helm\.sh/v4|kustomize/v2|yaml/v2):")
"""What the provider makes other resources of, and the engine tells no provider of. The rule sees
those others."""
_MAY_HOLD_SECRETS = re.compile(
    r"kubernetes:core/v1:Secret$|vault:(kv/|jwt/authBackend:)|random:|tls:|pulumi:providers:"
)


def _map(value: Any) -> Mapping[str, Any]:
    """A map where one may be missing, or not known yet."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []


@dataclass(frozen=True)
class Resource:
    """A resource as a rule sees it. Values that are not known yet are None."""

    type: str
    """Pulumi's: kubernetes:apps/v1:Deployment."""
    name: str
    inputs: Mapping[str, Any]
    provider: str
    """Name of its provider; empty or `default...` if the program names none."""
    marked: tuple[str, ...] = ()
    """Paths of the inputs that the engine encrypts, because a secret went into them."""

    @property
    def pods(self) -> list[Any]:
        """Specifications of the pods that it makes itself."""
        spec = _map(self.inputs.get("spec"))
        kind = self.type.rpartition(":")[2]
        if kind == "Pod":
            return [spec]
        if kind == "CronJob":
            spec = _map(_map(spec.get("jobTemplate")).get("spec"))
        template = _map(spec).get("template")
        if self.type.startswith("kubernetes:") and isinstance(template, Mapping):
            return [_map(_map(template).get("spec"))]
        return []


@dataclass(frozen=True)
class Rule:
    """One rule about a single resource."""

    name: str
    description: str
    faults: Callable[[Resource], Iterator[str]]
    """What is wrong with it, each with the remedy."""


def containers(pod: Any) -> list[Any]:
    """All containers of a pod's specification."""
    kinds = ("initContainers", "containers", "ephemeralContainers")
    entries: list[Any] = []
    for kind in kinds:
        entries += _list(pod.get(kind))
    return entries


def restricted(resource: Resource) -> Iterator[str]:
    """Pods as Pod Security `restricted` wants them; namespaces that enforce it."""
    for pod in resource.pods:
        yield from (f"{fault}: not allowed by Pod Security restricted" for fault in violations(pod))
    if resource.type == "kubernetes:core/v1:Namespace":
        labels = _map(_map(resource.inputs.get("metadata")).get("labels"))
        if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
            yield "does not enforce Pod Security restricted, so operators' pods are not held to it"


def violations(pod: Any) -> Iterator[str]:
    """What https://kubernetes.io/docs/concepts/security/pod-security-standards/ refuses (v1.36)."""
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field))
    for volume in _list(pod.get("volumes")):
        if not set(volume) - {"name"} <= _VOLUMES:
            yield f"volume {volume['name']}"
    whole = _map(pod.get("securityContext"))
    for sysctl in _list(whole.get("sysctls")):
        if sysctl.get("name") not in _SYSCTLS:
            yield f"sysctl {sysctl.get('name')}"
    yield from _context_violations(whole)
    for container in containers(pod):
        own = _map(container.get("securityContext"))
        faults = [*_context_violations(own), *_container_violations(container, whole, own)]
        for fault in faults:
            yield f"{container['name']}: {fault}"


def _context_violations(context: Any) -> Iterator[str]:
    """What neither a pod nor a container may set."""
    linux = _map(context.get("seLinuxOptions"))
    profile = _map(context.get("appArmorProfile")).get("type", "RuntimeDefault")
    wrong = {
        "runAsUser": context.get("runAsUser") == 0,
        "seLinuxOptions": bool(
            linux.get("type", "") not in _SELINUX_TYPES or linux.get("user") or linux.get("role")
        ),
        "appArmorProfile": profile not in ("RuntimeDefault", "Localhost"),
        "hostProcess": bool(_map(context.get("windowsOptions")).get("hostProcess")),
    }
    yield from (what for what, refused in wrong.items() if refused)


def _container_violations(container: Any, whole: Any, own: Any) -> Iterator[str]:
    both = {**whole, **own}
    capabilities = _map(own.get("capabilities"))
    profile = _map(both.get("seccompProfile")).get("type")
    wrong = {
        "allowPrivilegeEscalation": own.get("allowPrivilegeEscalation") is not False,
        "capabilities.drop": "ALL" not in _list(capabilities.get("drop")),
        "capabilities.add": not set(_list(capabilities.get("add"))) <= {"NET_BIND_SERVICE"},
        "privileged": bool(own.get("privileged")),
        "procMount": own.get("procMount", "Default") != "Default",
        "runAsNonRoot": both.get("runAsNonRoot") is not True,
        "seccompProfile": profile not in ("RuntimeDefault", "Localhost"),
        "hostPort": any(port.get("hostPort") for port in _list(container.get("ports"))),
        "host of a probe": any(_asks_a_host(handler) for handler in _handlers(container)),
    }
    yield from (what for what, refused in wrong.items() if refused)


def _handlers(container: Any) -> list[Any]:
    """The container's probes, and what runs at its start and its stop."""
    lifecycle = _map(container.get("lifecycle"))
    probes = [container.get(f"{name}Probe") for name in ("liveness", "readiness", "startup")]
    return [*probes, lifecycle.get("postStart"), lifecycle.get("preStop")]


def _asks_a_host(handler: Any) -> bool:
    """Whether the kubelet asks another host than the pod."""
    actions = [_map(_map(handler).get(kind)) for kind in ("httpGet", "tcpSocket")]
    return any(action.get("host") for action in actions)


def pinned(resource: Resource) -> Iterator[str]:
    """No tag that moves, in pods, custom resources and charts' values; each chart in a version."""
    for image in images(resource.inputs):
        try:
            fixed = ImageReference.parse(image).pinned
        except ValueError:
            fixed = False
        if not fixed:
            yield f"image {image}: use a whole version or a digest"
    # The engine is told of no input of a component; offline its chart and version are there.
    told = bool(resource.inputs) and resource.type.startswith("kubernetes:helm.sh")
    if told and not resource.inputs.get("version"):
        yield "the chart has no version: set one"


def images(value: Any) -> Iterator[str]:
    """Every image that a manifest or a chart's values name."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from images(item)
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            if key == "image" and isinstance(item, str):
                yield item
            elif key == "image" and isinstance(item, Mapping) and "repository" in item:
                reference = cast("Mapping[str, Any]", item)
                yield f"{reference['repository']}:{reference.get('tag', '')}"
            else:
                yield from images(item)


def provided(resource: Resource) -> Iterator[str]:
    """No resource that would follow the ambient kubeconfig, VAULT_ADDR or PGHOST."""
    package = resource.type.partition(":")[0]
    unnamed = not resource.provider or resource.provider.startswith("default")
    if package in _CONFIGURED_ELSEWHERE and unnamed and not _COMPONENTS.match(resource.type):
        yield "has no provider of the program: pass one in its options"


def no_literal_credential(resource: Resource) -> Iterator[str]:
    """A pod's variable with a credential's name refers to a Secret."""
    for pod in resource.pods:
        for container in containers(pod):
            for variable in _list(container.get("env")):
                value = variable.get("value")
                literal = value not in (None, "", "true", "false")
                if literal and _CREDENTIAL.search(variable["name"]):
                    yield (
                        f"{container['name']}: {variable['name']} is in clear: use secretKeyRef; "
                        "for a variable of Shlink set it in shlink:app.secretEnvironment"
                    )


def no_secret_in_clear(resource: Resource) -> Iterator[str]:
    """What came from a secret is in a Secret, in Vault or with a provider, and nowhere else.

    The engine encrypts it in the state only: in a ConfigMap or a pod everybody can read it.
    """
    if not _MAY_HOLD_SECRETS.match(resource.type):
        yield from (f"{path} holds a secret: hand it over in a Secret" for path in resource.marked)


def marked(value: Any, secret: type, path: str = "") -> Iterator[str]:
    """The paths at which a value of type `secret` stands in plain data."""
    if isinstance(value, secret):
        yield path
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            below = f"{path}.{key}" if path else key
            yield from marked(item, secret, below)
    elif isinstance(value, list):
        for position, item in enumerate(cast("list[Any]", value)):
            yield from marked(item, secret, f"{path}[{position}]")


RULES = (
    Rule(
        name="restricted",
        description="Pods keep to Pod Security restricted, and namespaces enforce it.",
        faults=restricted,
    ),
    Rule(
        name="pinned",
        description="Images and charts have a whole version or a digest.",
        faults=pinned,
    ),
    Rule(
        name="explicit-provider",
        description="Resources of Kubernetes, Vault and PostgreSQL name their provider.",
        faults=provided,
    ),
    Rule(
        name="no-literal-credential",
        description="Pods take credentials from Secrets.",
        faults=no_literal_credential,
    ),
    Rule(
        name="no-secret-in-clear",
        description="What came from a secret stands only where secrets belong.",
        faults=no_secret_in_clear,
    ),
)


def leaks(resources: Iterable[Resource], secrets: Mapping[str, str]) -> Iterator[str]:
    """Where a secret's value stands in something that is no place for secrets.

    It finds what has lost its mark on the way, where the rules above see nothing.
    `secrets`: values by the name of what they are. The message has the names only.
    """
    for resource in resources:
        if _MAY_HOLD_SECRETS.match(resource.type):
            continue
        texts = [*_texts(resource.inputs)]
        for name, value in secrets.items():
            if any(value in text for text in texts):
                yield f"{resource.name}: holds {name} in clear: hand it over in a Secret"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in cast("Mapping[str, Any]", value).items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _texts(item)

"""What the last completed update applied, as the program's list in the cluster tells.

So doctor tells an object that somebody deleted from one that no update has applied yet.
"""

import math
from dataclasses import dataclass, field
from http import HTTPStatus

from components.program.inventory import KEY, NAME, parse
from operate.view import ForbiddenError, NotServedError, Object, View, mapped, written

from .findings import Check, Environment, Problem, Severity, skip

PAGE = "not-applied-yet"

_KIND = "ConfigMap"

_DELETE_SECONDS = 300.0
"""Seconds in which an update deletes what the file no longer asks for."""

Digests = dict[tuple[str, str, str], str]


@dataclass(frozen=True)
class Applied:
    """The list of the last completed update beside that of the stack's file."""

    known: bool
    """Whether there is a list. Without one everything counts as applied."""
    asked: Digests = field(default_factory=dict[tuple[str, str, str], str])
    applied: Digests = field(default_factory=dict[tuple[str, str, str], str])
    age: float = 0
    """Seconds since it was written."""

    def has(self, kind: str, namespace: str, name: str) -> bool:
        """Whether an update has applied an object of this name."""
        return not self.known or (kind, namespace, name) in self.applied

    def has_kind(self, kind: str) -> bool:
        """Whether an update has applied any object of this kind."""
        return not self.known or any(key[0] == kind for key in self.applied)

    def as_declared(self, manifest: Object) -> bool:
        """Whether the last completed update applied an object as the stack's file asks for it."""
        key = _key(manifest)
        return not self.known or self.applied.get(key) == self.asked.get(key)

    def missing(self, kind: str, namespace: str, name: str) -> Severity:
        """The severity of an object that is declared and does not exist."""
        return Severity.ERROR if self.has(kind, namespace, name) else Severity.PENDING

    def surplus(self, view: View, item: Object, kind: str) -> Severity:
        """The severity of an object that exists and is not declared.

        An update deletes what the file no longer asks for after it has written its list.
        """
        metadata = item["metadata"]
        if self.known and self.has(kind, metadata["namespace"], metadata["name"]):
            return Severity.PENDING
        by_program = written(view, item) < math.inf
        deleting = self.known and by_program and self.age < _DELETE_SECONDS
        return Severity.PROGRESS if deleting else Severity.WARNING


def _key(manifest: Object) -> tuple[str, str, str]:
    metadata = manifest["metadata"]
    return str(manifest["kind"]), str(metadata.get("namespace", "")), str(metadata["name"])


async def applied(environment: Environment) -> Applied:
    """What the last completed update applied; read once in a look."""
    return await environment.view.once(("applied",), lambda: _read(environment))


async def find(environment: Environment, resource: str, manifest: Object) -> Object | None:
    """The object of a manifest, or None. Raises LookError.

    Its kind may be unknown to the cluster as long as no update has applied it.
    """
    kind, namespace, name = _key(manifest)
    try:
        return await environment.view.named(resource, namespace, name)
    except NotServedError:
        if (await applied(environment)).has(kind, namespace, name):
            raise
        return None


async def missing(environment: Environment, manifest: Object, command: str = "refresh") -> Problem:
    """The finding of a declared object that does not exist; `command`: what makes it again."""
    kind, namespace, name = _key(manifest)
    severity = (await applied(environment)).missing(kind, namespace, name)
    text = f"{kind} {namespace}/{name} does not exist"
    if severity is Severity.PENDING:
        return pending(environment, f"{text} yet")
    return Problem(text, "object-missing", environment.make(command), severity=severity)


def pending(environment: Environment, text: str) -> Problem:
    """The finding of what the stack's file asks for and no update has applied."""
    return Problem(text, PAGE, environment.make("up"), severity=Severity.PENDING)


async def _read(environment: Environment) -> Applied:
    manifest = environment.declared.named(_KIND, NAME)
    actual = await _actual(environment, manifest) if manifest else None
    if manifest is None or actual is None:
        return Applied(known=False)
    try:
        listed = parse(str(mapped(actual, "data").get(KEY, "")))
    except ValueError:
        # Somebody has edited it.
        return Applied(known=False)
    asked = parse(str(mapped(manifest, "data")[KEY]))
    return Applied(known=True, asked=asked, applied=listed, age=written(environment.view, actual))


async def _actual(environment: Environment, manifest: Object) -> Object | None:
    """The list in the cluster. This one ConfigMap may be read, and no other."""
    try:
        return await _by_name(environment.view, manifest["metadata"]["namespace"])
    except ForbiddenError:
        return None


async def _by_name(view: View, namespace: str) -> Object | None:
    reply = await view.reply(f"v1/configmaps/{NAME}", namespace)
    return reply.fields if reply.status == HTTPStatus.OK else None


async def _look(environment: Environment) -> list[Problem]:
    """There is a list, and it can be read."""
    manifest = environment.declared.named(_KIND, NAME)
    if manifest is None:
        return []
    namespace = manifest["metadata"]["namespace"]
    try:
        actual = await _by_name(environment.view, namespace)
    except ForbiddenError as error:
        return [skip(f"{error}; deploy/rbac/doctor.yaml grants it")]
    told = await applied(environment)
    if told.known:
        return []
    reason = f"ConfigMap {namespace}/{NAME} can't be read"
    if actual is None:
        reason = "no update with this version of the program has completed"
    text = f"{reason}, so what is not applied yet counts as deleted"
    return [pending(environment, text)]


CHECK = Check(
    name="cluster.inventory",
    description="an update with this version of the program has completed",
    depends_on=("cluster.reachable", "cluster.namespaces"),
    look=_look,
)

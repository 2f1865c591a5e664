"""What the last completed update applied, as the program's list in the cluster tells.

So doctor tells an object that somebody deleted from one that no update has applied yet.
"""

import math
from dataclasses import dataclass, field
from http import HTTPStatus

from components.program.inventory import KEY, NAME, parse
from operate.view import ForbiddenError, Object, View, mapped, place, written

from .findings import Environment, Problem, Severity

_DELETE_SECONDS = 300.0
"""Seconds in which an update deletes what the file no longer asks for."""

Digests = dict[tuple[str, str, str], str]


@dataclass(frozen=True)
class LastUpdate:
    """The list of the last completed update beside that of the stack's file."""

    exists: bool
    """Whether there is a list. Without one everything counts as applied."""
    declared: Digests = field(default_factory=dict[tuple[str, str, str], str])
    digests: Digests = field(default_factory=dict[tuple[str, str, str], str])
    age: float = 0
    """Seconds since it was written."""

    def has(self, kind: str, namespace: str, name: str) -> bool:
        """Whether an update has applied an object of this name."""
        return not self.exists or (kind, namespace, name) in self.digests

    def has_kind(self, kind: str) -> bool:
        """Whether an update has applied any object of this kind."""
        return not self.exists or any(key[0] == kind for key in self.digests)

    def is_applied(self, manifest: Object) -> bool:
        """Whether the last completed update applied an object as the stack's file asks for it."""
        key = (str(manifest["kind"]), *place(manifest))
        return not self.exists or self.digests.get(key) == self.declared.get(key)

    def missing(self, manifest: Object) -> Severity:
        """The severity of an object that is declared and does not exist."""
        applied = self.has(manifest["kind"], *place(manifest))
        return Severity.ERROR if applied else Severity.PENDING

    def surplus(self, view: View, item: Object, kind: str) -> Severity:
        """The severity of an object that exists and is not declared.

        An update deletes what the file no longer asks for after it has written its list.
        """
        if self.exists and self.has(kind, *place(item)):
            return Severity.PENDING
        by_program = written(view, item) < math.inf
        deleting = self.exists and by_program and self.age < _DELETE_SECONDS
        return Severity.PROGRESS if deleting else Severity.WARNING


async def last_update(environment: Environment) -> LastUpdate:
    """What the last completed update applied. Raises LookError."""
    return await environment.view.once(("last update",), lambda: _read(environment))


def pending(environment: Environment, text: str) -> Problem:
    """The finding of what the stack's file asks for and no update has applied."""
    remedy = environment.make("up")
    return Problem(text, "not-applied-yet", remedy, severity=Severity.PENDING)


async def _read(environment: Environment) -> LastUpdate:
    manifest = environment.declared.named("ConfigMap", NAME)
    try:
        actual = await inventory(environment)
        digests = parse(str(mapped(actual or {}, "data").get(KEY, "")))
    except (ForbiddenError, ValueError):
        # It may not be read, or somebody has edited it.
        return LastUpdate(exists=False)
    if manifest is None or actual is None:
        return LastUpdate(exists=False)
    declared = parse(str(mapped(manifest, "data")[KEY]))
    age = written(environment.view, actual)
    return LastUpdate(exists=True, declared=declared, digests=digests, age=age)


async def inventory(environment: Environment) -> Object | None:
    """The list in the cluster. This one ConfigMap may be read, and no other. Raises LookError."""
    manifest = environment.declared.named("ConfigMap", NAME)
    if manifest is None:
        return None
    reply = await environment.view.reply(f"v1/configmaps/{NAME}", place(manifest)[0])
    return reply.fields if reply.status == HTTPStatus.OK else None

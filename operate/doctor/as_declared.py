"""What runs beside what is declared: missing objects, changes by hand, what is not applied yet."""

from collections.abc import AsyncIterator, Iterator, Sequence
from http import HTTPStatus

from operate.view import ForbiddenError, NotServedError, Object, place, resource

from . import drift
from .drift import Change
from .findings import CLUSTER, Check, Environment, Problem, Severity, skip
from .last_update import last_update, pending

_LEADS_USERS = frozenset({"Service", "Ingress", "HTTPRoute"})
"""Kinds whose every field decides where requests go; nothing behind them notices a change."""

_POLICY = "NetworkPolicy"
"""A change of one is an error: it opens, or closes, what nothing else tells."""


def title(kind: str, item: Object) -> str:
    """`NetworkPolicy shlink/shlink`; without a namespace `ClusterRole vault`."""
    return f"{kind} {'/'.join(filter(None, place(item)))}"


async def actual(environment: Environment, manifest: Object) -> Object | None:
    """The object that is declared so, as it is in the cluster, or None. Raises LookError.

    Its kind may be unknown to the cluster as long as no update has applied it.
    """
    namespace, name = place(manifest)
    if not namespace:
        # Of the cluster's own kinds nothing but this one may be read.
        reply = await environment.view.reply(f"{resource(manifest)}/{name}")
        return reply.fields if reply.status == HTTPStatus.OK else None
    try:
        return await environment.view.named(resource(manifest), namespace, name)
    except NotServedError:
        if (await last_update(environment)).has(manifest["kind"], namespace, name):
            raise
        return None


async def missing(environment: Environment, manifest: Object, command: str = "refresh") -> Problem:
    """The finding of a declared object that does not exist; `command`: what makes it again."""
    severity = (await last_update(environment)).missing(manifest)
    text = f"{title(manifest['kind'], manifest)} does not exist"
    if severity is Severity.PENDING:
        return pending(environment, f"{text} yet")
    return Problem(text, "object-missing", environment.make(command), severity=severity)


def unchanged(name: str, *kinds: str) -> Check:
    """A check that objects of these kinds are as declared; one that does not exist is another's."""

    async def look(environment: Environment) -> AsyncIterator[Problem]:
        for kind in kinds:
            for manifest in environment.declared.of_kind(kind):
                item = await actual(environment, manifest)
                for problem in await _compared(environment, manifest, item):
                    yield problem

    description = "nobody has changed what the program declares"
    return Check(name, description, CLUSTER, look)


async def as_declared(environment: Environment, kinds: Sequence[str]) -> AsyncIterator[Problem]:
    """Objects of these kinds that do not exist, and those that are not as declared."""
    absent: dict[Severity, list[str]] = {}
    update = await last_update(environment)
    unseen: Problem | None = None
    for kind in kinds:
        for manifest in environment.declared.of_kind(kind):
            try:
                item = await actual(environment, manifest)
            except ForbiddenError as error:
                if "rbac" not in manifest["apiVersion"]:
                    raise
                unseen = skip(f"{error}; deploy/rbac/doctor.yaml grants it")
                continue
            if item is None:
                absent.setdefault(update.missing(manifest), []).append(title(kind, manifest))
            for problem in await _compared(environment, manifest, item):
                yield problem
    if Severity.ERROR in absent:
        page = "network-policy-missing" if _POLICY in kinds else "object-missing"
        yield Problem(f"declared, but not there: {', '.join(absent[Severity.ERROR])}", page)
    if Severity.PENDING in absent:
        text = f"declared, and not there yet: {', '.join(absent[Severity.PENDING])}"
        yield pending(environment, text)
    if unseen:
        yield unseen


async def _compared(
    environment: Environment, manifest: Object, item: Object | None
) -> list[Problem]:
    if item is None:
        return []
    is_applied = (await last_update(environment)).is_applied(manifest)
    differences = drift.changes(manifest, item, applied=is_applied)
    return list(_changed(environment, manifest["kind"], item, differences))


def by_hand(environment: Environment, kind: str, item: Object) -> Iterator[Problem]:
    """What somebody changed in an object of a chart, which Helm would not notice.

    What it should be is not known, so it is told only where something fails behind it.
    """
    yield from _changed(environment, kind, item, drift.by_hand(item), hidden=True)


def _changed(
    environment: Environment,
    kind: str,
    item: Object,
    differences: Sequence[Change],
    *,
    hidden: bool = False,
) -> Iterator[Problem]:
    """A warning for an object that is not as declared, which may explain what fails behind it.

    What the next update writes is told apart from it, and explains nothing.
    """
    where, (namespace, name) = title(kind, item), place(item)
    ahead = [change for change in differences if change.pending]
    differences = [change for change in differences if not change.pending]
    if ahead:
        text = f"{where} is not yet as the stack's file asks: {drift.listing(ahead)}"
        yield pending(environment, text)
    if not differences:
        return
    remedy = ""
    if all(change.added for change in differences):
        # The program writes the fields that it declares, and leaves alone what others added.
        remedy = f"{environment.kubectl} edit {kind.lower()} {name}"
        if namespace:
            remedy = environment.kubectl_in(namespace, f"edit {kind.lower()} {name}")
    edited = not hidden and any(change.manager for change in differences)
    page, severity = "not-as-declared", Severity.WARNING
    if edited and kind in _LEADS_USERS:
        severity = Severity.ERROR
    if kind == _POLICY:
        page, severity = "network-policy-changed", Severity.ERROR
    text = f"{where} is not as declared: {drift.listing(differences)}"
    yield Problem(text, page, remedy, severity=severity, may_explain=True, hidden=hidden)

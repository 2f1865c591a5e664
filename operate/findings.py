"""What a check says, and how findings with one cause become one."""

import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .declared import Declared
from .view import View

RUNBOOK = "docs/runbook.md"


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    """It has to be mended."""
    UNKNOWN = "unknown"
    """It could not be looked at."""
    WARNING = "warning"
    """It works, but with less reserve than declared."""
    PROGRESS = "progress"
    """It is changing and within its time; look again later."""
    SKIPPED = "skipped"
    """A look beyond the read role that was not taken; the report lists it apart, as no finding."""


def error_unless(*, changing: bool) -> Severity:
    """The severity of what is an error once its time is over."""
    return Severity.PROGRESS if changing else Severity.ERROR


@dataclass(frozen=True)
class Problem:
    """One thing that a check saw."""

    message: str
    """A sentence without a secret in it: what is wrong, with names and numbers."""
    anchor: str
    """The section of docs/runbook.md that explains it."""
    remedy: str
    """A command for the person who reads this: it mends the fault, or shows what to decide."""
    severity: Severity = Severity.ERROR
    causes: tuple[str, ...] | None = None
    """The checks whose failure would explain this one; the check's own dependencies when None."""


def skip(reason: str) -> Problem:
    """A look that is not taken: what it takes. No finding, and the report lists it apart."""
    return Problem(reason, "looks-beyond-the-read-role", "", severity=Severity.SKIPPED)


@dataclass(frozen=True)
class Environment:
    """What every check gets."""

    declared: Declared
    view: View
    kubectl: str
    """The command that reaches this cluster, for remedies; doctor does not run it."""

    def make(self, target: str) -> str:
        """A make command for this stack."""
        return f"make {target} STACK={self.declared.stack}"

    def kubectl_in(self, namespace: str, command: str) -> str:
        """A kubectl command in a namespace of this cluster."""
        return f"{self.kubectl} -n {namespace} {command}"


@dataclass(frozen=True)
class Check:
    """One question about an environment."""

    name: str
    """`vault.sealed`: its layer, and what it looks at."""
    description: str
    """What holds when it passes."""
    depends_on: tuple[str, ...]
    """Checks whose failure explains a failure of this one."""
    look: Callable[[Environment], Awaitable[Sequence[Problem]]]

    @property
    def layer(self) -> str:
        """The part of the dependency picture that it belongs to."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Finding:
    """A problem with its place, and the findings that it explains."""

    check: str
    layer: str
    severity: Severity
    message: str
    runbook: str
    remedy: str
    consequences: tuple["Finding", ...] = ()


def fold(checks: Sequence[Check], problems: Mapping[str, Sequence[Problem]]) -> list[Finding]:
    """Findings in the order of the checks, each consequence beneath its root cause.

    A problem is a consequence when a check that it depends on, directly or not, has an error.
    """
    order = {check.name: check for check in checks}
    failed = {name for name, reported in problems.items() if _has_error(reported)}
    roots: list[Finding] = []
    beneath: dict[str, list[Finding]] = {}
    for check in checks:
        for problem in problems.get(check.name, ()):
            finding = _finding(check, problem)
            cause = _root(check.name, problem, order, failed, problems)
            if cause is None:
                roots.append(finding)
            else:
                beneath.setdefault(cause, []).append(finding)
    return _attached(roots, beneath)


def _has_error(problems: Sequence[Problem]) -> bool:
    return any(problem.severity is Severity.ERROR for problem in problems)


def _attached(roots: Sequence[Finding], beneath: Mapping[str, list[Finding]]) -> list[Finding]:
    """One finding for each kind; the others of its kind hang beneath it.

    Consequences hang on the first error of their root's check.
    """
    attached: list[Finding] = []
    explaining: set[str] = set()
    for first in roots:
        kind = _kind(first)
        if kind in [_kind(item) for item in attached]:
            continue
        alike = [item for item in roots if _kind(item) == kind][1:]
        if first.severity is Severity.ERROR and first.check not in explaining:
            explaining.add(first.check)
            alike += beneath.get(first.check, [])
        attached.append(dataclasses.replace(first, consequences=tuple(alike)))
    return sorted(attached, key=lambda finding: list(Severity).index(finding.severity))


def _kind(finding: Finding) -> tuple[str, str, Severity]:
    """What is told once: a slow API server or a missing right is one finding for all checks."""
    check = "" if finding.severity is Severity.UNKNOWN else finding.check
    return check, finding.runbook, finding.severity


def _root(
    name: str,
    problem: Problem,
    order: Mapping[str, Check],
    failed: set[str],
    problems: Mapping[str, Sequence[Problem]],
) -> str | None:
    """The first check in the table's order whose error is a root and explains this problem."""
    direct = order[name].depends_on if problem.causes is None else problem.causes
    reached: set[str] = set()
    waiting = list(direct)
    while waiting:
        current = waiting.pop()
        if current in order and current not in reached and current != name:
            reached.add(current)
            waiting += order[current].depends_on
    for candidate in order:
        if candidate in reached & failed and _is_root(candidate, order, failed, problems):
            return candidate
    return None


def _is_root(
    name: str,
    order: Mapping[str, Check],
    failed: set[str],
    problems: Mapping[str, Sequence[Problem]],
) -> bool:
    errors = [item for item in problems[name] if item.severity is Severity.ERROR]
    return any(_root(name, item, order, failed, problems) is None for item in errors)


def _finding(check: Check, problem: Problem) -> Finding:
    return Finding(
        check=check.name,
        layer=check.layer,
        severity=problem.severity,
        message=problem.message,
        runbook=f"{RUNBOOK}#{problem.anchor}",
        remedy=problem.remedy,
    )

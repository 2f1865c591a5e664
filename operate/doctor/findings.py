"""What a check says, and how findings with one cause become one."""

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from operate.declared import Declared
from operate.view import View

RUNBOOK = "docs/runbook.md"

CLUSTER = ("cluster.reachable", "cluster.namespaces")
"""What every check of an object in a namespace depends on."""


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
    PENDING = "pending"
    """The stack's file asks for it and no update has applied it yet. It explains no other finding,
    and none explains it."""
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
    remedy: str = ""
    """A command for the person who reads this: it mends the fault, or shows what to decide. Empty:
    `make refresh`, which writes everything as it is declared."""
    severity: Severity = Severity.ERROR
    causes: tuple[str, ...] | None = None
    """The checks whose failure would explain this one; the check's own dependencies when None."""
    may_explain: bool = False
    """Whether this warning is an error once a check that names its own as a cause has one: a field
    that somebody changed may be harmless, and is the cause of what fails behind it."""
    hidden: bool = False
    """Whether it is told only then."""


def skip(reason: str) -> Problem:
    """A look that is not taken: what it takes. No finding, and the report lists it apart."""
    return Problem(reason, "looks-beyond-the-read-role", severity=Severity.SKIPPED)


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

    def setting(self, path: str, value: object) -> str:
        """A command that changes a setting in this stack's file."""
        stack = self.declared.stack
        return f"pulumi config set --stack {stack} --path shlink:{path} {value}"

    def kubectl_in(self, namespace: str, command: str) -> str:
        """A kubectl command in a namespace of this cluster."""
        return f"{self.kubectl} -n {namespace} {command}"

    def chart_again(self, namespace: str, release: str) -> str:
        """A command that makes what a chart installed as it was; an update would see no change."""
        helm = self.kubectl.replace("kubectl", "helm", 1).replace("--context", "--kube-context", 1)
        helm = f"{helm} -n {namespace}"
        revision = f"$({helm} history {release} --max 1 | awk 'END {{print $1}}')"
        return f"{helm} rollback {release} {revision}"


Look = Callable[[Environment], AsyncIterator[Problem]]
"""What a check does. Raises LookError; AbsentError: there is nothing to look at."""

Decorator = Callable[[Look], Look]


@dataclass(frozen=True)
class Check:
    """One question about an environment."""

    name: str
    """`vault.sealed`: its layer, and what it looks at."""
    description: str
    """What holds when it passes."""
    depends_on: tuple[str, ...]
    """Checks whose failure explains a failure of this one."""
    look: Look

    @property
    def layer(self) -> str:
        """The part of the dependency picture that it belongs to."""
        return self.name.partition(".")[0]


class Checks(list[Check]):
    """Checks of one layer, in the order in which they are defined."""

    def check(self, name: str, description: str, *, after: tuple[str, ...] = ()) -> Decorator:
        """Add a function as the check of this name, with what holds when it passes.

        `after`: the checks whose failure explains a failure of this one.
        """

        def add(look: Look) -> Look:
            self.append(Check(name, description, after, look))
            return look

        return add


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


_EXPLAINING = (Severity.ERROR, Severity.PROGRESS)


def fold(checks: Sequence[Check], problems: Mapping[str, Sequence[Problem]]) -> list[Finding]:
    """Findings in the order of the checks, each consequence beneath its root cause.

    A problem is a consequence when a check that it depends on, directly or not, has an error. Where
    none has, but one is changing within its time, an error is part of that change.
    """
    graph = _Graph(checks, problems)
    roots: list[Finding] = []
    beneath: dict[str, list[Finding]] = {}
    for check in checks:
        for problem in graph.problems.get(check.name, ()):
            if problem.severity is Severity.PENDING:
                roots.append(_finding(check, problem))
                continue
            cause = graph.root(check.name, problem)
            change = graph.behind(cause) if cause else graph.change(check.name, problem)
            finding = _finding(check, problem)
            if change:
                cause = change
                if problem.severity is Severity.ERROR:
                    finding = dataclasses.replace(finding, severity=Severity.PROGRESS)
            if cause is None:
                roots.append(finding)
            else:
                beneath.setdefault(cause, []).append(finding)
    return _attached(roots, beneath)


def suspected(
    checks: Sequence[Check], problems: Mapping[str, Sequence[Problem]]
) -> dict[str, Sequence[Problem]]:
    """The problems; those that may explain an error are errors where one needs an explanation."""
    suspects = _Graph(checks, problems).suspects()
    judged: dict[str, Sequence[Problem]] = {}
    for name, items in problems.items():
        kept: list[Problem] = []
        for problem in items:
            if problem.may_explain and name in suspects:
                kept.append(dataclasses.replace(problem, severity=Severity.ERROR))
            elif not problem.hidden:
                kept.append(problem)
        judged[name] = kept
    return judged


class _Graph:
    """What explains what, among the problems of one look."""

    def __init__(self, checks: Sequence[Check], problems: Mapping[str, Sequence[Problem]]) -> None:
        self.problems = problems
        self._order = {check.name: check for check in checks}
        self._failed = self._with(Severity.ERROR)
        self._changing = self._with(Severity.PROGRESS)

    def _with(self, severity: Severity) -> set[str]:
        """The checks that report a problem of this severity."""
        names: set[str] = set()
        for name, items in self.problems.items():
            if severity in [problem.severity for problem in items]:
                names.add(name)
        return names

    def root(self, name: str, problem: Problem) -> str | None:
        """The first check in the table's order whose error is a root and explains this problem."""
        for candidate in self._causes(name, problem):
            if candidate in self._failed and self._is_root(candidate):
                return candidate
        return None

    def change(self, name: str, problem: Problem) -> str | None:
        """The first check whose change within its time explains this problem."""
        if problem.severity not in _EXPLAINING:
            return None
        for candidate in self._causes(name, problem):
            if candidate in self._changing and self._is_change(candidate):
                return candidate
        return None

    def behind(self, cause: str) -> str | None:
        """The change within its time that explains all errors of a root; None: one is its own."""
        first: str | None = None
        for item in self.problems[cause]:
            if item.severity is Severity.ERROR and self.root(cause, item) is None:
                change = self.change(cause, item)
                if change is None:
                    return None
                first = first or change
        return first

    def suspects(self) -> set[str]:
        """The checks with a warning that may explain an error that nothing else explains.

        Only a direct cause: where a check between the two passes, what it looks at is well.
        """
        names: set[str] = set()
        for name in self._failed:
            for problem in self.problems[name]:
                if problem.severity is Severity.ERROR and self.root(name, problem) is None:
                    direct = self._direct(name, problem)
                    names |= {cause for cause in direct if self._may_explain(cause)}
        return names

    def _may_explain(self, name: str) -> bool:
        return any(problem.may_explain for problem in self.problems.get(name, ()))

    def _is_root(self, name: str) -> bool:
        errors = [item for item in self.problems[name] if item.severity is Severity.ERROR]
        return any(self.root(name, item) is None for item in errors)

    def _is_change(self, name: str) -> bool:
        """Whether a check has a change that nothing else explains."""
        changes = [item for item in self.problems[name] if item.severity is Severity.PROGRESS]
        own = [item for item in changes if self.root(name, item) is None]
        return any(self.change(name, item) is None for item in own)

    def _direct(self, name: str, problem: Problem) -> tuple[str, ...]:
        return self._order[name].depends_on if problem.causes is None else problem.causes

    def _causes(self, name: str, problem: Problem) -> list[str]:
        """All checks that would explain a problem, in the table's order."""
        reached: set[str] = set()
        waiting = list(self._direct(name, problem))
        while waiting:
            current = waiting.pop()
            if current in self._order and current not in reached and current != name:
                reached.add(current)
                waiting += self._order[current].depends_on
                # What explains its error explains what follows from that.
                for item in self.problems.get(current, ()):
                    waiting += item.causes or () if item.severity is Severity.ERROR else ()
        return [candidate for candidate in self._order if candidate in reached]


def _attached(roots: Sequence[Finding], beneath: Mapping[str, list[Finding]]) -> list[Finding]:
    """One finding for each kind; the others of its kind hang beneath it.

    Consequences hang on the first error of their root's check, or on its first change.
    """
    attached: list[Finding] = []
    explaining: set[str] = set()
    kinds: set[tuple[str, str, Severity]] = set()
    by_weight = sorted(roots, key=lambda finding: list(Severity).index(finding.severity))
    for first in by_weight:
        kind = _kind(first)
        if kind in kinds:
            continue
        kinds.add(kind)
        alike = [item for item in roots if _kind(item) == kind][1:]
        if first.severity in _EXPLAINING and first.check not in explaining:
            explaining.add(first.check)
            alike += beneath.get(first.check, [])
        attached.append(dataclasses.replace(first, consequences=tuple(alike)))
    return attached


def _kind(finding: Finding) -> tuple[str, str, Severity]:
    """What is told once: a slow API server or a missing right is one finding for all checks."""
    check = "" if finding.severity is Severity.UNKNOWN else finding.check
    return check, finding.runbook, finding.severity


def _finding(check: Check, problem: Problem) -> Finding:
    return Finding(
        check=check.name,
        layer=check.layer,
        severity=problem.severity,
        message=problem.message,
        runbook=f"{RUNBOOK}#{problem.anchor}",
        remedy=problem.remedy,
    )

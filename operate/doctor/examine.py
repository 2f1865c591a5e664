"""`make doctor`: finds what is wrong with an environment, its cause, and the command that mends it.

Read-only. It needs the rights of deploy/rbac/doctor.yaml and no others, and never reads a Secret.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from components.cluster.access import ClusterAccess, disconnect, why
from operate.declared import Declared
from operate.view import AbsentError, ForbiddenError, LookError, NotServedError, SkippedError, View

from .checks import CHECKS
from .findings import Check, Environment, Finding, Problem, Severity, fold, skip, suspected

HEALTHY, ILL, BLIND = 0, 1, 2
"""Exit codes: nothing to mend; something to mend; it could not look."""

CONFIRM_SECONDS = 3.0
"""Seconds after which an error is looked at again, so that a passing state is no finding."""

LAYER_PATIENCE = 5.0
"""Seconds that a layer may take to answer."""


@dataclass(frozen=True)
class Skip:
    """A look beyond doctor's own role that was not taken."""

    check: str
    reason: str
    """What it takes."""


@dataclass(frozen=True)
class Report:
    """What one run of doctor knows."""

    stack: str
    context: str
    findings: Sequence[Finding]
    passed: Sequence[str]
    """Names of the checks that found nothing."""
    seconds: float
    version: str = ""
    """Of the API server."""
    skipped: Sequence[Skip] = ()
    checks: Sequence[Check] = field(default=CHECKS, repr=False)

    @property
    def exit_code(self) -> int:
        """0: nothing to mend. 1: something to mend. 2: it could not look."""
        severities = {finding.severity for finding in self.findings}
        if any(finding.check == "cluster.reachable" for finding in self.findings):
            return BLIND
        if Severity.ERROR in severities:
            return ILL
        return BLIND if Severity.UNKNOWN in severities else HEALTHY

    def as_json(self) -> dict[str, Any]:
        """For scripts; the keys are a promise."""
        return {
            "stack": self.stack,
            "context": self.context,
            "kubernetes": self.version,
            "exitCode": self.exit_code,
            "seconds": round(self.seconds, 1),
            "findings": [_plain(finding) for finding in self.findings],
            "passed": list(self.passed),
            "skipped": [dataclasses.asdict(skip) for skip in self.skipped],
        }


def _plain(finding: Finding) -> dict[str, Any]:
    fields = dataclasses.asdict(finding)
    fields["consequences"] = [_plain(item) for item in finding.consequences]
    return fields


Connect = Callable[[], Awaitable[Any]]


async def examine(
    declared: Declared,
    access: ClusterAccess,
    *,
    confirm: float = CONFIRM_SECONDS,
    checks: Sequence[Check] = CHECKS,
    progress: Callable[[str], object] = lambda _: None,
    ahead: timedelta = timedelta(0),
) -> Report:
    """Look at an environment, and a second time where the first look finds an error or a warning.

    `ahead`: look as if it were that much later, so that what is still starting counts as late.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    progress(f"connecting to {declared.cluster.context}")
    api: Any = None
    try:
        async with asyncio.timeout(LAYER_PATIENCE):
            api = await access.client()
    # A kubeconfig, a credential plugin or an API server can fail in any way.
    except Exception as error:  # noqa: BLE001
        return _unreachable(declared, access, error, loop.time() - started)
    try:
        progress("looking")
        view, problems = await _look(declared, access, api, checks, ahead)
        if confirm and _weighty(problems):
            progress("looking again, so that a passing state is no finding")
            await asyncio.sleep(confirm)
            view, later = await _look(declared, access, api, checks, ahead)
            problems = _confirmed(problems, later)
        version = await _version(view)
    finally:
        await disconnect(api)
    problems, skipped = _without_skips(problems)
    problems = suspected(checks, problems)
    skipped_checks = {skip.check for skip in skipped}
    quiet = [check.name for check in checks if not problems[check.name]]
    return Report(
        stack=declared.stack,
        context=declared.cluster.context,
        findings=fold(checks, problems),
        passed=[name for name in quiet if name not in skipped_checks],
        seconds=loop.time() - started,
        version=version,
        skipped=skipped,
        checks=checks,
    )


def _without_skips(
    problems: Mapping[str, Sequence[Problem]],
) -> tuple[dict[str, Sequence[Problem]], list[Skip]]:
    """The problems, and apart from them what was not looked at."""
    seen: dict[str, Sequence[Problem]] = {}
    skipped: list[Skip] = []
    for name, items in problems.items():
        seen[name] = [item for item in items if item.severity is not Severity.SKIPPED]
        skipped += [Skip(name, item.message) for item in items if item not in seen[name]]
    return seen, skipped


async def _look(
    declared: Declared, access: ClusterAccess, api: Any, checks: Sequence[Check], ahead: timedelta
) -> tuple[View, dict[str, Sequence[Problem]]]:
    view = View(api)
    view.now += ahead
    environment = Environment(declared, view, access.kubectl)
    results = await asyncio.gather(*(_run(check, environment) for check in checks))
    problems = dict(zip((check.name for check in checks), results, strict=True))
    return view, problems


async def _run(check: Check, environment: Environment) -> Sequence[Problem]:
    problems: list[Problem] = []
    try:
        async with asyncio.timeout(LAYER_PATIENCE):
            async for problem in check.look(environment):
                # What was seen before an error counts.
                problems.append(_mended(environment, problem))  # noqa: PERF401
    except AbsentError:
        pass
    except (LookError, TimeoutError) as error:
        problems.append(_blind(check, environment, error))
    # What no check has foreseen must not take away what the others see.
    except Exception as error:  # noqa: BLE001
        text = f"{check.description}: doctor can't judge what it sees ({type(error).__name__})"
        remedy = environment.make("drift")
        problems.append(Problem(text, "look-failed", remedy, severity=Severity.UNKNOWN))
    return problems


def _mended(environment: Environment, problem: Problem) -> Problem:
    """The problem with its command."""
    if problem.remedy or problem.severity is Severity.SKIPPED:
        return problem
    return dataclasses.replace(problem, remedy=environment.make("refresh"))


def _blind(check: Check, environment: Environment, error: Exception) -> Problem:
    """Why a check could not look."""
    if isinstance(error, SkippedError):
        return skip(str(error))
    reason = str(error) or f"no answer within {LAYER_PATIENCE:g} s"
    text, severity = f"{check.description}: {reason}", Severity.UNKNOWN
    causes: tuple[str, ...] = ("cluster.reachable",)
    page, remedy = "cluster-unreachable", f"{environment.kubectl} version"
    if isinstance(error, NotServedError):
        page, remedy = "custom-resource-missing", environment.make("refresh")
        severity, causes = Severity.ERROR, ("cluster.kinds", *causes)
    elif isinstance(error, ForbiddenError):
        page, remedy = "rights-missing", "kubectl apply -f deploy/rbac/doctor.yaml"
    elif check.name == "cluster.reachable":
        severity, causes = Severity.ERROR, ()
    return Problem(text, page, remedy, severity=severity, causes=causes)


def _severities(problems: Sequence[Problem]) -> set[Severity]:
    return {problem.severity for problem in problems if not problem.hidden}


def _weighty(problems: Mapping[str, Sequence[Problem]]) -> bool:
    """Whether any check has an error or a warning."""
    severities = [_severities(items) for items in problems.values()]
    return any(item & {Severity.ERROR, Severity.WARNING} for item in severities)


def _confirmed(
    first: Mapping[str, Sequence[Problem]], later: Mapping[str, Sequence[Problem]]
) -> dict[str, Sequence[Problem]]:
    """The later look, its errors only where a check had an error before, or could not look.

    So with warnings, which may take the place of an error.
    """
    confirmed: dict[str, Sequence[Problem]] = {}
    for name, items in later.items():
        before = _severities(first[name])
        kept: list[Problem] = []
        for problem in items:
            severity = problem.severity
            needed = {Severity.ERROR, Severity.UNKNOWN}
            if severity is Severity.WARNING:
                needed.add(Severity.WARNING)
            weighty = severity in (Severity.ERROR, Severity.WARNING) and not problem.hidden
            if weighty and not needed & before:
                severity = Severity.PROGRESS
            kept.append(dataclasses.replace(problem, severity=severity))
        confirmed[name] = kept
    return confirmed


async def _version(view: View) -> str:
    try:
        reply = await view.reply("/version")
    except LookError:
        return ""
    return str(reply.fields.get("gitVersion", ""))


def _unreachable(
    declared: Declared, access: ClusterAccess, error: Exception, seconds: float
) -> Report:
    finding = Finding(
        check="cluster.reachable",
        layer="cluster",
        severity=Severity.ERROR,
        message=f"the cluster of context {declared.cluster.context} can't be reached: {why(error)}",
        runbook="docs/runbook.md#cluster-unreachable",
        remedy=f"{access.kubectl} version",
    )
    return Report(
        stack=declared.stack,
        context=declared.cluster.context,
        findings=[finding],
        passed=[],
        seconds=seconds,
    )

"""How doctor's report looks to a person; colours and progress are for a terminal only."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from offline.terminal import hanging

from .examine import Report
from .findings import Finding, Severity

_MARKS = {
    Severity.ERROR: ("FAIL", "bold red"),
    Severity.UNKNOWN: ("????", "magenta"),
    Severity.WARNING: ("WARN", "yellow"),
    Severity.PROGRESS: ("wait", "cyan"),
    Severity.PENDING: ("todo", "blue"),
}


def show(report: Report, console: Console) -> None:
    """Print the layers, then each finding with its consequences, its page and its command.

    Where no check could look, the layers and the consequences would say nothing.
    """
    if report.passed:
        _layers(report, console)
    for finding in report.findings:
        mark, colour = _MARKS[finding.severity]
        message = _wrapped(f"{mark} ", finding.message, console)
        _print(message.replace(mark, f"[{colour}]{mark}[/]", 1), console)
        if finding.severity is not Severity.PROGRESS:
            # A command and an address stay whole, for whoever copies them.
            _print(f"     run   {escape(finding.remedy)}", console)
            _print(f"     read  {finding.runbook}", console)
        if report.passed:
            _consequences(finding.consequences, console)
        _print("", console)
    _skipped(report, console)
    _print(_wrapped("", _summary(report), console), console)


def _print(text: str, console: Console) -> None:
    console.print(text, soft_wrap=True)


def _wrapped(lead: str, text: str, console: Console) -> str:
    return escape(hanging(lead, text, console.width))


def _skipped(report: Report, console: Console) -> None:
    """One line for each reason, with the checks that it keeps from looking."""
    names: dict[str, list[str]] = {}
    for skip in report.skipped:
        names.setdefault(skip.reason, []).append(skip.check)
    for reason, checks in names.items():
        _print(_wrapped("skip ", f"{', '.join(checks)}: {reason}", console), console)
        _print("", console)


def _layers(report: Report, console: Console) -> None:
    failed: dict[str, Severity] = {}
    for finding in _flat(report.findings):
        failed.setdefault(finding.check, finding.severity)
    layers: dict[str, list[str]] = {}
    for check in report.checks:
        severity = failed.get(check.name)
        mark, colour = _MARKS[severity] if severity else ("ok", "green")
        if not severity and check.name not in report.passed:
            mark, colour = "-", "dim"
        line = _wrapped(f"  {mark:4} ", check.description, console)
        layers.setdefault(check.layer, []).append(line.replace(mark, f"[{colour}]{mark}[/]", 1))
    for layer, lines in layers.items():
        _print(f"[bold]{layer}[/]", console)
        for line in lines:
            _print(line, console)
    _print("", console)


def _flat(findings: Sequence[Finding]) -> list[Finding]:
    flat: list[Finding] = []
    for finding in findings:
        flat += [finding, *_flat(finding.consequences)]
    return flat


def _consequences(consequences: Sequence[Finding], console: Console) -> None:
    if not consequences:
        return
    _print(f"     so    {len(consequences)} more:", console)
    for finding in consequences:
        _print(_wrapped("           - ", finding.message, console), console)


def _summary(report: Report) -> str:
    counts: list[str] = []
    for severity, noun in (
        (Severity.ERROR, "to mend"),
        (Severity.UNKNOWN, "not looked at"),
        (Severity.WARNING, "to know"),
        (Severity.PROGRESS, "under way"),
        (Severity.PENDING, "not applied yet"),
    ):
        number = len([item for item in report.findings if item.severity is severity])
        if number:
            counts.append(f"{number} {noun}")
    told = ", ".join(counts) or "nothing to mend"
    where = f"stack {report.stack}, context {report.context}"
    version = f", Kubernetes {report.version}" if report.version else ""
    return f"{told} ({len(report.passed)} checks passed; {where}{version}; {report.seconds:.1f} s)"

"""How doctor's report looks to a person; colours and progress are for a terminal only."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

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
    """Print the layers, then each finding with its consequences, its page and its command."""
    _layers(report, console)
    for finding in report.findings:
        mark, colour = _MARKS[finding.severity]
        console.print(f"\n[{colour}]{mark}[/] {escape(finding.message)}", soft_wrap=True)
        if finding.severity is not Severity.PROGRESS:
            console.print(f"     run   {escape(finding.remedy)}", soft_wrap=True)
            console.print(f"     read  {finding.runbook}", soft_wrap=True)
        _consequences(finding.consequences, console)
    _skipped(report, console)
    console.print(f"\n{_summary(report)}", soft_wrap=True)


def _skipped(report: Report, console: Console) -> None:
    """One line for each reason, with the checks that it keeps from looking."""
    names: dict[str, list[str]] = {}
    for skip in report.skipped:
        names.setdefault(skip.reason, []).append(skip.check)
    for reason, checks in names.items():
        console.print(f"\nskip {', '.join(checks)}: {escape(reason)}", soft_wrap=True)


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
        line = f"  [{colour}]{mark:4}[/] {check.description}"
        layers.setdefault(check.layer, []).append(line)
    for layer, lines in layers.items():
        console.print(f"[bold]{layer}[/]")
        for line in lines:
            console.print(line, soft_wrap=True)


def _flat(findings: Sequence[Finding]) -> list[Finding]:
    flat: list[Finding] = []
    for finding in findings:
        flat += [finding, *_flat(finding.consequences)]
    return flat


def _consequences(consequences: Sequence[Finding], console: Console) -> None:
    if not consequences:
        return
    console.print(f"     so    {len(consequences)} more:", soft_wrap=True)
    for finding in consequences:
        console.print(f"           - {escape(finding.message)}", soft_wrap=True)


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

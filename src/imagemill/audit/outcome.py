"""What an audit says in the end: one line, or why the run must stop."""

from pathlib import Path

from imagemill.audit.report import AuditReport
from imagemill.audit.verdicts import Actions
from imagemill.errors import BudgetError, SourceError
from imagemill.params import AuditParams


def fault_of(
    report: AuditReport, params: AuditParams, *, where: Path
) -> BudgetError | SourceError | None:
    """Why the run must stop, if it must.

    Args:
        report: Everything that was found.
        params: Budget and actions.
        where: What lists all unfit images.
    """
    first = ", ".join(f"{row['key']} ({row['check']})" for row in report.first_quarantined[:5])
    listed = f"all of them with reasons are in {where}"
    actions = Actions(params.checks).by_check
    failing = {
        name: count
        for name, count in report.quarantined_by_check.items()
        if actions[name] == "fail"
    }
    if failing:
        told = ", ".join(f"{name} {count:,}" for name, count in failing.items())
        return BudgetError(
            f"audit.checks has action fail for what was found ({told}); of the images left out "
            f"these are the first: {first}; {listed}"
        )
    if report.num_quarantined > report.quarantine_budget * report.num_images:
        return BudgetError(
            f"{report.num_quarantined:,} of {report.num_images:,} images are unfit, more than "
            f"audit.quarantine_budget allows ({report.quarantine_budget:.1%}): {first}"
            f"{', ...' if report.num_quarantined > 5 else ''}; {listed}"
        )
    if len(report.classes) < 2:
        left = ", ".join(report.classes) or "none"
        return SourceError(f"after the audit fewer than two classes have images (left: {left})")
    stopping = [
        f"{finding.check}: {finding.told}" for finding in report.whole if finding.action == "fail"
    ]
    if stopping:
        return BudgetError(
            f"audit.checks has action fail for what was found; {'; '.join(stopping)}"
        )
    return None


def told_of(report: AuditReport) -> str:
    """One line for whoever watches the run."""
    quarantined = _counted(report.quarantined_by_check)
    warned = _counted(report.warned_by_check)
    whole = ", ".join(finding.check for finding in report.whole)
    return (
        f"audit: {report.num_kept:,} of {report.num_images:,} images kept, "
        f"{report.num_quarantined:,} quarantined"
        + (f" ({quarantined})" if quarantined else "")
        + (f"; warnings: {warned}" if warned else "")
        + (f"; of the whole: {whole}" if whole else "")
    )


def _counted(checks: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in checks.items())

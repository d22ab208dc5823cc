"""Checks of the data set as a whole: a class is too small, too rare or too much alike."""

from collections.abc import Callable

from imagemill.audit.report import AuditReport, WholeFinding
from imagemill.params import ChecksParams

_NAMED = 5


def class_balance(report: AuditReport, limits: ChecksParams) -> str | None:
    """The largest class beside the smallest."""
    by_size = sorted(report.classes, key=lambda name: (report.classes[name], name))
    smallest, largest = by_size[0], by_size[-1]
    ratio = report.classes[largest] / report.classes[smallest]
    most = limits.class_balance.max_ratio
    if ratio <= most:
        return None
    return (
        f"{largest} has {ratio:.1f} times as many images as {smallest} "
        f"({report.classes[largest]:,} and {report.classes[smallest]:,}), more than {most:g}"
    )


def class_volume(report: AuditReport, limits: ChecksParams) -> str | None:
    """Classes that are too small to learn or to measure."""
    least = limits.class_volume.min_images
    small = {name: count for name, count in report.classes.items() if count < least}
    return _told(small, f"fewer than {least} images") if small else None


def diversity(report: AuditReport, limits: ChecksParams) -> str | None:
    """Classes whose images are all alike."""
    least = limits.diversity.min_spread
    alike = {n: spread for n, spread in report.diversity.least_by_class.items() if spread < least}
    return _told(alike, f"a spread of descriptors below {least:g}") if alike else None


def _told(classes: dict[str, float] | dict[str, int], what: str) -> str:
    worst = sorted(classes, key=lambda name: (classes[name], name))
    named = ", ".join(f"{name} ({classes[name]:g})" for name in worst[:_NAMED])
    more = f" and {len(worst) - _NAMED} more" if len(worst) > _NAMED else ""
    return f"{what}: {named}{more}"


WHOLE_CHECKS: dict[str, Callable[[AuditReport, ChecksParams], str | None]] = {
    "class_balance": class_balance,
    "class_volume": class_volume,
    "diversity": diversity,
}


def judge_whole(report: AuditReport, limits: ChecksParams) -> list[WholeFinding]:
    """What the checks of the whole find in a report; no class, no finding."""
    if not report.classes:
        return []
    told = {name: check(report, limits) for name, check in WHOLE_CHECKS.items()}
    return [
        WholeFinding(check=name, action=getattr(limits, name).action, told=text)
        for name, text in told.items()
        if text is not None
    ]

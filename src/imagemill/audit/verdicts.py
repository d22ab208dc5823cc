"""Who stays, who goes and who is only told of: findings of all checks under one order.

N rows of a part of the manifest. An image leaves once, under the first check that says so; of one
that stays all warnings are told.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.audit.checks import CHECKS, Batch
from imagemill.audit.columns import is_dropped
from imagemill.audit.relations import NO_TWIN, Relations
from imagemill.params import ChecksParams

# What keeps an image from being decoded; all of it is the check `unreadable`.
FAULTS = ("zero_byte", "over_large", "corrupt", "truncated", "timeout", "unsupported")
REVIEWED = "reviewed"


class Actions:
    """What each check does with what it finds."""

    def __init__(self, checks: ChecksParams) -> None:
        sections = {name: getattr(checks, name).action for name in ChecksParams.model_fields}
        faults = dict.fromkeys(FAULTS, checks.unreadable.action)
        self.by_check: dict[str, str] = sections | faults | {REVIEWED: "quarantine"}

    def leaves(self, check: str) -> bool:
        """Whether an image with such a finding leaves the data set."""
        return self.by_check[check] != "warn"


class Finding(NamedTuple):
    """One image and what is wrong with it."""

    row: int  # of the part
    check: str
    reason: str
    severity: float = 0.0
    twin: int = NO_TWIN  # row of the manifest that has to do with it


class Verdicts(NamedTuple):
    """Findings of one part, by row."""

    leaving: list[Finding]  # one an image
    warned: list[Finding]  # of images that stay


def judge(
    batch: Batch,
    reasons: dict[int, str],
    *,
    start: int,
    exact: Relations,
    near: Relations,
    checks: ChecksParams,
    actions: Actions,
) -> Verdicts:
    """Apply all checks to a part of the manifest.

    Args:
        batch: Its rows, the first being row `start` of the manifest, and their facts.
        reasons: Of faults, by row of the part.
        start: See above.
        exact: What equal images have to do with one another.
        near: What nearly equal images, and groups, have to do with one another.
        checks: Thresholds.
        actions: What follows.
    """
    leaving: dict[int, Finding] = {}
    warned: list[Finding] = []
    found = _all_findings(batch, reasons, start=start, exact=exact, near=near, checks=checks)
    for finding in found:
        if actions.leaves(finding.check):
            leaving.setdefault(finding.row, finding)
        else:
            warned.append(finding)
    staying = [finding for finding in warned if finding.row not in leaving]
    # Stable: the checks of one image stay in their order.
    staying.sort(key=lambda finding: finding.row)
    return Verdicts([leaving[row] for row in sorted(leaving)], staying)


def unfit(batch: Batch, checks: ChecksParams, actions: Actions) -> NDArray[np.bool_]:
    """Which decoded images leave because of what they show."""
    mask_N = np.zeros(len(batch.facts_N), bool)
    for name, check in CHECKS.items():
        if actions.leaves(name):
            mask_N |= check(batch, checks).mask_N
    return mask_N


def _all_findings(
    batch: Batch,
    reasons: dict[int, str],
    *,
    start: int,
    exact: Relations,
    near: Relations,
    checks: ChecksParams,
) -> Iterator[Finding]:
    """In the order in which the first one that lets an image leave gives its name to it."""
    for row in np.flatnonzero(is_dropped(batch.rows)).tolist():
        yield Finding(row, REVIEWED, "labels/review.csv says drop")
    yield from _of(exact, start, len(batch.facts_N))
    for row, reason in reasons.items():
        yield Finding(row, batch.facts_N["fault"][row].decode(), reason)
    yield from _shown(batch, checks)
    yield from _of(near, start, len(batch.facts_N))


def _of(relations: Relations, start: int, count: int) -> Iterator[Finding]:
    for related in relations.within(start, start + count):
        yield Finding(related.row - start, related.check, related.reason, twin=related.twin)


def _shown(batch: Batch, checks: ChecksParams) -> Iterator[Finding]:
    """What the images themselves show."""
    decoded_N = (batch.facts_N["fault"] == b"") & (batch.facts_N["width"] > 0)
    for name, check in CHECKS.items():
        found = check(batch, checks)
        for row in np.flatnonzero(found.mask_N & decoded_N).tolist():
            yield Finding(row, name, found.reason(row), float(found.severity_N[row]))

"""The worst images of each check, remembered while findings stream by."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagemill.audit.checks import Batch
from imagemill.audit.pictures import Place
from imagemill.audit.verdicts import Finding
from imagemill.parquet import read_batches

_PLACE = ("uri", "offset", "size_bytes")


@dataclass(frozen=True)
class Offender:
    """One image, where it lies, and what is wrong with it."""

    key: str
    reason: str
    place: Place
    severity: float
    sha256: str
    twin: int  # row of the manifest, or -1
    decoded: bool  # in a process of its own, so it may be shown

    @property
    def order(self) -> tuple[float, str]:
        return (-self.severity, self.sha256)


class Offenders:
    """Up to `most` images of each check."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._found: dict[str, list[Offender]] = {}

    def add(self, batch: Batch, findings: list[Finding]) -> None:
        """Look at the findings about some rows of the manifest."""
        for finding in findings:
            worst = self._found.setdefault(finding.check, [])
            if len(worst) == self._most and finding.severity < worst[-1].severity:
                continue
            worst.append(_offender(batch, finding))
            worst.sort(key=lambda offender: offender.order)
            del worst[self._most :]

    def worst(self) -> dict[str, list[Offender]]:
        """By check, the worst first."""
        return self._found


def is_decoded(facts: np.void) -> bool:
    """Whether a record is of an image that was decoded."""
    return bool(facts["fault"] == b"" and facts["width"] > 0)


def _offender(batch: Batch, finding: Finding) -> Offender:
    rows, facts = batch.rows, batch.facts_N[finding.row]
    uri, offset, size_bytes = (rows[name][finding.row].as_py() for name in _PLACE)
    return Offender(
        key=rows["key"][finding.row].as_py(),
        reason=finding.reason,
        place=(uri, offset, size_bytes),
        severity=finding.severity,
        sha256=rows["sha256"][finding.row].as_py(),
        twin=finding.twin,
        decoded=is_decoded(facts),
    )


def places_of(manifest: Path, rows: Iterable[int]) -> dict[int, Place]:
    """Where the images of some rows of the manifest lie."""
    wanted = np.array(sorted(rows), np.int64)
    places: dict[int, Place] = {}
    stop = 0
    for batch in read_batches(manifest, list(_PLACE)) if len(wanted) else ():
        start, stop = stop, stop + batch.num_rows
        for row in wanted[slice(*np.searchsorted(wanted, [start, stop]))].tolist():
            uri, offset, size_bytes = (batch[name][row - start].as_py() for name in _PLACE)
            places[row] = (uri, offset, size_bytes)
    return places

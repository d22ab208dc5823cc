"""data/audit/report.html: what was found, with pictures of the worst images of each check."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagemill import pages
from imagemill.audit.offenders import Offender
from imagemill.audit.pictures import Place, thumbnail_uri
from imagemill.audit.report import AuditReport
from imagemill.audit.verdicts import FAULTS
from imagemill.errors import UserError
from imagemill.records import write_bytes
from imagemill.sources import RawReader

_SIDE = 120
# Classes on the page; all of them are in report.json.
_MOST_CLASSES = 60


@dataclass(frozen=True)
class Shown:
    """One image on the page; an unreadable one has no picture."""

    key: str
    reason: str
    picture: str | None  # data URI
    twin: str | None  # data URI of the image it has to do with


@dataclass(frozen=True)
class CheckRow:
    """One check in the table."""

    name: str
    action: str
    thresholds: str
    num_left_out: int
    num_warned: int


def write_page(
    path: Path,
    report: AuditReport,
    worst: Mapping[str, Sequence[Offender]],
    twins: Mapping[int, Place],
    reader: RawReader,
    *,
    pictures: Sequence[Path],
) -> None:
    """Write one file that needs no network; the same findings give the same bytes.

    Args:
        path: Of the page.
        report: Everything that was counted.
        worst: The worst images of each check.
        twins: Where the decoded images lie that others have to do with, by row of the manifest.
        reader: Gives their bytes.
        pictures: PNG files to show: the data set at a glance.
    """
    shown = {
        check: [_shown(offender, twins, reader) for offender in worst[check]]
        for check in _in_order(report, worst)
    }
    page = pages.render(
        "imagemill.audit",
        {"number": "{:,}".format},
        report=report,
        rows=check_rows(report),
        shown=shown,
        counts=report.quarantined_by_check,
        warned=report.warned_by_check,
        classes=sorted(report.classes.items(), key=lambda entry: entry[1])[:_MOST_CLASSES],
        pictures=[(file.stem.replace("_", " "), _png_uri(file)) for file in pictures],
    )
    write_bytes(path, page)


def check_rows(report: AuditReport) -> list[CheckRow]:
    """The checks of params.yaml in their order, with what they found."""
    rows = []
    for name, section in report.checks.items():
        names = FAULTS if name == "unreadable" else (name,)
        limits = {key: value for key, value in section.items() if key != "action"}
        whole = sum(finding.check == name for finding in report.whole)
        rows.append(
            CheckRow(
                name=name,
                action=section["action"],
                thresholds=", ".join(f"{key} {_text(value)}" for key, value in limits.items()),
                num_left_out=sum(report.quarantined_by_check.get(n, 0) for n in names),
                num_warned=sum(report.warned_by_check.get(n, 0) for n in names) + whole,
            )
        )
    return rows


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _in_order(report: AuditReport, worst: Mapping[str, Sequence[Offender]]) -> list[str]:
    """What leaves before what is warned of, each with the rarest first."""
    left, warned = report.quarantined_by_check, report.warned_by_check
    return sorted(
        worst, key=lambda name: (name not in left, left.get(name, warned.get(name)), name)
    )


def _shown(offender: Offender, twins: Mapping[int, Place], reader: RawReader) -> Shown:
    """What was never decoded in a process of its own is not decoded here either."""
    twin = twins.get(offender.twin)
    return Shown(
        key=offender.key,
        reason=offender.reason,
        picture=_thumbnail(offender.place, reader) if offender.decoded else None,
        twin=None if twin is None else _thumbnail(twin, reader),
    )


def _thumbnail(place: Place, reader: RawReader) -> str | None:
    try:
        return thumbnail_uri(reader.read(*place), _SIDE)
    except UserError:
        # The facts are from the cache, the file has gone since: the next stage will say so.
        return None


def _png_uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"

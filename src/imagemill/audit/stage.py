"""The stage `audit`: every image decoded once, the unfit ones set apart with a reason."""

import bisect
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from imagemill.audit.duplicates import Duplicates, find_duplicates
from imagemill.audit.messages import REQUEST_SCHEMA
from imagemill.audit.pictures import Place, draw_class_balance, draw_contact_sheet
from imagemill.audit.pool import DecodingPool
from imagemill.audit.report import AuditReport, Tally
from imagemill.errors import BudgetError, SourceError
from imagemill.params import AuditParams
from imagemill.parquet import RowWriter, read_batches, writing
from imagemill.records import (
    AUDIT,
    KEEP,
    KEEP_SCHEMA,
    MANIFEST,
    QUARANTINE,
    QUARANTINE_SCHEMA,
    STATE,
    publishing,
)
from imagemill.sources import RawReader

REPORT = AUDIT / "report.json"
CONTACT_SHEET = AUDIT / "contact_sheet.png"
CLASS_BALANCE = AUDIT / "class_balance.png"
# Over budget the stage has no output, and this is what there is to look at.
REJECTED = STATE / "audit"

# Enough to make the trip to a worker cheap, few enough to keep all workers busy to the end.
_BATCH_ROWS = 256


def audit(
    root: Path,
    params: AuditParams,
    *,
    log: Callable[[str], None],
    workers: int | None = None,
) -> None:
    """Decode every image of the manifest and write who stays, who goes and why.

    Args:
        root: The project's root.
        params: The section `audit` of params.yaml.
        log: Takes one line for whoever watches the run.
        workers: Decoding processes; None is one a CPU. The result does not depend on it.

    Raises:
        BudgetError: more images are unfit than the budget allows; nothing is written but the
            list of them in `.imagemill/audit/`.
        SourceError: raw images are gone, or fewer than two classes are left.
        DiskError: `data/audit` cannot be written.
    """
    duplicates = find_duplicates(root / MANIFEST)
    tally = Tally()
    picks = _Picks(params.contact_sheet_images)
    rejected = root / REJECTED / "quarantine.parquet"
    with writing(root / KEEP, KEEP_SCHEMA) as keep:
        with (
            writing(rejected, QUARANTINE_SCHEMA) as quarantine,
            DecodingPool(root, params, workers=workers or os.cpu_count() or 1) as pool,
        ):
            for kept, bad in _sorted_out(pool, root / MANIFEST, duplicates):
                _write(keep, kept)
                quarantine.write(bad)
                tally.add_kept(kept)
                tally.add_quarantined(bad)
                picks.add(kept)
        report = tally.report(budget=params.quarantine_budget)
        _check(report, root)
        with RawReader(root) as reader:
            draw_contact_sheet(root / CONTACT_SHEET, picks.chosen(), reader)
        draw_class_balance(root / CLASS_BALANCE, report.classes)
        report.write(root / REPORT)
        with publishing(root / QUARANTINE) as temporary:
            temporary.write_bytes(rejected.read_bytes())
    shutil.rmtree(root / REJECTED)
    log(_told(report))


def _sorted_out(
    pool: DecodingPool, manifest: Path, duplicates: Duplicates
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Kept rows with what was measured, and quarantined rows, both in order of the manifest."""
    for (rows, copies), verdicts in pool.judge(_jobs(manifest, duplicates)):
        fit = pc.is_null(verdicts["check"])
        judged = pa.Table.from_batches([rows.filter(_others(rows, copies))])
        for name in verdicts.schema.names:
            judged = judged.append_column(verdicts.schema.field(name), verdicts[name])
        bad = judged.filter(pc.invert(fit)).select(QUARANTINE_SCHEMA.names).cast(QUARANTINE_SCHEMA)
        yield judged.filter(fit), pa.concat_tables([bad, _quarantined(rows, copies)]).sort_by("key")


Copies = list[tuple[int, str, str]]  # row of the batch, check, reason


def _jobs(
    manifest: Path, duplicates: Duplicates
) -> Iterator[tuple[tuple[pa.RecordBatch, Copies], pa.RecordBatch]]:
    """Batches with their copies of other images, and the rest of them to be decoded."""
    columns = ["key", "uri", "offset", "size_bytes", "sha256", "target", "split"]
    stop = 0
    for rows in read_batches(manifest, columns, batch_rows=_BATCH_ROWS):
        start, stop = stop, stop + rows.num_rows
        copies = [
            (row - start, check, reason) for row, check, reason in duplicates.within(start, stop)
        ]
        request = rows.select(REQUEST_SCHEMA.names).filter(_others(rows, copies))
        yield (rows, copies), request


def _others(rows: pa.RecordBatch, copies: Copies) -> pa.Array:
    mask = np.ones(rows.num_rows, bool)
    mask[[row for row, _, _ in copies]] = False
    return pa.array(mask)


def _quarantined(rows: pa.RecordBatch, copies: Copies) -> pa.Table:
    indices = pa.array([row for row, _, _ in copies], pa.int64())
    return pa.table(
        {
            "key": rows["key"].take(indices),
            "uri": rows["uri"].take(indices),
            "check": [check for _, check, _ in copies],
            "reason": [reason for _, _, reason in copies],
        },
        schema=QUARANTINE_SCHEMA,
    )


def _write(keep: RowWriter, rows: pa.Table) -> None:
    # Near duplicates are not looked for; each image is alone.
    alone = pa.nulls(rows.num_rows, pa.string())
    keep.write(rows.append_column(KEEP_SCHEMA.field("near_group"), alone))


def _check(report: AuditReport, root: Path) -> None:
    if report.num_quarantined > report.quarantine_budget * report.num_images:
        folder = root / REJECTED
        report.write(folder / "report.json")
        with publishing(folder / "quarantine.csv") as temporary:
            pa.csv.write_csv(pq.read_table(folder / "quarantine.parquet"), temporary)
        first = ", ".join(f"{row['key']} ({row['check']})" for row in report.first_quarantined[:5])
        raise BudgetError(
            f"{report.num_quarantined:,} of {report.num_images:,} images are unfit, more than "
            f"audit.quarantine_budget allows ({report.quarantine_budget:.1%}): {first}"
            f"{', ...' if report.num_quarantined > 5 else ''}; all of them with reasons are in "
            f"{REJECTED / 'quarantine.csv'}"
        )
    if len(report.classes) < 2:
        left = ", ".join(report.classes) or "none"
        raise SourceError(f"after the audit fewer than two classes have images (left: {left})")


def _told(report: AuditReport) -> str:
    checks = ", ".join(f"{name} {count:,}" for name, count in report.quarantined_by_check.items())
    return (
        f"audit: {report.num_kept:,} of {report.num_images:,} images kept, "
        f"{report.num_quarantined:,} quarantined" + (f" ({checks})" if checks else "")
    )


class _Picks:
    """A few images of each class for the contact sheet: those with the smallest digests."""

    def __init__(self, num_images: int) -> None:
        self._num_images = num_images
        self._share = num_images  # of one class
        self._found: dict[str, list[tuple[str, Place]]] = {}

    def add(self, rows: pa.Table) -> None:
        """Look at kept rows; only as many as could be chosen are remembered."""
        names = ("target", "sha256", "uri", "offset", "size_bytes")
        for target, sha256, *place in zip(*(rows[n].to_pylist() for n in names), strict=True):
            if target is None:
                continue
            if target not in self._found:
                self._make_room_for(target)
            found = self._found[target]
            if len(found) < self._share or sha256 < found[-1][0]:
                uri, offset, size = place
                bisect.insort(found, (sha256, (uri, offset, size)))
                del found[self._share :]

    def _make_room_for(self, target: str) -> None:
        self._found[target] = []
        self._share = max(1, self._num_images // len(self._found))
        for found in self._found.values():
            del found[self._share :]

    def chosen(self) -> dict[str, list[Place]]:
        """Class name -> places, as evenly over the classes as the number allows."""
        classes = sorted(self._found)[: self._num_images]
        return {name: [place for _, place in self._found[name]] for name in classes}

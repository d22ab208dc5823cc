"""The stage `audit`: every image decoded once in its life, the unfit ones set apart with a reason.

Two passes over the manifest. The first takes facts of each image, from the cache or from a decoding
process; then images are compared with one another; the second applies thresholds and writes.
"""

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from imagemill.audit.cache import CACHE, Cache
from imagemill.audit.checks import Batch
from imagemill.audit.columns import Columns, read_columns
from imagemill.audit.facts import FACTS, plain
from imagemill.audit.gather import Gathered, gather, parts_of
from imagemill.audit.groups import Alike, Groups, grouped
from imagemill.audit.offenders import Offenders, is_decoded, places_of
from imagemill.audit.outcome import fault_of, told_of
from imagemill.audit.page import write_page
from imagemill.audit.picks import Picks
from imagemill.audit.pictures import draw_class_balance, draw_contact_sheet
from imagemill.audit.pool import DecodingPool
from imagemill.audit.relations import NO_TWIN, Relations, exact_relations, near_relations
from imagemill.audit.report import AuditReport, NearGroups
from imagemill.audit.spool import Spool
from imagemill.audit.tables import finding_rows, kept_rows
from imagemill.audit.tally import Tally
from imagemill.audit.verdicts import Actions, judge
from imagemill.audit.whole import judge_whole
from imagemill.collector import collecting_seldom
from imagemill.params import AuditParams
from imagemill.parquet import RowWriter, writing
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
PAGE = AUDIT / "report.html"
WARNINGS = AUDIT / "warnings.parquet"
CONTACT_SHEET = AUDIT / "contact_sheet.png"
CLASS_BALANCE = AUDIT / "class_balance.png"
# Over budget the stage has no output, and this is what there is to look at.
REJECTED = STATE / "audit"
LIST = "quarantine.csv"

_SHOWN_OF_EACH_CHECK = 8


@collecting_seldom()
def audit(
    root: Path,
    params: AuditParams,
    *,
    log: Callable[[str], None],
    workers: int | None = None,
) -> None:
    """Look at every image of the manifest and write who stays, who goes and why.

    Args:
        root: The project's root.
        params: The section `audit` of params.yaml.
        log: Takes one line for whoever watches the run.
        workers: Decoding processes; None is one a CPU. The result does not depend on it.

    Raises:
        BudgetError: more images are unfit than the budget allows, or a check whose action is
            `fail` found something; nothing is written but what was found, in `.imagemill/audit/`.
        SourceError: raw images are gone, or fewer than two classes are left.
        DiskError: `data/audit` or `.imagemill` cannot be written.
    """
    manifest, folder = root / MANIFEST, root / REJECTED
    shutil.rmtree(folder, ignore_errors=True)
    with Spool(folder / "spool") as spool:
        columns, exact, gathered = _first_pass(root, params, spool, workers=workers)
        near = list(Alike(gathered, spool, params.checks.near_duplicate).groups())
        near_related = near_relations(manifest, columns, near)
        groups = grouped(manifest, near, exact, Actions(params.checks))
        del columns
        second = _SecondPass(root, params, exact, near_related, groups)
        with (
            writing(root / KEEP, KEEP_SCHEMA) as keep,
            writing(root / WARNINGS, QUARANTINE_SCHEMA) as warnings,
        ):
            with writing(folder / "quarantine.parquet", QUARANTINE_SCHEMA) as quarantine:
                second.run(spool, keep, quarantine, warnings)
            report = second.report()
            _publish(root, report, second, spool, params)
    shutil.rmtree(folder)
    log(f"{told_of(report)}; decoded {gathered.num_decoded:,}, known {gathered.num_known:,}")


def _first_pass(
    root: Path, params: AuditParams, spool: Spool, *, workers: int | None
) -> tuple[Columns, Relations, Gathered]:
    columns = read_columns(root / MANIFEST)
    exact = exact_relations(root / MANIFEST, columns)
    # From here on digests only take room.
    columns = columns._replace(digest_N2=np.zeros((0, 2), np.uint64))
    with ExitStack() as stack:
        cache = stack.enter_context(Cache(root / CACHE))
        pool = stack.enter_context(
            DecodingPool(root, params, workers=workers or os.cpu_count() or 1)
        )
        gathered = gather(root / MANIFEST, params, exact, cache=cache, pool=pool, spool=spool)
    spool.rewind()
    return columns, exact, gathered


class _SecondPass:
    """Thresholds applied to facts, and what that gives."""

    def __init__(
        self, root: Path, params: AuditParams, exact: Relations, near: Relations, groups: Groups
    ) -> None:
        self._root = root
        self._params = params
        self._actions = Actions(params.checks)
        self._exact, self._near, self._groups = exact, near, groups
        self._tally = Tally()
        self.picks = Picks(params.contact_sheet_images)
        self.offenders = Offenders(_SHOWN_OF_EACH_CHECK)

    def run(
        self, spool: Spool, keep: RowWriter, quarantine: RowWriter, warnings: RowWriter
    ) -> None:
        """Write the three tables, in order of the manifest."""
        start = 0
        for rows in parts_of(self._root / MANIFEST):
            facts_N, reasons = spool.read(rows.num_rows)
            batch = Batch(rows, facts_N)
            verdicts = judge(
                batch,
                reasons,
                start=start,
                exact=self._exact,
                near=self._near,
                checks=self._params.checks,
                actions=self._actions,
            )
            staying_N = np.ones(rows.num_rows, bool)
            staying_N[[finding.row for finding in verdicts.leaving]] = False
            names = self._groups.names(start, start + rows.num_rows)
            mask = pa.array(staying_N)
            kept_K = plain(facts_N)[staying_N].view(FACTS)
            kept = kept_rows(rows.filter(mask), kept_K, names.filter(mask))
            bad = finding_rows(rows, verdicts.leaving)
            keep.write(kept)
            quarantine.write(bad)
            warnings.write(finding_rows(rows, verdicts.warned))
            self._tally.add_kept(kept, kept_K)
            self._tally.add_quarantined(bad)
            self._tally.add_warned(verdicts.warned)
            self.picks.add(kept)
            self.offenders.add(batch, verdicts.leaving)
            self.offenders.add(batch, verdicts.warned)
            start += rows.num_rows

    def report(self) -> AuditReport:
        """Everything that was found."""
        sizes = self._groups.sizes
        near_groups = NearGroups(
            num_groups=len(sizes), num_images=int(sizes.sum()), largest=int(sizes.max(initial=0))
        )
        report = self._tally.report(self._params, near_groups)
        report.whole = judge_whole(report, self._params.checks)
        return report


# What is shown ------------------------------------------------------------------------------


def _publish(
    root: Path, report: AuditReport, second: _SecondPass, spool: Spool, params: AuditParams
) -> None:
    """Write what people look at; if the run must stop, into the folder of what was rejected."""
    worst = second.offenders.worst()
    twins = np.array(sorted({o.twin for found in worst.values() for o in found} - {NO_TWIN}))
    seen = [row for row, facts in zip(twins, spool.at(twins), strict=True) if is_decoded(facts)]
    places = places_of(root / MANIFEST, seen)
    fault = fault_of(report, params, where=REJECTED / LIST)
    with RawReader(root) as reader:
        if fault is not None:
            _leave_for_a_look(root / REJECTED, report)
            write_page(root / REJECTED / PAGE.name, report, worst, places, reader, pictures=[])
            raise fault
        draw_contact_sheet(root / CONTACT_SHEET, second.picks.chosen(), reader)
        draw_class_balance(root / CLASS_BALANCE, report.classes)
        report.write(root / REPORT)
        pictures = [root / CONTACT_SHEET, root / CLASS_BALANCE]
        write_page(root / PAGE, report, worst, places, reader, pictures=pictures)
    with publishing(root / QUARANTINE) as temporary:
        shutil.copyfile(root / REJECTED / "quarantine.parquet", temporary)


def _leave_for_a_look(folder: Path, report: AuditReport) -> None:
    report.write(folder / "report.json")
    with publishing(folder / LIST) as temporary:
        pa.csv.write_csv(pq.read_table(folder / "quarantine.parquet"), temporary)
    shutil.rmtree(folder / "spool", ignore_errors=True)

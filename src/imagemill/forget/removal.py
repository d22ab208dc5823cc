"""Take an image out: the decision in labels/review.csv, the stages up to the shards, the caches."""

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from imagemill.errors import IntegrityError, UserError
from imagemill.forget.plan import Plan
from imagemill.ingest.review import HEADER
from imagemill.records import REVIEW, STATE, write_bytes
from imagemill.trace import ImageTrace, trace

# Pixels that are kept to save time; what is needed of them is made again.
_CACHES = ("audit", "decoded", "features", "label_review", "stream")

Log = Callable[[str], None]


def forget(
    root: Path,
    plan: Plan,
    *,
    by: str,
    date: str,
    say: Log,
    rebuild: Callable[[Path], None] | None = None,
) -> None:
    """Carry a plan out as far as the shards.

    Args:
        root: The project's root.
        plan: What `plan_forgetting` found.
        by: Who decides: the column `reviewer` of labels/review.csv.
        date: When, as in that file.
        say: Takes a line a step.
        rebuild: Runs ingest to shard; None: `dvc repro shard`.

    Raises:
        UserError: a stage failed; the decision stands, and the next run carries it out.
        IntegrityError: the image is in a shard still.
    """
    _decide(root / REVIEW, plan, by=by, date=date)
    say(f"{REVIEW}: {len(plan.same_bytes)} lines added; commit it, or the image comes back")
    (rebuild or _repro)(root)
    for name in _CACHES:
        shutil.rmtree(root / STATE / name, ignore_errors=True)
    for key in plan.same_bytes:
        found = trace(root, key, ())
        if isinstance(found, ImageTrace) and found.place is not None:
            raise IntegrityError(f"{key} is still in {found.place.shard}; run `dvc repro shard`")
    say("data/shards holds it no more; caches of decoded images were deleted")


def _decide(path: Path, plan: Plan, *, by: str, date: str) -> None:
    """Add lines; what people wrote stays as it is."""
    before = path.read_bytes() if path.is_file() else b""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    if not before:
        writer.writerow(HEADER)
    elif not before.endswith(b"\n"):
        lines.write("\n")
    for key in plan.same_bytes:
        writer.writerow([key, plan.image.raw.sha256, "drop", "", by, date, "imagemill forget"])
    write_bytes(path, before + lines.getvalue().encode())


def _repro(root: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "shard"], cwd=root, check=False)
    if done.returncode != 0:
        raise UserError(
            f"`dvc repro shard` failed; the decision is in {REVIEW}, so repeating it when the "
            "cause is gone finishes the work"
        )

"""What the audit found, counted while the verdicts stream by."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.records import Record

# Bad images named in the report and in the message; all of them are in quarantine.parquet.
_EXAMPLES = 20


class AuditReport(Record):
    """data/audit/report.json."""

    num_images: int
    num_kept: int
    num_quarantined: int
    quarantine_budget: float  # fraction of num_images
    quarantined_by_check: dict[str, int]
    first_quarantined: list[dict[str, str]]  # [{key, uri, check, reason}]
    classes: dict[str, int]  # kept images; of labelled ones
    num_unlabelled: int
    given_splits: dict[str, int]  # kept images
    width: dict[str, int]  # min, median, max in pixels
    height: dict[str, int]
    modes: dict[str, int]
    formats: dict[str, int]
    channel_mean_rgb: list[float]  # over images, each as much as any other, in 0..1
    channel_std_rgb: list[float]


class Tally:
    """Counts that do not grow with the number of images."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[Any]] = {
            name: Counter() for name in ("target", "split", "width", "height", "mode", "format")
        }
        self._checks: Counter[str] = Counter()
        self._examples: list[dict[str, str]] = []
        self._mean_3: NDArray[np.float64] = np.zeros(3)
        self._square_3: NDArray[np.float64] = np.zeros(3)

    def add_kept(self, rows: pa.Table) -> None:
        """Count rows that hold the columns of keep.parquet, target and split."""
        for name, counts in self._counts.items():
            for entry in pc.value_counts(rows[name]).to_pylist():
                counts[entry["values"]] += entry["counts"]
        self._mean_3 += _column_sums(rows["mean_rgb"])
        self._square_3 += _column_sums(rows["mean_square_rgb"])

    def add_quarantined(self, rows: pa.Table) -> None:
        """Count rows of quarantine.parquet."""
        for entry in pc.value_counts(rows["check"]).to_pylist():
            self._checks[entry["values"]] += entry["counts"]
        wanted = _EXAMPLES - len(self._examples)
        self._examples += rows.slice(0, wanted).to_pylist()

    def report(self, *, budget: float) -> AuditReport:
        """Everything counted so far."""
        kept, bad = self._counts["target"].total(), self._checks.total()
        mean_3 = self._mean_3 / max(kept, 1)
        variance_3 = np.maximum(self._square_3 / max(kept, 1) - mean_3**2, 0)
        return AuditReport(
            num_images=kept + bad,
            num_kept=kept,
            num_quarantined=bad,
            quarantine_budget=budget,
            quarantined_by_check=dict(sorted(self._checks.items())),
            first_quarantined=self._examples,
            classes=_named(self._counts["target"]),
            num_unlabelled=self._counts["target"][None],
            given_splits=_named(self._counts["split"]),
            width=_range(self._counts["width"]),
            height=_range(self._counts["height"]),
            modes=_named(self._counts["mode"]),
            formats=_named(self._counts["format"]),
            channel_mean_rgb=mean_3.round(6).tolist(),
            channel_std_rgb=np.sqrt(variance_3).round(6).tolist(),
        )


def _column_sums(vectors: pa.ChunkedArray) -> NDArray[np.float64]:
    flat = vectors.combine_chunks().flatten().to_numpy()
    sums: NDArray[np.float64] = flat.reshape(-1, 3).sum(axis=0, dtype=np.float64)
    return sums


def _named(counts: Counter[Any]) -> dict[str, int]:
    return {name: counts[name] for name in sorted(name for name in counts if name is not None)}


def _range(counts: Counter[Any]) -> dict[str, int]:
    """Smallest, median and largest of counted numbers."""
    if not counts:
        return {}
    numbers = sorted(counts)
    ranks = np.cumsum([counts[number] for number in numbers])
    median = numbers[int(np.searchsorted(ranks, (counts.total() + 1) // 2))]
    return {"min": numbers[0], "median": median, "max": numbers[-1]}

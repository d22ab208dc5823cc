"""What the audit found, counted while the verdicts stream by."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.audit.facts import DESCRIPTOR, FORMS, IDENTIFYING, Facts, flagged
from imagemill.audit.report import AuditReport, Diversity, NearGroups
from imagemill.audit.verdicts import Finding
from imagemill.params import AuditParams

# Bad images named in the report and in the message; all of them are in quarantine.parquet.
_EXAMPLES = 20
# Classes named in the report as the ones whose images differ least.
_LEAST_DIVERSE = 20


class Tally:
    """Counts that grow with the number of classes, not of images."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[Any]] = {
            name: Counter() for name in ("target", "split", "width", "height", "mode", "format")
        }
        self._checks: Counter[str] = Counter()
        self._warned: Counter[str] = Counter()
        self._flags: Counter[str] = Counter(dict.fromkeys([*FORMS, *IDENTIFYING], 0))
        self._orientations: NDArray[np.int64] = np.zeros(9, np.int64)
        self._examples: list[dict[str, str]] = []
        self._mean_3: NDArray[np.float64] = np.zeros(3)
        self._square_3: NDArray[np.float64] = np.zeros(3)
        self._spread = _Spread()

    def add_kept(self, rows: pa.Table, facts_N: Facts) -> None:
        """Count rows that hold the columns of keep.parquet, target and split, and their facts."""
        for name, counts in self._counts.items():
            for entry in pc.value_counts(rows[name]).to_pylist():
                counts[entry["values"]] += entry["counts"]
        self._mean_3 += facts_N["mean_rgb"].sum(axis=0, dtype=np.float64)
        self._square_3 += facts_N["mean_square_rgb"].sum(axis=0, dtype=np.float64)
        self._orientations += np.bincount(facts_N["orientation"], minlength=9)
        for field, names in (("forms", FORMS), ("identifying", IDENTIFYING)):
            for name in names if facts_N[field].any() else ():
                self._flags[name] += int(flagged(facts_N, field, names, name).sum())
        self._spread.add(rows["target"], facts_N["descriptor"])

    def add_quarantined(self, rows: pa.Table) -> None:
        """Count rows of quarantine.parquet."""
        for entry in pc.value_counts(rows["check"]).to_pylist():
            self._checks[entry["values"]] += entry["counts"]
        wanted = _EXAMPLES - len(self._examples)
        self._examples += rows.slice(0, wanted).to_pylist()

    def add_warned(self, findings: list[Finding]) -> None:
        """Count rows of warnings.parquet."""
        self._warned.update(finding.check for finding in findings)

    def report(self, params: AuditParams, near_groups: NearGroups) -> AuditReport:
        """Everything counted so far.

        Args:
            params: Thresholds and actions, to stand beside what they led to.
            near_groups: Counted elsewhere.
        """
        kept, bad = self._counts["target"].total(), self._checks.total()
        mean_3 = self._mean_3 / max(kept, 1)
        variance_3 = np.maximum(self._square_3 / max(kept, 1) - mean_3**2, 0)
        turned = enumerate(self._orientations.tolist())
        return AuditReport(
            num_images=kept + bad,
            num_kept=kept,
            num_quarantined=bad,
            quarantine_budget=params.quarantine_budget,
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
            checks=params.checks.model_dump(mode="json"),
            whole=[],
            near_groups=near_groups,
            warned_by_check=dict(sorted(self._warned.items())),
            orientations={str(code): count for code, count in turned if count},
            forms={name: self._flags[name] for name in FORMS},
            identifying={name: self._flags[name] for name in IDENTIFYING},
            diversity=self._spread.diversity(),
        )


class _Spread:
    """Sums that give the variance of descriptors, of all images and inside each class."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: NDArray[np.float64] = np.zeros(DESCRIPTOR)
        self._products: NDArray[np.float64] = np.zeros((DESCRIPTOR, DESCRIPTOR))
        # Class -> images, sum of descriptors, sum of squares.
        self._classes: dict[str, tuple[int, NDArray[np.float64], float]] = {}

    def add(self, targets: pa.ChunkedArray, descriptors_N: NDArray[np.uint8]) -> None:
        values_N = descriptors_N.astype(np.float32) / 255
        self._count += len(values_N)
        self._sum += values_N.sum(axis=0, dtype=np.float64)
        self._products += values_N.T @ values_N
        classes = targets.combine_chunks().dictionary_encode()
        codes = classes.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for code, name in enumerate(classes.dictionary.to_pylist()):
            members = values_N[codes == code]
            count, total, square = self._classes.get(name, (0, np.zeros(DESCRIPTOR), 0.0))
            total = total + members.sum(axis=0, dtype=np.float64)
            square += float((members**2).sum(dtype=np.float64))
            self._classes[name] = (count + len(members), total, square)

    def diversity(self) -> Diversity:
        if not self._count:
            return Diversity(spread=0, effective_dimensions=0, least_by_class={})
        mean = self._sum / self._count
        covariance = self._products / self._count - np.outer(mean, mean)
        variances = np.linalg.eigvalsh(covariance).clip(0)
        total = float(variances.sum())
        by_class = {
            name: round(max(square / count - float((sums / count) @ (sums / count)), 0) ** 0.5, 4)
            for name, (count, sums, square) in self._classes.items()
        }
        least = sorted(by_class, key=lambda name: (by_class[name], name))[:_LEAST_DIVERSE]
        return Diversity(
            spread=round(total**0.5, 4),
            effective_dimensions=round(total**2 / float((variances**2).sum()), 2) if total else 0.0,
            least_by_class={name: by_class[name] for name in least},
        )


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

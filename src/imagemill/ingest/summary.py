"""What the source holds: counted while it streams by, written beside the manifest."""

from collections import Counter
from collections.abc import Iterable

from pydantic import Field

from imagemill.errors import SourceError
from imagemill.records import INGEST, Record
from imagemill.sources import RawImage

SUMMARY = INGEST / "summary.json"


class ReviewSummary(Record):
    """What became of labels/review.csv."""

    sha256: str | None  # of the file; null: there is none
    num_applied: int
    num_stale: int  # about an image that has other bytes now
    num_unknown: int  # about a key that is not there


class IngestSummary(Record):
    """data/ingest/summary.json."""

    source: str
    kind: str
    num_images: int
    num_unlabelled: int
    size_bytes: int
    classes: dict[str, int]  # name -> images
    given_splits: dict[str, int]  # name -> images; images without a given split are not here
    remarks: list[str] = Field(default_factory=list)  # what its kind of source has to say
    review: ReviewSummary | None = None


class Tally:
    """Counts of classes, splits and bytes."""

    def __init__(self) -> None:
        self._classes: Counter[str | None] = Counter()
        self._splits: Counter[str | None] = Counter()
        self._size_bytes = 0

    @property
    def class_names(self) -> list[str]:
        """All classes that an image of the source has."""
        return sorted(name for name in self._classes if name is not None)

    def add(self, chunk: list[RawImage]) -> None:
        """Count images."""
        self._classes.update(image.target for image in chunk)
        self._splits.update(image.split for image in chunk)
        self._size_bytes += sum(image.size_bytes for image in chunk)

    def move(self, before: dict[str, str | None], after: dict[str, str | None]) -> None:
        """Count an image with another target and split."""
        self._classes[before["target"]] -= 1
        self._classes[after["target"]] += 1
        self._splits[before["split"]] -= 1
        self._splits[after["split"]] += 1

    def check(self, where: str) -> None:
        """Two classes at least, or there is nothing to tell apart.

        Raises:
            SourceError: there are fewer.
        """
        names = _present(self._classes)
        if not self._classes:
            raise SourceError(f"{where} lists no images")
        if not names:
            raise SourceError(
                f"{where} has no labelled image: expected <class>/<image>, or labels as "
                "docs/data.md says"
            )
        if len(names) == 1:
            raise SourceError(
                f"{where} has one class only ({names[0]!r}); a classifier needs two or more"
            )

    def summary(
        self, source: str, kind: str, remarks: Iterable[str], review: ReviewSummary
    ) -> IngestSummary:
        """What goes to the disk."""
        return IngestSummary(
            source=source,
            kind=kind,
            num_images=self._classes.total(),
            num_unlabelled=self._classes[None],
            size_bytes=self._size_bytes,
            classes={name: self._classes[name] for name in _present(self._classes)},
            given_splits={name: self._splits[name] for name in _present(self._splits)},
            remarks=list(remarks),
            review=review,
        )


def told(summary: IngestSummary, *, num_read: int) -> str:
    """One line for whoever watches."""
    splits = ", ".join(f"{name} {count:,}" for name, count in summary.given_splits.items())
    review = summary.review
    parts = [
        f"ingest: {summary.num_images:,} images of {len(summary.classes)} classes, "
        f"{summary.size_bytes / 1e6:.1f} MB, from {summary.source}",
        f"{num_read:,} read, {summary.num_images - num_read:,} unchanged",
        f"given splits: {splits}" if splits else "",
        f"{summary.num_unlabelled:,} without a label" if summary.num_unlabelled else "",
        *summary.remarks,
        f"decisions: {review.num_applied:,} applied, {review.num_stale:,} stale (the image has "
        f"other bytes now), {review.num_unknown:,} about unknown keys"
        if review and review.sha256
        else "",
    ]
    return "; ".join(filter(None, parts))


def _present(counts: Counter[str | None]) -> list[str]:
    return sorted(name for name, count in counts.items() if name is not None and count > 0)

"""The stage: likely label errors as a CSV, and as a page on which a person decides."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill import records
from imagemill.errors import ParamsError
from imagemill.label_review.page import Review, render
from imagemill.label_review.suggestions import Suggestion, as_csv
from imagemill.params import Params
from imagemill.records import ShardManifest, write_bytes
from imagemill.steps import Step, directly

if TYPE_CHECKING:
    from imagemill.label_review.examination import Examination

PAGE = records.REPORTS / "label_review.html"


def label_review(
    root: Path,
    params: Params,
    *,
    log: Callable[[str], None],
    progress: Callable[[float, str], None],
    step: Step = directly,
) -> list[Suggestion]:
    """Write reports/label_review.csv and .html; the same inputs give the same bytes.

    Args:
        root: The project's root.
        params: All sections.
        log: Gets a line a fold and one at the end.
        progress: Gets the share of the work that is done, 0..1, and its name.
        step: Calls what takes long.

    Returns:
        The suggestions; none where the stage is switched off.

    Raises:
        ParamsError: it is switched on and cleanlab is not installed.
        IntegrityError: data is missing or damaged.
        TrainingError: the loss is not finite.
        DiskError: reports/ cannot be written.
    """
    if not params.label_review.enabled:
        _write(root, params, None)
        log("label-review: switched off (label_review.enabled)")
        return []
    require_cleanlab()
    # Switched off, the stage starts without torch.
    from imagemill.label_review.examination import examine

    examination = examine(root, params, log=log, progress=progress, step=step)
    review = step(_reviewed, root, params, examination)
    _write(root, params, review)
    log(_sentence(review, examination.cpu_seconds))
    return list(review.suggestions)


def require_cleanlab() -> None:
    """See to it that what finds label errors is there.

    Raises:
        ParamsError: it is not installed.
    """
    if find_spec("cleanlab") is None:
        raise ParamsError(
            "label_review.enabled needs the package cleanlab, which is not installed: "
            "pip install --constraint constraints.txt -e '.[labels]'"
        )


def _reviewed(root: Path, params: Params, examination: "Examination") -> Review:
    """Everything the page shows."""
    from imagemill.label_review.doubts import suggest
    from imagemill.label_review.thumbnails import thumbnails

    data = ShardManifest.read(root / records.SHARD_MANIFEST)
    suggestions, num_reviewed = suggest(examination, data.classes)
    shown = [row.key for row in suggestions[: params.label_review.pictures]]
    return Review(
        data_digest=data.digest,
        classes=data.classes,
        num_examined=examination.num_examined,
        num_lonely=examination.num_lonely,
        num_reviewed=num_reviewed,
        suggestions=suggestions,
        pictures=thumbnails(root, shown, channels=data.channels),
    )


def _write(root: Path, params: Params, review: Review | None) -> None:
    write_bytes(root / records.LABEL_REVIEW, as_csv(review.suggestions if review else []))
    write_bytes(root / PAGE, render(params, review))


def _sentence(review: Review, cpu_seconds: float) -> str:
    total, count = sum(review.num_examined.values()), len(review.suggestions)
    reviewed = f", {review.num_reviewed:,} decided before" * bool(review.num_reviewed)
    where = f"; {PAGE} shows them" * bool(count)
    return (
        f"label-review: {count:,} of {total:,} labels ({count / max(total, 1):.1%}) are in doubt"
        f"{reviewed}{where}; {cpu_seconds:.1f} CPU seconds"
    )

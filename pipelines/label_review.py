"""The flow `label_review`: a model a fold, and the labels they speak against."""

from collections import Counter
from pathlib import Path

from imagemill.label_review import label_review as find_label_errors
from imagemill.params import Params
from pipelines.tracker import Tracker

_ROWS = 50


def label_review(root: Path, params: Params, tracker: Tracker) -> None:
    """Write the suggestions, and show which labels are taken for which."""
    suggestions = find_label_errors(
        root, params, log=tracker.log, progress=tracker.progress, step=tracker.step
    )
    pairs = Counter((row.label, row.suggested_label) for row in suggestions)
    rows = [
        {"label": label, "suggested": suggested, "images": count}
        for (label, suggested), count in pairs.most_common(_ROWS)
    ]
    if rows:
        tracker.table("doubtful-labels", rows)

"""The flow `explain`: pictures of what a variant looks at, and numbers that say what they mean."""

from collections.abc import Sequence
from pathlib import Path

from imagemill.explain import EXPLAIN
from imagemill.explain import explain as draw_explanation
from imagemill.params import Params
from imagemill.records import Explanation, Record
from pipelines.tracker import Tracker


def explain(root: Path, params: Params, tracker: Tracker) -> None:
    """Explain `explain.variant` and show what was found."""
    explanation = draw_explanation(root, params, log=tracker.log, step=tracker.step)
    for picture in explanation.pictures:
        tracker.image(Path(picture.file).stem, root / EXPLAIN / picture.file)
    _show_tables(explanation, tracker)


def _show_tables(explanation: Explanation, tracker: Tracker) -> None:
    tables: dict[str, Sequence[Record]] = {
        "faithfulness": explanation.faithfulness,
        "on-embeddings": explanation.on_embeddings,
        "left-out": explanation.skipped,
    }
    for key, rows in tables.items():
        if rows:
            tracker.table(key, [row.model_dump() for row in rows])

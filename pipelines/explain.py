"""The flow `explain`: pictures of what the base looks at."""

from pathlib import Path

from imagemill.explain import EXPLAIN
from imagemill.explain import explain as draw_explanation
from imagemill.params import Params
from pipelines.tracker import Tracker


def explain(root: Path, params: Params, tracker: Tracker) -> None:
    """Draw the pictures and show them."""
    explanation = draw_explanation(root, params, log=tracker.log, step=tracker.step)
    for picture in explanation.pictures:
        tracker.image(Path(picture.file).stem, root / EXPLAIN / picture.file)

"""How often a variant is right, and how well it knows.

Shapes: N images, B batch, K classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.evaluate.views import averaged, with_views
from imagemill.loading import SplitImages, to_input
from imagemill.metrics import (
    METRICS,
    class_scores,
    confusion_matrix,
    expected_calibration_error,
    wilson_interval,
)
from imagemill.runtimes import Predictor

BATCH = 256


class Answers(NamedTuple):
    """What a variant says about the images of one split."""

    labels_N: NDArray[np.int64]
    probs_NK: NDArray[np.float32]


def ask(
    predictors: Mapping[str, Predictor], images: SplitImages, views: Sequence[str]
) -> dict[str, Answers]:
    """Show a split to several variants; each image is decoded once.

    Args:
        predictors: Variant -> predictor.
        images: The split.
        views: Names in `VIEWS`; their probabilities are averaged.
    """
    shown = {name: with_views(predict, views) for name, predict in predictors.items()}
    probs: dict[str, list[NDArray[np.float32]]] = {name: [] for name in shown}
    for start in range(0, len(images), BATCH):
        positions_B = np.arange(start, min(start + BATCH, len(images)))
        images_BCHW = to_input(images.take(positions_B))
        for name, predict in shown.items():
            probs[name].append(averaged(predict(images_BCHW), len(views)))
    return {name: Answers(images.targets_N, np.concatenate(probs[name])) for name in shown}


def quality(*, test: Answers, val: Answers, classes: Sequence[str], bins: int) -> dict[str, Any]:
    """The fields of `records.Evaluation` that say how good a variant is.

    Args:
        test: Answers on test, which is reported.
        val: Answers on val, which decisions read.
        classes: Names by class id.
        bins: Equal-width confidence bins.
    """
    confusion_KK = confusion(test)
    ece = expected_calibration_error(test.probs_NK, test.labels_N, num_bins=bins)
    return {
        **{name: metric(test.probs_NK, test.labels_N) for name, metric in METRICS.items()},
        "top1_ci95": _interval(test),
        "val_top1": METRICS["top1"](val.probs_NK, val.labels_N),
        "val_top1_ci95": _interval(val),
        "ece": ece,
        "per_class": [
            {"class": name, **score._asdict()}
            for name, score in zip(classes, class_scores(confusion_KK), strict=True)
        ],
    }


def confusion(answers: Answers) -> NDArray[np.int64]:
    """Counts by true class (rows) and predicted class (columns), [K, K]."""
    num_classes = answers.probs_NK.shape[1]
    return confusion_matrix(answers.labels_N, answers.probs_NK.argmax(1), num_classes=num_classes)


def _interval(answers: Answers) -> tuple[float, float]:
    correct_N = answers.probs_NK.argmax(1) == answers.labels_N
    return wilson_interval(int(correct_N.sum()), len(correct_N))

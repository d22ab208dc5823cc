"""How often a variant is right, and how well it knows.

Shapes: N images, B batch, K classes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.evaluate.panel import BATCH, Panel
from imagemill.loading import SplitImages, to_input
from imagemill.metrics import (
    METRICS,
    area_under_risk,
    at_temperature,
    brier_score,
    class_scores,
    confusion_matrix,
    expected_calibration_error,
    fitted_temperature,
    negative_log_likelihood,
    paired,
    selective_curve,
    wilson_interval,
)

_CONFUSIONS = 10
_COVERAGES = 20


class Answers(NamedTuple):
    """What a variant says about the images of one split."""

    labels_N: NDArray[np.int64]
    probs_NK: NDArray[np.float32]


def ask(panel: Panel, images: SplitImages) -> dict[str, Answers]:
    """Show a split to all variants; each image is decoded once.

    Args:
        panel: The variants.
        images: The split.
    """
    probs: dict[str, list[NDArray[np.float32]]] = {name: [] for name in panel.variants}
    for start in range(0, len(images), BATCH):
        positions_B = np.arange(start, min(start + BATCH, len(images)))
        told = panel.probabilities(to_input(images.take(positions_B)))
        for name, probs_BK in told.items():
            probs[name].append(probs_BK)
    return {name: Answers(images.targets_N, np.concatenate(probs[name])) for name in probs}


def quality(*, test: Answers, val: Answers, classes: Sequence[str], bins: int) -> dict[str, Any]:
    """The fields of `records.Evaluation` that say how good a variant is.

    Args:
        test: Answers on test, which is reported.
        val: Answers on val, which decisions read.
        classes: Names by class id.
        bins: Equal-width confidence bins.
    """
    confusion_KK = confusion(test)
    temperature = fitted_temperature(val.probs_NK, val.labels_N)
    scaled_NK = at_temperature(test.probs_NK, temperature)
    return {
        **{name: metric(test.probs_NK, test.labels_N) for name, metric in METRICS.items()},
        "top1_ci95": _interval(test),
        "val_top1": METRICS["top1"](val.probs_NK, val.labels_N),
        "val_top1_ci95": _interval(val),
        "ece": expected_calibration_error(*_swapped(test), num_bins=bins),
        "val_ece": expected_calibration_error(*_swapped(val), num_bins=bins),
        "nll": negative_log_likelihood(*_swapped(test)),
        "val_nll": negative_log_likelihood(*_swapped(val)),
        "brier": brier_score(*_swapped(test)),
        "temperature": temperature,
        "ece_at_temperature": expected_calibration_error(scaled_NK, test.labels_N, num_bins=bins),
        "selective": [
            point._asdict() for point in selective_curve(*_swapped(test), num_points=_COVERAGES)
        ],
        "aurc": area_under_risk(*_swapped(test)),
        "worst_class": _worst_class(confusion_KK, classes),
        "val_worst_class": _worst_class(confusion(val), classes),
        "confusions": _confusions(confusion_KK, classes),
        "per_class": [
            {"class": name, **score._asdict()}
            for name, score in zip(classes, class_scores(confusion_KK), strict=True)
        ],
    }


def against_parent(
    parent: str, theirs: Answers, own: Answers, classes: Sequence[str]
) -> dict[str, Any]:
    """A variant beside its parent, image by image.

    Args:
        parent: Its name.
        theirs: Its answers on the same split.
        own: The variant's.
        classes: Names by class id.
    """
    labels_N = own.labels_N
    pairing = paired(theirs.probs_NK.argmax(1), own.probs_NK.argmax(1), labels_N)
    before, after = (class_scores(confusion(answers)) for answers in (theirs, own))
    return {
        "parent": parent,
        "only_parent_right": pairing.only_first_right,
        "only_child_right": pairing.only_second_right,
        "mcnemar_p": pairing.mcnemar_p,
        "flip_rate": pairing.flip_rate,
        "delta_top1": pairing.delta_top1,
        "delta_ci95": list(pairing.delta_ci95),
        "recall_deltas": {
            name: new.recall - old.recall
            for name, old, new in zip(classes, before, after, strict=True)
            if new.num_images
        },
    }


def confusion(answers: Answers) -> NDArray[np.int64]:
    """Counts by true class (rows) and predicted class (columns), [K, K]."""
    num_classes = answers.probs_NK.shape[1]
    return confusion_matrix(answers.labels_N, answers.probs_NK.argmax(1), num_classes=num_classes)


def _swapped(answers: Answers) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return answers.probs_NK, answers.labels_N


def _worst_class(confusion_KK: NDArray[np.int64], classes: Sequence[str]) -> dict[str, Any]:
    """Of the classes that were shown, the one recognised least often."""
    shown = [
        (score.recall, name, score.num_images)
        for name, score in zip(classes, class_scores(confusion_KK), strict=True)
        if score.num_images
    ]
    recall, name, num_images = min(shown)
    return {"name": name, "recall": recall, "num_images": num_images}


def _confusions(confusion_KK: NDArray[np.int64], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The mistakes made most often."""
    wrong_KK = confusion_KK - np.diag(np.diag(confusion_KK))
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = (np.unravel_index(cell, wrong_KK.shape) for cell in order.tolist())
    return [
        {"true": classes[true], "predicted": classes[said], "num_images": int(wrong_KK[true, said])}
        for true, said in pairs
        if wrong_KK[true, said]
    ]


def _interval(answers: Answers) -> tuple[float, float]:
    correct_N = answers.probs_NK.argmax(1) == answers.labels_N
    return wilson_interval(int(correct_N.sum()), len(correct_N))

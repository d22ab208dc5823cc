"""How often predictions are right.

Shapes: N images, K classes. Where a class was never predicted or never shown, its precision or
recall is 0, as in scikit-learn.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import ShapeError
from imagemill.metrics.inputs import Z95, Labels, Probabilities, check_shapes


class ClassScore(NamedTuple):
    """What happened to the images of one class."""

    num_images: int
    recall: float
    precision: float
    f1: float


def top_k_accuracy(probs_NK: Probabilities, labels_N: Labels, *, k: int) -> float:
    """Share of images whose true class is among the k most probable.

    Of classes with equal probability the lower id ranks first, as in `argmax`.

    Args:
        probs_NK: Class probabilities, float [N, K].
        labels_N: True class ids, int [N], each in [0, K).
        k: How many classes count, 1..K.

    Raises:
        ShapeError: `probs_NK` is not 2-D, N is 0, the lengths differ, or k is not in 1..K.
    """
    check_shapes(probs_NK, labels_N)
    num_classes = probs_NK.shape[1]
    if not 1 <= k <= num_classes:
        raise ShapeError(f"k must be in 1..{num_classes} (the number of classes), got {k}")
    true_N1 = np.take_along_axis(probs_NK, labels_N[:, None], axis=1)
    ahead_NK = probs_NK > true_N1
    tied_NK = (probs_NK == true_N1) & (np.arange(num_classes) < labels_N[:, None])
    rank_N = (ahead_NK | tied_NK).sum(1)
    return float((rank_N < k).mean())


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a success rate; unlike the normal one it stays honest near 0 and 1.

    Args:
        successes: Between 0 and `trials`.
        trials: At least 1.

    Returns:
        Lower and upper bound, fractions in [0, 1].

    Raises:
        ShapeError: no trials, or more successes than trials.

    Source:
        Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ShapeError(f"expected 0 <= successes <= trials > 0, got {successes} of {trials}")
    rate = successes / trials
    shrink = 1 + Z95**2 / trials
    centre = (rate + Z95**2 / (2 * trials)) / shrink
    spread = rate * (1 - rate) / trials + Z95**2 / (4 * trials**2)
    half = Z95 * float(np.sqrt(spread)) / shrink
    # At the ends the bound is exactly 0 or 1; rounding must not push it past.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == trials else centre + half
    return low, high


def confusion_matrix(
    labels_N: Labels, predicted_N: Labels, *, num_classes: int
) -> NDArray[np.int64]:
    """Count of images by true class (rows) and predicted class (columns).

    Args:
        labels_N: True class ids, int [N].
        predicted_N: Predicted class ids, int [N].
        num_classes: K; every id is in [0, K).

    Returns:
        int64 [K, K].

    Raises:
        ShapeError: the lengths differ, or an id is out of range.
    """
    if labels_N.shape != predicted_N.shape or labels_N.ndim != 1:
        raise ShapeError(
            f"expected two lists of one length, got {labels_N.shape} and {predicted_N.shape}"
        )
    for ids in (labels_N, predicted_N):
        if ids.size and not (ids.min() >= 0 and ids.max() < num_classes):
            raise ShapeError(
                f"class ids must be in 0..{num_classes - 1}, got {ids.min()}..{ids.max()}"
            )
    cells = labels_N.astype(np.int64) * num_classes + predicted_N
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_scores(confusion_KK: NDArray[np.integer]) -> list[ClassScore]:
    """Recall, precision and F1 of each class.

    Args:
        confusion_KK: Counts by true class (rows) and predicted class (columns), int [K, K].
    """
    hits_K = np.diag(confusion_KK)
    shown_K, predicted_K = confusion_KK.sum(1), confusion_KK.sum(0)
    recall_K = hits_K / np.maximum(shown_K, 1)
    precision_K = hits_K / np.maximum(predicted_K, 1)
    f1_K = 2 * hits_K / np.maximum(shown_K + predicted_K, 1)
    return [
        ClassScore(int(shown), float(recall), float(precision), float(f1))
        for shown, recall, precision, f1 in zip(shown_K, recall_K, precision_K, f1_K, strict=True)
    ]


def macro_f1(confusion_KK: NDArray[np.integer]) -> float:
    """Mean F1 over the classes that were shown or predicted: each counts the same.

    Args:
        confusion_KK: Counts by true class (rows) and predicted class (columns), int [K, K].

    Raises:
        ShapeError: the matrix is empty.
    """
    present_K = (confusion_KK.sum(0) + confusion_KK.sum(1)) > 0
    if not present_K.any():
        raise ShapeError("expected at least one image, got an empty confusion matrix")
    f1_K = np.array([score.f1 for score in class_scores(confusion_KK)])
    return float(f1_K[present_K].mean())

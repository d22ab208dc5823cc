"""METRICS: how good predictions are, on arrays and without torch.

Shapes: N images, K classes. Everything that can be is a fraction in [0, 1], not percent. Where a
class was never predicted or never shown, its precision or recall is 0, as in scikit-learn.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import ShapeError

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]

# Quantile of the standard normal for a two-sided interval of 95 %.
_Z95 = 1.959963984540054


class ClassScore(NamedTuple):
    """What happened to the images of one class."""

    num_images: int
    recall: float
    precision: float
    f1: float


def softmax(logits_NK: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities of logits, row by row.

    Args:
        logits_NK: Any real numbers, float [..., K].

    Returns:
        float64 of the same shape; the last axis sums to 1.
    """
    shifted = logits_NK.astype(np.float64) - logits_NK.max(-1, keepdims=True)
    exponentials = np.exp(shifted)
    probs_NK: NDArray[np.float64] = exponentials / exponentials.sum(-1, keepdims=True)
    return probs_NK


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
    _check(probs_NK, labels_N)
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
    shrink = 1 + _Z95**2 / trials
    centre = (rate + _Z95**2 / (2 * trials)) / shrink
    spread = rate * (1 - rate) / trials + _Z95**2 / (4 * trials**2)
    half = _Z95 * float(np.sqrt(spread)) / shrink
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


class ReliabilityBin(NamedTuple):
    """Images whose confidence lies in (low, high]."""

    low: float
    high: float
    num_images: int
    confidence: float
    accuracy: float


def reliability_bins(
    probs_NK: Probabilities, labels_N: Labels, *, num_bins: int
) -> list[ReliabilityBin]:
    """Mean confidence and accuracy in equal-width confidence bins over (0, 1].

    Args:
        probs_NK: Class probabilities, float [N, K]; each row sums to 1.
        labels_N: True class ids, int [N], each in [0, K).
        num_bins: Number of bins, at least 1.

    Returns:
        One entry a bin, from low to high; an empty bin has confidence and accuracy 0.

    Raises:
        ShapeError: `probs_NK` is not 2-D, N is 0, the lengths differ, or there is no bin.
    """
    _check(probs_NK, labels_N)
    if num_bins < 1:
        raise ShapeError(f"expected at least one confidence bin, got {num_bins}")
    confidence_N = probs_NK.max(1).astype(np.float64)
    correct_N = (probs_NK.argmax(1) == labels_N).astype(np.float64)
    edges = np.linspace(0, 1, num_bins + 1)
    # Rounding may leave a certainty at 1.0000001.
    bin_N = np.clip(np.searchsorted(edges, confidence_N, side="left") - 1, 0, num_bins - 1)
    size_M = np.bincount(bin_N, minlength=num_bins)
    confidence_M = np.bincount(bin_N, confidence_N, num_bins) / np.maximum(size_M, 1)
    accuracy_M = np.bincount(bin_N, correct_N, num_bins) / np.maximum(size_M, 1)
    return [
        ReliabilityBin(
            float(edges[m]),
            float(edges[m + 1]),
            int(size_M[m]),
            float(confidence_M[m]),
            float(accuracy_M[m]),
        )
        for m in range(num_bins)
    ]


def expected_calibration_error(
    probs_NK: Probabilities, labels_N: Labels, *, num_bins: int
) -> float:
    """Gap between confidence and accuracy, averaged over bins by bin size.

    Args:
        probs_NK: Class probabilities, float [N, K]; each row sums to 1.
        labels_N: True class ids, int [N], each in [0, K).
        num_bins: Number of equal-width confidence bins over (0, 1].

    Returns:
        The error as a fraction in [0, 1] (not percent). 0 is perfectly calibrated.

    Raises:
        ShapeError: `probs_NK` is not 2-D, N is 0, the two lengths differ, or there is no bin.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", eq. 3.
    """
    bins = reliability_bins(probs_NK, labels_N, num_bins=num_bins)
    gaps = sum(entry.num_images * abs(entry.accuracy - entry.confidence) for entry in bins)
    return gaps / len(labels_N)


def _check(probs_NK: Probabilities, labels_N: Labels) -> None:
    if probs_NK.ndim != 2 or len(probs_NK) == 0:
        raise ShapeError(f"expected probabilities [N, K] with N > 0, got shape {probs_NK.shape}")
    if labels_N.shape != (len(probs_NK),):
        raise ShapeError(
            f"expected {len(probs_NK)} labels, one a row of probabilities, got {labels_N.shape}"
        )


def _top_1(probs_NK: Probabilities, labels_N: Labels) -> float:
    return top_k_accuracy(probs_NK, labels_N, k=1)


def _top_5(probs_NK: Probabilities, labels_N: Labels) -> float | None:
    return top_k_accuracy(probs_NK, labels_N, k=5) if probs_NK.shape[1] > 5 else None


def _macro_f1(probs_NK: Probabilities, labels_N: Labels) -> float:
    num_classes = probs_NK.shape[1]
    return macro_f1(confusion_matrix(labels_N, probs_NK.argmax(1), num_classes=num_classes))


# (probs_NK, labels_N) -> a fraction, the larger the better; None where it would say nothing.
METRICS: dict[str, Callable[[Probabilities, Labels], float | None]] = {
    "top1": _top_1,
    "top5": _top_5,
    "macro_f1": _macro_f1,
}

"""METRICS: how good predictions are, on arrays and without torch.

Shapes: N images, K classes. Everything that can be is a fraction in [0, 1], not percent. Where a
class was never predicted or never shown, its precision or recall is 0, as in scikit-learn.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import ShapeError

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]

# Quantile of the standard normal for a two-sided interval of 95 %.
_Z95 = 1.959963984540054
_LEAST = 1e-12  # a probability of 0 would cost infinitely much
_MOST_TEMPERATURE = 20.0
_GOLDEN, _SECTIONS = (math.sqrt(5) - 1) / 2, 40


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


def negative_log_likelihood(probs_NK: Probabilities, labels_N: Labels) -> float:
    """Mean of -log of the true class's probability, in nats; the lower the better.

    Args:
        probs_NK: Class probabilities, float [N, K]; each row sums to 1.
        labels_N: True class ids, int [N], each in [0, K).

    Raises:
        ShapeError: `probs_NK` is not 2-D, N is 0, or the lengths differ.
    """
    _check(probs_NK, labels_N)
    true_N = np.take_along_axis(probs_NK, labels_N[:, None], axis=1)[:, 0].astype(np.float64)
    return float(-np.log(true_N.clip(_LEAST)).mean())


def brier_score(probs_NK: Probabilities, labels_N: Labels) -> float:
    """Mean squared distance of the probabilities to one-hot labels, summed over classes: 0 to 2.

    Args:
        probs_NK: Class probabilities, float [N, K]; each row sums to 1.
        labels_N: True class ids, int [N], each in [0, K).

    Raises:
        ShapeError: `probs_NK` is not 2-D, N is 0, or the lengths differ.

    Source:
        Brier 1950, "Verification of Forecasts Expressed in Terms of Probability".
    """
    _check(probs_NK, labels_N)
    one_hot_NK = np.eye(probs_NK.shape[1])[labels_N]
    return float(((probs_NK - one_hot_NK) ** 2).sum(1).mean())


def at_temperature(probs_NK: Probabilities, temperature: float) -> NDArray[np.float64]:
    """Probabilities as they would be with logits divided by a temperature.

    Args:
        probs_NK: Class probabilities, float [N, K].
        temperature: Above 0; above 1 they get closer to each other.
    """
    return softmax(np.log(probs_NK.astype(np.float64).clip(_LEAST)) / temperature)


def fitted_temperature(probs_NK: Probabilities, labels_N: Labels) -> float:
    """The temperature with the lowest negative log likelihood, between 1/20 and 20.

    Args:
        probs_NK: Class probabilities on images that nothing is reported of, float [N, K].
        labels_N: True class ids, int [N], each in [0, K).

    Raises:
        ShapeError: `probs_NK` is not 2-D, N is 0, or the lengths differ.

    Source:
        Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2; ours searches by
        golden sections, since the likelihood has one maximum in log temperature.
    """
    _check(probs_NK, labels_N)
    low, high = -math.log(_MOST_TEMPERATURE), math.log(_MOST_TEMPERATURE)

    def loss(log_temperature: float) -> float:
        scaled_NK = at_temperature(probs_NK, math.exp(log_temperature))
        return negative_log_likelihood(scaled_NK, labels_N)

    for _ in range(_SECTIONS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return math.exp((low + high) / 2)


class Pairing(NamedTuple):
    """Two models on the same images: what one gains and the other loses."""

    only_first_right: int
    only_second_right: int
    mcnemar_p: float  # that both are right equally often, two-sided
    flip_rate: float  # share of images that get another class
    delta_top1: float  # of the second over the first
    delta_ci95: tuple[float, float]


def paired(first_N: Labels, second_N: Labels, labels_N: Labels) -> Pairing:
    """Compare the classes two models choose, image by image.

    Args:
        first_N: Class ids the first chooses, int [N].
        second_N: Those of the second, int [N].
        labels_N: True class ids, int [N].

    Raises:
        ShapeError: N is 0, or the lengths differ.

    Source:
        McNemar 1947, the exact test; the interval is Wald's with half an image added to each cell
        (Agresti and Min 2005).
    """
    if not len(labels_N) or not first_N.shape == second_N.shape == labels_N.shape:
        raise ShapeError(
            f"expected three lists of one length above 0, got {first_N.shape}, {second_N.shape} "
            f"and {labels_N.shape}"
        )
    first_right_N, second_right_N = first_N == labels_N, second_N == labels_N
    lost, won = (
        int((first_right_N & ~second_right_N).sum()),
        int((second_right_N & ~first_right_N).sum()),
    )
    count = len(labels_N)
    centre = (won - lost) / (count + 2)
    half = _Z95 * math.sqrt(max((won + lost + 1) / (count + 2) - centre**2, 0) / (count + 2))
    return Pairing(
        only_first_right=lost,
        only_second_right=won,
        mcnemar_p=_exact_p(lost, won),
        flip_rate=float((first_N != second_N).mean()),
        delta_top1=(won - lost) / count,
        delta_ci95=(max(centre - half, -1.0), min(centre + half, 1.0)),
    )


def _exact_p(lost: int, won: int) -> float:
    """Two-sided p of a fair coin that fell so."""
    flips, term, tail = lost + won, 1, 0
    for number in range(min(lost, won) + 1):
        tail += term
        term = term * (flips - number) // (number + 1)
    return min(1.0, tail / 2 ** (flips - 1)) if flips else 1.0


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

"""How well predictions know how right they are.

Shapes: N images, K classes, M bins.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import ShapeError
from imagemill.metrics.inputs import Labels, Probabilities, check_shapes, softmax

_LEAST = 1e-12  # a probability of 0 would cost infinitely much
_MOST_TEMPERATURE = 20.0
_GOLDEN, _SECTIONS = (math.sqrt(5) - 1) / 2, 40


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
    check_shapes(probs_NK, labels_N)
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
    check_shapes(probs_NK, labels_N)
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
    check_shapes(probs_NK, labels_N)
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
    check_shapes(probs_NK, labels_N)
    low, high = -math.log(_MOST_TEMPERATURE), math.log(_MOST_TEMPERATURE)

    def loss(log_temperature: float) -> float:
        scaled_NK = at_temperature(probs_NK, math.exp(log_temperature))
        return negative_log_likelihood(scaled_NK, labels_N)

    for _ in range(_SECTIONS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return math.exp((low + high) / 2)

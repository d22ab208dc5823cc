"""Whether confidence puts images in a useful order.

Shapes: N images, K classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import ShapeError
from imagemill.metrics.inputs import Labels, Probabilities, check_shapes


class SelectivePoint(NamedTuple):
    """What happens if only the surest images are answered."""

    coverage: float  # share of images answered
    confidence: float  # of the least sure among them
    accuracy: float  # of the answers


def selective_curve(
    probs_NK: Probabilities, labels_N: Labels, *, num_points: int
) -> list[SelectivePoint]:
    """Accuracy on the most confident images, for shares of them in equal steps up to all.

    Args:
        probs_NK: Class probabilities, float [N, K]; each row sums to 1.
        labels_N: True class ids, int [N], each in [0, K).
        num_points: Number of shares; of few images several may be the same.

    Raises:
        ShapeError: `probs_NK` is not 2-D, N is 0, or the lengths differ.

    Source:
        Geifman and El-Yaniv 2017, "Selective Classification for Deep Neural Networks", with the
        largest probability as confidence.
    """
    confidence_N, correct_N = _surest_first(probs_NK, labels_N)
    accuracy_N = np.cumsum(correct_N) / np.arange(1, len(correct_N) + 1)
    counts = np.ceil(np.linspace(0, 1, num_points + 1)[1:] * len(correct_N)).astype(int)
    return [
        SelectivePoint(
            count / len(correct_N), float(confidence_N[count - 1]), float(accuracy_N[count - 1])
        )
        for count in counts.tolist()
    ]


def area_under_risk(probs_NK: Probabilities, labels_N: Labels) -> float:
    """Mean error over all coverages, the surest images first: the lower the better.

    Args:
        probs_NK: Class probabilities, float [N, K]; each row sums to 1.
        labels_N: True class ids, int [N], each in [0, K).

    Raises:
        ShapeError: `probs_NK` is not 2-D, N is 0, or the lengths differ.

    Source:
        Geifman et al. 2019, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers".
    """
    _, correct_N = _surest_first(probs_NK, labels_N)
    errors_N = 1 - np.cumsum(correct_N) / np.arange(1, len(correct_N) + 1)
    return float(errors_N.mean())


def area_under_roc(positives_N: NDArray[np.floating], negatives_M: NDArray[np.floating]) -> float:
    """Chance that a positive scores higher than a negative; ties count half.

    Args:
        positives_N: Scores of those that should score high, float [N].
        negatives_M: Scores of the others, float [M].

    Raises:
        ShapeError: one of both is empty.
    """
    if not len(positives_N) or not len(negatives_M):
        raise ShapeError(
            f"expected scores of both kinds, got {len(positives_N)} and {len(negatives_M)}"
        )
    ordered_M = np.sort(negatives_M)
    below = np.searchsorted(ordered_M, positives_N, side="left").sum()
    not_above = np.searchsorted(ordered_M, positives_N, side="right").sum()
    return float((below + not_above) / 2 / (len(positives_N) * len(negatives_M)))


def _surest_first(
    probs_NK: Probabilities, labels_N: Labels
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    check_shapes(probs_NK, labels_N)
    confidence_N = probs_NK.max(1)
    order_N = np.argsort(-confidence_N, kind="stable")
    return confidence_N[order_N], (probs_NK.argmax(1) == labels_N)[order_N]

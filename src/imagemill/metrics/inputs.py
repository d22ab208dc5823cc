"""What every metric takes, and what it refuses.

Shapes: N images, K classes.
"""

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import ShapeError

Probabilities = NDArray[np.floating]
Labels = NDArray[np.integer]

# Quantile of the standard normal for a two-sided interval of 95 %.
Z95 = 1.959963984540054


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


def check_shapes(probs_NK: Probabilities, labels_N: Labels) -> None:
    """Raises `ShapeError` unless there is a label for each row of probabilities."""
    if probs_NK.ndim != 2 or len(probs_NK) == 0:
        raise ShapeError(f"expected probabilities [N, K] with N > 0, got shape {probs_NK.shape}")
    if labels_N.shape != (len(probs_NK),):
        raise ShapeError(
            f"expected {len(probs_NK)} labels, one a row of probabilities, got {labels_N.shape}"
        )

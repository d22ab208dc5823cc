"""METRICS: how good predictions are, on arrays and without torch.

Shapes: N images, K classes. Everything that can be is a fraction in [0, 1], not percent.
"""

from collections.abc import Callable

from imagemill.metrics.accuracy import (
    ClassScore,
    class_scores,
    confusion_matrix,
    macro_f1,
    top_k_accuracy,
    wilson_interval,
)
from imagemill.metrics.calibration import (
    ReliabilityBin,
    at_temperature,
    brier_score,
    expected_calibration_error,
    fitted_temperature,
    negative_log_likelihood,
    reliability_bins,
)
from imagemill.metrics.inputs import Labels, Probabilities, softmax
from imagemill.metrics.pairs import Pairing, paired
from imagemill.metrics.ranking import (
    SelectivePoint,
    area_under_risk,
    area_under_roc,
    selective_curve,
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

__all__ = [
    "METRICS",
    "ClassScore",
    "Labels",
    "Pairing",
    "Probabilities",
    "ReliabilityBin",
    "SelectivePoint",
    "area_under_risk",
    "area_under_roc",
    "at_temperature",
    "brier_score",
    "class_scores",
    "confusion_matrix",
    "expected_calibration_error",
    "fitted_temperature",
    "macro_f1",
    "negative_log_likelihood",
    "paired",
    "reliability_bins",
    "selective_curve",
    "softmax",
    "top_k_accuracy",
    "wilson_interval",
]

"""Confident learning: which given labels the out-of-fold predictions speak against.

N examined images, K classes.
"""

from collections.abc import Sequence

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray

from imagemill.label_review.examination import Examination
from imagemill.label_review.suggestions import Suggestion

# Of cleanlab's ways the one that finds most flipped labels at a precision a person can live with:
# docs/decisions/0015-label-review.md has the figures.
_FILTER = "prune_by_class"


def suggest(examination: Examination, classes: Sequence[str]) -> tuple[list[Suggestion], int]:
    """Labels for a person to look at.

    Args:
        examination: Of the out-of-fold predictions.
        classes: Names of the class ids.

    Returns:
        Suggestions, the likeliest error first, and the number of doubtful labels left out since a
        person has decided about them.
    """
    candidates, rows_N, probs_NK = examination.candidates, examination.rows_N, examination.probs_NK
    if not len(rows_N):
        return [], 0
    labels_N = candidates.labels_P[rows_N]
    is_test_N = candidates.of_split("test")[rows_N]
    is_doubtful_N = np.zeros(len(rows_N), np.bool_)
    # Nothing about train and val may depend on test.
    for side_N in (~is_test_N, is_test_N):
        if side_N.any():
            is_doubtful_N[side_N] = doubtful(labels_N[side_N], probs_NK[side_N])
    is_reviewed_N = candidates.reviewed_P[rows_N]
    found_M = np.flatnonzero(is_doubtful_N & ~is_reviewed_N)
    confidence_N = get_label_quality_scores(labels_N, probs_NK, method="self_confidence")
    found_M = found_M[np.argsort(confidence_N[found_M], kind="stable")]
    suggestions = []
    for rank, position in enumerate(found_M.tolist(), start=1):
        row, label = int(rows_N[position]), int(labels_N[position])
        suggested = _best_other(probs_NK[position], label)
        suggestions.append(
            Suggestion(
                rank=rank,
                key=candidates.keys[row].as_py(),
                sha256=candidates.sha256[row].as_py(),
                split=candidates.splits[candidates.split_P[row]],
                label=classes[label],
                suggested_label=classes[suggested],
                self_confidence=float(probs_NK[position, label]),
                suggested_probability=float(probs_NK[position, suggested]),
            )
        )
    return suggestions, int((is_doubtful_N & is_reviewed_N).sum())


def doubtful(labels_N: NDArray[np.int64], probs_NK: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Likely label errors.

    Args:
        labels_N: Given class ids.
        probs_NK: Out-of-fold probabilities: each row of a model that was not trained on the image.

    Returns:
        bool [N].

    Source:
        Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", as
        in cleanlab: of each class as many images as the estimated joint of given and true labels
        has off its diagonal, those with the least self-confidence.
    """
    # One process: starting others takes longer than the counting.
    found: NDArray[np.bool_] = find_label_issues(labels_N, probs_NK, filter_by=_FILTER, n_jobs=1)
    return found


def _best_other(probs_K: NDArray[np.float32], label: int) -> int:
    """The most probable class but the given one."""
    others_K = probs_K.copy()
    others_K[label] = -1
    return int(others_K.argmax())

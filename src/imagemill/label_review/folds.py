"""Which images are held out together: folds as a pure function of keys, labels and groups.

P rows of `candidates`, F folds, K classes.
"""

import numpy as np
from numpy.typing import NDArray

from imagemill.randomness import U64, mixed

_FOLDS = 0xF01D  # the purpose of these draws


def assign_folds(
    component_P: NDArray[np.int64],
    labels_P: NDArray[np.int64],
    hashes_P: U64,
    learned_P: NDArray[np.bool_],
    *,
    folds: int,
) -> NDArray[np.int64]:
    """The fold in which each row is held out.

    Each class is dealt out evenly in the order of its hashes, so that as many classes as possible
    can be learned from the other folds.

    Args:
        component_P: Rows of one value stay together.
        labels_P: Class ids.
        hashes_P: `randomness.key_hashes` of the keys.
        learned_P: Rows that are learned from while they are not held out; where the others are
            held out makes no difference to them.
        folds: How many.

    Returns:
        Fold of each row, int64 [P].
    """
    # A component is dealt out as its first row, preferably one that is learned from.
    learned_first_P = np.argsort(~learned_P, kind="stable")
    names_C, places_C = np.unique(component_P[learned_first_P], return_index=True)
    heads_C = learned_first_P[places_C]
    order_C = np.lexsort((mixed(hashes_P[heads_C], _FOLDS), labels_P[heads_C], ~learned_P[heads_C]))
    # Dealing goes on from class to class: small classes do not all begin with the first fold.
    fold_C = np.empty(len(heads_C), np.int64)
    fold_C[order_C] = np.arange(len(heads_C)) % folds
    folds_P: NDArray[np.int64] = fold_C[np.searchsorted(names_C, component_P)]
    return folds_P


def learnable(
    fold_P: NDArray[np.int64], labels_P: NDArray[np.int64], learned_P: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Whether the label of a row can be learned from the other folds.

    Args:
        fold_P: Fold of each row.
        labels_P: Class ids.
        learned_P: Rows that are learned from while they are not held out.

    Returns:
        bool [P].
    """
    counts_KF = np.zeros((labels_P.max() + 1, fold_P.max() + 1), np.int64)
    np.add.at(counts_KF, (labels_P[learned_P], fold_P[learned_P]), 1)
    elsewhere_KF = counts_KF.sum(axis=1, keepdims=True) - counts_KF
    found_P: NDArray[np.bool_] = elsewhere_KF[labels_P, fold_P] > 0
    return found_P

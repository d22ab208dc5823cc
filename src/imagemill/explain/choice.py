"""Which images to explain: a few of every kind, mistakes among them.

Shapes: N images.
"""

import numpy as np
from numpy.typing import NDArray

from imagemill.randomness import U64, mixed

# The purposes of these draws.
_POOL, _CHOICE = 0xE1A0, 0xE1A1


def pool(hashes_N: U64, *, count: int, seed: int) -> NDArray[np.intp]:
    """Positions of some images, in a random order.

    Args:
        hashes_N: `randomness.key_hashes` of the keys.
        count: How many, at most.
        seed: Of the choice.
    """
    return np.argsort(mixed(hashes_N, _POOL, seed), kind="stable")[:count]


def choose(
    hashes_N: U64,
    labels_N: NDArray[np.int64],
    predicted_N: NDArray[np.int64],
    *,
    count: int,
    seed: int,
) -> NDArray[np.intp]:
    """Pick images: up to a third of them mistakes, the others right, both spread over the classes.

    Args:
        hashes_N: `randomness.key_hashes` of the keys.
        labels_N: True class ids.
        predicted_N: Predicted class ids.
        count: How many, at least 1; fewer where there are not as many.
        seed: Of the choice.

    Returns:
        Positions, mistakes last.
    """
    wrong_N = labels_N != predicted_N
    right = _spread(hashes_N, labels_N, np.flatnonzero(~wrong_N), seed)
    wrong = _spread(hashes_N, labels_N, np.flatnonzero(wrong_N), seed)
    # Where little is right, mistakes fill up.
    num_right = min(len(right), count - min(len(wrong), count // 3))
    return np.concatenate([right[:num_right], wrong[: count - num_right]])


def choose_mistakes(
    hashes_N: U64,
    labels_N: NDArray[np.int64],
    predicted_N: NDArray[np.int64],
    *,
    count: int,
    seed: int,
) -> NDArray[np.intp]:
    """Positions of mistakes alone, spread over the classes; arguments as for `choose`."""
    return _spread(hashes_N, labels_N, np.flatnonzero(labels_N != predicted_N), seed)[:count]


def _spread(
    hashes_N: U64, labels_N: NDArray[np.int64], positions: NDArray[np.intp], seed: int
) -> NDArray[np.intp]:
    """Positions in a random order that takes one image of each class before a second of any."""
    order = positions[np.argsort(mixed(hashes_N[positions], _CHOICE, seed), kind="stable")]
    turns = np.zeros(len(order), dtype=np.intp)
    for label in np.unique(labels_N[order]):
        of_class = labels_N[order] == label
        turns[of_class] = np.arange(of_class.sum())
    return order[np.argsort(turns, kind="stable")]

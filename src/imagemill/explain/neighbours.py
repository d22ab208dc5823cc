"""What of train lies next to a mistake.

Shapes: M mistakes, N train images, D features.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.explain.embeddings import Embeddings


class Nearest(NamedTuple):
    """The nearest train images of each mistake, nearest first.

    positions_MK: In the embeddings of train.
    similarities_MK: Cosines, in -1..1.
    """

    positions_MK: NDArray[np.intp]
    similarities_MK: NDArray[np.float32]


def nearest(features_MD: NDArray[np.float32], train: Embeddings, *, count: int) -> Nearest:
    """Find the train images whose embeddings point the same way.

    Args:
        features_MD: Embeddings of the mistakes.
        train: What to search.
        count: How many for each, fewer where there are fewer.
    """
    cosines_MN = _unit(features_MD) @ _unit(train.features_ND).T
    positions_MK = np.argsort(-cosines_MN, axis=1, kind="stable")[:, :count]
    return Nearest(positions_MK, np.take_along_axis(cosines_MN, positions_MK, axis=1))


def _unit(features_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = features_ND / np.linalg.norm(
        features_ND, axis=1, keepdims=True
    ).clip(1e-12)
    return unit

"""Embeddings on a plane: images that the net takes for alike lie together.

Shapes: N images, D features.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

# Of the source: neighbours that count, and dimensions that are left before.
_PERPLEXITY, _DIMENSIONS = 30, 50
_FEWEST = 3 * _PERPLEXITY


class Plane(NamedTuple):
    """Where images lie, float32 [N, 2], and by which method."""

    places_N2: NDArray[np.float32]
    method: str


def on_plane(features_ND: NDArray[np.float32], *, seed: int) -> Plane:
    """Two dimensions of many: neighbours kept by t-SNE, with few images the widest two by PCA.

    Args:
        features_ND: Embeddings.
        seed: Of t-SNE.

    Source:
        van der Maaten and Hinton 2008, "Visualizing Data using t-SNE", by scikit-learn; distances
        between groups mean nothing.
    """
    widest = min(_DIMENSIONS, *features_ND.shape)
    reduced = PCA(widest, svd_solver="full").fit_transform(features_ND).astype(np.float32)
    if len(features_ND) < _FEWEST:
        padded = np.pad(reduced, ((0, 0), (0, max(0, 2 - widest))))
        return Plane(padded[:, :2], "PCA")
    places = TSNE(perplexity=_PERPLEXITY, init="pca", random_state=seed).fit_transform(reduced)
    return Plane(places.astype(np.float32), "t-SNE")

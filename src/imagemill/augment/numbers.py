"""How many copies each training image gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import UnknownNameError
from imagemill.params import CopiesParams
from imagemill.randomness import U64, uniforms

_EXTRA = 0xE7A4  # the purpose of these draws


@dataclass(frozen=True)
class Numbers:
    """Copies an image of each class, whole or not: 1.5 is one copy, and a second for half of them.

    each_K: By class id.
    seed: Of the choice of that half.
    """

    each_K: NDArray[np.float64]
    seed: int

    @property
    def none(self) -> bool:
        """Whether no image gets a copy."""
        return not self.each_K.any()

    def of(self, targets_N: NDArray[np.integer], hashes_N: U64) -> NDArray[np.int64]:
        """Copies of each image, a pure function of its key and class.

        Args:
            targets_N: Class ids.
            hashes_N: `randomness.key_hashes` of the keys.
        """
        drawn_N = uniforms(hashes_N, self.seed, _EXTRA)
        copies_N: NDArray[np.int64] = np.floor(self.each_K[targets_N] + drawn_N).astype(np.int64)
        return copies_N


def numbers_of_copies(
    params: CopiesParams, classes: Sequence[str], counts_K: Sequence[int], *, seed: int
) -> Numbers:
    """Work out `augment.copies` for a data set.

    Args:
        params: What the user wants.
        classes: Names by class id.
        counts_K: Training images of each class.
        seed: `augment.seed`.

    Raises:
        UnknownNameError: `classes` names one that is not there.
    """
    given: Mapping[str, int] = params.classes or {}
    for name in given:
        if name not in classes:
            raise UnknownNameError("class of augment.copies", name, classes)
    each_K = np.array([given.get(name, params.default) for name in classes], np.float64)
    if params.even_out is not None:
        counts = np.maximum(counts_K, 1)
        wanted_K = (counts * (1 + each_K)).max() / counts - 1
        more_K = np.maximum(each_K, np.minimum(wanted_K, params.even_out))
        each_K = np.where([name in given for name in classes], each_K, more_K)
    return Numbers(each_K, seed)

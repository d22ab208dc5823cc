"""From augmented images to what a step is computed on: mixed where the policy says so, and sized.

Pure functions of the global batch, so that any number of ranks computes the same.

Shapes: B samples of this rank in a step, G of all ranks, R images needed for them.
"""

from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from imagemill.augment import Policy
from imagemill.augment.mixing import with_neighbour
from imagemill.randomness import U64


class Fed(NamedTuple):
    """What a rank computes a step on.

    images_BHWC: uint8.
    own_B: Class ids.
    others_B: Class ids of the neighbours they are mixed with; None: nothing is mixed.
    shares_B: How much of the target is the own class, float64 in 0..1.
    """

    images_BHWC: NDArray[np.uint8]
    own_B: NDArray[np.int64]
    others_B: NDArray[np.int64] | None = None
    shares_B: NDArray[np.float64] | None = None

    def at(self, rows_K: NDArray[np.intp]) -> "Fed":
        """Some rows alone."""
        return Fed(
            self.images_BHWC[rows_K],
            self.own_B[rows_K],
            None if self.others_B is None else self.others_B[rows_K],
            None if self.shares_B is None else self.shares_B[rows_K],
        )


def needed(policy: Policy, batch_G: NDArray[np.intp], mine_B: NDArray[np.intp]) -> NDArray[np.intp]:
    """Positions of the images a rank must decode for its part of a global batch.

    Args:
        policy: Of training.
        batch_G: Positions of the samples of the step, over all ranks.
        mine_B: This rank's part of them, contiguous, not empty.

    Returns:
        `mine_B`, and behind it one more where images are mixed.
    """
    return mine_B if policy.mixing is None else with_neighbour(batch_G, mine_B)


def fed(
    policy: Policy,
    images_RHWC: NDArray[np.uint8],
    hashes_R: U64,
    targets_R: NDArray[np.int64],
    *,
    epoch: int,
) -> Fed:
    """Mix.

    Args:
        policy: Of training.
        images_RHWC: The images `needed` names, in that order, augmented; left alone.
        hashes_R: `randomness.key_hashes` of their keys.
        targets_R: Their class ids.
        epoch: Number of the epoch.
    """
    if policy.mixing is None:
        return Fed(images_RHWC, targets_R)
    mixed = policy.mixing.mix(images_RHWC[:-1], images_RHWC[1:], hashes_R[:-1], epoch=epoch)
    return Fed(mixed.images_BHWC, targets_R[:-1], targets_R[1:], mixed.shares_B)


def resized(images_BCHW: Tensor, size: int) -> Tensor:
    """The same images at another size, as the loader would have made them: averaged under a
    triangle.

    On a CPU they stay bytes: a quarter of the time that floats take. Elsewhere torch knows no such
    filter for bytes, so they are rounded to them.

    Args:
        images_BCHW: uint8.
        size: Height and width, pixels.
    """
    if images_BCHW.shape[-2:] == (size, size):
        return images_BCHW
    if images_BCHW.device.type == "cpu":
        return _averaged(images_BCHW, size)
    return _averaged(images_BCHW.float(), size).round_().to(images_BCHW.dtype)


def _averaged(images_BCHW: Tensor, size: int) -> Tensor:
    return F.interpolate(images_BCHW, (size, size), mode="bilinear", antialias=True)

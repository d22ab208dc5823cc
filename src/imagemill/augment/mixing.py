"""MIXINGS: operations that mix a sample with its neighbour in the global batch, label and all.

The neighbour is the next sample of the *global* batch, the first one for the last. The order of an
epoch is drawn anew by hash, so that is a random partner; and whatever the number of ranks, a rank
needs one image beside its own slice.

Shapes: B samples of a rank, G of the global batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from imagemill.augment.geometric import Floats, Pixels, planes
from imagemill.augment.layers import Draws
from imagemill.randomness import U64

# (images_MHWC, neighbours_MHWC, alpha, draws) -> mixed images and the own shares.
_Mix = Callable[[Pixels, Pixels, float, Draws], tuple[Pixels, Floats]]


class Mixed(NamedTuple):
    """Images after mixing.

    images_BHWC: uint8.
    shares_B: How much of the target is the sample's own, float64 in 0..1; the rest is that of its
        neighbour.
    """

    images_BHWC: Pixels
    shares_B: Floats


@dataclass(frozen=True)
class Mixing:
    """The mixing entries of a policy; a sample is mixed by the first whose chance hits it."""

    entries: Sequence["Entry"]
    seed: int

    def mix(
        self, images_BHWC: Pixels, neighbours_BHWC: Pixels, hashes_B: U64, *, epoch: int
    ) -> Mixed:
        """Mix each image with its neighbour; what was given is left alone.

        Args:
            images_BHWC: uint8, augmented.
            neighbours_BHWC: The same size.
            hashes_B: `randomness.key_hashes` of the samples.
            epoch: Another epoch, other draws.
        """
        mixed_BHWC, shares_B = images_BHWC, np.ones(len(images_BHWC))
        waiting_B = np.ones(len(images_BHWC), bool)
        for entry in self.entries:
            draws = Draws(hashes_B, self.seed, epoch, entry.position)
            hit_B = waiting_B & draws.chosen(entry.probability)
            if not hit_B.any():
                continue
            changed_MHWC, shares_M = entry.mix(
                images_BHWC[hit_B], neighbours_BHWC[hit_B], entry.alpha, draws.of(hit_B)
            )
            if mixed_BHWC is images_BHWC:
                mixed_BHWC = images_BHWC.copy()
            mixed_BHWC[hit_B], shares_B[hit_B] = changed_MHWC, shares_M
            waiting_B &= ~hit_B
        return Mixed(mixed_BHWC, shares_B)


def mixup(
    images_BHWC: Pixels, neighbours_BHWC: Pixels, alpha: float, draws: Draws
) -> tuple[Pixels, Floats]:
    """Blend pixels: the own share is Beta(alpha, alpha).

    Source: Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization". A share is drawn for
    each sample, not one for the batch, and pixels are rounded to 8 bits.
    """
    shares_B = _shares(alpha, draws)
    mixed_BHWC = np.empty_like(images_BHWC)
    blended = planes(images_BHWC, mixed_BHWC)
    for (image, out), neighbour, share in zip(blended, neighbours_BHWC, shares_B, strict=True):
        cv2.addWeighted(image, share, neighbour.reshape(image.shape), 1 - share, 0, dst=out)
    return mixed_BHWC, shares_B


def cutmix(
    images_BHWC: Pixels, neighbours_BHWC: Pixels, alpha: float, draws: Draws
) -> tuple[Pixels, Floats]:
    """Paste a window of the neighbour in the same place; the own share is the area left.

    Source: Yun et al. 2019, "CutMix". A window is drawn for each sample, not one for the batch.
    """
    batch, height, width, _ = images_BHWC.shape
    radii_B = np.sqrt(1 - _shares(alpha, draws)) / 2
    y_B, x_B = np.floor(draws(2) * height), np.floor(draws(3) * width)
    tall_B, wide_B = np.floor(radii_B * height), np.floor(radii_B * width)
    top_B, bottom_B = (np.clip(y_B + tall_B * side, 0, height).astype(int) for side in (-1, 1))
    left_B, right_B = (np.clip(x_B + wide_B * side, 0, width).astype(int) for side in (-1, 1))
    mixed_BHWC = images_BHWC.copy()
    for row in range(batch):
        window = slice(top_B[row], bottom_B[row]), slice(left_B[row], right_B[row])
        mixed_BHWC[row][window] = neighbours_BHWC[row][window]
    return mixed_BHWC, 1 - (bottom_B - top_B) * (right_B - left_B) / (height * width)


MIXINGS: dict[str, _Mix] = {"mixup": mixup, "cutmix": cutmix}


class Entry(NamedTuple):
    """One mixing entry of a policy; `position` is its place in the list."""

    mix: _Mix
    probability: float
    alpha: float
    position: int


def with_neighbour(batch_G: NDArray[np.intp], mine_B: NDArray[np.intp]) -> NDArray[np.intp]:
    """A rank's slice of a global batch and the sample after it: [B + 1].

    Args:
        batch_G: Positions of the samples of one step, over all ranks; each is there once.
        mine_B: A contiguous part of it, not empty.
    """
    last = int(np.flatnonzero(batch_G == mine_B[-1])[0])
    return np.append(mine_B, batch_G[(last + 1) % len(batch_G)])


def _shares(alpha: float, draws: Draws) -> Floats:
    """Own shares, Beta(alpha, alpha); takes draw 1."""
    # scipy takes a tenth of a second to import, and few policies need it.
    from scipy.special import betaincinv

    shares_B: Floats = betaincinv(alpha, alpha, draws(1))
    return shares_B

"""RandomResizedCrop: a window of random size, shape and place, decoded at the model's size.

It stands first in `augment.online`, for the loader cuts it out while it decodes: what lies outside
the window is never brought to memory at full size.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemill.augment.layers import Draws
from imagemill.randomness import U64

_ATTEMPTS = 10


@dataclass(frozen=True)
class RandomResizedCrop:
    """Draws windows.

    scale: Share of the area, least and most.
    ratio: Width over height, least and most.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", as torchvision has it: area
    drawn evenly, the logarithm of the ratio evenly, ten attempts, then the largest window in the
    middle whose ratio is allowed.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]
    seed: int

    def boxes(
        self,
        heights_B: NDArray[np.integer],
        widths_B: NDArray[np.integer],
        hashes_B: U64,
        *,
        epoch: int,
    ) -> NDArray[np.int32]:
        """A window for each image; what a sample gets depends on nothing but itself.

        Args:
            heights_B: Heights of the images, pixels.
            widths_B: Their widths.
            hashes_B: `randomness.key_hashes` of the samples.
            epoch: Another epoch, other windows.

        Returns:
            int32 [B, 4]: top, left, height, width, inside the image and never empty.
        """
        # The area of a large image does not fit into 32 bits.
        heights_B, widths_B = heights_B.astype(np.int64), widths_B.astype(np.int64)
        boxes_B4 = self._middle(heights_B, widths_B)
        missing_B = np.ones(len(hashes_B), bool)
        draws = Draws(hashes_B, self.seed, epoch, position=0)
        for attempt in range(_ATTEMPTS):
            found_M4, fits_M = self._attempt(
                heights_B[missing_B], widths_B[missing_B], draws.of(missing_B), 1 + 4 * attempt
            )
            rows_M = np.flatnonzero(missing_B)
            boxes_B4[rows_M[fits_M]] = found_M4[fits_M]
            missing_B[rows_M[fits_M]] = False
            if not missing_B.any():
                break
        return boxes_B4

    def _attempt(
        self,
        heights_M: NDArray[np.integer],
        widths_M: NDArray[np.integer],
        draws: Draws,
        first: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Windows, and which of them lie inside; takes four draws."""
        low, high = self.scale
        areas_M = heights_M * widths_M * (low + (high - low) * draws(first))
        low, high = np.log(self.ratio)
        ratios_M = np.exp(low + (high - low) * draws(first + 1))
        wide_M = np.rint(np.sqrt(areas_M * ratios_M))
        tall_M = np.rint(np.sqrt(areas_M / ratios_M))
        top_M = np.floor(draws(first + 2) * (heights_M - tall_M + 1))
        left_M = np.floor(draws(first + 3) * (widths_M - wide_M + 1))
        fits_M = (wide_M >= 1) & (wide_M <= widths_M) & (tall_M >= 1) & (tall_M <= heights_M)
        return np.stack([top_M, left_M, tall_M, wide_M], axis=1).astype(np.int32), fits_M

    def _middle(
        self, heights_B: NDArray[np.integer], widths_B: NDArray[np.integer]
    ) -> NDArray[np.int32]:
        """The largest windows in the middle that keep the ratio within its limits."""
        low, high = self.ratio
        wide_B = np.clip(np.rint(heights_B * high), 1, widths_B)
        tall_B = np.clip(np.rint(widths_B / low), 1, heights_B)
        top_B, left_B = (heights_B - tall_B) // 2, (widths_B - wide_B) // 2
        return np.stack([top_B, left_B, tall_B, wide_B], axis=1).astype(np.int32)

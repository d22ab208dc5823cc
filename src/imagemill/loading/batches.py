"""uint8 pixels to what models take, and how much of it at once."""

import numpy as np
from numpy.typing import NDArray

_PIXELS = 64 * 224 * 224  # of a forward pass; more gain little speed and cost gigabytes


def images_at_once(height: int, width: int, *, most: int, pixels: int = _PIXELS) -> int:
    """How many images a net is shown at once where only its answers are wanted.

    Args:
        height, width: Pixels.
        most: Of small images.
        pixels: Of all of them; by default as many as a net of photographs has memory for.
    """
    return max(1, min(most, pixels // (height * width)))


def to_input(images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [B, H, W, C] to float32 [B, C, H, W] in 0..1, contiguous."""
    planes_BCHW = np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2))
    return np.multiply(planes_BCHW, np.float32(1 / 255), dtype=np.float32)

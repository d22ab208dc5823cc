"""uint8 pixels to what models take."""

import numpy as np
from numpy.typing import NDArray


def to_input(images_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 [B, H, W, C] to float32 [B, C, H, W] in 0..1, contiguous."""
    planes_BCHW = np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2))
    return np.multiply(planes_BCHW, np.float32(1 / 255), dtype=np.float32)

"""The antialiased kernel in torch: for loading where the compiled part is missing."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Pixels = NDArray[np.uint8]


def antialias_by_torch(source_HWC: Pixels, out_hwC: Pixels) -> None:
    """`decoding.resizing.antialias`; a few pixels in a thousand differ by 1 level.

    Args:
        source_HWC: uint8.
        out_hwC: uint8, written to.
    """
    height, width, _ = out_hwC.shape
    planes = torch.from_numpy(source_HWC).permute(2, 0, 1)[None]
    # torch takes rows that lie apart for planes, and would answer with planes: twice the time.
    pixels = planes.contiguous(memory_format=torch.channels_last)
    resized = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    out_hwC[:] = resized[0].permute(1, 2, 0).numpy()

"""The antialiased kernel in torch: for loading where the compiled part is missing."""

import numpy as np
import torch
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def antialias_by_torch(source_HWC: Pixels, out_hwC: Pixels) -> None:
    """`decoding.resizing.antialias`; a few pixels in a thousand differ by 1 level.

    Args:
        source_HWC: uint8.
        out_hwC: uint8, written to.
    """
    planes = torch.from_numpy(source_HWC).permute(2, 0, 1)[None]
    out = torch.from_numpy(out_hwC).permute(2, 0, 1)[None]
    # What `torch.nn.functional.interpolate` calls. That has no `out`, takes rows that lie apart for
    # planes, and answers with planes: twice the time.
    torch.ops.aten._upsample_bilinear2d_aa.out(planes, out_hwC.shape[:2], False, out=out)

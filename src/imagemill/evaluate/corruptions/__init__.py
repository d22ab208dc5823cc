"""CORRUPTIONS: the fifteen common ways images get worse, in five severities.

Shapes: B batch, C channels, H height, W width.

Source: Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations": names, and strengths by severity of its sets for 32 and for 224 pixels. The code
is ours, for whole batches, of any size and of one or three channels; frost is drawn and glass
fetches pixels, so figures can be compared with each other, not with tables of ImageNet-C.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from imagemill.errors import UnknownNameError
from imagemill.evaluate.corruptions.blur import BLUR
from imagemill.evaluate.corruptions.contract import SEVERITIES, Corruption, Setting
from imagemill.evaluate.corruptions.digital import DIGITAL
from imagemill.evaluate.corruptions.noise import NOISE
from imagemill.evaluate.corruptions.weather import WEATHER

CORRUPTIONS: dict[str, Corruption] = {**NOISE, **BLUR, **WEATHER, **DIGITAL}


def corrupt(
    images_BCHW: NDArray[np.float32], name: str, severity: int, *, seed: int
) -> NDArray[np.float32]:
    """Images as they are after a corruption, stored in eight bits.

    Args:
        images_BCHW: float32 in 0..1, one or three channels.
        name: In `CORRUPTIONS`.
        severity: 1..5.
        seed: Of all draws; the same gives the same pixels.

    Returns:
        float32 of the same shape, multiples of 1/255 in 0..1.

    Raises:
        UnknownNameError: there is no such corruption.
    """
    if name not in CORRUPTIONS:
        raise UnknownNameError("corruption", name, CORRUPTIONS)
    corruption = CORRUPTIONS[name]
    strength, factor = corruption.strength(min(images_BCHW.shape[2:]), severity)
    setting = Setting(torch.Generator().manual_seed(seed), factor)
    worse = corruption.apply(torch.from_numpy(images_BCHW), strength, setting)
    stored: NDArray[np.float32] = ((worse.clamp(0, 1) * 255).round() / 255).numpy()
    return np.ascontiguousarray(stored)


__all__ = ["CORRUPTIONS", "SEVERITIES", "Corruption", "corrupt"]

"""Noise of sensors and of broken bits.

Shapes: B batch, C channels, H height, W width.
"""

import torch
from torch import Tensor

from imagemill.evaluate.corruptions.contract import Corruption, Setting


def _gaussian(images_BCHW: Tensor, deviation: float, setting: Setting) -> Tensor:
    return images_BCHW + deviation * torch.randn(images_BCHW.shape, generator=setting.draws)


def _shot(images_BCHW: Tensor, photons: float, setting: Setting) -> Tensor:
    return torch.poisson(images_BCHW * photons, generator=setting.draws) / photons


def _impulse(images_BCHW: Tensor, share: float, setting: Setting) -> Tensor:
    drawn_BCHW = torch.rand(images_BCHW.shape, generator=setting.draws)
    peppered_BCHW = images_BCHW.masked_fill(drawn_BCHW < share / 2, 0.0)
    return peppered_BCHW.masked_fill(drawn_BCHW >= 1 - share / 2, 1.0)


NOISE = {
    "gaussian_noise": Corruption(
        _gaussian, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)
    ),
    "shot_noise": Corruption(_shot, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(
        _impulse, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)
    ),
}

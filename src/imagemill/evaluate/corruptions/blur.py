"""Blur of lenses, of rough glass, of movement.

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from imagemill.evaluate.corruptions.contract import Corruption, Setting
from imagemill.evaluate.corruptions.filters import (
    disk_blurred,
    drawn_angles,
    gaussian_blurred,
    motion_blurred,
    zoomed,
)


def _defocus(images_BCHW: Tensor, strength: tuple[float, float], setting: Setting) -> Tensor:
    radius, alias_sigma = map(setting.pixels, strength)
    return disk_blurred(images_BCHW, radius, alias_sigma)


def _glass(images_BCHW: Tensor, strength: tuple[float, int, int], setting: Setting) -> Tensor:
    """Each pixel comes from nearby, so many times over; the source swaps neighbours in turn."""
    sigma, reach, times = strength
    blurred = gaussian_blurred(images_BCHW, setting.pixels(sigma))
    most = max(1, round(setting.pixels(reach)))
    for _ in range(times):
        blurred = _shuffled(blurred, most, setting.draws)
    return gaussian_blurred(blurred, setting.pixels(sigma))


def _shuffled(images_BCHW: Tensor, reach: int, draws: Generator) -> Tensor:
    batch, channels, height, width = images_BCHW.shape
    offsets_2BHW = torch.randint(-reach, reach + 1, (2, batch, height, width), generator=draws)
    rows_BHW = (torch.arange(height)[:, None] + offsets_2BHW[0]).clamp(0, height - 1)
    columns_BHW = (torch.arange(width) + offsets_2BHW[1]).clamp(0, width - 1)
    places = (rows_BHW * width + columns_BHW).reshape(batch, 1, -1).expand(-1, channels, -1)
    return images_BCHW.flatten(2).gather(2, places).reshape(images_BCHW.shape)


def _motion(images_BCHW: Tensor, strength: tuple[float, float], setting: Setting) -> Tensor:
    radius, sigma = map(setting.pixels, strength)
    angles_B = drawn_angles(len(images_BCHW), -45, 45, setting.draws)
    return motion_blurred(images_BCHW, radius, sigma, angles_B)


def _zoom(images_BCHW: Tensor, factors: Sequence[float], _: Setting) -> Tensor:
    total = images_BCHW.clone()
    for factor in factors:
        total += zoomed(images_BCHW, factor)
    return total / (len(factors) + 1)


def _factors(last: float, step: float) -> tuple[float, ...]:
    """Magnifications from 1 on."""
    return tuple(1 + step * number for number in range(round((last - 1) / step) + 1))


BLUR = {
    "defocus_blur": Corruption(
        _defocus,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Corruption(
        _glass,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Corruption(
        _motion,
        ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": Corruption(
        _zoom,
        tuple(_factors(last, 0.01) for last in (1.05, 1.10, 1.15, 1.20, 1.25)),
        (
            _factors(1.10, 0.01),
            _factors(1.15, 0.01),
            _factors(1.20, 0.02),
            _factors(1.24, 0.02),
            _factors(1.30, 0.03),
        ),
    ),
}

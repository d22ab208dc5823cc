"""Weather and light.

Shapes: B batch, C channels, H height, W width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from imagemill.evaluate.corruptions.contract import Corruption, Setting
from imagemill.evaluate.corruptions.filters import drawn_angles, motion_blurred, plasma

_ICE = (0.87, 0.94, 1.0)  # the tint of frost, RGB


def _snow(
    images_BCHW: Tensor,
    strength: tuple[float, float, float, float, float, float, float],
    setting: Setting,
) -> Tensor:
    mean, deviation, zoom, threshold, radius, sigma, kept = strength
    batch, _, height, width = images_BCHW.shape
    coarse = (max(1, round(height / zoom)), max(1, round(width / zoom)))
    flakes = mean + deviation * torch.randn((batch, 1, *coarse), generator=setting.draws)
    flakes = F.interpolate(flakes, (height, width), mode="bilinear", align_corners=False)
    flakes = flakes.masked_fill(flakes < threshold, 0.0).clamp(0, 1)
    angles_B = drawn_angles(batch, -135, -45, setting.draws)
    flakes = motion_blurred(flakes, setting.pixels(radius), setting.pixels(sigma), angles_B)
    pale = (_grey(images_BCHW) * 1.5 + 0.5).expand_as(images_BCHW)
    whitened = kept * images_BCHW + (1 - kept) * torch.maximum(images_BCHW, pale)
    return whitened + flakes + flakes.flip((2, 3))


def _frost(images_BCHW: Tensor, strength: tuple[float, float], setting: Setting) -> Tensor:
    """Ice is drawn, where the source lays photographs of frosted panes over the image."""
    kept, iced = strength
    batch, channels, height, width = images_BCHW.shape
    ridges = 1 - (2 * plasma((batch, height, width), 1.6, setting.draws) - 1).abs()
    ice_B1HW = (0.25 + 0.75 * ridges**3)[:, None]
    tint = torch.tensor(_ICE if channels == 3 else [1.0] * channels)[:, None, None]
    return kept * images_BCHW + iced * ice_B1HW * tint


def _fog(images_BCHW: Tensor, strength: tuple[float, float], setting: Setting) -> Tensor:
    density, decay = strength
    batch, _, height, width = images_BCHW.shape
    fog_B1HW = plasma((batch, height, width), decay, setting.draws)[:, None]
    brightest_B111 = images_BCHW.amax((1, 2, 3), keepdim=True)
    fogged = images_BCHW + density * fog_B1HW
    return fogged * brightest_B111 / (brightest_B111 + density)


def _brightness(images_BCHW: Tensor, added: float, _: Setting) -> Tensor:
    """Added to the value of hue, saturation and value: the hue stays."""
    value_B1HW = images_BCHW.amax(1, keepdim=True)
    brighter_B1HW = (value_B1HW + added).clamp_max(1)
    scaled = images_BCHW * (brighter_B1HW / value_B1HW.clamp_min(1e-6))
    return torch.where(value_B1HW > 0, scaled, brighter_B1HW.expand_as(scaled))


def _grey(images_BCHW: Tensor) -> Tensor:
    """Luma, [B, 1, H, W]."""
    if images_BCHW.shape[1] != 3:
        return images_BCHW.mean(1, keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    return (images_BCHW * weights).sum(1, keepdim=True)


WEATHER = {
    "snow": Corruption(
        _snow,
        (
            (0.1, 0.2, 1.0, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1.0, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3.0, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2.0, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4.0, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Corruption(
        _frost,
        ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": Corruption(
        _fog,
        ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
        ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    ),
    "brightness": Corruption(_brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
}

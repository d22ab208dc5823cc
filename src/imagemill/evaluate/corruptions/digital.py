"""What happens to images in files and in programs.

Shapes: B batch, C channels, H height, W width.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Generator, Tensor

from imagemill.evaluate.corruptions.contract import Corruption, Setting
from imagemill.evaluate.corruptions.filters import gaussian_blurred, moved


def _contrast(images_BCHW: Tensor, kept: float, _: Setting) -> Tensor:
    means_BC11 = images_BCHW.mean((2, 3), keepdim=True)
    return (images_BCHW - means_BC11) * kept + means_BC11


def _elastic(images_BCHW: Tensor, strength: tuple[float, float, float], setting: Setting) -> Tensor:
    """Three points are moved, which turns and shears; then each pixel by a smooth field.

    Source: Simard et al. 2003, "Best Practices for Convolutional Neural Networks".
    """
    distance, sigma, jitter = strength  # of the side
    batch, _, height, width = images_BCHW.shape
    side = min(height, width)
    field = 2 * torch.rand((batch, 2, height, width), generator=setting.draws) - 1
    smooth_BHW2 = (gaussian_blurred(field, sigma * side) * distance * side).movedim(1, 3)
    return moved(images_BCHW, _jittered(batch, jitter, setting.draws), smooth_BHW2)


def _jittered(batch: int, jitter: float, draws: Generator) -> Tensor:
    """Affine maps [B, 2, 3] that take three points about the centre to places nearby."""
    points_33 = torch.tensor([[1 / 3, 1 / 3, 1.0], [1 / 3, -1 / 3, 1.0], [-1 / 3, 1 / 3, 1.0]])
    # In -1..1 a side measures 2.
    moves_B32 = 2 * jitter * (2 * torch.rand((batch, 3, 2), generator=draws) - 1)
    maps_B32: Tensor = torch.linalg.solve(points_33, points_33[:, :2] + moves_B32)
    return maps_B32.mT


def _pixelate(images_BCHW: Tensor, kept: float, _: Setting) -> Tensor:
    size = tuple(images_BCHW.shape[2:])
    coarse = tuple(max(1, int(length * kept)) for length in size)
    return F.interpolate(F.interpolate(images_BCHW, coarse, mode="area"), size, mode="nearest")


def _jpeg(images_BCHW: Tensor, quality: int, _: Setting) -> Tensor:
    pixels_BHWC = (images_BCHW * 255).round().byte().movedim(1, 3).numpy()
    coded_BHWC = np.stack([_through_jpeg(image_HWC, quality) for image_HWC in pixels_BHWC])
    return torch.from_numpy(coded_BHWC).movedim(3, 1) / 255


def _through_jpeg(image_HWC: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(image_HWC.squeeze()).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream)).reshape(image_HWC.shape)


DIGITAL = {
    "contrast": Corruption(_contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Corruption(
        _elastic,
        (
            (0.0, 0.0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        (
            (2.0, 0.7, 0.1),
            (2.0, 0.08, 0.2),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        ),
    ),
    "pixelate": Corruption(_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(_jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}

"""Filters and moves of pixels that several corruptions are made of.

Shapes: B batch, C channels, H height, W width, N outputs of a line, M inputs of it.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from imagemill.evaluate.views import shifted

_TRUNCATE = 3.0  # standard deviations
_ANGLES = 16  # directions a batch is spread over


def gaussian_blurred(images_BCHW: Tensor, sigma: float) -> Tensor:
    """Blurred along both axes; edges are mirrored. `sigma` in pixels, 0 leaves all as it is."""
    if sigma <= 0:
        return images_BCHW
    height, width = images_BCHW.shape[2:]
    down_HH, across_WW = _blur_of_a_line(height, sigma), _blur_of_a_line(width, sigma)
    return down_HH @ images_BCHW @ across_WW.T


def _blur_of_a_line(length: int, sigma: float) -> Tensor:
    """The blur as a matrix [N, M]: a window longer than the line costs nothing."""
    radius = max(1, math.ceil(_TRUNCATE * sigma))
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    places_NM = _mirrored(torch.arange(length)[:, None] + offsets, length)
    matrix_NM = torch.zeros(length, length)
    return matrix_NM.scatter_add_(1, places_NM, (weights / weights.sum()).expand_as(places_NM))


def _mirrored(places: Tensor, length: int) -> Tensor:
    """Positions beyond a line's ends, reflected into it (d c b a | a b c d | d c b a)."""
    folded = places % (2 * length)
    return torch.minimum(folded, 2 * length - 1 - folded)


def disk_blurred(images_BCHW: Tensor, radius: float, alias_sigma: float) -> Tensor:
    """Out of focus: the mean over a disk, its edge softened by `alias_sigma` pixels."""
    reach = max(1, math.ceil(radius))
    offsets = torch.arange(-reach - 1, reach + 2, dtype=torch.float32)
    distance_KK = torch.hypot(offsets[:, None], offsets[None, :])
    # Cells on the edge count by how far the disk reaches into them.
    kernel_KK = (radius + 0.5 - distance_KK).clamp(0, 1)
    kernel_KK = gaussian_blurred(kernel_KK[None, None], alias_sigma)[0, 0]
    return _convolved(images_BCHW, kernel_KK / kernel_KK.sum())


def _convolved(images_BCHW: Tensor, kernel_KK: Tensor) -> Tensor:
    batch, channels, height, width = images_BCHW.shape
    reach = kernel_KK.shape[0] // 2
    planes = images_BCHW.reshape(batch * channels, 1, height, width)
    padded = F.pad(planes, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(padded, kernel_KK[None, None]).reshape(images_BCHW.shape)


def motion_blurred(images_BCHW: Tensor, radius: float, sigma: float, angles_B: Tensor) -> Tensor:
    """Smeared to one side along a line of 2 `radius` + 1 pixels, later ones weaker.

    Args:
        images_BCHW: Images.
        radius: Of the line, pixels.
        sigma: How far the weights reach, pixels.
        angles_B: Direction of each image, radians.
    """
    lengths = torch.arange(2 * max(1, round(radius)) + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (lengths / sigma) ** 2)
    weights = weights / weights.sum()
    smeared_BCHW = torch.empty_like(images_BCHW)
    for angle in sorted(set(angles_B.tolist())):
        alike = angles_B == angle
        chosen = images_BCHW[alike]
        total = torch.zeros_like(chosen)
        for length, weight in zip(lengths.tolist(), weights.tolist(), strict=True):
            down, right = round(length * math.sin(angle)), round(length * math.cos(angle))
            moved_BCHW = shifted(chosen.numpy(), down=down, right=right)
            total += weight * torch.from_numpy(moved_BCHW)
        smeared_BCHW[alike] = total
    return smeared_BCHW


def drawn_angles(count: int, low: float, high: float, draws: Generator) -> Tensor:
    """A direction each, radians, out of sixteen between `low` and `high` degrees."""
    steps_B = torch.randint(_ANGLES, (count,), generator=draws)
    return torch.deg2rad(low + (high - low) * steps_B / (_ANGLES - 1))


def zoomed(images_BCHW: Tensor, factor: float) -> Tensor:
    """Enlarged about its centre, at the same size."""
    theta = torch.tensor([[1 / factor, 0.0, 0.0], [0.0, 1 / factor, 0.0]])
    return moved(images_BCHW, theta.expand(len(images_BCHW), 2, 3), None)


def moved(images_BCHW: Tensor, theta_B23: Tensor, displaced_BHW2: Tensor | None) -> Tensor:
    """Pixels fetched from elsewhere, linearly between neighbours; edges are mirrored.

    Args:
        images_BCHW: Images.
        theta_B23: Affine map from places of the result to places of the image, both in -1..1.
        displaced_BHW2: Added to these places: right and down, pixels. None: nothing.
    """
    shape = list(images_BCHW.shape)
    grid_BHW2 = F.affine_grid(theta_B23, shape, align_corners=False)
    if displaced_BHW2 is not None:
        height, width = shape[2:]
        grid_BHW2 = grid_BHW2 + displaced_BHW2 * torch.tensor([2 / width, 2 / height])
    return F.grid_sample(images_BCHW, grid_BHW2, padding_mode="reflection", align_corners=False)


def plasma(shape: Sequence[int], decay: float, draws: Generator) -> Tensor:
    """Clouds: noise at every length, the shorter the weaker, float32 [B, H, W] in 0..1.

    Args:
        shape: B, H, W.
        decay: By how much noise of half the length is weaker.
        draws: Where the noise comes from.

    Source:
        Fournier et al. 1982, "Computer rendering of stochastic models": midpoints are displaced by
        ever less. Ours adds interpolated noise of each length, which leaves no grid.
    """
    batch, height, width = shape
    total = torch.zeros(batch, 1, height, width)
    cells, weight = 2, 1.0
    while cells < 2 * max(height, width):
        noise = torch.rand((batch, 1, cells, cells), generator=draws) - 0.5
        total += weight * F.interpolate(noise, (height, width), mode="bicubic", align_corners=True)
        cells, weight = 2 * cells, weight / decay
    low, high = total.amin((1, 2, 3), keepdim=True), total.amax((1, 2, 3), keepdim=True)
    return ((total - low) / (high - low).clamp_min(1e-12))[:, 0]

"""What pictures of explanations are put together from.

Shapes: C channels, H height, W width, M maps.
"""

from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from numpy.typing import NDArray

Image = NDArray[np.float32]  # [C, H, W] in 0..1

RIGHT, WRONG = "black", "#b2182b"
_TILES_A_ROW = 8


class Shown(NamedTuple):
    """An image and what the model says about it."""

    image_CHW: Image
    true: str
    predicted: str
    probability: float

    @property
    def caption(self) -> str:
        return f"true: {self.true}\nsays: {self.predicted} ({self.probability:.0%})"

    @property
    def correct(self) -> bool:
        return self.true == self.predicted


class Neighbour(NamedTuple):
    """A train image next to a mistake."""

    image_CHW: Image
    key: str
    label: str
    similarity: float


def coloured(values_MHW: NDArray[np.float32], most: float) -> NDArray[np.floating]:
    """Blue for -most, white for 0, red for most: [M, H, W, 3]."""
    colours: NDArray[np.floating] = colormaps["RdBu_r"]((values_MHW / most + 1) / 2)[..., :3]
    return colours


def tiled(tiles_MHWC: NDArray[np.floating]) -> NDArray[np.floating]:
    """Tiles in rows of eight with white between them, as one picture [H, W, 3]."""
    count, height, width, _ = tiles_MHWC.shape
    columns = min(_TILES_A_ROW, count)
    gap = max(1, width // 10)
    framed = np.pad(tiles_MHWC, ((0, -count % columns), *_frame(gap)), constant_values=1.0)
    rows = framed.reshape(-1, columns, height + gap, width + gap, 3)
    picture: NDArray[np.floating] = rows.transpose(0, 2, 1, 3, 4).reshape(
        -1, columns * (width + gap), 3
    )
    return picture[:-gap, :-gap]


def _frame(gap: int) -> tuple[tuple[int, int], ...]:
    """White below and to the right of a tile [H, W, C]."""
    return ((0, gap), (0, gap), (0, 0))


def bare(axes: Axes) -> None:
    """Take ticks and frame away."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def show_image(axes: Axes, shown: Shown) -> None:
    """An image below what is said of it."""
    show_pixels(axes, shown.image_CHW)
    axes.set_title(shown.caption, fontsize=8, color=RIGHT if shown.correct else WRONG)


def show_pixels(axes: Axes, image_CHW: Image) -> None:
    """An image without axes, grey for one channel."""
    image_HWC = image_CHW.transpose(1, 2, 0)
    if image_HWC.shape[2] == 1:
        image_HWC = image_HWC[..., 0]
    bare(axes)
    axes.imshow(image_HWC, cmap="gray", vmin=0, vmax=1)


def overlaid(image_CHW: Image, heat_HW: NDArray[np.float32]) -> NDArray[np.float64]:
    """The image in grey, and the heat over it the more opaque the hotter it is."""
    grey_HW1 = 0.7 * image_CHW.mean(0)[..., None]
    opacity_HW1 = 0.75 * heat_HW[..., None]
    colours_HWC: NDArray[np.float64] = colormaps["inferno"](0.2 + 0.8 * heat_HW)[..., :3]
    overlaid_HWC: NDArray[np.float64] = grey_HW1 * (1 - opacity_HW1) + colours_HWC * opacity_HW1
    return overlaid_HWC

"""Pictures of explanations, with what was true and what was predicted above each image.

Shapes: C channels, H height, W width, M maps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imagemill.records import publishing

Image = NDArray[np.float32]  # [C, H, W] in 0..1

_COLUMNS = 6
_MOST_MAPS = 32
_TILES_A_ROW = 8
_DPI = 110
_RIGHT, _WRONG = "black", "#b2182b"


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


def draw_heats(
    path: Path, images: Sequence[Shown], heats: Mapping[str, NDArray[np.float32]]
) -> None:
    """Each image above, and below it where the evidence for the predicted class lies.

    Args:
        path: The PNG.
        images: B images.
        heats: Method -> heat in 0..1, [B, H, W]; a row each.
    """
    columns = min(_COLUMNS, len(images))
    band = 1 + len(heats)
    bands = -(-len(images) // columns)
    size = (1.6 * columns + 0.3, (1.6 * band + 0.35) * bands)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(band * bands, columns, squeeze=False)
    for axes in grid.flat:
        _bare(axes)
    for number, shown in enumerate(images):
        row, column = band * (number // columns), number % columns
        _show_image(grid[row, column], shown)
        for below, (method, heat_BHW) in enumerate(heats.items(), row + 1):
            grid[below, column].imshow(_overlaid(shown.image_CHW, heat_BHW[number]))
            grid[below, 0].set_ylabel(method, fontsize=8)
    _save(figure, path)


def draw_maps(path: Path, shown: Shown, maps_MHW: NDArray[np.float32]) -> None:
    """An image and what the filters of the first layer answer to it.

    Args:
        path: The PNG.
        shown: The image.
        maps_MHW: Blue is negative, red positive, on one scale for all maps.
    """
    most = float(np.abs(maps_MHW).max()) or 1.0
    mosaic = _tiled(_coloured(maps_MHW[:_MOST_MAPS], most))
    wide = 8.5
    tall = max(2.8, wide * mosaic.shape[0] / mosaic.shape[1])
    figure = Figure(figsize=(wide + 2.5, tall), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2.5, wide])
    _show_image(left, shown)
    _bare(right)
    right.imshow(mosaic)
    _save(figure, path)


def draw_filters(path: Path, filters_MCHW: NDArray[np.float32]) -> None:
    """The weights of the first layer: in colour for three channels, else blue to red.

    Args:
        path: The PNG.
        filters_MCHW: float32; each filter is shown on a scale of its own.
    """
    filters_MCHW = filters_MCHW[:_MOST_MAPS]
    most_M111 = np.abs(filters_MCHW).max((1, 2, 3), keepdims=True).clip(1e-12)
    scaled_MCHW = filters_MCHW / most_M111
    if scaled_MCHW.shape[1] == 3:
        tiles_MHWC = (scaled_MCHW.transpose(0, 2, 3, 1) + 1) / 2
    else:
        tiles_MHWC = _coloured(scaled_MCHW.mean(1), 1.0)
    mosaic = _tiled(tiles_MHWC)
    figure = Figure(figsize=(7, 7 * mosaic.shape[0] / mosaic.shape[1]), layout="constrained")
    axes = figure.add_subplot()
    _bare(axes)
    axes.imshow(mosaic)
    _save(figure, path)


def _coloured(values_MHW: NDArray[np.float32], most: float) -> NDArray[np.floating]:
    """Blue for -most, white for 0, red for most: [M, H, W, 3]."""
    colours: NDArray[np.floating] = colormaps["RdBu_r"]((values_MHW / most + 1) / 2)[..., :3]
    return colours


def _tiled(tiles_MHWC: NDArray[np.floating]) -> NDArray[np.floating]:
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


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _show_image(axes: Axes, shown: Shown) -> None:
    image_HWC = shown.image_CHW.transpose(1, 2, 0)
    if image_HWC.shape[2] == 1:
        image_HWC = image_HWC[..., 0]
    _bare(axes)
    axes.imshow(image_HWC, cmap="gray", vmin=0, vmax=1)
    axes.set_title(shown.caption, fontsize=8, color=_RIGHT if shown.correct else _WRONG)


def _overlaid(image_CHW: Image, heat_HW: NDArray[np.float32]) -> NDArray[np.float64]:
    """The image in grey, and the heat over it the more opaque the hotter it is."""
    grey_HW1 = 0.7 * image_CHW.mean(0)[..., None]
    opacity_HW1 = 0.75 * heat_HW[..., None]
    colours_HWC: NDArray[np.float64] = colormaps["inferno"](0.2 + 0.8 * heat_HW)[..., :3]
    overlaid_HWC: NDArray[np.float64] = grey_HW1 * (1 - opacity_HW1) + colours_HWC * opacity_HW1
    return overlaid_HWC


def _save(figure: Figure, path: Path) -> None:
    """As PNG without the version of what drew it: the same figures give the same bytes."""
    with publishing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})

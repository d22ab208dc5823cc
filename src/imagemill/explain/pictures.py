"""Pictures of images and what a net makes of them, with what was true and what was predicted.

Shapes: C channels, H height, W width, M maps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imagemill.explain.canvas import (
    RIGHT,
    WRONG,
    Neighbour,
    Shown,
    bare,
    coloured,
    overlaid,
    show_image,
    show_pixels,
    tiled,
)
from imagemill.figures import save_figure

_COLUMNS = 6
_MOST_MAPS = 32
_LONGEST_KEY = 28


def draw_heats(
    path: Path, images: Sequence[Shown], heats: Mapping[str, NDArray[np.float32]]
) -> None:
    """Each image above, and below it where the evidence for the predicted class lies.

    Args:
        path: The PNG.
        images: B images.
        heats: Method -> heat in 0..1, [B or more, H, W]; a row each.
    """
    columns = min(_COLUMNS, len(images))
    band = 1 + len(heats)
    bands = -(-len(images) // columns)
    size = (1.6 * columns + 0.3, (1.6 * band + 0.35) * bands)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(band * bands, columns, squeeze=False)
    for axes in grid.flat:
        bare(axes)
    for number, shown in enumerate(images):
        row, column = band * (number // columns), number % columns
        show_image(grid[row, column], shown)
        for below, (method, heat_BHW) in enumerate(heats.items(), row + 1):
            grid[below, column].imshow(overlaid(shown.image_CHW, heat_BHW[number]))
            grid[below, 0].set_ylabel(method, fontsize=8)
    save_figure(figure, path)


def draw_maps(path: Path, shown: Shown, maps: Mapping[str, NDArray[np.float32]]) -> None:
    """An image and what the filters of layers answer to it.

    Args:
        path: The PNG.
        shown: The image.
        maps: Layer -> maps [M, H, W]; blue is negative, red positive, on one scale a layer.
    """
    mosaics = {
        layer: tiled(coloured(maps_MHW[:_MOST_MAPS], float(np.abs(maps_MHW).max()) or 1.0))
        for layer, maps_MHW in maps.items()
    }
    wide = 8.5
    heights = [wide * mosaic.shape[0] / mosaic.shape[1] for mosaic in mosaics.values()]
    tall = max(2.8, sum(heights) + 0.3 * len(heights))
    figure = Figure(figsize=(wide + 2.5, tall), layout="constrained")
    grid = figure.add_gridspec(len(mosaics), 2, width_ratios=[2.5, wide], height_ratios=heights)
    show_image(figure.add_subplot(grid[:, 0]), shown)
    column = [figure.add_subplot(grid[row, 1]) for row in range(len(mosaics))]
    for axes, (layer, mosaic) in zip(column, mosaics.items(), strict=True):
        bare(axes)
        axes.set_title(layer, fontsize=8)
        axes.imshow(mosaic)
    save_figure(figure, path)


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
        tiles_MHWC = coloured(scaled_MCHW.mean(1), 1.0)
    mosaic = tiled(tiles_MHWC)
    figure = Figure(figsize=(7, 7 * mosaic.shape[0] / mosaic.shape[1]), layout="constrained")
    axes = figure.add_subplot()
    bare(axes)
    axes.imshow(mosaic)
    save_figure(figure, path)


def draw_neighbours(path: Path, mistakes: Sequence[tuple[Shown, Sequence[Neighbour]]]) -> None:
    """A mistake in each row, and beside it what of train lies nearest in the net's eyes.

    Args:
        path: The PNG.
        mistakes: Each with its neighbours, nearest first; red labels are what was wrongly said.
    """
    columns = 1 + max(len(neighbours) for _, neighbours in mistakes)
    size = (1.7 * columns + 0.2, 2.15 * len(mistakes))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(mistakes), columns, squeeze=False)
    for axes in grid.flat:
        bare(axes)
    for row, (shown, neighbours) in zip(grid, mistakes, strict=True):
        show_image(row[0], shown)
        for axes, neighbour in zip(row[1:], neighbours, strict=False):
            show_pixels(axes, neighbour.image_CHW)
            colour = WRONG if neighbour.label == shown.predicted else RIGHT
            axes.set_title(
                f"{neighbour.label}\n{neighbour.similarity:.3f}", fontsize=8, color=colour
            )
            axes.set_xlabel(_tail(neighbour.key), fontsize=5)
    save_figure(figure, path)


def _tail(key: str) -> str:
    """As much of a key as fits under a picture."""
    return key if len(key) <= _LONGEST_KEY else f"…{key[-_LONGEST_KEY:]}"

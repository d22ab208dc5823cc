"""Curves of all variants in one picture: by how bad images are, and by how many are answered.

Shapes: C channels, H height, W width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from imagemill.evaluate.pictures import colour_of
from imagemill.figures import save_figure
from imagemill.records import Evaluation

_COLUMNS = 5
_MISTAKES_A_ROW = 6


def draw_robustness(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Top-1 under each corruption by severity, a small diagram a corruption.

    Args:
        path: The PNG.
        evaluations: The base and its variants, with corruptions.
    """
    found = [evaluation.corruption or {} for evaluation in evaluations]
    names = list(found[0]["errors"])
    rows = -(-len(names) // _COLUMNS)
    figure = Figure(figsize=(10, 1.9 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid.flat, names, strict=False):
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.grid(alpha=0.25)
        for number, (evaluation, told) in enumerate(zip(evaluations, found, strict=True)):
            accuracy = [100 * (1 - error) for error in told["errors"][name]]
            axes.plot(
                range(1, len(accuracy) + 1),
                accuracy,
                color=colour_of(number),
                linewidth=1.2,
                label=f"{evaluation.variant}: {evaluation.relative_corruption_error:.2f}",
            )
    grid[0, 0].set_xticks(range(1, 6))
    figure.supxlabel("severity", fontsize=10)
    figure.supylabel("top-1 on val, %", fontsize=10)
    _legend(figure, grid[0, 0], "mistakes, relative to the base's")
    save_figure(figure, path)


def draw_selective(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Accuracy of the answers if only the surest images are answered.

    Args:
        path: The PNG.
        evaluations: The base and its variants.
    """
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, evaluation in enumerate(evaluations):
        points = evaluation.selective or []
        axes.plot(
            [100 * point["coverage"] for point in points],
            [100 * point["accuracy"] for point in points],
            color=colour_of(number),
            linewidth=1.2,
            label=f"{evaluation.variant}: {100 * (evaluation.aurc or 0):.2f}",
        )
    axes.set(xlabel="images answered, the surest first, % of test", ylabel="of them right, %")
    axes.grid(alpha=0.25)
    _legend(figure, axes, "mean error over all shares, %")
    save_figure(figure, path)


def draw_mistakes(
    path: Path, images_BCHW: NDArray[np.float32], mistakes: Sequence[Mapping[str, Any]]
) -> None:
    """The images a variant is surest and wrong about.

    Args:
        path: The PNG.
        images_BCHW: float32 in 0..1.
        mistakes: For each image {true, predicted, confidence}.
    """
    columns = min(_MISTAKES_A_ROW, max(1, len(mistakes)))
    rows = max(1, -(-len(mistakes) // columns))
    figure = Figure(figsize=(1.7 * columns + 0.2, 2.15 * rows + 0.2), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    if not mistakes:
        grid[0, 0].text(0.5, 0.5, "no mistake", ha="center", va="center")
    for axes, image_CHW, told in zip(grid.flat, images_BCHW, mistakes, strict=False):
        pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1)
        caption = f"true: {told['true']}\nsays: {told['predicted']} ({told['confidence']:.0%})"
        axes.set_title(caption, fontsize=8)
    save_figure(figure, path)


def _legend(figure: Figure, axes: Axes, title: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=4,
        frameon=False,
        title=title,
        fontsize=9,
        title_fontsize=9,
    )

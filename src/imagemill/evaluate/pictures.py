"""Pictures of an evaluation: confusion matrices, a reliability diagram, and the comparison.

Shapes: K classes.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from imagemill.evaluate.quality import Answers
from imagemill.evaluate.verdict import Verdict
from imagemill.figures import save_figure
from imagemill.metrics import expected_calibration_error, reliability_bins
from imagemill.records import Evaluation

# Filled: worth having. Hollow: something else is better. Crossed: not worth having.
MARKERS: dict[Verdict, dict[str, Any]] = {
    "base": {"marker": "s", "markersize": 7},
    "accepted": {"marker": "o", "markersize": 7},
    "dominated": {"marker": "o", "markersize": 12, "markerfacecolor": "none"},
    "rejected": {"marker": "x", "markersize": 9},
}
_MOST_NUMBERED_CLASSES = 15
_MOST_NAMED_CLASSES = 50


def draw_confusion(
    path: Path, variant: str, confusion_KK: NDArray[np.int64], classes: Sequence[str]
) -> None:
    """Share of each true class (row) that went to each predicted class (column).

    Args:
        path: The PNG.
        variant: Its name, for the title.
        confusion_KK: Counts, int64 [K, K].
        classes: Names by class id.
    """
    num_classes = len(classes)
    side = float(np.clip(0.5 * num_classes, 3.5, 12))
    figure = Figure(figsize=(side + 1, side + 1), layout="constrained")
    axes = figure.add_subplot()
    shares_KK = confusion_KK / np.maximum(confusion_KK.sum(1, keepdims=True), 1)
    # The square root lifts rare confusions out of the white.
    axes.imshow(np.sqrt(shares_KK), cmap="Blues", vmin=0, vmax=1)
    correct, total = int(np.trace(confusion_KK)), int(confusion_KK.sum())
    axes.set_title(f"{variant}: {correct:,} of {total:,} right")
    axes.set(xlabel="predicted", ylabel="true")
    if num_classes <= _MOST_NAMED_CLASSES:
        axes.set_xticks(range(num_classes), classes, rotation=0 if _short(classes) else 90)
        axes.set_yticks(range(num_classes), classes)
    if num_classes <= _MOST_NUMBERED_CLASSES:
        _number_cells(axes, confusion_KK, shares_KK)
    save_figure(figure, path)


def _short(classes: Sequence[str]) -> bool:
    """Whether the names fit side by side under their columns."""
    return max(map(len, classes)) <= 3


def _number_cells(
    axes: Axes, confusion_KK: NDArray[np.int64], shares_KK: NDArray[np.float64]
) -> None:
    for row, column in np.argwhere(confusion_KK):
        colour = "white" if shares_KK[row, column] > 0.4 else "black"
        count = confusion_KK[row, column]
        axes.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=8)


def draw_reliability(path: Path, answers: Mapping[str, Answers], *, num_bins: int) -> None:
    """Accuracy against confidence, one small diagram a variant; on the diagonal is calibrated.

    Args:
        path: The PNG.
        answers: Variant -> answers on test.
        num_bins: Equal-width confidence bins.
    """
    columns = min(len(answers), 4)
    rows = -(-len(answers) // columns)
    figure = Figure(figsize=(2.7 * columns + 0.4, 2.9 * rows + 0.3), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (variant, given) in zip(grid.flat, answers.items(), strict=False):
        _draw_bins(axes, given, num_bins)
        ece = expected_calibration_error(given.probs_NK, given.labels_N, num_bins=num_bins)
        axes.set_title(f"{variant}: ECE {100 * ece:.1f} %", fontsize=10)
    for axes in grid.flat[len(answers) :]:
        axes.set_axis_off()
    figure.supxlabel("confidence", fontsize=10)
    figure.supylabel("accuracy; grey: share of images", fontsize=10)
    save_figure(figure, path)


def _draw_bins(axes: Axes, given: Answers, num_bins: int) -> None:
    bins = reliability_bins(given.probs_NK, given.labels_N, num_bins=num_bins)
    filled = [entry for entry in bins if entry.num_images]
    total = len(given.labels_N)
    axes.bar(
        [entry.low for entry in filled],
        [entry.num_images / total for entry in filled],
        width=1 / num_bins,
        align="edge",
        color="#d9d9d9",
    )
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, linestyle="--")
    confidence = [entry.confidence for entry in filled]
    accuracy = [entry.accuracy for entry in filled]
    axes.plot(confidence, accuracy, color="#2166ac", linewidth=0.7)
    # A bin of two images must not look as sure as one of two thousand.
    areas = [4 + 200 * entry.num_images / total for entry in filled]
    axes.scatter(confidence, accuracy, areas, color="#2166ac", clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), aspect="equal")


def draw_comparison(path: Path, evaluations: Sequence[Evaluation]) -> None:
    """Top-1 on test, with its interval, against latency and against size, and the front of each.

    Args:
        path: The PNG.
        evaluations: The base and its variants.
    """
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _scatter(left, evaluations, lambda evaluation: evaluation.latency_ms_p50)
    left.set(xlabel="latency of one image, p50, ms", ylabel="top-1 on test, %")
    _scatter(right, evaluations, lambda evaluation: evaluation.size_bytes / 1000)
    right.set_xlabel("size, kB")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False
    )
    save_figure(figure, path)


def _scatter(
    axes: Axes, evaluations: Sequence[Evaluation], cost: Callable[[Evaluation], float]
) -> None:
    for number, evaluation in enumerate(evaluations):
        low, high = evaluation.top1_ci95
        axes.errorbar(
            cost(evaluation),
            100 * evaluation.top1,
            yerr=[[100 * max(0, evaluation.top1 - low)], [100 * max(0, high - evaluation.top1)]],
            color=colour_of(number),
            capsize=3,
            linewidth=1,
            label=f"{evaluation.variant} ({evaluation.verdict})",
            **MARKERS[evaluation.verdict],
        )
    points = [(cost(evaluation), 100 * evaluation.top1) for evaluation in evaluations]
    front = front_of(points)
    dearest = (2 * max(points)[0], front[-1][1])  # the line runs out of the picture
    costs, worths = zip(*front, dearest, strict=True)
    axes.step(costs, worths, where="post", color="#bbbbbb", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(min(points)[0] / 1.4, max(points)[0] * 1.4)
    axes.grid(alpha=0.25)


def colour_of(number: int) -> str:
    """Of the contestant with this number; the base comes first."""
    return f"C{number}" if number else "black"


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of points (cost, worth) those that none beats at their cost or below, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, worth in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or worth > front[-1][1]:
            front.append((cost, worth))
    return front

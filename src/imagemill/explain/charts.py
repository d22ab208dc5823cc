"""Charts of explanations: what is deleted and inserted, where images lie, what imitates the net.

Shapes: N images, S steps.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from imagemill.explain.canvas import WRONG, bare
from imagemill.explain.faithfulness import RANDOM, Curves
from imagemill.figures import save_figure
from imagemill.records import Faithfulness, OnEmbeddings

_MOST_NAMED = 20  # classes a legend has room for
_COLOURS = {"surrogate": "#2166ac", "baseline": "#8c8c8c"}


def draw_curves(path: Path, curves: Mapping[str, Curves], scores: Sequence[Faithfulness]) -> None:
    """Probability of the predicted class while its evidence is taken away, and added.

    Args:
        path: The PNG.
        curves: Method -> curves of each image; their mean is drawn.
        scores: Of the same methods, for the legend.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    deletion, insertion = figure.subplots(1, 2, sharey=True)
    areas = {score.method: score for score in scores}
    for method, (deleted_BS, inserted_BS) in curves.items():
        score = areas[method]
        _curve(deletion, method, deleted_BS, score.deletion)
        _curve(insertion, method, inserted_BS, score.insertion)
    deletion.set_title("Deletion: the lower the better", fontsize=10)
    insertion.set_title("Insertion: the higher the better", fontsize=10)
    deletion.set_ylabel("probability of the predicted class")
    for axes, doing in ((deletion, "deleted"), (insertion, "inserted")):
        axes.set_xlabel(f"share of pixels {doing}, most evidence first")
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.legend(fontsize=7, title="area under the mean", title_fontsize=7)
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def draw_plane(
    path: Path,
    places_N2: NDArray[np.float32],
    targets_N: NDArray[np.int64],
    wrong_N: NDArray[np.bool_],
    classes: Sequence[str],
) -> None:
    """Where test images lie, coloured by their class, mistakes crossed.

    Args:
        path: The PNG.
        places_N2: From `plane.on_plane`.
        targets_N: True class ids.
        wrong_N: Which are mistakes.
        classes: Names; a legend has them while they are few.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot()
    bare(axes)
    colours = colormaps["tab20" if len(classes) <= _MOST_NAMED else "gist_rainbow"]
    for label, name in enumerate(classes):
        of_class = targets_N == label
        shade = label if len(classes) <= _MOST_NAMED else label / len(classes)
        x, y = places_N2[of_class].T
        axes.scatter(x, y, s=14, color=colours(shade), linewidths=0, label=name)
    x, y = places_N2[wrong_N].T
    axes.scatter(x, y, s=45, color=WRONG, marker="x", linewidths=1.2, label="mistake")
    if len(classes) <= _MOST_NAMED:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save_figure(figure, path)


def draw_on_embeddings(path: Path, models: Sequence[OnEmbeddings]) -> None:
    """Fidelity and accuracy of simple models, the net's own accuracy beside them.

    Args:
        path: The PNG.
        models: At least one.
    """
    figure = Figure(figsize=(9, 0.8 + 0.45 * len(models)), layout="constrained")
    fidelity, accuracy = figure.subplots(1, 2, sharey=True)
    names = [f"{model.name} ({model.kind})" for model in models]
    colours = [_COLOURS[model.kind] for model in models]
    _bars(fidelity, names, [model.fidelity for model in models], colours)
    _bars(accuracy, names, [model.accuracy for model in models], colours)
    accuracy.axvline(models[0].net_accuracy, color="black", linestyle="--", linewidth=1)
    fidelity.set_title("says what the net says", fontsize=10)
    accuracy.set_title("says the label (dashed: the net)", fontsize=10)
    fidelity.invert_yaxis()
    save_figure(figure, path)


def _curve(axes: Axes, method: str, curves_BS: NDArray[np.float64], area: float) -> None:
    shares = np.linspace(0, 1, curves_BS.shape[1])
    (line,) = axes.plot(shares, curves_BS.mean(0), linewidth=1.4, label=f"{method} {area:.3f}")
    if method == RANDOM:
        line.set(color="black", linestyle="--")


def _bars(
    axes: Axes, names: Sequence[str], shares: Sequence[float], colours: Sequence[str]
) -> None:
    bars = axes.barh(names, shares, color=colours, height=0.65)
    axes.bar_label(bars, [f"{share:.1%}" for share in shares], fontsize=8, padding=3)
    axes.set_xlim(0, 1.25)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.tick_params(labelsize=8)

"""Pictures of registered versions: accuracy against latency, and a metric over all versions."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from imagemill.figures import save_figure
from imagemill.table import readable_size
from imagemill.tracking import Measured

_LARGEST = 600  # points squared: the area of the largest model's marker
_SMALLEST = 30


def draw_versions(path: Path, versions: Sequence[Measured]) -> None:
    """Top-1 on val with its 95 % interval against p50 at batch 1; the area is the size.

    Args:
        path: The PNG.
        versions: At least one.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    largest = max(version.figures["size_bytes"] for version in versions)
    for version in versions:
        numbers = version.figures
        latency, top1 = numbers["latency_ms_p50"], 100 * numbers["val_top1"]
        low, high = (100 * numbers[f"val_top1_ci95_{end}"] for end in ("low", "high"))
        arms = [[max(top1 - low, 0)], [max(high - top1, 0)]]
        axes.errorbar(latency, top1, yerr=arms, color="0.7", zorder=1)
        area = max(_LARGEST * numbers["size_bytes"] / largest, _SMALLEST)
        size = readable_size(numbers["size_bytes"])
        name = f"{version.version} {version.variant}, {size}"
        axes.scatter(latency, top1, s=area, alpha=0.7, zorder=2, label=name)
        axes.annotate(
            str(version.version), (latency, top1), textcoords="offset points", xytext=(6, -12)
        )
    axes.set_xscale("log")
    axes.set(xlabel="latency p50 at batch 1, ms", ylabel="top-1 on val, %")
    axes.grid(visible=True, alpha=0.3)
    named = figure.legend(loc="outside right upper")
    for handle in named.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set_sizes([_SMALLEST])  # the area means something in the picture alone
    save_figure(figure, path)


def draw_history(path: Path, metric: str, versions: Sequence[Measured]) -> None:
    """A metric over version numbers: one line a variant, a star on the champion.

    Args:
        path: The PNG.
        metric: Its name; versions without it are left out.
        versions: In order of their numbers.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    measured = [version for version in versions if metric in version.figures]
    for variant in dict.fromkeys(version.variant for version in measured):
        own = [version for version in measured if version.variant == variant]
        numbers = [version.version for version in own]
        axes.plot(numbers, [one.figures[metric] for one in own], "o-", label=variant)
    for version in measured:
        if "champion" in version.aliases:
            axes.plot(
                version.version,
                version.figures[metric],
                "*",
                color="black",
                markersize=14,
                label="champion",
            )
    axes.set(xlabel="version", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    save_figure(figure, path)

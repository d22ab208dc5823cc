"""A picture of how stale the gradients of an asynchronous training were."""

import json
from pathlib import Path

PICTURE = "staleness.png"


def draw_staleness(lines: Path, output: Path) -> None:
    """Draw mean and largest staleness over steps; nothing where none was measured.

    Args:
        lines: metrics.jsonl.
        output: Folder to write the picture to.
    """
    told = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    told = [line for line in told if "staleness_mean" in line]
    if not told:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    steps = [line["step"] for line in told]
    axes.plot(steps, [line["staleness_max"] for line in told], label="largest", drawstyle="steps")
    axes.plot(steps, [line["staleness_mean"] for line in told], label="mean")
    axes.set(xlabel="step", ylabel="updates by others", ylim=(0, None))
    axes.legend()
    figure.savefig(output / PICTURE)

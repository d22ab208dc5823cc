"""What the recipes reach and cost: `python -m benchmarks.accuracy digits mnist cifar10`.

Each recipe runs through plain `dvc repro` in a clone of its own; from the second seed on with the
base model and its int8 variant alone. Archives are looked for in the folder IMAGEMILL_DATASETS.
Beside them stands another training on the same data: where nothing else is said, the reference
texts' scripts, measured on one core of a 2-core Zen 5 machine.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.clones import take_compiled_decoder
from benchmarks.results import Row, write_results
from imagemill.params import PARAMS_FILE, read_yaml

RECIPES = ("digits", "mnist", "cifar10")  # without arguments
SEEDS = (0, 1, 2)
ARCHIVES = {"cifar10": "cifar10.tar.gz", "clothing": "clothing.tar", "mnist": "mnist.tar.gz"}


@dataclass(frozen=True)
class Reference:
    """What recipes on the same data are compared with: a fraction on test and its cost."""

    name: str
    top1: float
    cpu_seconds: float


SCRIPTS = {
    "mnist": Reference("the Keras script", 0.9911, 151.0),
    "cifar10": Reference("the PyTorch script", 0.542, 256.0),
}


def main(recipes: list[str]) -> None:
    """Run the recipes and write benchmarks/results/accuracy-<recipe>.json."""
    for recipe in recipes:
        write_results(f"accuracy-{recipe}", measure(recipe))


def data_of(recipe: str) -> str | None:
    """The archive it trains on, one of ARCHIVES; None if it needs none."""
    return next((word for word in recipe.split("-") if word in ARCHIVES), None)


def measure(
    recipe: str,
    seeds: Sequence[int] = SEEDS,
    *,
    whole: bool = True,
    reference: Reference | None = None,
) -> list[Row]:
    """Top-1 on test and cost of training, means over seeds.

    Args:
        recipe: Its name.
        seeds: Of the trainings.
        whole: All variants and stages for the first seed; False: what the two figures need.
        reference: What to compare with; None: the script for this data, if there is one.
    """
    reference = reference or SCRIPTS.get(data_of(recipe) or "")
    with tempfile.TemporaryDirectory() as folder:
        results = _train(recipe, Path(folder) / "clone", seeds, whole=whole)
    top1 = [result["top1"] for result in results]
    cpu = [result["training_cpu_seconds"] for result in results]
    wall = [result["training_seconds"] for result in results]
    rows = [
        Row(f"{recipe}: top-1 on test, mean of {len(top1)} seed(s)", _mean(top1), "fraction"),
        Row(f"{recipe}: the lowest of them", min(top1), "fraction"),
        Row(f"{recipe}: training", _mean(cpu), "CPU seconds"),
        Row(f"{recipe}: training", _mean(wall), "seconds"),
    ]
    if reference:
        rows[0] = rows[0].against(reference.name, reference.top1)
        rows[2] = rows[2].against(reference.name, reference.cpu_seconds)
    if whole:
        rows.append(Row(f"{recipe}: dvc repro from nothing", results[0]["seconds"], "seconds"))
    return rows


def _train(recipe: str, clone: Path, seeds: Sequence[int], *, whole: bool) -> list[dict[str, Any]]:
    subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
    take_compiled_decoder(Path(), clone)
    place = ["imagemill", "recipe", recipe]
    if (data := data_of(recipe)) is not None:
        place += ["--data", str(Path(os.environ["IMAGEMILL_DATASETS"]) / ARCHIVES[data])]
    _run(place, clone)
    _run(["imagemill", "scan"], clone)
    results = []
    for number, seed in enumerate(seeds):
        _set(clone, seed, base_alone=number > 0 or not whole, corrupts=whole)
        results.append(_run_stages(clone, [] if whole else ["evaluate"]))
    return results


def _set(clone: Path, seed: int, *, base_alone: bool, corrupts: bool) -> None:
    document = read_yaml(clone / PARAMS_FILE)
    document["train"]["seed"] = seed
    if base_alone:
        document["compress"]["variants"] = {"int8": document["compress"]["variants"]["int8"]}
    if not corrupts:
        document["evaluate"]["corruption_images"] = 0
    # YAML reads JSON.
    (clone / PARAMS_FILE).write_text(json.dumps(document), encoding="utf-8")


def _run_stages(clone: Path, targets: list[str]) -> dict[str, Any]:
    start = time.monotonic()
    _run(["dvc", "repro", *targets], clone)
    seconds = time.monotonic() - start
    evaluation = json.loads((clone / "reports/evaluate/base.json").read_bytes())
    metrics = json.loads((clone / "models/base/metrics.json").read_bytes())
    return {**metrics, "top1": evaluation["top1"], "seconds": seconds}


def _run(command: list[str], clone: Path) -> None:
    # The stages import the clone's code, not the environment's editable install.
    paths = {"PYTHONPATH": str(clone / "src")}
    subprocess.run(command, cwd=clone, env=os.environ | paths, check=True)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main(sys.argv[1:] or list(RECIPES))

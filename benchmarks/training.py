"""Training beside other trainers, one table: `make bench-train`.

    python -m benchmarks.training                  # everything, more than an hour
    python -m benchmarks.training overhead         # what a trainer adds to a step
    python -m benchmarks.training cpu_step         # images/s of our step against a plain one
    python -m benchmarks.training ddp              # two processes against one
    python -m benchmarks.training accuracy         # what the recipes reach, three seeds each

Writes results/training.json; a part alone writes results/training-<part>.json.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import accuracy
from benchmarks.results import Row, write_results
from benchmarks.trainers import overhead, processes

RECIPES = ("mnist-fast", "mnist", "cifar10-fast", "cifar10", "clothing-transfer")
PROJECT = Path(__file__).resolve().parent.parent


def _accuracy() -> list[Row]:
    found = [name for name in RECIPES if (PROJECT / "recipes" / f"{name}.yaml").is_file()]
    return [row for name in found for row in accuracy.measure(name, whole=False)]


PARTS: dict[str, Callable[[], list[Row]]] = {
    "overhead": overhead.measure,
    "cpu_step": processes.cpu_step,
    "ddp": processes.ddp,
    "accuracy": _accuracy,
}


def main(parts: list[str]) -> None:
    """Measure the named parts, or all."""
    rows: list[Row] = []
    for part in parts or PARTS:
        sys.stdout.write(f"--- {part}\n")
        sys.stdout.flush()
        rows += PARTS[part]()
        write_results("-".join(["training", *parts]), rows)  # what is measured is not lost


if __name__ == "__main__":
    main(sys.argv[1:])

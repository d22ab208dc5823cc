"""Training beside other trainers, one table: `make bench-train`.

    python -m benchmarks.training                  # everything, about two hours
    python -m benchmarks.training overhead         # what a trainer adds to a step
    python -m benchmarks.training cpu_step         # images/s of our step against a plain one
    python -m benchmarks.training ddp              # two processes against one
    python -m benchmarks.training mnist cifar10    # what recipes reach; any of RECIPES

Each part writes results/training-<part>.json when it is measured.
"""

import sys
from collections.abc import Callable
from functools import partial

from benchmarks import accuracy
from benchmarks.results import Row, write_results
from benchmarks.trainers import overhead, processes

# Recipe -> seeds; of those that take long one.
RECIPES = {
    **dict.fromkeys(("mnist-fast", "mnist", "cifar10-fast", "cifar10"), accuracy.SEEDS),
    **dict.fromkeys(("clothing-transfer", "cifar10-transfer"), accuracy.SEEDS[:1]),
}
PARTS: dict[str, Callable[[], list[Row]]] = {
    "overhead": overhead.measure,
    "cpu_step": processes.cpu_step,
    "ddp": processes.ddp,
    **{
        recipe: partial(accuracy.measure, recipe, seeds, whole=False)
        for recipe, seeds in RECIPES.items()
    },
}


def main(parts: list[str]) -> None:
    """Measure the named parts, or all."""
    for part in parts or PARTS:
        sys.stdout.write(f"--- {part}\n")
        sys.stdout.flush()
        write_results(f"training-{part}", PARTS[part]())


if __name__ == "__main__":
    main(sys.argv[1:])

"""Training beside other trainers, one table: `make bench-train`.

    python -m benchmarks.training                  # everything, about two hours
    python -m benchmarks.training overhead         # what a trainer adds to a step
    python -m benchmarks.training cpu_step         # images/s of our step against a plain one
    python -m benchmarks.training ddp              # two processes against one
    python -m benchmarks.training mnist cifar10    # what recipes reach; any of RECIPES

Each part writes results/training-<part>.json when it is measured. A recipe is compared with the
reference text's settings on the same data if they were measured before it in the same run, else
with the text's own script, measured elsewhere.
"""

import sys
from collections.abc import Callable

from benchmarks import accuracy
from benchmarks.accuracy import Reference
from benchmarks.results import Row, print_rows, write_results
from benchmarks.trainers import overhead, processes

LOOPS: dict[str, Callable[[], list[Row]]] = {
    "overhead": overhead.measure,
    "cpu_step": processes.cpu_step,
    "ddp": processes.ddp,
}
REFERENCES = ("reference-mnist", "reference-cifar10")
# Recipe -> seeds; one of what is only compared with, and of what takes both cores for long.
RECIPES = {
    **dict.fromkeys(REFERENCES, accuracy.SEEDS[:1]),
    **dict.fromkeys(("mnist-fast", "mnist", "cifar10-fast", "cifar10"), accuracy.SEEDS),
    "clothing-transfer": accuracy.SEEDS,
    "cifar10-transfer": accuracy.SEEDS[:1],
}


def main(parts: list[str]) -> None:
    """Measure the named parts, or all."""
    parts = parts or [*LOOPS, *RECIPES]
    if unknown := set(parts) - {*LOOPS, *RECIPES}:
        sys.exit(f"expected parts among {[*LOOPS, *RECIPES]}, got {sorted(unknown)}")
    table: list[Row] = []
    references: dict[str | None, Reference] = {}
    for part in parts:
        sys.stdout.write(f"--- {part}\n")
        sys.stdout.flush()
        rows = LOOPS[part]() if part in LOOPS else _recipe(part, references)
        write_results(f"training-{part}", rows)
        table += rows
    if len(parts) > 1:
        sys.stdout.write("--- all\n")
        print_rows(table)


def _recipe(recipe: str, references: dict[str | None, Reference]) -> list[Row]:
    """What it reaches; what is only compared with is noted under its data."""
    data = accuracy.data_of(recipe)
    rows = accuracy.measure(recipe, RECIPES[recipe], whole=False, reference=references.get(data))
    if recipe in REFERENCES:
        top1, _, cpu, _ = rows
        references[data] = Reference(recipe, top1.value, cpu.value)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])

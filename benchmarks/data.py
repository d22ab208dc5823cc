"""The data plane beside its peers, one table: `make bench-data`.

Each part is a command of its own too (`python -m benchmarks.sharding`); this runs them all, one
after the other, and writes results/data.json.
"""

import sys
from importlib import import_module

from benchmarks.results import Row, write_results

PARTS = (
    "sharding",
    "loading",
    "streaming",
    "ledger",
    "growth",
    "manifest",
    "augmentation",
)


def main(parts: list[str]) -> None:
    """Measure the named parts, or all."""
    rows: list[Row] = []
    for part in parts or PARTS:
        sys.stdout.write(f"--- {part}\n")
        sys.stdout.flush()
        rows += import_module(f"benchmarks.{part}").measure()
    write_results("data", rows)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What trainers add to a step, in one process: `python -m benchmarks.trainers.overhead`.

All train the same tiny net in turns of a hundred steps, which is an epoch of ours. A machine that
is shared changes its speed from one second to the next, so each turn is compared with those of the
bare loop around it. Trainers are loops that own their process; here each is a greenlet, which hands
over inside the net's forward pass.
"""

import logging
import os
import statistics
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from greenlet import getcurrent, greenlet

from benchmarks.results import Row
from benchmarks.trainers.cases import CASES, Case
from benchmarks.trainers.meter import EnoughError, Meter
from benchmarks.trainers.work import WORKS, Tensors
from imagemill.train.machine import keep_freed_memory

STEPS, ROUNDS, WARM_UP_ROUNDS = 100, 40, 2
REFERENCE = "bare loop"
COMPARED = (
    *("imagemill", "imagemill, watching", "ignite", "timm's step"),
    *("accelerate", "lightning, lean", "lightning"),
)


def measure() -> list[Row]:
    """A row a trainer: milliseconds a step over the bare loop."""
    keep_freed_memory()
    torch.set_num_threads(1)
    logging.disable()
    warnings.simplefilter("ignore")
    # Trainers speak to the terminal; the real one is for the table.
    with (
        _on_one_core(),
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        slices = _slices()
    bare = slices.pop(REFERENCE)
    rows = [Row(f"step of the {REFERENCE}, tiny net", statistics.median(bare), "CPU ms")]
    for case, own in slices.items():
        # A turn of the bare loop stands before each of the others'.
        added = statistics.median(mine - other for mine, other in zip(own, bare, strict=True))
        row = Row(f"added to a step by {case}", added, "CPU ms")
        rows.append(row.against(REFERENCE, statistics.median(bare)))
    return rows


@contextmanager
def _on_one_core() -> Iterator[None]:
    """What comes after, and the processes it starts, has all of them again."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _slices() -> dict[str, list[float]]:
    """Of each case that is installed, milliseconds a step in each round."""
    work = WORKS["tiny"]
    data = Tensors(work, channels_last=True)
    runs = {
        name: _Run(CASES[name], data)
        for name in (REFERENCE, *COMPARED)
        if CASES[name].package is None or find_spec(str(CASES[name].package)) is not None
    }
    for number in range(WARM_UP_ROUNDS + ROUNDS):
        # In another order each time: nobody always comes after the same one.
        order = list(runs)[number % len(runs) :] + list(runs)[: number % len(runs)]
        for name in order:
            runs[name].turn()
    found = {name: run.meter.slices[WARM_UP_ROUNDS:] for name, run in runs.items()}
    for run in runs.values():
        run.end()
    return found


class _Run:
    """A trainer that works in turns."""

    def __init__(self, case: Case, data: Tensors) -> None:
        net = WORKS["tiny"].model()
        self.meter = Meter(net, steps=STEPS, between=getcurrent().switch)
        self._own = greenlet(partial(case.train, net, WORKS["tiny"], data))

    def turn(self) -> None:
        """One slice."""
        self._own.switch()

    def end(self) -> None:
        """Leave its loop."""
        with suppress(EnoughError):
            self._own.throw(EnoughError)


if __name__ == "__main__":
    for row in measure():
        sys.stdout.write(f"{row.case:<45} {row.value:7.3f} {row.unit}\n")

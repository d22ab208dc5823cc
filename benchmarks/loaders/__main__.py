"""One case in a process of its own: `python -m benchmarks.loaders CASE WORK EPOCHS`.

Prints the readings of its epochs (`benchmarks.loaders.meter`) as JSON.
"""

import json
import math
import mmap
import os
import random
import sys
from collections.abc import Iterator

import cv2
import torch

from benchmarks.loaders.cases import CASES
from benchmarks.loaders.meter import Meter, Reading
from benchmarks.loaders.work import WORKS
from imagemill.train.machine import keep_freed_memory

_TOUCHED_BYTES = 10**9
_ENOUGH_SECONDS = 5.0  # of an epoch of a slow case


def main(case: str, work: str, epochs: int) -> None:
    """Run a case on one core."""
    keep_freed_memory()  # as in training; it makes every case faster
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _touch_memory()
    files = WORKS[work].files()
    # Some classes are dearer than others, and the meter does not see all images in each epoch.
    random.Random(0).shuffle(files)
    meter = Meter([file.read_bytes() for file in files])
    found = CASES[case].epochs(WORKS[work], meter.turn)
    enough = _ENOUGH_SECONDS if CASES[case].stops else math.inf
    print(json.dumps([_measured(next(found), meter, enough) for _ in range(epochs)]))


def _touch_memory() -> None:
    """Use memory once and give it back.

    A virtual machine gets memory from its host at first touch, which costs up to ten times what the
    use of it does, and hits whichever case comes first.
    """
    with mmap.mmap(-1, _TOUCHED_BYTES) as memory:
        for start in range(0, _TOUCHED_BYTES, mmap.PAGESIZE):
            memory[start] = 1


def _measured(epoch: Iterator[int], meter: Meter, enough_seconds: float) -> Reading:
    meter.start()
    images = 0
    for size in epoch:
        images += size
        meter.turn()
        if meter.seconds() > enough_seconds:
            break
    return meter.read(images)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""One case in a process of its own: `python -m benchmarks.loaders CASE WORK EPOCHS`.

Prints the CPU seconds (of the process, its threads and children) and the images of each epoch.
"""

import json
import os
import resource
import sys
from collections.abc import Iterator

import cv2
import torch

from benchmarks.loaders.cases import CASES
from benchmarks.loaders.work import WORKS
from imagemill.train.machine import keep_freed_memory


def main(case: str, work: str, epochs: int) -> None:
    """Run a case on one core."""
    keep_freed_memory()  # as in training; it makes every case faster
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = CASES[case].epochs(WORKS[work])
    print(json.dumps([_measured(next(found)) for _ in range(epochs)]))


def _measured(epoch: Iterator[int]) -> tuple[float, int]:
    before = _cpu_seconds()
    images = sum(epoch)
    return _cpu_seconds() - before, images


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

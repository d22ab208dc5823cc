"""Accuracy and time of predictors, side by side in one process.

Shapes: B batch, N images, C channels, H height, W width.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemill.loading import SplitImages, to_input
from imagemill.runtimes import Predictor

_TURNS, _SINGLE, _BATCHES = 30, 10, 1
BATCH = 64


@dataclass(frozen=True)
class Figures:
    """What was measured of one predictor.

    single_ms, batch_ms: Medians for one image and for 64.
    """

    top1: float
    single_ms: float
    batch_ms: float


def measure(contestants: Mapping[str, Predictor], test: SplitImages) -> dict[str, Figures]:
    """Top-1 on all of test; times in turns, so that whatever else runs meets all alike.

    Args:
        contestants: Opened with one thread.
        test: Its first images are those timed.
    """
    images_NCHW = to_input(test.take(np.arange(BATCH)))
    singles = _in_turns(contestants, images_NCHW[:1], _SINGLE)
    batches = _in_turns(contestants, images_NCHW, _BATCHES)
    return {
        name: Figures(_top1(predict, test), singles[name], batches[name])
        for name, predict in contestants.items()
    }


def _in_turns(
    contestants: Mapping[str, Predictor], images_BCHW: NDArray[np.float32], calls: int
) -> dict[str, float]:
    """Median milliseconds of a call."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(_TURNS):
        for name, predict in contestants.items():
            predict(images_BCHW)  # the one before has left the caches full of its own
            for _ in range(calls):
                start = time.perf_counter()
                predict(images_BCHW)
                taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(seconds)) * 1e3 for name, seconds in taken.items()}


def _top1(predict: Predictor, test: SplitImages) -> float:
    hits = 0
    for start in range(0, len(test), BATCH):
        positions = np.arange(start, min(start + BATCH, len(test)))
        chosen_B = predict(to_input(test.take(positions))).argmax(1)
        hits += int((chosen_B == test.targets_N[positions]).sum())
    return hits / len(test)

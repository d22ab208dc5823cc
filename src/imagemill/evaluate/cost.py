"""How long a variant takes and what it draws, all variants side by side in one process.

Every contestant gets a small block of calls in turn, again and again: whatever else the machine
does in between meets all of them alike.

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.energy import EnergyMeter
from imagemill.params import EvaluateParams
from imagemill.runtimes import Predictor

# Calls timed in one turn: long enough to be warm, short enough to be fair.
BLOCK = 10

Clock = Callable[[], int]  # nanoseconds, monotonic
Images = NDArray[np.float32]


class Cost(NamedTuple):
    """What one contestant takes."""

    latency_ms_p50: float
    latency_ms_p95: float
    latency_ms_p99: float
    images_per_second: float
    images_per_second_8: float
    energy_joules_per_1000: float | None


class Stopwatch(NamedTuple):
    """What time and energy are read from."""

    clock: Clock
    meter: EnergyMeter


class _Timed(NamedTuple):
    nanoseconds: list[int]
    joules: list[float | None]  # one entry a block


def measure_cost(
    contestants: Mapping[str, Predictor],
    images_BCHW: Images,
    params: EvaluateParams,
    stopwatch: Stopwatch,
) -> dict[str, Cost]:
    """Time single images, then full batches.

    Args:
        contestants: Name -> predictor, opened with `params.threads`.
        images_BCHW: Real images, at least one; they are repeated to fill a batch.
        params: Rounds and batch size.
        stopwatch: Read before and after each call, and each block.

    Returns:
        Latency of one image (50th, 95th and 99th percentile, milliseconds); images a second in
        batches, and in batches of eight (of the median batch); energy a thousand images in
        batches (joules, None where the machine does not tell).
    """
    chosen = np.resize(np.arange(len(images_BCHW)), params.throughput_batch)
    batch_BCHW = np.ascontiguousarray(images_BCHW[chosen])
    eight_BCHW = np.ascontiguousarray(images_BCHW[np.resize(np.arange(len(images_BCHW)), 8)])
    single = _in_turns(contestants, images_BCHW[:1], params.latency_rounds, stopwatch)
    few = _in_turns(contestants, eight_BCHW, params.throughput_rounds, stopwatch)
    many = _in_turns(contestants, batch_BCHW, params.throughput_rounds, stopwatch)
    num_images = params.throughput_rounds * params.throughput_batch
    return {
        name: Cost(
            latency_ms_p50=float(np.percentile(single[name].nanoseconds, 50)) / 1e6,
            latency_ms_p95=float(np.percentile(single[name].nanoseconds, 95)) / 1e6,
            latency_ms_p99=float(np.percentile(single[name].nanoseconds, 99)) / 1e6,
            images_per_second_8=len(eight_BCHW) * 1e9 / float(np.median(few[name].nanoseconds)),
            images_per_second=len(chosen) * 1e9 / float(np.median(many[name].nanoseconds)),
            energy_joules_per_1000=_per_thousand(many[name].joules, num_images),
        )
        for name in contestants
    }


def _in_turns(
    contestants: Mapping[str, Predictor], images_BCHW: Images, rounds: int, stopwatch: Stopwatch
) -> dict[str, _Timed]:
    timed = {name: _Timed([], []) for name in contestants}
    for start in range(0, rounds, BLOCK):
        for name, predict in contestants.items():
            calls = min(BLOCK, rounds - start)
            predict(images_BCHW)  # the one before has left the caches full of its own
            _time_block(predict, images_BCHW, calls, stopwatch, timed[name])
    return timed


def _time_block(
    predict: Predictor, images_BCHW: Images, calls: int, stopwatch: Stopwatch, timed: _Timed
) -> None:
    clock, meter = stopwatch
    energy = meter.read()
    for _ in range(calls):
        start = clock()
        predict(images_BCHW)
        timed.nanoseconds.append(clock() - start)
    timed.joules.append(meter.joules_between(energy, meter.read()))


def _per_thousand(joules: list[float | None], num_images: int) -> float | None:
    known = [value for value in joules if value is not None]
    return sum(known) * 1000 / num_images if known else None

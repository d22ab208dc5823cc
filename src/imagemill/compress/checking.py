"""Forms and runtimes of one variant beside each other, on images of val.

Shapes: N images, B batch, C channels, H height, W width, K classes.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.compress.bench import Bench, spread
from imagemill.errors import IntegrityError
from imagemill.loading import to_input
from imagemill.records import ExportCheck, ModelCard, RuntimeFigures
from imagemill.runtimes import Predictor, open_variant
from imagemill.runtimes.onnx_export import TOLERANCE

_BATCH = 64
# Calls timed in one turn, and turns: 300 calls, as evaluation makes.
_BLOCK, _TURNS = 10, 30
# Medians of the same net, measured twice on a busy machine, lie so far apart.
_TIE = 0.05
# A runtime that loses more of val than this against the best one is no candidate, however fast.
_LOST_TOP1 = 0.005


class Checker:
    """Compares predictors with the one that is believed.

    Args:
        bench: Where val is.
        believed: The eager net, or where there is none the file all others were made from.
        exact: Whether the others compute in float32 too.
    """

    def __init__(self, bench: Bench, believed: Predictor, *, exact: bool) -> None:
        val = bench.images("val")
        wanted = bench.params.compress.checked_images or len(val)
        positions = spread(val.targets_N, wanted)
        self.targets_N = val.targets_N[positions]
        self.images_NCHW = to_input(val.take(positions))
        self.exact = exact
        self.expected_NK = self._answers(believed)

    def check(self, name: str, predict: Predictor) -> ExportCheck:
        """Its largest difference and accuracy.

        Args:
            name: For the message.
            predict: What is to be checked.

        Raises:
            IntegrityError: it differs by more than float32 arithmetic explains (unless the net is
                quantized or computed in bfloat16), or says no number.
        """
        received_NK = self._answers(predict)
        difference = float(np.abs(received_NK - self.expected_NK).max())
        allowed = TOLERANCE * max(1.0, float(np.abs(self.expected_NK).max()))
        if not np.isfinite(difference) or (self.exact and difference > allowed):
            raise IntegrityError(
                f"{name} differs from the net it was made from by {difference:.2g} (allowed "
                f"{allowed:.2g}) on images of val; leave it out of compress.exports and "
                "compress.candidates"
            )
        top1 = float((received_NK.argmax(1) == self.targets_N).mean())
        return ExportCheck(max_difference=difference, val_top1=top1)

    def _answers(self, predict: Predictor) -> NDArray[np.float32]:
        starts = range(0, len(self.images_NCHW), _BATCH)
        return np.concatenate([predict(self.images_NCHW[at : at + _BATCH]) for at in starts])


def measure_runtimes(
    folder: Path, names: Sequence[str], checker: Checker, *, threads: int
) -> dict[str, RuntimeFigures]:
    """What a variant says in each runtime and how long it takes for one image, in turns.

    Args:
        folder: A model folder with a model.json.
        names: Runtimes it holds a file for.
        checker: Has the images.
        threads: Threads inside one operator.
    """
    opened = {name: open_variant(folder, threads=threads, runtime=name) for name in names}
    checks = {name: checker.check(f"runtime {name}", run) for name, run in opened.items()}
    latencies = _latencies_ms(opened, checker.images_NCHW)
    return {
        name: RuntimeFigures(latency_ms_p50=latencies[name], **checks[name].model_dump())
        for name in names
    }


def _latencies_ms(
    opened: Mapping[str, Predictor], images_NCHW: NDArray[np.float32]
) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in opened}
    for turn in range(_TURNS):
        image = images_NCHW[[turn % len(images_NCHW)]]
        for name, predict in opened.items():
            predict(image)  # the one before has left the caches full of its own
            for _ in range(_BLOCK):
                start = time.perf_counter()
                predict(image)
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(taken)) * 1e3 for name, taken in seconds.items()}


def fastest(figures: Mapping[str, RuntimeFigures]) -> str:
    """The runtime to ship in: of those as accurate as the best one the fastest, the first of a tie.

    Args:
        figures: By runtime, in order of preference.
    """
    best = max(figure.val_top1 for figure in figures.values())
    able = {
        name: figure.latency_ms_p50
        for name, figure in figures.items()
        if figure.val_top1 >= best - _LOST_TOP1
    }
    least = min(able.values())
    return next(name for name, latency in able.items() if latency * (1 - _TIE) <= least)


def believed_runtime(card: ModelCard) -> str:
    """The runtime whose answers the others are compared with."""
    return "eager" if "model.safetensors" in card.files else "onnxruntime"

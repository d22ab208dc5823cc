"""INT8: convolutions and matrix products of bytes; QUANTIZERS has a way for each mode."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from imagemill.compress.bench import CARD, GRAPH, Bench, save_card, spread
from imagemill.compress.export import write_graph
from imagemill.compress.qat import learn_rounding
from imagemill.compress.quantize_dynamic import quantize_dynamically
from imagemill.compress.quantize_static import quantize_statically
from imagemill.loading import SplitImages, to_input
from imagemill.params import QuantizeParams
from imagemill.records import ModelCard
from imagemill.runtimes.onnx_session import open_session

# (float graph, INT8 graph to write, images of val [N, C, H, W], others) -> words for the log
Quantizer = Callable[[Path, Path, NDArray[np.float32], NDArray[np.float32]], str]

QUANTIZERS: dict[str, Quantizer] = {
    "static": quantize_statically,
    "dynamic": quantize_dynamically,
    "qat": quantize_statically,  # after `learn_rounding`
}
_COMPARED = 256  # images of val, where none are asked for to calibrate on


def quantize(source: Path, target: Path, step: QuantizeParams, bench: Bench) -> None:
    """Turn the convolutions and matrix products of a net to INT8.

    Unsigned activations with signed weights are what processors multiply fastest (U8S8; a signed
    pair runs slower than float32 on x86). The graph runs in ONNX Runtime and OpenVINO alike.

    Raises:
        TrainingError: mode qat, and the loss is not finite or the ledger is not whole.
    """
    val = bench.images("val")
    positions = spread(val.targets_N, step.calibration_images or _COMPARED)
    images_NCHW, others_MCHW = to_input(val.take(positions)), _others(val, positions)
    with TemporaryDirectory(dir=target.parent) as scratch:
        if step.mode == "qat":
            learned = Path(scratch) / "learned"
            learned.mkdir()
            learn_rounding(source, learned, step, bench)
            source = learned
        graph = Path(scratch) / GRAPH
        write_graph(source, graph, bench)
        told = QUANTIZERS[step.mode](graph, target / GRAPH, images_NCHW, others_MCHW)
        agreement = _agreement(graph, target / GRAPH, others_MCHW)
        before, after = graph.stat().st_size, (target / GRAPH).stat().st_size
        card = ModelCard.read(source / CARD)
    bench.log(
        f"quantize: {before / 1000:.1f} -> {after / 1000:.1f} kB ({after / before:.2f} x), same "
        f"class as float32 for {100 * agreement:.1f} % of {len(others_MCHW)} images of val; {told}"
    )
    save_card(target, card, [GRAPH], runtime="onnxruntime")


def _others(val: SplitImages, positions: NDArray[np.intp]) -> NDArray[np.float32]:
    """As many images of val again, which ranges are not taken from; if there are none, the same."""
    rest = np.setdiff1d(np.arange(len(val)), positions)
    if len(rest) == 0:
        rest = positions
    return to_input(val.take(rest[spread(val.targets_N[rest], len(positions))]))


def _agreement(graph: Path, quantized: Path, images_NCHW: NDArray[np.float32]) -> float:
    """Share of images that both graphs put into the same class."""
    chosen = [
        open_session(path.read_bytes(), threads=1)(images_NCHW).argmax(1)
        for path in (graph, quantized)
    ]
    return float((chosen[0] == chosen[1]).mean())

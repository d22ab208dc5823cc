"""INT8 after training, by ONNX Runtime: signed weights per channel, unsigned activations.

Shapes: N images, B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from imagemill.compress.bench import CARD, GRAPH, Bench, save_card, spread
from imagemill.compress.export import write_graph
from imagemill.loading import to_input
from imagemill.params import QuantizeParams
from imagemill.records import ModelCard
from imagemill.runtimes.onnx_export import INPUT
from imagemill.runtimes.onnx_session import open_session

_BATCH = 64


def quantize(source: Path, target: Path, step: QuantizeParams, bench: Bench) -> None:
    """Turn the convolutions and matrix products of a net to INT8.

    Activation ranges are fixed beforehand: the smallest and the largest value on images of val.
    Unsigned activations with signed weights are what processors multiply fastest (U8S8; a signed
    pair runs slower than float32 on x86).
    """
    val = bench.images("val")
    images_NCHW = to_input(val.take(spread(val.targets_N, step.calibration_images)))
    with TemporaryDirectory(dir=target.parent) as scratch:
        graph = Path(scratch) / GRAPH
        write_graph(source, graph, bench)
        _quantize_graph(graph, target / GRAPH, images_NCHW)
        agreement = _agreement(graph, target / GRAPH, images_NCHW)
        before, after = graph.stat().st_size, (target / GRAPH).stat().st_size
    bench.log(
        f"quantize: {before / 1000:.1f} -> {after / 1000:.1f} kB ({after / before:.2f} x), same "
        f"class as float32 for {100 * agreement:.1f} % of {len(images_NCHW)} images of val"
    )
    save_card(target, ModelCard.read(source / CARD), [GRAPH], runtime="onnxruntime")


def _quantize_graph(graph: Path, quantized: Path, images_NCHW: NDArray[np.float32]) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    prepared = graph.with_name("prepared.onnx")
    # Shapes are known already; the symbolic pass would import torch's companions for nothing.
    quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        quantized,
        _Calibration(images_NCHW),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )


class _Calibration:
    """Hands images over batch by batch, as ONNX Runtime asks for them."""

    def __init__(self, images_NCHW: NDArray[np.float32]) -> None:
        starts = range(0, len(images_NCHW), _BATCH)
        self._batches: Iterator[NDArray[np.float32]] = (
            images_NCHW[start : start + _BATCH] for start in starts
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next feed; None after the last."""
        batch_BCHW = next(self._batches, None)
        return None if batch_BCHW is None else {INPUT: batch_BCHW}


def _agreement(graph: Path, quantized: Path, images_NCHW: NDArray[np.float32]) -> float:
    """Share of images that both graphs put into the same class."""
    chosen = [
        open_session(path.read_bytes(), threads=1)(images_NCHW).argmax(1)
        for path in (graph, quantized)
    ]
    return float((chosen[0] == chosen[1]).mean())

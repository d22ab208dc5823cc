"""INT8 with fixed ranges: the smallest and the largest value of each activation on images of val.

Shapes: N images, B batch, C channels, H height, W width.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.runtimes.onnx_export import INPUT

_BATCH = 64


def quantize_statically(graph: Path, quantized: Path, images_NCHW: NDArray[np.float32]) -> None:
    """Signed weights with a scale for each channel, unsigned activations.

    Args:
        graph: A float32 ONNX file.
        quantized: The file to write.
        images_NCHW: What ranges are taken from.
    """
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

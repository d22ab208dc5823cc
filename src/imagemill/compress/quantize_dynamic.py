"""INT8 with ranges found at each call: nothing to calibrate, more to do while it runs.

Shapes: N images, M others, C channels, H height, W width.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def quantize_dynamically(
    graph: Path,
    quantized: Path,
    images_NCHW: NDArray[np.float32],  # noqa: ARG001 (ranges are not taken from images)
    others_MCHW: NDArray[np.float32],  # noqa: ARG001
) -> str:
    """Unsigned weights, since ONNX Runtime convolves no signed ones this way.

    Args:
        graph: A float32 ONNX file.
        quantized: The file to write.
        images_NCHW, others_MCHW: Not looked at.

    Returns:
        What was done, in words for the log.
    """
    from onnxruntime.quantization import QuantType, quant_pre_process, quantize_dynamic

    prepared = graph.with_name("prepared.onnx")
    quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    quantize_dynamic(prepared, quantized, weight_type=QuantType.QUInt8)
    return "ranges found at each call"

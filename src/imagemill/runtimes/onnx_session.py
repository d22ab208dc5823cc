"""ONNX Runtime on the CPU.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from imagemill.runtimes.contract import Predictor, checked_bytes

FILE = "model.onnx"
_ERRORS_ONLY = 3

ort.disable_telemetry_events()


def open_onnxruntime(folder: Path, *, threads: int) -> Predictor:
    """Open models/<variant>/model.onnx.

    Args:
        folder: models/<variant>.
        threads: Threads inside one operator.

    Returns:
        float32 [B, C, H, W] in 0..1 -> float32 logits [B, K].

    Raises:
        IntegrityError: the file is missing or is not the one on record.
    """
    return open_session(checked_bytes(folder, FILE), threads=threads)


def open_session(content: bytes, *, threads: int) -> Predictor:
    """Open the bytes of an ONNX file that is known to be one of ours."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        logits_BK: NDArray[np.float32] = session.run(None, {name: images_BCHW})[0]
        return logits_BK

    return predict

"""OpenVINO on the CPU; it reads the same ONNX file as ONNX Runtime, INT8 ones included.

Its own form (model.xml and model.bin) is an export: it runs no faster and is larger.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemill.records import ModelCard
from imagemill.runtimes.contract import Predictor, checked_bytes
from imagemill.runtimes.quiet import quiet_openvino

FILE = "model.onnx"


def open_openvino(folder: Path, *, threads: int) -> Predictor:
    """Open models/<variant>/model.onnx.

    Args:
        folder: models/<variant>.
        threads: Threads inside one operator.

    Returns:
        float32 [B, C, H, W] in 0..1 -> float32 logits [B, K].

    Raises:
        IntegrityError: the file is missing or is not the one on record.
    """
    content = checked_bytes(folder, FILE)
    bfloat16 = ModelCard.read(folder / "model.json").bfloat16
    model = quiet_openvino().Core().read_model(content)
    return compiled(model, threads=threads, bfloat16=bfloat16)


def compiled(model: Any, *, threads: int, bfloat16: bool) -> Predictor:
    """A predictor of what `openvino.Core.read_model` gave.

    Args:
        model: One input, one output.
        threads: Threads inside one operator.
        bfloat16: Compute in bfloat16; else in float32 (left to itself it would choose).
    """
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    core = quiet_openvino().Core()
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def predict(images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        logits_BK: NDArray[np.float32] = request.infer([images_BCHW], share_inputs=True)[0]
        return logits_BK.copy()

    return predict

"""The plain use of other tools on the same net and the same images, as their guides show it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.runtimes import Predictor
from imagemill.runtimes.onnx_session import open_session
from imagemill.runtimes.openvino_session import compiled
from imagemill.runtimes.quiet import keep_quiet, quiet_openvino


def nncf_openvino(graph: Path, images_NCHW: NDArray[np.float32]) -> Predictor:
    """`nncf.quantize` of the OpenVINO model, run in OpenVINO."""
    openvino = quiet_openvino()
    keep_quiet()
    import nncf

    model = openvino.Core().read_model(graph)
    data = nncf.Dataset([image[None] for image in images_NCHW])
    quantized = nncf.quantize(model, data, subset_size=len(images_NCHW))
    return compiled(quantized, threads=1, bfloat16=False)


def onnxruntime_static(graph: Path, images_NCHW: NDArray[np.float32], folder: Path) -> Predictor:
    """`quantize_static` with all its defaults, run in ONNX Runtime."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Images(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images_NCHW)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self.left, None)
            return None if image is None else {"images": image[None]}

    quantize_static(graph, folder / "plain.onnx", Images())
    return open_session((folder / "plain.onnx").read_bytes(), threads=1)

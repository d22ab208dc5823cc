"""PyTorch compiled by inductor, weights folded into the code, channels last.

Compiling takes some ten seconds for each size of batch and needs a C++ compiler where it runs.

Shapes: B batch, C channels, H height, W width, K classes.
"""

import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import ParamsError
from imagemill.runtimes.contract import Predictor

FILE = "model.safetensors"
_COMPILERS = ("g++", "clang++")


def open_compiled(folder: Path, *, threads: int) -> Predictor:
    """Open models/<variant>/model.safetensors; it is compiled at the first call.

    Sets the number of threads torch uses in this whole process.

    Args:
        folder: models/<variant>.
        threads: Threads inside one operator.

    Returns:
        float32 [B, C, H, W] in 0..1 -> float32 logits [B, K].

    Raises:
        IntegrityError: the file is missing or is not the one on record.
        ParamsError: this machine has no C++ compiler.
    """
    import torch
    from torch._inductor import config

    from imagemill.models import load_model

    torch.set_num_threads(threads)
    model, card = load_model(folder)
    if not any(map(shutil.which, _COMPILERS)):
        raise ParamsError(
            f"runtime compiled needs a C++ compiler ({' or '.join(_COMPILERS)}), this machine has "
            "none; install one, or choose onnxruntime, openvino or eager"
        )
    model = model.eval().to(memory_format=torch.channels_last)
    run = torch.compile(model, dynamic=False)

    def predict(images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        autocast = torch.autocast("cpu", torch.bfloat16) if card.bfloat16 else nullcontext()
        with config.patch(freezing=True), torch.no_grad(), autocast:
            images = torch.from_numpy(images_BCHW).to(memory_format=torch.channels_last)
            logits_BK: NDArray[np.float32] = run(images).float().numpy()
        return logits_BK

    return predict

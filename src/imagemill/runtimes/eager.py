"""PyTorch in eager mode, channels last, in float32 or where the variant says so bfloat16.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.runtimes.contract import Predictor

FILE = "model.safetensors"


def open_eager(folder: Path, *, threads: int) -> Predictor:
    """Open models/<variant>/model.safetensors.

    Sets the number of threads torch uses in this whole process.

    Args:
        folder: models/<variant>.
        threads: Threads inside one operator.

    Returns:
        float32 [B, C, H, W] in 0..1 -> float32 logits [B, K].

    Raises:
        IntegrityError: the file is missing or is not the one on record.
    """
    import torch

    from imagemill.models import load_model

    torch.set_num_threads(threads)
    model, card = load_model(folder)
    model = model.eval().to(memory_format=torch.channels_last)

    def predict(images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        autocast = torch.autocast("cpu", torch.bfloat16) if card.bfloat16 else nullcontext()
        with torch.inference_mode(), autocast:
            images = torch.from_numpy(images_BCHW).to(memory_format=torch.channels_last)
            logits_BK: NDArray[np.float32] = model(images).float().numpy()
        return logits_BK

    return predict

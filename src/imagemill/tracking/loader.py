"""Opens a registered model for `mlflow.pyfunc`, which finds this module by its name in MLmodel.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill.runtimes import Predictor, open_variant

# A server answers many requests at once; one thread each.
THREADS = 1


class RegisteredNet:
    """What `mlflow.pyfunc` calls."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, model_input: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of a batch.

        Args:
            model_input: float32 [B, C, H, W] in 0..1.

        Returns:
            float32 logits [B, K].
        """
        return self._predictor(np.ascontiguousarray(model_input, dtype=np.float32))


def _load_pyfunc(path: str) -> RegisteredNet:
    """The model in the folder `path`; its file must be the one its model.json names.

    Raises:
        IntegrityError: the file is missing or not the one on record.
    """
    return RegisteredNet(open_variant(Path(path), threads=THREADS))

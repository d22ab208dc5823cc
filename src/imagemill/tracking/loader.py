"""Opens a registered model for `mlflow.pyfunc`, which finds this module by its name in MLmodel.

Only code that MLflow calls comes here, so that importing mlflow costs nothing more.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from pathlib import Path

import mlflow
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from numpy.typing import NDArray

from imagemill.errors import IntegrityError
from imagemill.records import sha256_of_file
from imagemill.runtimes import Predictor, open_variant

# A server answers many requests at once; one thread each.
THREADS = 1
CARD_DIGEST = "card_sha256"


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
    """The model in the folder `path`; its bytes must be those that were registered.

    Raises:
        IntegrityError: a file is missing, or not the one on record.
    """
    folder = Path(path)
    card = folder / "model.json"
    expected = _registered_digest(folder.parent.parent)
    actual = sha256_of_file(card) if card.is_file() else "none"
    if actual != expected:
        raise IntegrityError(
            f"{card} is not what was registered: sha256 {actual[:12]}, on record "
            f"{expected[:12]}; refused"
        )
    # model.json names the digest of the file that is opened, and that is compared there.
    return RegisteredNet(open_variant(folder, threads=THREADS))


def _registered_digest(model: Path) -> str:
    """sha256 of model.json: as the registry has it where one is set, else as MLmodel has it."""
    described = Model.load(str(model))
    is_set = mlflow.tracking.is_tracking_uri_set()  # type: ignore[no-untyped-call]
    if is_set and described.model_id:
        try:
            known = mlflow.MlflowClient().get_logged_model(described.model_id)
            return str(known.tags[CARD_DIGEST])
        except (MlflowException, KeyError):
            pass  # another registry than the one it came from
    return str((described.metadata or {}).get(CARD_DIGEST, "nothing"))

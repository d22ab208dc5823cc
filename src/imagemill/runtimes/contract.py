"""What a runtime is to the rest of the project.

Shapes: B batch, C channels, H height, W width, K classes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import IntegrityError
from imagemill.records import ModelCard

# float32 images [B, C, H, W] in 0..1 -> float32 logits [B, K]
Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Opener(Protocol):
    """Makes a predictor of a folder in models/."""

    def __call__(self, folder: Path, *, threads: int) -> Predictor: ...


@dataclass(frozen=True)
class Runtime:
    """One way to run a saved net."""

    file: str  # the file it loads from models/<variant>/
    open: Opener


def checked_bytes(folder: Path, name: str) -> bytes:
    """Read a model's file once, and only if it is the file on record.

    Raises:
        IntegrityError: the file is missing, or its sha256 is not the one in model.json.
    """
    path = folder / name
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise IntegrityError(
            f"{path} is missing; `dvc checkout` or `dvc repro` brings it"
        ) from None
    received = hashlib.sha256(content).hexdigest()
    expected = ModelCard.read(folder / "model.json").files[name]
    if received != expected:
        raise IntegrityError(
            f"{path} is not the file on record: sha256 {received[:12]}…, "
            f"model.json says {expected[:12]}…; `dvc checkout` or `dvc repro` restores it"
        )
    return content

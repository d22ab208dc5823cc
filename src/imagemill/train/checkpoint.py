"""Checkpoints: whole or absent, hashed, without pickle.

A checkpoint is a folder `step-<n>` with `state.safetensors` (weights, optimiser, ledger) and
`state.json` (position, digest of the tensors). The newest whole one counts; a damaged one is
passed over.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from imagemill.loading.ledger import Account
from imagemill.records import Record, sha256_of_file, write_json

_TENSORS = "state.safetensors"
_POSITION = "state.json"
_KEPT = 2


class Position(Record):
    """Where training stands: the next step to take, and what was consumed before it."""

    step: int  # over the whole run
    elapsed_cpu_seconds: float
    accounts: tuple[Account, ...] = ()  # of the epochs that are over
    consumed: str | None = None  # `Ledger.digest_of` of the running epoch; None: no ledger is kept
    sha256: str = ""


def save_checkpoint(
    folder: Path,
    position: Position,
    model: nn.Module,
    optimizer: Optimizer,
    counts_N: NDArray[np.int32],
) -> None:
    """Write `folder/step-<n>` and drop all but the last two.

    Args:
        folder: Where the run's checkpoints are.
        position: The next step.
        model, optimizer: Their present state.
        counts_N: The ledger's counts, summed over ranks; empty where none is kept.
    """
    temporary = folder / f".step-{position.step}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= _optimizer_tensors(optimizer)
    tensors["ledger"] = torch.from_numpy(counts_N)
    copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(copies, temporary / _TENSORS)
    digest = sha256_of_file(temporary / _TENSORS)
    write_json(temporary / _POSITION, {**position.model_dump(), "sha256": digest})
    final = folder / f"step-{position.step}"
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in _newest_first(folder)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: Optimizer
) -> tuple[Position, NDArray[np.int32]] | None:
    """Put the newest whole checkpoint into model and optimiser.

    Returns:
        Where it stands and the ledger's counts; None if there is no whole checkpoint.
    """
    for candidate in _newest_first(folder):
        position = _whole(candidate)
        if position is not None:
            tensors = load_file(candidate / _TENSORS)
            model.load_state_dict(_with_prefix(tensors, "model."))
            _restore_optimizer(optimizer, _with_prefix(tensors, "optimizer."))
            counts_N: NDArray[np.int32] = tensors["ledger"].numpy().copy()
            return position, counts_N
    return None


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)


def _whole(checkpoint: Path) -> Position | None:
    tensors, description = checkpoint / _TENSORS, checkpoint / _POSITION
    if not (tensors.is_file() and description.is_file()):
        return None
    position = Position.read(description)
    return position if sha256_of_file(tensors) == position.sha256 else None


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    chosen = {name: value for name, value in tensors.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in chosen.items()}


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Every value of the optimiser's state as a tensor named optimizer.<parameter>.<value>."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def _restore_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({**whole, "state": state})

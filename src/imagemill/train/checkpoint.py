"""Checkpoints: whole or absent, hashed, without pickle.

A checkpoint is a folder `step-<n>` with tensors (`*.safetensors`) and `state.json` (position, and
the digest of each file). The newest whole one counts; a damaged one is passed over. The last few
are kept, and the best on val beside them.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from imagemill.errors import IntegrityError
from imagemill.loading.ledger import Account
from imagemill.records import Record, sha256_of_file, write_json

WHOLE = "state.safetensors"  # tensors that are not sharded
_POSITION = "state.json"

Tensors = dict[str, Tensor]


class Position(Record):
    """Where training stands: the next step to take, and what was consumed before it."""

    step: int  # over the whole run
    elapsed_cpu_seconds: float
    accounts: tuple[Account, ...] = ()  # of the epochs that are over
    consumed: str | None = None  # `Ledger.digest_of` of the running epoch; None: no ledger is kept
    best_step: int | None = None  # of the best epoch on val so far, and its top-1
    best_top1: float | None = None
    stale: int = 0  # looks at val since then
    files: dict[str, str] = Field(default_factory=dict)  # name -> sha256


def write_whole(folder: Path, tensors: Tensors) -> None:
    """Write tensors that one process holds."""
    copies = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(copies, folder / WHOLE)


def begin_checkpoint(folder: Path, step: int, *, makes: bool) -> Path:
    """The temporary folder for the checkpoint of a step.

    Args:
        folder: Where the run's checkpoints are.
        step: Steps taken.
        makes: Whether to make it anew, empty; one rank does.
    """
    temporary = _temporary(folder, step)
    if makes:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    return temporary


def finish_checkpoint(folder: Path, position: Position, *, keep: int) -> None:
    """Hash what was written, give it its name, and drop what is no longer kept.

    Args:
        folder: Where the run's checkpoints are.
        position: The next step; the tensors are in the folder `begin_checkpoint` made for it.
        keep: How many of the newest stay; the best one stays too.
    """
    temporary, final = _temporary(folder, position.step), folder / f"step-{position.step}"
    files = {path.name: sha256_of_file(path) for path in sorted(temporary.iterdir())}
    write_json(temporary / _POSITION, {**position.model_dump(), "files": files})
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in _newest_first(folder)[keep:]:
        if old.name != f"step-{position.best_step}":
            shutil.rmtree(old, ignore_errors=True)


def newest_checkpoint(folder: Path) -> tuple[Path, Position] | None:
    """The newest whole checkpoint and where it stands; None if there is none."""
    return next(_whole_ones(_newest_first(folder)), None)


def checkpoint_of(folder: Path, step: int) -> Path | None:
    """The checkpoint of a step, if it is whole."""
    found = next(_whole_ones([folder / f"step-{step}"]), None)
    return found[0] if found else None


def _whole_ones(candidates: list[Path]) -> Iterator[tuple[Path, Position]]:
    for candidate in candidates:
        try:
            position = Position.read(candidate / _POSITION)
        except IntegrityError:
            continue
        files = position.files.items()
        if files and all(_is(candidate / name, sha256) for name, sha256 in files):
            yield candidate, position


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of_file(path) == sha256


def _temporary(folder: Path, step: int) -> Path:
    return folder / f".step-{step}.tmp"


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")), reverse=True)

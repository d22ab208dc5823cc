"""A policy: operations in order, each with a chance and a range, drawn for each sample."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.augment.operations import OPERATIONS, Images, Operation
from imagemill.errors import ParamsError, UnknownNameError
from imagemill.params import OperationParams
from imagemill.randomness import U64, uniforms


class Drawn(NamedTuple):
    """What one operation drew for one image; applied only where the chance said so."""

    operation: str
    strengths: list[float]
    positions: list[float]


@dataclass(frozen=True)
class _Step:
    name: str
    operation: Operation
    probability: float
    low: float
    high: float


class Policy:
    """Applies its operations to batches; what happens to a sample depends on nothing but itself."""

    def __init__(self, steps: Sequence[_Step], seed: int) -> None:
        self._steps = steps
        self._seed = seed

    def __len__(self) -> int:
        return len(self._steps)

    def apply(self, images_BHWC: Images, hashes_B: U64, *, epoch: int) -> Images:
        """Changed copies of the images.

        Args:
            images_BHWC: uint8, one size.
            hashes_B: `randomness.key_hashes` of the samples.
            epoch: Epoch (online) or number of the copy (offline): another one, other draws.
        """
        for position, step in enumerate(self._steps):
            chosen_B = self._chosen(step, hashes_B, epoch, position)
            if not chosen_B.any():
                continue
            hashes_M = hashes_B[chosen_B]
            strengths_MS, units_MU = self._draws(step, hashes_M, epoch, position)
            if chosen_B.all():
                images_BHWC = step.operation.apply(images_BHWC, strengths_MS, units_MU)
            else:
                changed = step.operation.apply(images_BHWC[chosen_B], strengths_MS, units_MU)
                images_BHWC = images_BHWC.copy()
                images_BHWC[chosen_B] = changed
        return images_BHWC

    def drawn(self, hash_1: U64, *, epoch: int) -> list[Drawn]:
        """What `apply` does to one sample: the operations that hit it, with their values."""
        record = []
        for position, step in enumerate(self._steps):
            if self._chosen(step, hash_1, epoch, position)[0]:
                strengths_1S, units_1U = self._draws(step, hash_1, epoch, position)
                record.append(Drawn(step.name, strengths_1S[0].tolist(), units_1U[0].tolist()))
        return record

    def _chosen(self, step: _Step, hashes_B: U64, epoch: int, position: int) -> NDArray[np.bool_]:
        return uniforms(hashes_B, self._seed, epoch, position, 0) < step.probability

    def _draws(
        self, step: _Step, hashes_B: U64, epoch: int, position: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        count = step.operation.strengths + step.operation.units
        draws_BD = np.empty((len(hashes_B), count))
        for draw in range(count):
            draws_BD[:, draw] = uniforms(hashes_B, self._seed, epoch, position, draw + 1)
        strengths_BS = draws_BD[:, : step.operation.strengths]
        strengths_BS = step.low + (step.high - step.low) * strengths_BS
        return strengths_BS, draws_BD[:, step.operation.strengths :]


def compile_policy(operations: Sequence[OperationParams], *, seed: int) -> Policy:
    """Check a policy against OPERATIONS.

    Raises:
        UnknownNameError: no such operation.
        ParamsError: a range is missing, superfluous or outside the operation's limits.
    """
    return Policy([_checked(operation) for operation in operations], seed)


def _checked(params: OperationParams) -> _Step:
    name = params.operation
    if name not in OPERATIONS:
        raise UnknownNameError("augmentation", name, OPERATIONS)
    operation = OPERATIONS[name]
    if (params.range is None) != (operation.strengths == 0):
        needed = f"a range in {operation.unit}" if operation.strengths else "no range"
        raise ParamsError(f"augmentation {name!r} needs {needed}, got {params.range}")
    low, high = params.range or (0.0, 0.0)
    least, most = operation.limits
    if low < least or high > most:
        raise ParamsError(
            f"augmentation {name!r}: range must lie in [{least}, {most}] ({operation.unit}), "
            f"got [{low}, {high}]"
        )
    return _Step(name, operation, params.probability, low, high)

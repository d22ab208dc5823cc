"""The proof that an epoch consumed every sample exactly once."""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import TrainingError
from imagemill.randomness import U64


class Account(NamedTuple):
    """What a ledger says at the end of an epoch."""

    consumed: int
    missing: int
    duplicate: int
    digest: str


class Ledger:
    """Counts how often each sample was consumed in the current epoch, on this rank."""

    def __init__(self, hashes_N: U64) -> None:
        self._hashes_N = hashes_N
        self.counts_N: NDArray[np.int32] = np.zeros(len(hashes_N), dtype=np.int32)

    def consume(self, positions_B: NDArray[np.intp]) -> None:
        """These samples went into a step."""
        np.add.at(self.counts_N, positions_B, 1)

    def close(self, counts_N: NDArray[np.int32]) -> Account:
        """Settle an epoch and start the next one.

        Args:
            counts_N: The counts summed over all ranks.

        Raises:
            TrainingError: a sample is missing or was consumed twice.
        """
        digest = hashlib.sha256((self._hashes_N * counts_N.astype(np.uint64)).tobytes())
        account = Account(
            consumed=int(counts_N.sum()),
            missing=int((counts_N == 0).sum()),
            duplicate=int(np.maximum(counts_N - 1, 0).sum()),
            digest=digest.hexdigest(),
        )
        if account.missing or account.duplicate:
            raise TrainingError(
                f"the ledger is not whole: {account.missing} samples missing, {account.duplicate} "
                "consumed twice; this is a fault of imagemill, please report it"
            )
        self.counts_N = np.zeros_like(self.counts_N)
        return account

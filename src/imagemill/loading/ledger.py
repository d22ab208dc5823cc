"""The proof that an epoch consumed every sample exactly once.

Every rank counts what it consumed. At the end of an epoch the counts are summed over the ranks and
each must be one; in a checkpoint they say which samples of the running epoch are done, and a
resumed run compares them with the samples its own order has before that step.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import TrainingError
from imagemill.randomness import U64

Counts = NDArray[np.int32]

_NAMED = 5  # keys in a message
# So many samples wait to be counted together: the call costs more than counting a batch.
_NOTED = 1 << 16


class Account(NamedTuple):
    """What a ledger says at the end of an epoch, over all ranks."""

    consumed: int
    missing: int
    duplicate: int
    digest: str  # sha256 over the hashes of the consumed keys, each times its count


class Ledger:
    """Counts how often each sample was consumed in the current epoch, on this rank."""

    def __init__(self, hashes_N: U64, keys: Sequence[str]) -> None:
        self._hashes_N = hashes_N
        self._keys = keys
        self._counts_N: Counts = np.zeros(len(hashes_N), dtype=np.int32)
        self._noted: list[NDArray[np.intp]] = []
        self._num_noted = 0

    @property
    def counts(self) -> Counts:
        """Those counts, int32 [N]."""
        self._count()
        return self._counts_N

    def consume(self, positions_B: NDArray[np.intp]) -> None:
        """These samples went into a step; the array must not change afterwards."""
        self._noted.append(positions_B)
        self._num_noted += len(positions_B)
        if self._num_noted >= _NOTED:
            self._count()

    def close(self, counts_N: Counts) -> Account:
        """Settle an epoch and start the next one.

        Args:
            counts_N: The counts summed over all ranks.

        Raises:
            TrainingError: a sample is missing or was consumed twice; the message names some.
        """
        account = Account(
            consumed=int(counts_N.sum()),
            missing=int((counts_N == 0).sum()),
            duplicate=int(np.maximum(counts_N - 1, 0).sum()),
            digest=self.digest_of(counts_N),
        )
        if account.missing or account.duplicate:
            raise TrainingError(
                f"the ledger is not whole: {account.missing} samples missing"
                f"{self._named(counts_N == 0)}, {account.duplicate} consumed twice"
                f"{self._named(counts_N > 1)}; this is a fault of imagemill, please report it"
            )
        self._restart(np.zeros_like(counts_N))
        return account

    def resume(self, counts_N: Counts, consumed_C: NDArray[np.intp], *, keep: bool) -> None:
        """Take up the counts of a checkpoint.

        Args:
            counts_N: Summed over the ranks that wrote it; empty if they kept no ledger, and then
                the checkpoint is taken at its word.
            consumed_C: Positions the order has before the checkpoint's step in its epoch.
            keep: Whether this rank goes on with them; one rank does, or they would count twice.

        Raises:
            TrainingError: the checkpoint consumed other samples than this order has.
        """
        expected_N = np.zeros_like(self._counts_N)
        expected_N[consumed_C] = 1
        if len(counts_N) and not np.array_equal(counts_N, expected_N):
            raise TrainingError(
                "the checkpoint's ledger is not that of this run's order: its images were "
                "consumed in another order (another seed, window or data set, or another version "
                "of imagemill); remove .imagemill/train to start again"
            )
        if keep:
            self._restart(expected_N)

    def _count(self) -> None:
        if self._noted:
            # Of the counts' own type: numpy is fifty times slower with any other number.
            np.add.at(self._counts_N, np.concatenate(self._noted), np.int32(1))
        self._noted, self._num_noted = [], 0

    def _restart(self, counts_N: Counts) -> None:
        self._counts_N, self._noted, self._num_noted = counts_N, [], 0

    def digest_of(self, counts_N: Counts) -> str:
        """sha256 over the hashes of the keys, each times its count: 64 hex digits."""
        return hashlib.sha256((self._hashes_N * counts_N.astype(np.uint64)).tobytes()).hexdigest()

    def _named(self, wrong_N: NDArray[np.bool_]) -> str:
        """(the first few keys), or nothing."""
        positions = np.flatnonzero(wrong_N)
        names = [repr(self._keys[int(position)]) for position in positions[:_NAMED]]
        more = ", ..." if len(positions) > _NAMED else ""
        return f" ({', '.join(names)}{more})" if names else ""

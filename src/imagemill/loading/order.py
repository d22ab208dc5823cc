"""The order of training: a pure function of (seed, epoch, sample keys).

Not of the shards, the number of processes, or the moment of a restart. Each step has one global
batch; rank r of R takes its slice of it.
"""

import numpy as np
from numpy.typing import NDArray

from imagemill.randomness import U64, mixed

_ORDER = 0x0DE5  # the purpose of these draws


def epoch_order(hashes_N: U64, *, seed: int, epoch: int) -> NDArray[np.intp]:
    """A permutation of the samples for an epoch.

    Args:
        hashes_N: `randomness.key_hashes` of the keys, sorted by key.
        seed: train.seed.
        epoch: Number of the epoch, from 0.
    """
    return np.argsort(mixed(hashes_N, _ORDER, seed, epoch), kind="stable")


def num_steps(num_samples: int, batch_size: int) -> int:
    """Global batches in an epoch; the last may be smaller, none is dropped."""
    return -(-num_samples // batch_size)


def global_batch(order_N: NDArray[np.intp], step: int, batch_size: int) -> NDArray[np.intp]:
    """Positions of the samples of one step, over all ranks."""
    return order_N[step * batch_size : (step + 1) * batch_size]


def rank_slice(batch_G: NDArray[np.intp], *, rank: int, world: int) -> NDArray[np.intp]:
    """A rank's part of a global batch: contiguous, sizes differ by at most one, may be empty."""
    start = len(batch_G) * rank // world
    stop = len(batch_G) * (rank + 1) // world
    return batch_G[start:stop]

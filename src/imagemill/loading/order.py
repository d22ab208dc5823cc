"""The order of training: a pure function of (seed, epoch, sample keys).

Not of the number of processes, or the moment of a restart. Each step has one global batch; rank r
of R takes its slice of it. In the local layout the order does not know the shards either; in the
streaming layout it also depends on which shard a sample lies in and on the window, so that only a
few shards are needed at a time.

Shapes: N samples, S shards, G samples of a step over all ranks.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemill.randomness import U64, mixed, uniforms

_ORDER = 0x0DE5  # the purpose of these draws
_SHARDS = 0x5A4D
_WINDOW = 0x3177


@dataclass(frozen=True)
class Window:
    """How the streaming layout confines the order.

    shards: How many shards are mixed with one another.
    shard_N: The shard of each sample, positions in `shard_hashes_S`.
    shard_hashes_S: `randomness.key_hashes` of the shards' paths.
    """

    shards: int
    shard_N: NDArray[np.int32]
    shard_hashes_S: U64


@dataclass(frozen=True)
class Order:
    """The order of every epoch of a run.

    hashes_N: `randomness.key_hashes` of the keys, sorted by key.
    seed: train.seed.
    window: Of the streaming layout; None: all samples are mixed with all.
    """

    hashes_N: U64
    seed: int
    window: Window | None = None

    def __len__(self) -> int:
        return len(self.hashes_N)

    def epoch(self, epoch: int) -> NDArray[np.intp]:
        """A permutation of the samples: the order of an epoch, from 0."""
        if self.window is None:
            return epoch_order(self.hashes_N, seed=self.seed, epoch=epoch)
        return windowed_order(self.hashes_N, self.window, seed=self.seed, epoch=epoch)


def epoch_order(hashes_N: U64, *, seed: int, epoch: int) -> NDArray[np.intp]:
    """A permutation of the samples for an epoch.

    Args:
        hashes_N: `randomness.key_hashes` of the keys, sorted by key.
        seed: train.seed.
        epoch: Number of the epoch, from 0.
    """
    return np.argsort(mixed(hashes_N, _ORDER, seed, epoch), kind="stable")


def windowed_order(hashes_N: U64, window: Window, *, seed: int, epoch: int) -> NDArray[np.intp]:
    """A permutation that needs at most `window.shards + 1` shards at any moment.

    Shards are permuted; the sample with draw u of the shard in place p stands at p + window x u.
    So the window slides: while one shard runs out, one other comes in, and there is no seam
    between blocks.

    Args:
        hashes_N: `randomness.key_hashes` of the keys, sorted by key.
        window: Its size, and the shards of the samples.
        seed: train.seed.
        epoch: Number of the epoch, from 0.
    """
    drawn_S = mixed(window.shard_hashes_S, _SHARDS, seed, epoch)
    place_S = np.empty(len(drawn_S))
    place_S[np.argsort(drawn_S, kind="stable")] = np.arange(len(drawn_S))
    spread_N = window.shards * uniforms(hashes_N, _WINDOW, seed, epoch)
    return np.argsort(place_S[window.shard_N] + spread_N, kind="stable")


def num_steps(num_samples: int, batch_size: int) -> int:
    """Global batches in an epoch; the last may be smaller, none is dropped."""
    return -(-num_samples // batch_size)


def global_batch(order_N: NDArray[np.intp], step: int, batch_size: int) -> NDArray[np.intp]:
    """Positions of the samples of one step, over all ranks."""
    return order_N[step * batch_size : (step + 1) * batch_size]


def rank_slice(batch_G: NDArray[np.intp], *, rank: int, world: int) -> NDArray[np.intp]:
    """A rank's part of a global batch: contiguous, sizes differ by at most one, may be empty."""
    return batch_G[rank_range(len(batch_G), rank=rank, world=world)]


def rank_range(batch_size: int, *, rank: int, world: int) -> slice:
    """Places of a rank's samples in a global batch."""
    return slice(batch_size * rank // world, batch_size * (rank + 1) // world)

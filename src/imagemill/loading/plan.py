"""Which samples make up each step of a run: a pure function, whoever runs it.

Shapes: G samples of a step over all ranks, B of this rank, R rows of a batch: this rank's samples,
and after them what mixing needs of others.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.loading.order import Order, global_batch, num_steps, rank_slice

Positions = NDArray[np.intp]
# (positions_G of the global batch, positions_B of this rank, not empty) -> positions_R
Rows = Callable[[Positions, Positions], Positions]


class Share(NamedTuple):
    """This process among those that train together."""

    rank: int
    world: int


ALONE = Share(rank=0, world=1)


class Step(NamedTuple):
    """What one rank computes on in one step.

    number: Over the whole run, from 0.
    epoch, in_epoch: The same, taken apart.
    positions_G: The global batch.
    num_own: B, how many samples of it are this rank's: the first rows. 0 on a rank with none; its
        row counts for nothing, but all ranks must step.
    positions_R: The sample of each row.
    """

    number: int
    epoch: int
    in_epoch: int
    positions_G: Positions
    num_own: int
    positions_R: Positions

    def own(self) -> Positions:
        """Samples this rank consumes, [B]."""
        return self.positions_R[: self.num_own]


@dataclass(frozen=True)
class Plan:
    """The steps of a run.

    order: Of every epoch.
    batch_size: Samples of a step over all ranks.
    share: This rank's part of them.
    rows: Adds what mixing needs to a rank's samples; None: nothing.
    """

    order: Order
    batch_size: int
    share: Share = ALONE
    rows: Rows | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Global batches in an epoch."""
        return num_steps(len(self.order), self.batch_size)

    @property
    def max_rows(self) -> int:
        """Rows of a step at most."""
        batch_G = np.arange(min(self.batch_size, len(self.order)))
        return len(self._rows(batch_G, batch_G[: -(-len(batch_G) // self.share.world)]))

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Steps `first` to `last` - 1 of the run."""
        order_N, of_epoch = np.empty(0, np.intp), -1
        for number in range(first, last):
            epoch, in_epoch = divmod(number, self.steps_per_epoch)
            if epoch != of_epoch:
                order_N, of_epoch = self.order.epoch(epoch), epoch
            batch_G = global_batch(order_N, in_epoch, self.batch_size)
            mine_B = rank_slice(batch_G, rank=self.share.rank, world=self.share.world)
            rows_R = self._rows(batch_G, mine_B if len(mine_B) else batch_G[:1])
            yield Step(number, epoch, in_epoch, batch_G, len(mine_B), rows_R)

    def consumed(self, step: int) -> Positions:
        """Samples that the steps before `step` took in its epoch, over all ranks."""
        epoch, in_epoch = divmod(step, self.steps_per_epoch)
        return self.order.epoch(epoch)[: in_epoch * self.batch_size]

    def _rows(self, batch_G: Positions, own_B: Positions) -> Positions:
        return own_B if self.rows is None else self.rows(batch_G, own_B)

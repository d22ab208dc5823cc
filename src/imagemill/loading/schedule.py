"""When each shard is first needed, so that streaming fetches it before."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from imagemill.frames import Frames
from imagemill.loading.plan import Plan
from imagemill.loading.shards import Shards

AHEAD = 2  # shards on their way that are not needed yet


class ShardSchedule:
    """Asks for shards in the order of their first use.

    Args:
        shards: Who fetches them.
        frames: The shard of each sample.
        plan, first, last: The steps to be taken.
    """

    def __init__(self, shards: Shards, frames: Frames, plan: Plan, first: int, last: int) -> None:
        self._shards = shards
        self._uses = _first_uses(frames, plan, first, last)
        self._coming: deque[int] = deque()  # step of first use of what was asked for

    def reached(self, step: int) -> None:
        """A step is about to be taken."""
        while True:
            while self._coming and self._coming[0] <= step:
                self._coming.popleft()
            use = next(self._uses, None) if len(self._coming) < AHEAD else None
            if use is None:
                return
            self._coming.append(use[0])
            self._shards.prefetch([use[1]])


def _first_uses(frames: Frames, plan: Plan, first: int, last: int) -> Iterator[tuple[int, str]]:
    """(step, shard) of the first use of each shard in each epoch."""
    per_epoch = plan.steps_per_epoch
    for epoch in range(first // per_epoch, -(-last // per_epoch)):
        start = max(first - epoch * per_epoch, 0) * plan.batch_size
        used, at = np.unique(frames.shard_N[plan.order.epoch(epoch)[start:]], return_index=True)
        for place in np.argsort(at):
            step = epoch * per_epoch + (start + int(at[place])) // plan.batch_size
            yield step, frames.shards[int(used[place])]

"""The asynchronous server: applies gradients as they come, and measures how stale they are.

Knows nothing of processes: whoever calls it from whatever threads.
"""

import math
from collections.abc import Callable
from threading import Condition

from torch import Tensor, nn
from torch.optim import Optimizer

from imagemill.train.optimizers import set_rate
from imagemill.train.strategies.vectors import flat, put_gradient


class Server:
    """Weights, their optimiser, and the ranks that push gradients and pull weights.

    Args:
        parameters: Nobody else's.
        optimizer: Theirs.
        world: Number of ranks; each pushes its steps one after another.
        max_ahead: Steps a rank may be ahead of the slowest before its push has to wait; None: any
            number.

    With `max_ahead` s no gradient is behind more than (world - 1)(2s + 1) updates.

    Source: Ho et al. 2013, "More Effective Distributed ML via a Stale Synchronous Parallel
    Parameter Server".
    """

    def __init__(
        self,
        parameters: list[nn.Parameter],
        optimizer: Optimizer,
        *,
        world: int,
        max_ahead: int | None,
    ) -> None:
        self._parameters, self._optimizer = parameters, optimizer
        self._max_ahead = math.inf if max_ahead is None else max_ahead
        self._changed = Condition()
        self._updates = 0
        self._pulled = [0] * world  # updates there were when a rank last got weights
        self._steps = [0.0] * world  # each rank has pushed; infinite when it has left
        self._staleness: list[int] = []
        self._failure: BaseException | None = None

    def push(self, rank: int, gradient: Tensor, rate: float) -> Tensor:
        """Apply a gradient; returns the newest weights, once the rank may go on.

        Args:
            rank: Whose it is.
            gradient: Of all parameters, one vector.
            rate: Learning rate of this update.
        """
        with self._changed:
            self._staleness.append(self._updates - self._pulled[rank])
            put_gradient(self._parameters, gradient)
            set_rate(self._optimizer, rate)
            self._optimizer.step()
            self._updates += 1
            self._steps[rank] += 1
            self._changed.notify_all()
            self._wait_until(lambda: self._steps[rank] - min(self._steps) <= self._max_ahead)
            self._pulled[rank] = self._updates
            return flat(self._parameters)

    def leave(self, rank: int) -> None:
        """A rank pushes no more: nobody waits for it."""
        with self._changed:
            self._steps[rank] = math.inf
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """Who waits, waits in vain."""
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    def wait_for_all(self) -> None:
        """Until every rank has left."""
        with self._changed:
            self._wait_until(lambda: min(self._steps) == math.inf)

    def take_staleness(self) -> list[int]:
        """Of each update since the last call."""
        with self._changed:
            taken, self._staleness = self._staleness, []
        return taken

    def _wait_until(self, reached: Callable[[], bool]) -> None:
        self._changed.wait_for(lambda: self._failure is not None or reached())
        if self._failure is not None:
            raise self._failure

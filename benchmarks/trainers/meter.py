"""CPU time of steps, seen from inside the net: each forward pass is the mark of a step."""

import time
from collections.abc import Callable
from typing import Any

from torch import nn


class EnoughError(BaseException):
    """Ends a training without end; no trainer takes it for a mistake of its own."""


class Meter:
    """Measures slices of steps.

    Args:
        net: What is trained.
        steps: Of a slice.
        between: Called after each slice, and may take its time.
    """

    def __init__(self, net: nn.Module, *, steps: int, between: Callable[[], None]) -> None:
        self._seen, self._steps, self._between = 0, steps, between
        self._start = time.process_time()
        self.slices: list[float] = []  # CPU time of the process and its threads, ms a step
        net.register_forward_pre_hook(self._mark)

    def _mark(self, net: nn.Module, inputs: Any) -> None:
        del inputs
        if not net.training:
            return
        if self._seen == self._steps:
            self.slices.append((time.process_time() - self._start) / self._steps * 1e3)
            self._between()
            self._seen, self._start = 0, time.process_time()
        self._seen += 1

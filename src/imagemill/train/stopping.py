"""When all ranks save a checkpoint together, and when they stop because they were told to."""

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from imagemill.train.ranks import Ranks

# Ranks ask one another about once in so many seconds: a message costs.
_ASK_SECONDS = 1.0
_MOST_STEPS = 256


class StopRequest:
    """Remembers that this process was asked to end (SIGTERM of a preemption, SIGINT of Ctrl-C)."""

    def __init__(self) -> None:
        self._wanted = False

    def __bool__(self) -> bool:
        return self._wanted

    def ask(self) -> None:
        """Ask it to end."""
        self._wanted = True

    def listen(self) -> None:
        """From now on these signals are taken down, and obeyed at the end of a step."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.ask()


class FileRequest(StopRequest):
    """The same, told by a file that all processes see: where signals do not reach.

    Args:
        path: It is asked when it is there.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def __bool__(self) -> bool:
        return super().__bool__() or self._path.exists()


@dataclass(frozen=True)
class Decision:
    """What all ranks do after a step."""

    save: bool
    stop: bool


_GO_ON = Decision(save=False, stop=False)


class Agreement:
    """Lets ranks decide together, at steps that all of them know beforehand.

    Args:
        ranks: Those that decide.
        seconds: Time between checkpoints.
        request: Whether this process was asked to end.
    """

    def __init__(self, ranks: Ranks, seconds: float, request: StopRequest, *, first: int) -> None:
        self._ranks, self._seconds, self._request = ranks, seconds, request
        self._saved_at = self._asked_at = time.monotonic()
        self._asked_step, self._next_step = first, first + 1

    def after(self, step: int) -> Decision:
        """What to do now that `step` steps are taken; the same on all ranks."""
        if step < self._next_step:
            return _GO_ON
        now = time.monotonic()
        due = now - self._saved_at >= self._seconds
        gap = self._steps_until_next(step, now)
        # The largest of the negative is the smallest: the slowest rank sets the pace.
        save, stop, negative = self._ranks.largest([due, bool(self._request), -gap])
        self._asked_at, self._asked_step, self._next_step = now, step, step - int(negative)
        if not (save or stop):
            return _GO_ON
        self._saved_at = now
        return Decision(save=True, stop=bool(stop))

    def _steps_until_next(self, step: int, now: float) -> int:
        if self._ranks.world == 1:
            return 1  # asking oneself costs nothing
        per_step = (now - self._asked_at) / max(step - self._asked_step, 1)
        return max(1, min(_MOST_STEPS, int(_ASK_SECONDS / max(per_step, 1e-6))))

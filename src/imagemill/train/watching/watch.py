"""All watchers of a training behind one object: what the loop calls.

What costs is done at a few steps only; the others pay for one comparison.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from imagemill.energy import POWERCAP
from imagemill.params import WatchParams
from imagemill.train.machine import Machine
from imagemill.train.progress import Progress
from imagemill.train.ranks import ALONE, Ranks
from imagemill.train.watching.board import Board
from imagemill.train.watching.norms import Look
from imagemill.train.watching.trace import WARM_UP_STEPS, Trace
from imagemill.train.watching.usage import Energy, peak_memory
from imagemill.train.watching.waiting import Waiting

_NOTHING: AbstractContextManager[None] = nullcontext()
# Of a report, what is worth a curve beside what is measured here.
_CURVES = ("loss", "accuracy", "learning_rate", "images_per_second", "wait_share", "val_top1")


@dataclass(frozen=True)
class Wanted:
    """What to write down, and where.

    settings: `train.watch`.
    board: Folder of the event files.
    trace: The profiler's trace.
    activations: Whether layers are looked into.
    apart: In a forward pass of their own, since torch.compile has the step's in one piece.
    waiting: Judges the time spent waiting for images.
    say: Told what a person should hear at once.
    """

    settings: WatchParams
    board: Path
    trace: Path
    activations: bool
    waiting: Waiting
    say: Callable[[str], None]
    apart: bool = False


class Watch:
    """Watches a training.

    Args:
        wanted: What to write down; None: nothing.
        model: What is trained.
        machine: Where.
        ranks: This process among those that train together.
        first: Step it begins with.
    """

    def __init__(
        self,
        wanted: Wanted | None,
        model: nn.Module,
        machine: Machine,
        ranks: Ranks = ALONE,
        *,
        first: int,
    ) -> None:
        self._model, self._machine, self._ranks = model, machine, ranks
        self._wanted = wanted if ranks.reports else None
        # Norms of gradients that are sharded need all ranks.
        self._norms_every = wanted.settings.norms_every if wanted else None
        self._trace: Trace | None = None
        self._traced = self._steps_to_trace(first)
        self._energy = Energy(POWERCAP, machine.device) if self._wanted else None
        self._norms: dict[str, float] = {}
        self._board: Board | None = None
        if self._wanted and self._wanted.settings.tensorboard:
            self._board = Board(self._wanted.board, first)

    def around(self, step: int) -> AbstractContextManager[Look | None]:
        """Around a step, from 1; gives the look at it, if it is one of those that are looked at."""
        if step in (self._traced.start, self._traced.stop):
            self._switch_trace(step)
        if self._norms_every is None or step % self._norms_every:
            return _NOTHING
        return self._looking(step)

    def measured(self) -> dict[str, float | None]:
        """What belongs into the next report; None where it was not measured, or cannot be here."""
        if self._energy is None:
            return {}
        norms, self._norms = self._norms, {}
        return {
            "gradient_norm": norms.get("gradient_norm"),
            "activation_norm": norms.get("activation_norm"),
            "peak_memory_bytes": peak_memory(self._machine.device),
            "energy_joules": self._energy.since_last(),
        }

    def tell(self, progress: Progress) -> None:
        """A report is made."""
        if self._wanted is None:
            return
        if self._board is not None:
            told = {name: getattr(progress, name) for name in _CURVES} | progress.measured
            values = {f"train/{name}": value for name, value in told.items() if value is not None}
            self._board.add(progress.step, values)
        self._say(self._wanted.waiting.over(progress.seconds, progress.wait_share))

    def finish(self, seconds: float, wait_share: float) -> None:
        """Training is done, after so many seconds of which a share was spent waiting."""
        if self._wanted is not None:
            self._say(self._wanted.waiting.at_the_end(seconds, wait_share))

    @property
    def energy_joules(self) -> float | None:
        """Drawn so far, up to the last report."""
        return self._energy.in_all if self._energy else None

    def close(self) -> None:
        """Training is over, or failed."""
        self._end_trace()
        if self._board is not None:
            self._board.close()

    def _say(self, sentence: str | None) -> None:
        if sentence is not None and self._wanted is not None:
            self._wanted.say(sentence)

    @contextmanager
    def _looking(self, step: int) -> Iterator[Look]:
        sees = self._wanted is not None and self._wanted.activations
        apart = self._wanted is not None and self._wanted.apart
        look = Look(self._ranks, apart=sees and apart)
        with look.at_activations(self._model) if sees and not apart else _NOTHING:
            yield look
        if self._wanted is None:
            return
        activations = look.activations
        if look.gradients:
            self._norms["gradient_norm"] = math.hypot(*look.gradients.values())
        if activations:
            self._norms["activation_norm"] = sum(activations.values()) / len(activations)
        if self._board is not None:
            for group, norms in (("gradients", look.gradients), ("activations", activations)):
                self._board.add(step, {f"{group}/{name}": norm for name, norm in norms.items()})

    def _steps_to_trace(self, first: int) -> range:
        """The first step that is traced, and the one after the last."""
        if self._wanted is None or self._wanted.settings.profile_steps is None:
            return range(0)
        start = first + 1 + WARM_UP_STEPS
        return range(start, start + self._wanted.settings.profile_steps)

    def _switch_trace(self, step: int) -> None:
        if step == self._traced.stop:
            self._end_trace()
        elif self._wanted is not None:
            self._trace = Trace(self._wanted.trace, self._machine.device)

    def _end_trace(self) -> None:
        if self._trace is None:
            return
        path, self._trace = self._trace.close(), None
        self._say(f"the profiler's trace is {path}; chrome://tracing and ui.perfetto.dev open it")

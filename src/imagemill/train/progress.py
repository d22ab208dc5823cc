"""What a training says of itself while it runs and when it is done."""

import math
import time
from dataclasses import dataclass, field

from imagemill.loading.ledger import Account

_REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class Progress:
    """How training stands after a step. None is what was not measured, or cannot be here."""

    step: int  # steps taken, of `total_steps`
    total_steps: int
    epoch: int  # epochs finished
    loss: float  # mean since the last report
    accuracy: float  # on augmented train images, since the last report
    learning_rate: float
    images_per_second: float
    wait_share: float  # of the time since the last report spent waiting for images, 0..1
    seconds_left: float
    seconds: float  # since the last report
    ends_epoch: bool
    epoch_loss: float | None = None  # of the epoch that ends, mean over the samples of all ranks
    epoch_accuracy: float | None = None
    val_top1: float | None = None  # of the epoch that ends
    ledger: Account | None = None  # of the epoch that ends
    measured: dict[str, float | None] = field(default_factory=dict)  # norms, memory, energy, ...


@dataclass(frozen=True)
class FitResult:
    """What a finished training says of itself."""

    steps: int  # taken; fewer than planned if it was stopped early
    loss: float  # of the last report
    cpu_seconds: float  # of this process, over all resumptions
    resumed_at: int  # step; 0 if it was not resumed
    wait_share: float  # of the time of this process spent waiting for images
    best_epoch: int | None = None  # whose weights were kept, if training was stopped early
    ledger: list[Account] = field(default_factory=list)  # an account for each epoch
    energy_joules: float | None = None  # of this machine's processors; None: not known in full


class Tally:
    """Sums up steps between two reports."""

    def __init__(self, first: int, total_steps: int, steps_per_epoch: int) -> None:
        self._first, self._total, self._per_epoch = first, total_steps, steps_per_epoch
        self._start = self._last = time.monotonic()
        self._waited_in_all = 0.0
        self._clear()
        self.last_loss = math.nan
        self._epoch = [
            0.0,
            0.0,
            0.0,
        ]  # losses, hits, samples since its beginning, or the resumption

    def add(self, loss: float, hits: float, num_own: int, num_images: int, waited: float) -> None:
        """A step.

        Args:
            loss, hits: Sums over this rank's samples.
            num_own: How many these are.
            num_images: Samples over all ranks.
            waited: Seconds spent waiting for them.
        """
        self._loss += loss
        self._hits += hits
        self._own += num_own
        self._images += num_images
        self._waited += waited
        for place, value in enumerate((loss, hits, num_own)):
            self._epoch[place] += value

    def take_epoch(self) -> list[float]:
        """Sums of losses, hits and samples of this rank in the epoch that ends."""
        taken, self._epoch = self._epoch, [0.0, 0.0, 0.0]
        return taken

    def due(self) -> bool:
        """Whether it is time for a report."""
        return time.monotonic() - self._last >= _REPORT_SECONDS

    @property
    def seconds(self) -> float:
        """Since the first step began."""
        return time.monotonic() - self._start

    @property
    def wait_share(self) -> float:
        """Of the whole time so far spent waiting for images."""
        return self._waited_in_all / max(self.seconds, 1e-9)

    def take(
        self,
        steps: int,
        rate: float,
        *,
        epoch: tuple[float, float] | None,
        val_top1: float | None,
        account: Account | None,
        measured: dict[str, float | None],
    ) -> Progress:
        """What there is to report after so many steps; counting begins anew.

        Args:
            steps: Taken.
            rate: Learning rate of the last.
            epoch: Loss and accuracy of the epoch that ends, over all ranks.
            val_top1, account, measured: As in Progress.
        """
        now = time.monotonic()
        self._waited_in_all += self._waited
        per_step = (now - self._start) / max(steps - self._first, 1)
        own, seconds = max(self._own, 1), max(now - self._last, 1e-9)
        self.last_loss = self._loss / own
        progress = Progress(
            step=steps,
            total_steps=self._total,
            epoch=steps // self._per_epoch,
            loss=self.last_loss,
            accuracy=self._hits / own,
            learning_rate=rate,
            images_per_second=self._images / seconds,
            wait_share=min(self._waited / seconds, 1.0),
            seconds_left=per_step * (self._total - steps),
            seconds=seconds,
            ends_epoch=steps % self._per_epoch == 0,
            epoch_loss=epoch[0] if epoch else None,
            epoch_accuracy=epoch[1] if epoch else None,
            val_top1=val_top1,
            ledger=account,
            measured=measured,
        )
        self._last = now
        self._clear()
        return progress

    def _clear(self) -> None:
        self._loss = self._hits = self._waited = 0.0
        self._own = self._images = 0  # samples of this rank, of all ranks

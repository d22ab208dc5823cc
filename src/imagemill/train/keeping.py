"""What of a training is written to checkpoints, and how it is taken up again.

Shapes: N samples.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from imagemill.loading import Ledger
from imagemill.loading.ledger import Account, Counts
from imagemill.loading.plan import Plan
from imagemill.train.best import Best
from imagemill.train.checkpoint import (
    Position,
    Tensors,
    begin_checkpoint,
    checkpoint_of,
    finish_checkpoint,
    newest_checkpoint,
)
from imagemill.train.ema import Ema
from imagemill.train.selection import Selection
from imagemill.train.state import restore_state, state_tensors
from imagemill.train.step import Stepper
from imagemill.train.strategies import Single


def save_together(
    checkpoints: Path, position: Position, tensors: Tensors, strategy: Single, *, keep: int
) -> None:
    """Write a checkpoint, all ranks together.

    Args:
        checkpoints: Their folder.
        position: Where the training is.
        tensors: Its state, after the strategy's `settle`.
        strategy: Knows who writes what.
        keep: Newest checkpoints to keep.
    """
    ranks = strategy.ranks
    temporary = begin_checkpoint(checkpoints, position.step, makes=ranks.reports)
    ranks.meet()  # nobody writes before the folder is there
    strategy.write(temporary, tensors)
    ranks.meet()  # nor is it given its name before all have written
    if ranks.reports:
        finish_checkpoint(checkpoints, position, keep=keep)


class Keeper:
    """Keeps a training's books, and saves and restores it together with them.

    Args:
        model: As the strategy placed it.
        stepper: Takes the steps.
        ema: The average of the weights, if there is one.
        strategy: How ranks come to the same weights.
        plan: The steps of the run.
        ledger: Counts the samples, if anybody does.
        keep: Newest checkpoints to keep.
        best: Counts the epochs.
        selection: Remembers losses, if anybody does.
    """

    def __init__(
        self,
        model: nn.Module,
        stepper: Stepper,
        ema: Ema | None,
        *,
        strategy: Single,
        plan: Plan,
        ledger: Ledger | None,
        best: Best,
        selection: Selection | None,
        keep: int,
    ) -> None:
        self._model, self._stepper, self._ema = model, stepper, ema
        self._strategy, self._ranks, self._plan = strategy, strategy.ranks, plan
        self._keep, self._selection = keep, selection
        self.ledger, self.best = ledger, best
        self.accounts: list[Account] = []

    def settle_epoch(self) -> Account | None:
        """The account of the epoch that just ended; None: no ledger is kept."""
        if self.ledger is None:
            return None
        self.accounts.append(self.ledger.close(self._counts()))
        return self.accounts[-1]

    def save(self, checkpoints: Path, step: int, cpu_seconds: float) -> None:
        """Write a checkpoint, all ranks together.

        Args:
            checkpoints: Their folder.
            step: Steps taken.
            cpu_seconds: Spent on them.
        """
        self._strategy.settle(self._model, self._ema)
        counts_N = self._counts()
        position = Position(
            step=step,
            elapsed_cpu_seconds=cpu_seconds,
            accounts=tuple(self.accounts),
            consumed=self.ledger.digest_of(counts_N) if self.ledger else None,
            best_step=self.best.step,
            best_top1=self.best.top1,
            stale=self.best.stale,
        )
        tensors = {**self._tensors(), "ledger": torch.from_numpy(counts_N), **self._losses()}
        save_together(checkpoints, position, tensors, self._strategy, keep=self._keep)

    def resume(self, checkpoints: Path) -> tuple[int, float]:
        """Take up the newest checkpoint that is whole.

        Returns:
            First step to take and CPU seconds spent before; zeros if there is none.
        """
        found = newest_checkpoint(checkpoints)
        if found is None:
            return 0, 0.0
        folder, position = found
        counts_N: Counts = self._restore(folder)["ledger"].numpy().copy()
        self.accounts = list(position.accounts)
        self.best.resume(position.best_top1, position.best_step, position.stale)
        if self.ledger is not None:
            before_C = self._plan.consumed(position.step)
            self.ledger.resume(counts_N, before_C, keep=self._ranks.rank == 0)
        return position.step, position.elapsed_cpu_seconds

    def restore_best(self, checkpoints: Path) -> None:
        """The state at the end of the best epoch, if it was kept."""
        folder = None if self.best.step is None else checkpoint_of(checkpoints, self.best.step)
        if folder is not None:
            self._restore(folder)

    def _restore(self, folder: Path) -> dict[str, Tensor]:
        counts_N = torch.zeros(len(self._plan.order), dtype=torch.int32)
        like = {**self._tensors(), "ledger": counts_N, **self._losses()}
        tensors = self._strategy.read(folder, like)
        if self._selection is not None:
            self._selection.losses_N[:] = tensors["losses"].numpy()
        stepper = self._stepper
        restore_state(tensors, self._model, stepper.optimizer, self._ema, stepper.scaler)
        return tensors

    def _tensors(self) -> dict[str, Tensor]:
        stepper = self._stepper
        return state_tensors(self._model, stepper.optimizer, self._ema, stepper.scaler)

    def _losses(self) -> dict[str, Tensor]:
        """The last loss of each sample, where images are chosen by it."""
        if self._selection is None:
            return {}
        return {"losses": torch.from_numpy(self._selection.losses_N)}

    def _counts(self) -> Counts:
        """The ledger's counts over all ranks; empty where none is kept."""
        if self.ledger is None:
            return np.zeros(0, dtype=np.int32)
        counts = torch.from_numpy(self.ledger.counts.copy()).to(self._strategy.machine.device)
        total: Counts = self._ranks.summed(counts).cpu().numpy()
        return total

"""The training loop: for the base model, for fine-tuning and for students alike.

Shapes: B samples of this rank in a step, G of all ranks, N samples, K classes, C H W pixels.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from imagemill.augment import Policy, compile_policy
from imagemill.errors import TrainingError
from imagemill.loading import Ledger, SplitImages
from imagemill.loading.ledger import Account, Counts
from imagemill.loading.loader import Batch, Loader, plan_of
from imagemill.loading.plan import Share
from imagemill.params import AugmentParams, TrainParams
from imagemill.train.checkpoint import Position, load_checkpoint, save_checkpoint
from imagemill.train.feeding import Fed, fed, needed
from imagemill.train.losses import LOSSES, Targets, Teacher
from imagemill.train.machine import Machine, choose_machine
from imagemill.train.optimizers import build_optimizer, set_rate
from imagemill.train.schedules import SCHEDULES

_REPORT_SECONDS = 1.0
# Ranks agree on a checkpoint only every so many steps: asking costs a message.
_AGREEMENT_STEPS = 16


@dataclass(frozen=True)
class Progress:
    """How training stands after a step."""

    step: int  # steps taken, of `total_steps`
    total_steps: int
    epoch: int  # epochs finished
    loss: float  # mean since the last report
    accuracy: float  # on augmented train images, since the last report
    learning_rate: float
    images_per_second: float
    seconds_left: float
    ends_epoch: bool
    ledger: Account | None = None  # of the epoch that ends


@dataclass(frozen=True)
class FitResult:
    """What a finished training says of itself."""

    steps: int
    loss: float  # of the last report
    cpu_seconds: float  # of this process, over all resumptions
    resumed_at: int  # step; 0 if it was not resumed
    ledger: list[Account] = field(default_factory=list)  # an account for each epoch


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int
    world: int

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, on all ranks."""
        if self.world > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def agreed(self, wish: bool, device: torch.device) -> bool:
        """What rank 0 wishes."""
        if self.world == 1:
            return wish
        flag = torch.tensor([wish], dtype=torch.uint8, device=device)
        torch.distributed.broadcast(flag, 0)
        return bool(flag.item())


ALONE = Ranks(rank=0, world=1)


def fit(
    model: nn.Module,
    images: SplitImages,
    *,
    train: TrainParams,
    augment: AugmentParams,
    epochs: int,
    learning_rate: float,
    teacher: Teacher | None,
    report: Callable[[Progress], None],
    ranks: Ranks = ALONE,
    machine: Machine | None = None,
    checkpoints: Path | None = None,
) -> FitResult:
    """Train a model in place.

    Args:
        model: float32 [B, C, H, W] in 0..1 -> logits [B, K].
        images: The train split.
        train: Everything but epochs and learning rate, which are given beside it.
        augment: Its seed and online policy.
        epochs: Passes over `images`.
        learning_rate: Peak of the schedule.
        teacher: Whose outputs to learn beside the labels, if any.
        report: Called about once a second and at the end of each epoch, on rank 0.
        ranks: This process among those that train together.
        machine: Where to compute; by default chosen from `train`.
        checkpoints: Folder to write checkpoints to and to resume from; None: neither.

    Raises:
        TrainingError: the loss is not finite, or the ledger is not whole.
        LoaderError: a decoding process died or hangs, or a shard could not be fetched.
        IntegrityError: a shard is missing or damaged, or an image cannot be decoded.
    """
    machine = machine or choose_machine(train)
    policy = compile_policy(augment.online, seed=augment.seed, online=True)
    plan = _Plan(train, augment, policy, epochs, learning_rate)
    return _Run(model, images, plan, machine, ranks, teacher).run(report, checkpoints)


@dataclass(frozen=True)
class _Plan:
    """What to do, whoever does it."""

    train: TrainParams
    augment: AugmentParams
    policy: Policy
    epochs: int
    learning_rate: float


class _Run:
    """One training: what stays the same over its steps, and the ledger."""

    def __init__(  # noqa: PLR0917  # private, called once
        self,
        model: nn.Module,
        images: SplitImages,
        plan: _Plan,
        machine: Machine,
        ranks: Ranks,
        teacher: Teacher | None,
    ) -> None:
        self.model = model.to(machine.device).to(memory_format=machine.memory_format).train()
        self.replica = self._replicated(machine, ranks)
        self.optimizer: Optimizer = build_optimizer(model, plan.train)
        self.images, self.plan, self.train = images, plan, plan.train
        self.machine, self.ranks, self.teacher = machine, ranks, teacher
        self.steps = plan_of(
            images,
            seed=plan.train.seed,
            batch_size=plan.train.batch_size,
            share=Share(ranks.rank, ranks.world),
            rows=partial(needed, plan.policy),
        )
        self.total_steps = plan.epochs * self.steps.steps_per_epoch
        self.ledger = Ledger(images.hashes_N, images.keys) if images.loading.ledger else None
        self.accounts: list[Account] = []

    def run(self, report: Callable[[Progress], None], checkpoints: Path | None) -> FitResult:
        first, cpu_before = self._resumed(checkpoints)
        watch = _Watch(first, self.total_steps, self.steps.steps_per_epoch)
        cpu_start, last_saved = time.process_time(), time.monotonic()
        device = str(self.machine.device) if self.machine.device.type == "cuda" else None
        with Loader(self.images, self.steps, self.plan.augment, device=device) as loader:
            for batch in loader.batches(first, self.total_steps):
                done, rate = batch.step.number + 1, self._rate(batch.step.number)
                watch.add(self._step(batch, rate), len(batch.step.positions_G))
                ends_epoch = done % self.steps.steps_per_epoch == 0
                account = self._settled() if ends_epoch else None
                if ends_epoch or watch.due():
                    self._report(watch.take(done, rate, ends_epoch, account), report)
                if checkpoints and done % _AGREEMENT_STEPS == 0:
                    due = time.monotonic() - last_saved >= self.train.checkpoint_seconds
                    if self.ranks.agreed(due, self.machine.device):
                        elapsed = cpu_before + time.process_time() - cpu_start
                        self._save(checkpoints, done, elapsed)
                        last_saved = time.monotonic()
        cpu_seconds = cpu_before + time.process_time() - cpu_start
        self.model.eval()
        return FitResult(self.total_steps, watch.last_loss, cpu_seconds, first, self.accounts)

    def _step(self, batch: Batch, rate: float) -> tuple[float, float, int]:
        """One optimiser step; returns this rank's sum of losses, hits and number of samples."""
        step = batch.step
        if self.ledger is not None:
            self.ledger.consume(step.own())
        images_BCHW, targets = self._fed(batch)
        with self.machine.autocast():
            logits_BK = self.replica(images_BCHW)
        wanted = targets.for_loss(logits_BK.shape[1])
        losses_B = LOSSES[self.train.loss](logits_BK, wanted, self.train.label_smoothing)
        if self.teacher is not None:
            with self.machine.autocast():
                losses_B = self.teacher.blend(losses_B, logits_BK, images_BCHW)
        counted = float(step.num_own > 0)
        # Replicas average gradients over ranks: times their number gives the global batch's mean.
        loss = losses_B.sum() * (counted * self.ranks.world / len(step.positions_G))
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        self.optimizer.step()
        hits = (logits_BK.argmax(1) == targets.dominant()).sum()
        sums = torch.stack([losses_B.detach().sum(), hits]).tolist()
        return sums[0] * counted, sums[1] * counted, step.num_own

    def _fed(self, batch: Batch) -> tuple[Tensor, Targets]:
        """Images in 0..1 [B, C, H, W] and what they should be told to be, on the device."""
        positions_R = batch.step.positions_R
        made = fed(
            self.plan.policy,
            batch.images_RHWC,
            self.images.hashes_N[positions_R],
            self.images.targets_N[positions_R],
            epoch=batch.step.epoch,
        )
        moved = torch.from_numpy(made.images_BHWC).to(self.machine.device).permute(0, 3, 1, 2)
        images_BCHW = moved.to(torch.float32, memory_format=self.machine.memory_format).div_(255)
        return images_BCHW, self._targets(made)

    def _targets(self, made: Fed) -> Targets:
        own_B = torch.from_numpy(made.own_B).to(self.machine.device)
        if made.others_B is None or made.shares_B is None:
            return Targets(own_B)
        others_B = torch.from_numpy(made.others_B).to(self.machine.device)
        shares_B = torch.from_numpy(made.shares_B.astype(np.float32)).to(self.machine.device)
        return Targets(own_B, others_B, shares_B)

    def _rate(self, step: int) -> float:
        share = SCHEDULES[self.train.schedule](step, self.total_steps, self.train.warmup)
        return self.plan.learning_rate * share

    def _report(self, progress: Progress, report: Callable[[Progress], None]) -> None:
        if not math.isfinite(progress.loss):
            raise TrainingError(
                f"the loss is {progress.loss} at step {progress.step}: lower train.learning_rate "
                f"(now {self.plan.learning_rate:g}) or lengthen train.warmup"
            )
        if self.ranks.rank == 0:
            report(progress)

    def _settled(self) -> Account | None:
        """The account of the epoch that just ended."""
        if self.ledger is None:
            return None
        self.accounts.append(self.ledger.close(self._counts()))
        return self.accounts[-1]

    def _counts(self) -> Counts:
        """The ledger's counts over all ranks; empty where none is kept."""
        if self.ledger is None:
            return np.zeros(0, dtype=np.int32)
        counts = torch.from_numpy(self.ledger.counts.copy()).to(self.machine.device)
        total: Counts = self.ranks.summed(counts).cpu().numpy()
        return total

    def _save(self, checkpoints: Path, step: int, cpu_seconds: float) -> None:
        counts_N = self._counts()
        if self.ranks.rank == 0:
            position = Position(
                step=step,
                elapsed_cpu_seconds=cpu_seconds,
                accounts=tuple(self.accounts),
                consumed=self.ledger.digest_of(counts_N) if self.ledger else None,
            )
            save_checkpoint(checkpoints, position, self.model, self.optimizer, counts_N)

    def _resumed(self, checkpoints: Path | None) -> tuple[int, float]:
        """First step to take and CPU seconds spent before."""
        found = load_checkpoint(checkpoints, self.model, self.optimizer) if checkpoints else None
        if found is None:
            return 0, 0.0
        position, counts_N = found
        self.accounts = list(position.accounts)
        if self.ledger is not None:
            before_C = self.steps.consumed(position.step)
            self.ledger.resume(counts_N, before_C, keep=self.ranks.rank == 0)
        return position.step, position.elapsed_cpu_seconds

    def _replicated(self, machine: Machine, ranks: Ranks) -> nn.Module:
        if ranks.world == 1:
            return self.model
        devices = [machine.device] if machine.device.type == "cuda" else None
        replica: nn.Module = DistributedDataParallel(self.model, device_ids=devices)
        return replica


class _Watch:
    """Sums up steps between two reports."""

    def __init__(self, first: int, total_steps: int, steps_per_epoch: int) -> None:
        self._first, self._total, self._per_epoch = first, total_steps, steps_per_epoch
        self._start = self._last = time.monotonic()
        self._clear()
        self.last_loss = math.nan

    def add(self, sums: tuple[float, float, int], num_images: int) -> None:
        loss, hits, own = sums
        self._loss += loss
        self._hits += hits
        self._own += own
        self._images += num_images

    def due(self) -> bool:
        return time.monotonic() - self._last >= _REPORT_SECONDS

    def take(self, steps: int, rate: float, ends_epoch: bool, account: Account | None) -> Progress:
        now = time.monotonic()
        per_step = (now - self._start) / (steps - self._first)
        own = max(self._own, 1)
        self.last_loss = self._loss / own
        progress = Progress(
            step=steps,
            total_steps=self._total,
            epoch=steps // self._per_epoch,
            loss=self.last_loss,
            accuracy=self._hits / own,
            learning_rate=rate,
            images_per_second=self._images / (now - self._last),
            seconds_left=per_step * (self._total - steps),
            ends_epoch=ends_epoch,
            ledger=account,
        )
        self._last = now
        self._clear()
        return progress

    def _clear(self) -> None:
        self._loss = self._hits = 0.0
        self._own = self._images = 0  # samples of this rank, of all ranks

"""The training loop: for the base model, for fine-tuning and for students alike.

Shapes: B samples of this rank in a step, G of all ranks, N samples, K classes, C H W pixels.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from imagemill.augment import Policy, compile_policy
from imagemill.errors import TrainingError
from imagemill.loading import Ledger, SplitImages
from imagemill.loading.loader import Batch, Loader, plan_of
from imagemill.loading.plan import Share, Step
from imagemill.params import AugmentParams, TrainParams, TransferParams
from imagemill.records import write_json
from imagemill.train.best import Best
from imagemill.train.draws import seed_step
from imagemill.train.ema import Ema
from imagemill.train.feeding import Fed, fed, needed, resized
from imagemill.train.keeping import Keeper
from imagemill.train.losses import Targets, Teacher
from imagemill.train.machine import Machine, choose_machine
from imagemill.train.progress import FitResult, Progress, Tally
from imagemill.train.quick_gradients import quick_gradients
from imagemill.train.ranks import ALONE, Ranks
from imagemill.train.schedules import rate_share
from imagemill.train.selection import Chosen, Selection, all_of
from imagemill.train.step import Stepper
from imagemill.train.stopping import Agreement, StopRequest
from imagemill.train.strategies import Single, strategy_of
from imagemill.train.thawing import Thawing
from imagemill.train.watching.norms import Look
from imagemill.train.watching.watch import Wanted, Watch

SUSPECTS = "suspects.json"
_NAMED = 5  # keys in a message

Judge = Callable[[nn.Module], float]
Report = Callable[[Progress], None]


class StoppedError(Exception):
    """Training was asked to end; its checkpoint is written and it can be gone on with."""

    def __init__(self, step: int, total_steps: int) -> None:
        super().__init__(f"stopped after step {step} of {total_steps}")


def fit(
    model: nn.Module,
    images: SplitImages,
    *,
    train: TrainParams,
    augment: AugmentParams,
    epochs: int,
    learning_rate: float,
    teacher: Teacher | None,
    report: Report,
    judge: Judge | None = None,
    ranks: Ranks | None = None,
    machine: Machine | None = None,
    checkpoints: Path | None = None,
    request: StopRequest | None = None,
    transfer: TransferParams | None = None,
    watch: Wanted | None = None,
    beat: Callable[[int], None] = lambda _: None,
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
        judge: Top-1 on val, called by all ranks at the end of epochs; without it training is not
            stopped early.
        ranks: This process among those that train together by `train.strategy`; None: it trains
            alone, whatever the strategy.
        machine: Where to compute; by default chosen from `train`.
        checkpoints: Folder to write checkpoints to and to resume from; None: neither.
        request: Whether this process was asked to end.
        transfer: Mode finetune: how the body learns; None: as the head does.
        watch: What to write down beside the reports; None: nothing.
        beat: Called after each step with their number, and after a checkpoint.

    Raises:
        TrainingError: the loss is not finite or exploded, or the ledger is not whole.
        LoaderError: a decoding process died or hangs, or a shard could not be fetched.
        IntegrityError: a shard is missing or damaged, or an image cannot be decoded.
        StoppedError: it was asked to end, and a checkpoint is written.
    """
    machine = machine or choose_machine(train)
    policy = compile_policy(augment.online, seed=augment.seed, online=True)
    plan = _Plan(train, augment, policy, epochs, learning_rate, transfer)
    if ranks is None:
        strategy = Single(train, ALONE, machine)
    else:
        strategy = strategy_of(train, ranks, machine)
    run = _Run(model, images, plan, strategy, teacher)
    run.beat = beat
    try:
        wish = StopRequest() if request is None else request
        with quick_gradients(run.model, machine):
            return run.run(report, judge, checkpoints, wish, watch)
    finally:
        run.watch.close()
        strategy.close()


@dataclass(frozen=True)
class _Plan:
    """What to do, whoever does it."""

    train: TrainParams
    augment: AugmentParams
    policy: Policy
    epochs: int
    learning_rate: float
    transfer: TransferParams | None


class _Run:
    """One training: what stays the same over its steps, and the ledger."""

    def __init__(
        self,
        model: nn.Module,
        images: SplitImages,
        plan: _Plan,
        strategy: Single,
        teacher: Teacher | None,
    ) -> None:
        self.machine, self.ranks, self.strategy = strategy.machine, strategy.ranks, strategy
        layout = self.machine.memory_format
        self.given = model.to(self.machine.device).to(memory_format=layout).train()
        self.model = strategy.place(self.given)
        self.stepper = Stepper(self.model, strategy, plan.train, self.machine, teacher)
        self.ema = Ema(self.model, plan.train.ema) if plan.train.ema else None
        self.images, self.plan, self.train = images, plan, plan.train
        self.steps = plan_of(
            images,
            seed=plan.train.seed,
            batch_size=plan.train.batch_size,
            share=Share(self.ranks.rank, self.ranks.world),
            rows=partial(needed, plan.policy),
        )
        self.total_steps = plan.epochs * self.steps.steps_per_epoch
        self.selection: Selection | None = None
        if plan.train.selection is not None:
            count = len(images)
            self.selection = Selection(plan.train.selection, count, self.total_steps, self.ranks)
        self.thawing: Thawing | None = None
        if plan.transfer is not None:
            self.thawing = Thawing(self.model, plan.transfer, self.total_steps)
            self.thawing.share_rates(self.stepper.optimizer)
        self.keeper = Keeper(
            self.model,
            self.stepper,
            self.ema,
            strategy=strategy,
            plan=self.steps,
            ledger=Ledger(images.hashes_N, images.keys) if images.loading.ledger else None,
            best=Best(plan.train.early_stopping),
            selection=self.selection,
            keep=plan.train.keep_checkpoints,
        )
        self.watch = Watch(None, self.model, self.machine, self.ranks, first=0)
        self.beat: Callable[[int], None] = lambda _: None

    def run(
        self,
        report: Report,
        judge: Judge | None,
        checkpoints: Path | None,
        request: StopRequest,
        wanted: Wanted | None,
    ) -> FitResult:
        keeper = self.keeper
        first, cpu_before = keeper.resume(checkpoints) if checkpoints else (0, 0.0)
        watch = self.watch = Watch(wanted, self.model, self.machine, self.ranks, first=first)
        cpu_start = time.process_time()
        tally = Tally(first, self.total_steps, self.steps.steps_per_epoch)
        agreement = Agreement(self.ranks, self.train.checkpoint_seconds, request, first=first)
        done = first
        for batch, waited in self._batches(first):
            done, rate = batch.step.number + 1, self._rate(batch.step.number)
            with watch.around(done) as look:
                loss, hits, number = self._step(batch, rate, checkpoints, look)
            self.beat(done)
            tally.add(loss, hits, number, len(batch.step.positions_G), waited)
            ends_epoch, is_best = done % self.steps.steps_per_epoch == 0, False
            if ends_epoch or tally.due():
                account = keeper.settle_epoch() if ends_epoch else None
                validates = ends_epoch and self._validates_after(done)
                top1 = self._judged(judge) if judge and validates else None
                is_best = top1 is not None and keeper.best.take(top1, done)
                told = tally.take(
                    done,
                    rate,
                    epoch=self._epoch(tally) if ends_epoch else None,
                    val_top1=top1,
                    account=account,
                    measured={**watch.measured(), **self.strategy.measured()},
                )
                watch.tell(told)
                if self.ranks.reports:
                    report(told)
            decision = agreement.after(done)
            if checkpoints and (decision.save or is_best):
                keeper.save(checkpoints, done, cpu_before + time.process_time() - cpu_start)
                self.beat(done)
            if decision.stop and done < self.total_steps:
                raise StoppedError(done, self.total_steps)
            if keeper.best.is_over:
                break
        cpu_seconds = cpu_before + time.process_time() - cpu_start
        best_epoch = self._finish(checkpoints)
        watch.finish(tally.seconds, tally.wait_share)
        return FitResult(
            done,
            tally.last_loss,
            cpu_seconds,
            first,
            tally.wait_share,
            best_epoch,
            keeper.accounts,
            energy_joules=None if first else watch.energy_joules,
        )

    def _batches(self, first: int) -> Iterator[tuple[Batch, float]]:
        """Each batch and the seconds spent waiting for it."""
        device = str(self.machine.device) if self.machine.device.type == "cuda" else None
        with Loader(self.images, self.steps, self.plan.augment, device=device) as loader:
            batches = loader.batches(first, self.total_steps)
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                yield batch, time.perf_counter() - asked

    def _step(
        self, batch: Batch, rate: float, checkpoints: Path | None, look: Look | None
    ) -> tuple[float, float, int]:
        """One optimiser step; returns sums of losses and hits over this rank's samples, and the
        number of those it learned from."""
        step = batch.step
        if self.keeper.ledger is not None:
            self.keeper.ledger.consume(step.own())
        if self.thawing is not None:
            self.thawing.before(step.number)
        selection = self.selection
        chosen = selection.chosen(step) if selection else all_of(step, self.ranks.world)
        images_BCHW, targets = self._fed(batch, chosen)
        seed_step(self.train.seed, step.number, self.ranks.rank, self.machine.device)
        counted = float(chosen.num_own > 0)
        taken = self.stepper.take(
            images_BCHW,
            targets,
            share=counted / chosen.num_all,
            fewest=max(chosen.fewest, 1),
            rate=rate,
            look=look,
        )
        if self.ema is not None:
            self.ema.update(self.model, step.number + 1)
        if selection is not None and taken.losses_B is not None:
            selection.learned(step.positions_G, chosen, taken.losses_B)
        loss, hits = taken.loss.item() * counted, taken.hits.item() * counted
        mean = loss / max(chosen.num_own, 1)
        if not mean <= (self.train.max_loss or math.inf) or mean == math.inf:
            raise TrainingError(self._exploded(mean, step, chosen, checkpoints))
        return loss, hits, chosen.num_own

    def _fed(self, batch: Batch, chosen: Chosen) -> tuple[Tensor, Targets]:
        """Images in 0..1 [B, C, H, W] and what they should be told to be, on the device."""
        positions_R = batch.step.positions_R
        made = fed(
            self.plan.policy,
            batch.images_RHWC,
            self.images.hashes_N[positions_R],
            self.images.targets_N[positions_R],
            epoch=batch.step.epoch,
        )
        if chosen.rows_K is not None:
            made = made.at(chosen.rows_K)
        moved = torch.from_numpy(made.images_BHWC).to(self.machine.device).permute(0, 3, 1, 2)
        sized = resized(moved, self.train.size_at(batch.step.number, self.total_steps))
        # Divided as they are: half the time of a conversion and a division.
        images_BCHW = sized.div(255).contiguous(memory_format=self.machine.memory_format)
        return images_BCHW, self._targets(made)

    def _targets(self, made: Fed) -> Targets:
        own_B = torch.from_numpy(made.own_B).to(self.machine.device)
        if made.others_B is None or made.shares_B is None:
            return Targets(own_B)
        others_B = torch.from_numpy(made.others_B).to(self.machine.device)
        shares_B = torch.from_numpy(made.shares_B.astype(np.float32)).to(self.machine.device)
        return Targets(own_B, others_B, shares_B)

    def _rate(self, step: int) -> float:
        return self.plan.learning_rate * rate_share(self.train, step, self.total_steps)

    def _exploded(self, loss: float, step: Step, chosen: Chosen, checkpoints: Path | None) -> str:
        """What to say of a step whose loss is no number, or too large."""
        keys = [self.images.keys[int(position)] for position in chosen.among(step.own())]
        named = ", ".join(map(repr, keys[:_NAMED]))
        rest = ""
        if len(keys) > _NAMED:
            rest = f" and {len(keys) - _NAMED} more"
        if checkpoints is not None:
            write_json(checkpoints.parent / SUSPECTS, keys)
            rest += f" (all in {checkpoints.parent / SUSPECTS})"
        return (
            f"the loss is {loss:g} at step {step.number + 1}: lower train.learning_rate "
            f"(now {self.plan.learning_rate:g}) or lengthen train.warmup; or look at the images "
            f"of this step: {named}{rest}"
        )

    def _validates_after(self, done: int) -> bool:
        return self.train.validates_after(done // self.steps.steps_per_epoch, self.plan.epochs)

    def _judged(self, judge: Judge) -> float:
        self.strategy.settle(self.model, self.ema)
        if self.ema is None:
            return judge(self.model)
        with self.ema.in_place(self.model):
            return judge(self.model)

    def _epoch(self, tally: Tally) -> tuple[float, float]:
        """Mean loss and accuracy of the epoch that ends, over all ranks."""
        sums = torch.tensor(tally.take_epoch(), dtype=torch.float64, device=self.machine.device)
        loss, hits, number = self.ranks.summed(sums).tolist()
        return loss / max(number, 1), hits / max(number, 1)

    def _finish(self, checkpoints: Path | None) -> int | None:
        """Leave the weights to keep in the model; returns the epoch they are of if it is no more
        than one of those taken."""
        self.strategy.settle(self.model, self.ema)
        best = self.keeper.best.step
        if self.train.early_stopping and checkpoints:
            self.keeper.restore_best(checkpoints)
        if self.ema is not None:
            self.ema.put_into(self.model)
        self.strategy.give_back(self.model, self.given)
        self.given.eval()
        if self.train.early_stopping and best is not None:
            return best // self.steps.steps_per_epoch
        return None

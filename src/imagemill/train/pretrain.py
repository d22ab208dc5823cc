"""Learning from images without labels: two views of an image are more alike than those of others.

Shapes: B images of a step, V = 2B views, D features, P numbers of a projection, C H W pixels.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from imagemill.errors import ParamsError, TrainingError
from imagemill.loading import SplitImages
from imagemill.loading.loader import Batch, Loader
from imagemill.loading.order import Order, rank_slice
from imagemill.loading.plan import Plan, Share, Step
from imagemill.models.parts import linear_head_of
from imagemill.params import PretrainParams
from imagemill.records import Architecture, write_bytes
from imagemill.train.checkpoint import Position, newest_checkpoint
from imagemill.train.initial import initial_model
from imagemill.train.job import BODY, CHECKPOINTS, SOURCE, Job
from imagemill.train.keeping import save_together
from imagemill.train.loop import StoppedError
from imagemill.train.machine import Machine
from imagemill.train.optimizers import set_rate
from imagemill.train.progress import Progress, Tally
from imagemill.train.quick_gradients import quick_gradients
from imagemill.train.ranks import Ranks
from imagemill.train.schedules import rate_share
from imagemill.train.state import restore_state, state_tensors
from imagemill.train.stopping import Agreement, StopRequest
from imagemill.train.strategies import Single, strategy_of
from imagemill.train.weights import put_weights

Report = Callable[[Progress], None]


def pretrain(
    job: Job,
    architecture: Architecture,
    images: SplitImages,
    *,
    ranks: Ranks,
    machine: Machine,
    request: StopRequest,
    report: Report,
    beat: Callable[[int], None] = lambda _: None,
) -> None:
    """Train the body of a model and leave it in the job's folder; what was begun is gone on with.

    Args:
        job: With `train.pretrain`.
        architecture: Of the model.
        images: Of the train split of the job's source.
        ranks: This process among those that learn together; each compares its views with all.
        machine: Where to compute.
        request: Whether this process was asked to end.
        report: Called about once a second and at the end of each epoch, on rank 0.
        beat: Called after each step with their number, and after a checkpoint.

    Raises:
        ParamsError: the model's head is not linear, or nothing is drawn that makes views differ.
        TrainingError: the loss is not finite.
        StoppedError: it was asked to end, and a checkpoint is written.

    Source:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations".
        Ours takes the views by `augment.online` and any optimiser; norms are those of each
        process unless `train.synchronise_norms` says otherwise.
    """
    run = _Run(job, architecture, images, strategy_of(job.train, ranks, machine))
    run.beat = beat
    try:
        with quick_gradients(run.model, machine):
            run.run(request, report)
        run.finish()
    finally:
        run.strategy.close()


def contrast(projections_VP: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """How badly each view finds its partner among all others, and whether it does.

    Args:
        projections_VP: Views 0 to B - 1 are of the same images as B to 2B - 1.
        temperature: Of the softmax over cosine similarities.

    Returns:
        Losses [V] and hits [V].
    """
    unit_VP = F.normalize(projections_VP.float(), dim=1)
    alike_VV = unit_VP @ unit_VP.T / temperature
    alike_VV.fill_diagonal_(-math.inf)
    count = len(alike_VV)
    partners_V = torch.arange(count, device=alike_VV.device).roll(count // 2)
    losses_V = F.cross_entropy(alike_VV, partners_V, reduction="none")
    return losses_V, alike_VV.argmax(1) == partners_V


def gathered(views_VP: Tensor, counts: Sequence[int], ranks: Ranks) -> Tensor:
    """All ranks' projections: the first views of all images, then the second ones.

    Args:
        views_VP: This rank's, in the same order; a rank whose count is 0 has one image's all
            the same, which is left out.
        counts: Images of each rank.
        ranks: This process among them.
    """
    if ranks.world == 1:
        return views_VP
    pairs_2BP = views_VP.view(2, -1, views_VP.shape[1])
    largest = max(counts)  # who has fewer sends zeros behind
    padded = F.pad(pairs_2BP, (0, 0, 0, largest - pairs_2BP.shape[1]))
    parts: tuple[Tensor, ...] = _Exchanged.apply(padded, ranks)
    kept = [part[:, :count] for part, count in zip(parts, counts, strict=True)]
    return torch.cat(kept, dim=1).flatten(0, 1)


class _Exchanged(torch.autograd.Function):
    """What each rank has. All compute the same loss from it, so each keeps its part's gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks) -> tuple[Tensor, ...]:
        ctx.rank = ranks.rank
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(ranks.world)]
        torch.distributed.all_gather(parts, own)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[ctx.rank], None


@dataclass(frozen=True)
class TwoViews(Plan):
    """Each step of a plan twice: the samples are the same, the draws those of epochs 2e and 2e + 1.

    `first` and `last` of `steps` count views, so they are even.
    """

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """Both views of steps first / 2 to last / 2 - 1."""
        for step in super().steps(first // 2, last // 2):
            for view in (0, 1):
                yield step._replace(number=2 * step.number + view, epoch=2 * step.epoch + view)


class _Views(NamedTuple):
    """Of a step.

    number: Of the step.
    views_VCHW: This rank's, in 0..1; both of its images, one after the other.
    counts: Images of each rank. One without images has views that count for nothing.
    waited: Seconds.
    """

    number: int
    views_VCHW: Tensor
    counts: list[int]
    waited: float


class _Run:
    """One pre-training."""

    def __init__(
        self, job: Job, architecture: Architecture, images: SplitImages, strategy: Single
    ) -> None:
        assert job.train.pretrain is not None
        self.job, self.train = job, job.train
        self.settings: PretrainParams = job.train.pretrain
        self.strategy, self.ranks, self.machine = strategy, strategy.ranks, strategy.machine
        if not job.augment.online:
            raise ParamsError("pretrain needs augment.online: two views of an image must differ")
        self.images = images
        self.given = initial_model(architecture, images, job.data, job.train)
        if job.weights is not None:
            put_weights(self.given, job.weights, job.start, job.data.classes)
        self.head, old = linear_head_of(self.given)
        features = old.in_features
        projection = nn.Sequential(
            nn.Linear(features, features),
            nn.ReLU(),
            nn.Linear(features, self.settings.projection),
        )
        self.given.set_submodule(self.head, projection)
        layout = self.machine.memory_format
        self.given.to(self.machine.device).to(memory_format=layout).train()
        self.model = strategy.place(self.given)
        self.replica = strategy.replicate(self.model)
        self.optimizer = strategy.optimizer(self.model)
        device = self.machine.device.type
        self.scaler = torch.amp.GradScaler(device, enabled=self.machine.precision == torch.float16)
        order = Order(images.hashes_N, job.train.seed)
        share = Share(self.ranks.rank, self.ranks.world)
        self.plan = TwoViews(order, self.settings.batch_size, share)
        self.total_steps = self.settings.epochs * self.plan.steps_per_epoch
        self.beat: Callable[[int], None] = lambda _: None

    def run(self, request: StopRequest, report: Report) -> None:
        """Take all steps that are left."""
        first, before = self._resumed()
        tally = Tally(first, self.total_steps, self.plan.steps_per_epoch)
        agreement = Agreement(self.ranks, self.train.checkpoint_seconds, request, first=first)
        start = time.process_time() - before
        for step in self._steps(first):
            rate = self.settings.learning_rate * rate_share(
                self.train, step.number, self.total_steps
            )
            losses_V, hits_V = self._step(step, rate)
            done, count = step.number + 1, len(losses_V)
            self.beat(done)
            tally.add(losses_V.sum().item(), hits_V.sum().item(), count, count // 2, step.waited)
            ends_epoch = done % self.plan.steps_per_epoch == 0
            if ends_epoch or tally.due():
                told = tally.take(done, rate, epoch=None, val_top1=None, account=None, measured={})
                self._check(told)
                if self.ranks.reports:
                    report(told)
            decision = agreement.after(done)
            if decision.save:
                self._save(done, time.process_time() - start)
                self.beat(done)
            if decision.stop and done < self.total_steps:
                raise StoppedError(done, self.total_steps)

    def finish(self) -> None:
        """Leave the body in the job's folder, and nothing else."""
        self.strategy.settle(self.model, None)
        self.strategy.give_back(self.model, self.given)
        if not self.ranks.reports:
            return
        tensors = {
            name: value.cpu().contiguous()
            for name, value in self.given.state_dict().items()
            if not name.startswith(f"{self.head}.")
        }
        write_bytes(self.job.folder / BODY, save(tensors))
        for done in (CHECKPOINTS, SOURCE):
            shutil.rmtree(self.job.folder / done, ignore_errors=True)

    def _steps(self, first: int) -> Iterator[_Views]:
        with Loader(self.images, self.plan, self.job.augment) as loader:
            batches = loader.batches(2 * first, 2 * self.total_steps)
            while True:
                asked = time.perf_counter()
                one = next(batches, None)
                if one is None:
                    return
                number, batch_G = one.step.number // 2, one.step.positions_G
                world = self.ranks.world
                counts = [len(rank_slice(batch_G, rank=rank, world=world)) for rank in range(world)]
                earlier = self._moved(one)
                views_VCHW = torch.cat([earlier, self._moved(next(batches))])
                yield _Views(number, views_VCHW, counts, time.perf_counter() - asked)

    def _moved(self, batch: Batch) -> Tensor:
        """A copy on the device, since the batch's own memory is used again."""
        moved = torch.from_numpy(batch.images_RHWC).to(self.machine.device).permute(0, 3, 1, 2)
        return moved.to(torch.float32, memory_format=self.machine.memory_format).div_(255)

    def _step(self, step: _Views, rate: float) -> tuple[Tensor, Tensor]:
        """Losses and hits of all ranks' views, on each rank."""
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        self.strategy.begin_step(counted=step.counts[self.ranks.rank] > 0)
        with self.machine.autocast():
            projections_VP = self.replica(step.views_VCHW)
        everyone_VP = gathered(projections_VP.float(), step.counts, self.ranks)
        losses_V, hits_V = contrast(everyone_VP, self.settings.temperature)
        # Each rank knows the whole loss, and its gradient by this rank's views alone.
        loss = losses_V.mean() * self.strategy.loss_factor
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.strategy.combine(self.model)
        if self.train.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self.strategy.clip(self.model, self.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return losses_V.detach(), hits_V

    def _check(self, told: Progress) -> None:
        if not math.isfinite(told.loss):
            raise TrainingError(
                f"the loss of pre-training is {told.loss:g} at step {told.step}: lower "
                f"train.pretrain.learning_rate (now {self.settings.learning_rate:g})"
            )

    def _save(self, step: int, cpu_seconds: float) -> None:
        self.strategy.settle(self.model, None)
        position = Position(step=step, elapsed_cpu_seconds=cpu_seconds)
        folder, keep = self.job.folder / CHECKPOINTS, self.train.keep_checkpoints
        save_together(folder, position, self._tensors(), self.strategy, keep=keep)

    def _resumed(self) -> tuple[int, float]:
        """First step to take, and CPU seconds spent before."""
        found = newest_checkpoint(self.job.folder / CHECKPOINTS)
        if found is None:
            return 0, 0.0
        folder, position = found
        tensors = self.strategy.read(folder, self._tensors())
        restore_state(tensors, self.model, self.optimizer, None, self.scaler)
        return position.step, position.elapsed_cpu_seconds

    def _tensors(self) -> dict[str, Tensor]:
        return state_tensors(self.model, self.optimizer, None, self.scaler)

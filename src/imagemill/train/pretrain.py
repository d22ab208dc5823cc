"""Learning from images without labels: two views of an image are more alike than those of others.

Shapes: B images of a step, V = 2B views, D features, P numbers of a projection, C H W pixels.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from imagemill.augment import compile_policy
from imagemill.errors import ParamsError, TrainingError
from imagemill.loading import open_split
from imagemill.loading.loader import Batch, Loader
from imagemill.loading.order import Order
from imagemill.loading.plan import Plan, Step
from imagemill.models.parts import linear_head_of
from imagemill.params import PretrainParams
from imagemill.records import Architecture, write_bytes
from imagemill.train.checkpoint import (
    Position,
    begin_checkpoint,
    finish_checkpoint,
    newest_checkpoint,
)
from imagemill.train.initial import initial_model
from imagemill.train.job import BODY, CHECKPOINTS, SOURCE, Job
from imagemill.train.loop import StoppedError
from imagemill.train.machine import choose_machine, keep_freed_memory
from imagemill.train.optimizers import set_rate
from imagemill.train.progress import Progress, Tally
from imagemill.train.ranks import ALONE
from imagemill.train.schedules import rate_share
from imagemill.train.state import restore_state, state_tensors
from imagemill.train.stopping import Agreement, StopRequest
from imagemill.train.strategies import Single
from imagemill.train.weights import put_weights

Report = Callable[[Progress], None]


def pretrain(job: Job, architecture: Architecture, request: StopRequest, report: Report) -> None:
    """Train the body of a model and leave it in the job's folder; what was begun is gone on with.

    Args:
        job: With `train.pretrain`; its source's train split are the images.
        architecture: Of the model.
        request: Whether this process was asked to end.
        report: Called about once a second and at the end of each epoch.

    Raises:
        ParamsError: the model's head is not linear, or nothing is drawn that makes views differ.
        TrainingError: the loss is not finite.
        StoppedError: it was asked to end, and a checkpoint is written.

    Source:
        Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual Representations".
        Ours takes the views by `augment.online` and any optimiser, and normalises batches on one
        process.
    """
    if job.train.keep_memory:
        keep_freed_memory()
    run = _Run(job, architecture)
    run.run(request, report)
    tensors = {
        name: value.cpu().contiguous()
        for name, value in run.model.state_dict().items()
        if not name.startswith(f"{run.head}.")
    }
    write_bytes(job.folder / BODY, save(tensors))
    for done in (CHECKPOINTS, SOURCE):
        shutil.rmtree(job.folder / done, ignore_errors=True)


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


class _Run:
    """One pre-training."""

    def __init__(self, job: Job, architecture: Architecture) -> None:
        assert job.train.pretrain is not None
        self.job, self.train = job, job.train
        self.settings: PretrainParams = job.train.pretrain
        self.machine = choose_machine(job.train)
        policy = compile_policy(job.augment.online, seed=job.augment.seed, online=True)
        if not job.augment.online:
            raise ParamsError("pretrain needs augment.online: two views of an image must differ")
        self.images = open_split(
            job.source,
            "train",
            input_shape=job.input_shape,
            loading=job.loading,
            crop=policy.crop,
        )
        self.model = initial_model(architecture, self.images, job.data, job.train)
        if job.weights is not None:
            put_weights(self.model, job.weights, job.start, job.data.classes)
        self.head, old = linear_head_of(self.model)
        features = old.in_features
        projection = nn.Sequential(
            nn.Linear(features, features),
            nn.ReLU(),
            nn.Linear(features, self.settings.projection),
        )
        self.model.set_submodule(self.head, projection)
        self.model.to(self.machine.device).to(memory_format=self.machine.memory_format).train()
        self.strategy = Single(job.train, ALONE, self.machine)
        self.optimizer = self.strategy.optimizer(self.model)
        device = self.machine.device.type
        self.scaler = torch.amp.GradScaler(device, enabled=self.machine.precision == torch.float16)
        order = Order(self.images.hashes_N, job.train.seed)
        self.plan = TwoViews(order, self.settings.batch_size)
        self.total_steps = self.settings.epochs * self.plan.steps_per_epoch

    def run(self, request: StopRequest, report: Report) -> None:
        """Take all steps that are left."""
        first = self._resumed()
        tally = Tally(first, self.total_steps, self.plan.steps_per_epoch)
        agreement = Agreement(ALONE, self.train.checkpoint_seconds, request, first=first)
        before = time.process_time()
        for number, views, waited in self._pairs(first):
            rate = self.settings.learning_rate * rate_share(self.train, number, self.total_steps)
            losses_V, hits_V = self._step(views, rate)
            done, count = number + 1, len(views)
            tally.add(losses_V.sum().item(), hits_V.sum().item(), count, count // 2, waited)
            ends_epoch = done % self.plan.steps_per_epoch == 0
            if ends_epoch or tally.due():
                told = tally.take(done, rate, epoch=None, val_top1=None, account=None, measured={})
                self._check(told)
                report(told)
            decision = agreement.after(done)
            if decision.save:
                self._save(done, time.process_time() - before)
            if decision.stop and done < self.total_steps:
                raise StoppedError(done, self.total_steps)

    def _pairs(self, first: int) -> Iterator[tuple[int, Tensor, float]]:
        """Number of a step, its views [V, C, H, W] in 0..1 and the seconds spent waiting."""
        with Loader(self.images, self.plan, self.job.augment) as loader:
            batches = loader.batches(2 * first, 2 * self.total_steps)
            while True:
                asked = time.perf_counter()
                one = next(batches, None)
                if one is None:
                    return
                number, earlier = one.step.number // 2, self._moved(one)
                other = self._moved(next(batches))
                yield number, torch.cat([earlier, other]), time.perf_counter() - asked

    def _moved(self, batch: Batch) -> Tensor:
        """A copy on the device, since the batch's own memory is used again."""
        moved = torch.from_numpy(batch.images_RHWC).to(self.machine.device).permute(0, 3, 1, 2)
        return moved.to(torch.float32, memory_format=self.machine.memory_format).div_(255)

    def _step(self, views_VCHW: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        with self.machine.autocast():
            projections_VP = self.model(views_VCHW)
        losses_V, hits_V = contrast(projections_VP, self.settings.temperature)
        self.scaler.scale(losses_V.mean()).backward()  # type: ignore[no-untyped-call]
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
        folder = self.job.folder / CHECKPOINTS
        temporary = begin_checkpoint(folder, step, makes=True)
        self.strategy.write(temporary, self._tensors())
        position = Position(step=step, elapsed_cpu_seconds=cpu_seconds)
        finish_checkpoint(folder, position, keep=self.train.keep_checkpoints)

    def _resumed(self) -> int:
        """First step to take."""
        found = newest_checkpoint(self.job.folder / CHECKPOINTS)
        if found is None:
            return 0
        folder, position = found
        tensors = self.strategy.read(folder, self._tensors())
        restore_state(tensors, self.model, self.optimizer, None, self.scaler)
        return position.step

    def _tensors(self) -> dict[str, Tensor]:
        return state_tensors(self.model, self.optimizer, None, self.scaler)

"""Batches for training: the same ones on any number of processes, from any step on."""

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from imagemill.augment import Policy, RandomResizedCrop, compile_policy
from imagemill.loading.messages import Task
from imagemill.loading.order import Order, Window
from imagemill.loading.plan import ALONE, Plan, Positions, Rows, Share, Step
from imagemill.loading.pool import WorkerPool
from imagemill.loading.schedule import ShardSchedule
from imagemill.loading.slots import SlotShape
from imagemill.loading.split_images import SplitImages, open_split
from imagemill.params import AugmentParams
from imagemill.randomness import key_hashes

# One batch is trained on, one is decoded, and one more evens out their times.
_SLOTS = 3

Images = NDArray[np.uint8]


class Batch(NamedTuple):
    """A step and its images.

    step: Which samples they are of.
    images_RHWC: uint8, augmented; overwritten when the next batch is asked for.
    """

    step: Step
    images_RHWC: Images


class Loader:
    """Batches with their images, decoded here or in `loading.workers` processes.

    Use it as a context manager: leaving it ends the processes.

    Args:
        images: The split.
        plan: Which samples make up each step; `plan_of` makes it.
        augment: Seed and online policy.
        device: The CUDA device training runs on, if it does: where JPEGs are decoded if
            `loading.decoder` says so.
    """

    def __init__(
        self,
        images: SplitImages,
        plan: Plan,
        augment: AugmentParams,
        *,
        device: str | None = None,
    ) -> None:
        self.plan = plan
        self._augment = augment
        self._policy = compile_policy(augment.online, seed=augment.seed, online=True)
        on_device = device if images.loading.decoder == "nvjpeg" else None
        self._images = _for_training(images, self._policy.crop, on_device)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def batches(self, first: int, last: int) -> Iterator[Batch]:
        """Steps `first` to `last` - 1 of the run.

        Yields:
            A batch; its images are overwritten when the next one is asked for.

        Raises:
            IntegrityError: a shard is missing or damaged, or an image cannot be decoded.
            LoaderError: a decoding process died or hangs, or a shard could not be fetched.
        """
        self._stack.close()  # what an earlier call left under way
        decoder, schedule = self._decoder(), self._schedule(first, last)
        waiting: deque[Step] = deque()
        steps = self.plan.steps(first, last)
        while True:
            while len(waiting) < decoder.ahead and (step := next(steps, None)) is not None:
                decoder.ask(step.positions_R, step.epoch)
                waiting.append(step)
            if not waiting:
                return
            if schedule is not None:
                schedule.reached(waiting[-1].number)
            yield Batch(waiting.popleft(), decoder.fetch())

    def _decoder(self) -> "_Decoder":
        images = self._images
        # A batch out of the decoded cache costs less than asking another process for it.
        if images.is_cached or images.device or images.loading.workers == 0:
            return _Here(self._images, self._policy, self.plan.max_rows)
        pool = WorkerPool(self._task(), self._images.describe)
        self._stack.callback(pool.close)
        return pool

    def _task(self) -> Task:
        images = self._images
        channels, height, width = images.input_shape
        shape = SlotShape(
            workers=images.loading.workers,
            slots=_SLOTS,
            rows=self.plan.max_rows,
            height=height,
            width=width,
            channels=channels,
        )
        return Task(
            shape=shape,
            root=images.root,
            split=images.split,
            input_shape=images.input_shape,
            loading=images.loading,
            augment=self._augment,
        )

    def _schedule(self, first: int, last: int) -> ShardSchedule | None:
        """Only streaming has to ask for shards before they are needed."""
        images = self._images
        if images.is_cached or images.loading.layout == "local":
            return None
        self._stack.callback(images.shards.rest)
        return ShardSchedule(images.shards, images.frames, self.plan, first, last)


def plan_of(
    images: SplitImages,
    *,
    seed: int,
    batch_size: int,
    share: Share = ALONE,
    rows: Rows | None = None,
) -> Plan:
    """The steps of a run over a split, in the order of its layout.

    Args:
        images: The split.
        seed: train.seed.
        batch_size: Samples of a step over all ranks.
        share: This process among those that train together.
        rows: Adds what mixing needs to a rank's samples.
    """
    window = None
    if images.loading.layout == "streaming":
        frames = images.frames
        hashes_S = key_hashes(frames.shards)
        window = Window(images.loading.window_shards, frames.shard_N, hashes_S)
    return Plan(Order(images.hashes_N, seed, window), batch_size, share, rows)


def _for_training(
    images: SplitImages, crop: RandomResizedCrop | None, device: str | None
) -> SplitImages:
    """The split as training sees it, whoever opened it for what."""
    if (images.crop, images.device) == (crop, device):
        return images
    return open_split(
        images.root,
        images.split,
        input_shape=images.input_shape,
        loading=images.loading,
        crop=crop,
        device=device,
    )


class _Decoder(Protocol):
    """Turns positions into images, in the order they were asked for."""

    @property
    def ahead(self) -> int: ...
    def ask(self, positions_R: Positions, epoch: int) -> None: ...
    def fetch(self) -> Images: ...


class _Here:
    """Decodes in this process, when a batch is fetched."""

    ahead = 1

    def __init__(self, images: SplitImages, policy: Policy, max_rows: int) -> None:
        channels, height, width = images.input_shape
        self._images, self._policy = images, policy
        self._buffer: Images = np.empty((max_rows, height, width, channels), np.uint8)
        self._asked: tuple[Positions, int] | None = None

    def ask(self, positions_R: Positions, epoch: int) -> None:
        self._asked = positions_R, epoch

    def fetch(self) -> Images:
        assert self._asked is not None, "asked for before it is fetched"
        positions_R, epoch = self._asked
        out = self._buffer[: len(positions_R)]
        pixels_RHWC = self._images.take(positions_R, epoch=epoch, out=out)
        return self._policy.apply(pixels_RHWC, self._images.hashes_N[positions_R], epoch=epoch)

"""Our loader, from shards on disk to augmented uint8 batches with their targets."""

import shutil
from collections.abc import Iterator
from typing import Literal

import numpy as np

from benchmarks.loaders.work import Turn, Work
from imagemill.augment import compile_policy
from imagemill.decoding import compiled
from imagemill.loading import Ledger, open_split
from imagemill.loading.loader import Loader, plan_of
from imagemill.params import AugmentParams, CopiesParams, LoadingParams, OperationParams
from imagemill.records import STATE

CROP = OperationParams(
    operation="random_resized_crop", probability=1, range=(0.08, 1), ratio=(3 / 4, 4 / 3)
)
FLIP = OperationParams(operation="flip_horizontal", probability=0.5)
BATCH = 128


def epochs(
    work: Work,
    turn: Turn,
    *,
    resize: Literal["antialias", "linear", "reduced"] = "antialias",
    pure: bool = False,
    cached: bool = False,
) -> Iterator[Iterator[int]]:
    """Endless epochs; each yields the sizes of its batches.

    Args:
        work: What to read.
        turn: Called after each block of the cache.
        resize: loading.resize.
        pure: Without the compiled part.
        cached: With the decoded cache, which the first epoch fills.
    """
    root = work.project()
    shutil.rmtree(root / STATE / "decoded", ignore_errors=True)
    if pure:
        compiled.native = None
    loading = LoadingParams(
        resize=resize,
        decoder="cpu",
        cache_bytes=10**10 if cached else 0,
        workers=0,
        stall_seconds=30,
        ledger=True,
        layout="local",
        remote=None,
        stream_cache_bytes=10**9,
        window_shards=8,
    )
    copies = CopiesParams(default=0, classes=None, even_out=None)
    online = (CROP, FLIP) if work.crop else ()
    augment = AugmentParams(seed=0, copies=copies, offline=(), online=online)
    crop = compile_policy(online, seed=0, online=True).crop
    # The shards' digests are taken once a run, not once an epoch: what that costs is measured
    # by benchmarks.ledger.
    _touch(work, loading)

    def epoch(number: int) -> Iterator[int]:
        shape = (3, work.size, work.size)
        images = open_split(root, "train", input_shape=shape, loading=loading, crop=crop, beat=turn)
        plan = plan_of(images, seed=0, batch_size=BATCH)
        ledger = Ledger(images.hashes_N, images.keys)
        first = number * plan.steps_per_epoch
        with Loader(images, plan, augment) as loader:
            for batch in loader.batches(first, first + plan.steps_per_epoch):
                ledger.consume(batch.step.own())
                targets_B = images.targets_N[batch.step.positions_R]
                yield len(targets_B)

    number = 0
    while True:
        yield epoch(number)
        number += 1


def _touch(work: Work, loading: LoadingParams) -> None:
    """Build the saved index, and have every shard's digest on record."""
    uncached = loading.model_copy(update={"cache_bytes": 0})
    shape = (3, work.size, work.size)
    images = open_split(work.project(), "train", input_shape=shape, loading=uncached)
    images.take(np.unique(images.frames.shard_N, return_index=True)[1])

"""What tests of the loader share: a project of small shards, and its batches."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from made_shards import make_shards
from numpy.typing import NDArray

from imagemill.loading import SplitImages, open_split
from imagemill.loading.loader import Loader, plan_of
from imagemill.loading.plan import ALONE, Share
from imagemill.params import AugmentParams, LoadingParams, read_params

SIZE = 12
SHAPE = (1, SIZE, SIZE)
BATCH = 7
_SHIPPED = read_params(Path(__file__).resolve().parent.parent)
AUGMENT = AugmentParams.model_validate(
    {
        "seed": 3,
        "copies": 0,
        "offline": [],
        "online": [{"operation": "flip_horizontal", "probability": 0.5}],
    }
)


class Got(NamedTuple):
    """A copy of a batch."""

    step: int
    own: list[int]
    rows: list[int]
    images: NDArray[np.uint8]


def loading(**changes: Any) -> LoadingParams:
    """The params we ship, decoding on demand, in two processes."""
    told = {"cache_bytes": 0, "workers": 2, "stall_seconds": 20, **changes}
    return LoadingParams.model_validate({**_SHIPPED.loading.model_dump(), **told})


def make_project(root: Path, *, train: int = 60, per_shard: int = 10) -> Path:
    """Small shards whose digests are on record."""
    make_shards(root, size=SIZE, train=train, per_shard=per_shard, digests=True)
    return root


def train_images(root: Path, **changes: Any) -> SplitImages:
    """The train split."""
    return open_split(root, "train", input_shape=SHAPE, loading=loading(**changes))


@contextmanager
def loader(
    root: Path,
    *,
    share: Share = ALONE,
    rows: Any = None,
    device: str | None = None,
    **changes: Any,
) -> Iterator[Loader]:
    """A loader of the train split."""
    images = train_images(root, **changes)
    plan = plan_of(images, seed=0, batch_size=BATCH, share=share, rows=rows)
    with Loader(images, plan, AUGMENT, device=device) as opened:
        yield opened


def batches(root: Path, first: int, last: int, **changes: Any) -> list[Got]:
    """Steps `first` to `last` - 1, copied."""
    with loader(root, **changes) as opened:
        return [
            Got(
                batch.step.number,
                batch.step.own().tolist(),
                batch.step.positions_R.tolist(),
                batch.images_RHWC.copy(),
            )
            for batch in opened.batches(first, last)
        ]


def same(left: Sequence[Got], right: Sequence[Got]) -> bool:
    """Whether two runs gave the same batches."""
    return len(left) == len(right) and all(
        one[:3] == other[:3] and np.array_equal(one.images, other.images)
        for one, other in zip(left, right, strict=True)
    )


def workers_of(process: psutil.Process | None = None) -> list[psutil.Process]:
    """Decoding processes below a process."""
    below = (process or psutil.Process()).children(recursive=True)
    return [child for child in below if "imagemill.loading.worker" in child.cmdline()]

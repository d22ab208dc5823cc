"""Making copies: decode, change, encode, in several threads and in one order.

Threads, not processes: OpenCV, the digest and the PNG encoder let go of Python's lock while they
work, there is nothing to pickle, and no process can be left behind.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from imagemill.augment.geometric import Pixels, Size
from imagemill.augment.layers import Drawn
from imagemill.augment.objects import moved_objects
from imagemill.augment.originals import Original, OriginalReader, checked
from imagemill.augment.policy import Policy
from imagemill.decoding import decode, encode_png
from imagemill.errors import IntegrityError
from imagemill.randomness import key_hashes

# A job is a batch of images; photographs come a few at a time, thumbnails by the hundred.
_JOB_IMAGES = 128
_JOB_BYTES = 1 << 20
# Jobs under way, a thread: one at work, one waiting.
_AHEAD = 2


class Copy(NamedTuple):
    """A derived image before it is written."""

    parent_key: str
    number: int  # from 1
    target: int
    data: bytes
    sha256: str
    operations: str  # JSON
    description: bytes  # JSON

    @property
    def key(self) -> str:
        return f"{self.parent_key}%copy{self.number}"


@dataclass(frozen=True)
class Recipe:
    """What is done to every image."""

    policy: Policy
    seed: int
    channels: int


class _Raw(NamedTuple):
    """An image as it lies in its shard."""

    original: Original
    data: bytes
    annotation: dict[str, Any]


def made_in_order(
    originals: Iterable[Original],
    reader: OriginalReader,
    recipe: Recipe,
    *,
    workers: int | None = None,
) -> Iterator[Copy]:
    """Copies of images, in the order of the images.

    Args:
        originals: What to copy.
        reader: Gives their bytes.
        recipe: What to do to them.
        workers: Threads; by default one for each CPU this process may use.

    Raises:
        IntegrityError: shards are missing or damaged, or an image cannot be decoded.
    """
    workers = workers or _num_cpus()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[Copy]]] = deque()
        try:
            for job in _jobs(originals, reader):
                waiting.append(pool.submit(_copies, job, recipe))
                if len(waiting) > _AHEAD * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _jobs(originals: Iterable[Original], reader: OriginalReader) -> Iterator[list[_Raw]]:
    job: list[_Raw] = []
    size_bytes = 0
    for original in originals:
        data, annotation = reader.read(original)
        job.append(_Raw(original, data, annotation))
        size_bytes += len(data)
        if len(job) == _JOB_IMAGES or size_bytes >= _JOB_BYTES:
            yield job
            job, size_bytes = [], 0
    if job:
        yield job


def _copies(job: list[_Raw], recipe: Recipe) -> list[Copy]:
    """The copies of a job's images: images of one size are changed together."""
    by_size: dict[Size, list[int]] = {}
    decoded = [_decoded(raw, recipe.channels) for raw in job]
    for place, image_HWC in enumerate(decoded):
        by_size.setdefault(image_HWC.shape[:2], []).append(place)
    made: dict[int, list[Copy]] = {}
    for places in by_size.values():
        images_BHWC = np.stack([decoded[place] for place in places])
        together = _copies_of_a_size([job[place] for place in places], images_BHWC, recipe)
        made.update(zip(places, together, strict=True))
    return [copy for place in range(len(job)) for copy in made[place]]


def _copies_of_a_size(raws: list[_Raw], images_BHWC: Pixels, recipe: Recipe) -> list[list[Copy]]:
    hashes_B = key_hashes(raw.original.key for raw in raws)
    copies_B = np.array([raw.original.copies for raw in raws])
    made: list[list[Copy]] = [[] for _ in raws]
    for number in range(1, int(copies_B.max()) + 1):
        rows_M = np.flatnonzero(copies_B >= number)
        changed = recipe.policy.apply(images_BHWC[rows_M], hashes_B[rows_M], epoch=number)
        drawn = recipe.policy.drawn(hashes_B[rows_M], epoch=number, size=images_BHWC.shape[1:3])
        for row, image_HWC, record in zip(rows_M.tolist(), changed, drawn, strict=True):
            made[row].append(_copy(raws[row], number, image_HWC, record, recipe.seed))
    return made


def _copy(raw: _Raw, number: int, image_HWC: Pixels, drawn: list[Drawn], seed: int) -> Copy:
    original, data = raw.original, encode_png(image_HWC)
    operations = [one.described() for one in drawn]
    description = {
        **moved_objects(raw.annotation, drawn, image_HWC.shape[:2]),
        "parent_key": original.key,
        "operations": operations,
        "seed": seed,
    }
    return Copy(
        parent_key=original.key,
        number=number,
        target=original.target,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        operations=json.dumps(operations),
        description=json.dumps(description, sort_keys=True).encode(),
    )


def _num_cpus() -> int:
    """Those this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _decoded(raw: _Raw, channels: int) -> Pixels:
    try:
        return decode(checked(raw.original, raw.data), channels=channels)
    except IntegrityError as error:
        if raw.original.key in str(error):
            raise
        raise IntegrityError(f"image {raw.original.key!r} {error}") from None

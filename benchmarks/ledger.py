"""What proving every byte and every sample costs: `python -m benchmarks.ledger`.

Five epochs of batches of 128, decoded and augmented in one process: CIFAR-10's JPEGs, decoded in
each epoch and once for the decoded cache, and photographs of about 110 kB, of which each epoch
decodes other windows. The
same positions then go through a ledger alone, and the same shards through a check alone: hashed, as
shards from elsewhere are once, and remembered, as those are that `shard` has hashed while it wrote
them. What that takes is compared with the CPU time of the round, which hashes.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from benchmarks.photographs import cifar_files, photographs
from benchmarks.prepared import make_project
from benchmarks.results import Row, write_results
from imagemill.augment import compile_policy
from imagemill.loading import Ledger, SplitImages, open_split
from imagemill.loading.digests import VERIFIED, Digests
from imagemill.loading.loader import Loader, plan_of
from imagemill.loading.shards import map_file, shard_entries
from imagemill.params import AugmentParams, LoadingParams, read_params
from imagemill.records import DATA, STATE

ROUNDS, EPOCHS, BATCH = 3, 5, 128
WANTED = 0.03
PARTS = ("loader", "ledger", "hashed", "remembered")
FLIP = {"operation": "flip_horizontal", "probability": 0.5}
CROP = {
    "operation": "random_resized_crop",
    "probability": 1.0,
    "range": [0.08, 1.0],
    "ratio": [0.75, 1.333],
}
PROJECT = Path(__file__).resolve().parent.parent


def measure() -> list[Row]:
    """Both sizes of images."""
    cv2.setNumThreads(1)
    tiny = sorted((cifar_files() / "train").glob("*/*.jpg"))
    large = sorted(photographs().glob("*/*.jpg"))
    return [
        *_case("CIFAR-10, on demand", tiny, 32, [FLIP], per_shard=10_000, cache_bytes=0),
        *_case("CIFAR-10, decoded cache", tiny, 32, [FLIP], per_shard=10_000),
        *_case("photographs, random crop to 224", large, 224, [CROP, FLIP], per_shard=500),
    ]


def _case(
    name: str,
    files: list[Path],
    size: int,
    online: list[dict[str, Any]],
    *,
    per_shard: int,
    cache_bytes: int = 10**9,
) -> list[Row]:
    loading = read_params(PROJECT).loading.model_copy(update={"cache_bytes": cache_bytes})
    augment = AugmentParams.model_validate(
        {"seed": 0, "copies": 0, "offline": [], "online": online}
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_project(root, files, per_shard=per_shard)
        times: dict[str, list[float]] = {part: [] for part in PARTS}
        for _ in range(ROUNDS):
            shutil.rmtree(root / STATE, ignore_errors=True)
            times["loader"].append(_cpu_seconds(lambda: _load(root, size, loading, augment)))
            images = _opened(root, size, loading, augment)
            times["ledger"].append(_kept(images))
            shutil.rmtree(root / VERIFIED)
            times["hashed"].append(_cpu_seconds(lambda: _check_all(root)))
            times["remembered"].append(_cpu_seconds(lambda: _check_all(root)))
    loader, ledger, hashed, remembered = (statistics.median(times[part]) for part in PARTS)
    return [
        Row(f"{name}: loader, {EPOCHS} epochs", loader, "CPU s"),
        *(
            Row(f"{name}: {part}", seconds, "CPU s").against("loader", loader)
            for part, seconds in (
                ("ledger", ledger),
                ("digests, all shards hashed", hashed),
                ("digests, remembered from `shard` or a run before", remembered),
                ("ledger and digests, hashed", ledger + hashed),
                ("ledger and digests, remembered", ledger + remembered),
            )
        ),
    ]


def _opened(root: Path, size: int, loading: LoadingParams, augment: AugmentParams) -> SplitImages:
    crop = compile_policy(augment.online, seed=augment.seed, online=True).crop
    shape = (3, size, size)
    return open_split(root, "train", input_shape=shape, loading=loading, crop=crop)


def _load(root: Path, size: int, loading: LoadingParams, augment: AugmentParams) -> None:
    """As training does, ledger included."""
    images = _opened(root, size, loading, augment)
    plan = plan_of(images, seed=0, batch_size=BATCH)
    ledger = Ledger(images.hashes_N, images.keys)
    with Loader(images, plan, augment) as loader:
        for batch in loader.batches(0, EPOCHS * plan.steps_per_epoch):
            ledger.consume(batch.step.own())
            if batch.step.in_epoch + 1 == plan.steps_per_epoch:
                ledger.close(ledger.counts)


def _kept(images: SplitImages) -> float:
    """CPU seconds of the ledger's part of it."""
    plan = plan_of(images, seed=0, batch_size=BATCH)
    owns = [step.own() for step in plan.steps(0, plan.steps_per_epoch)]
    ledger = Ledger(images.hashes_N, images.keys)

    def keep() -> None:
        for _ in range(EPOCHS):
            for own_B in owns:
                ledger.consume(own_B)
            ledger.close(ledger.counts)

    return _cpu_seconds(keep)


def _check_all(root: Path) -> None:
    """The digests' part of it."""
    digests = Digests(root)
    for path, entry in shard_entries(root).items():
        with (root / DATA / path).open("rb") as stream:
            mapped = map_file(stream.fileno(), path)
            sha256 = entry.sha256
            digests.check(stream.fileno(), mapped, name=path, sha256=sha256, beat=lambda: None)


def _cpu_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()  # nothing here starts a process
    work()
    return time.process_time() - start


if __name__ == "__main__":
    rows = measure()
    write_results("ledger", rows)
    print(f"wanted: both <= {WANTED:.0%} of the loader")

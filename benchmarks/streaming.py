"""Our streaming layout and webdataset's stock pipeline on the same shards.

`python -m benchmarks.streaming`

Order: 10,007 samples in 101 shards. How well an epoch is mixed is the mean distance between the
places on disk of two samples in a row, over that of a uniform shuffle (1 is perfect); beside it how
many different shards a batch of 128 draws from. Whether two runs of the same seed give the same
order, and whether it stays with another number of workers, is 1 or 0. Rate: CIFAR-10's JPEGs in
shards of 1,000, an epoch of batches of 128 in one process, shards in a local folder, the cache of
the streaming layout warm (its digests were checked on arrival) and no decoded pixels kept.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import webdataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from benchmarks.photographs import cifar_files
from benchmarks.prepared import make_project
from benchmarks.results import Row, write_results
from imagemill.loading import open_split
from imagemill.loading.loader import Loader, plan_of
from imagemill.loading.order import Window, epoch_order, windowed_order
from imagemill.params import AugmentParams, LoadingParams, read_params
from imagemill.randomness import key_hashes
from imagemill.records import DATA
from imagemill.tars import TarWriter

ROUNDS, BATCH = 3, 128
SAMPLES, PER_SHARD = 10_007, 100
WINDOWS = (1, 2, 4, 8, 16, 32)
SHUFFLE = 1000  # webdataset's buffer, in samples
PROJECT = Path(__file__).resolve().parent.parent
PLAIN = AugmentParams.model_validate({"seed": 0, "copies": 0, "offline": [], "online": []})


def measure() -> list[Row]:
    """Order, then rate."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        return [*_ours_mixed(), *_stock_order(Path(folder)), *_rates(Path(folder))]


# Order ---------------------------------------------------------------------------------------


def _ours_mixed() -> list[Row]:
    hashes_N = key_hashes([f"{number:06d}" for number in range(SAMPLES)])
    shard_N = (np.arange(SAMPLES) // PER_SHARD).astype(np.int32)
    names = key_hashes([f"shard {number}" for number in range(shard_N[-1] + 1)])
    rows = _mixed("ours, local layout", epoch_order(hashes_N, seed=0, epoch=0))
    for shards in WINDOWS:
        order = windowed_order(hashes_N, Window(shards, shard_N, names), seed=0, epoch=0)
        rows += _mixed(f"ours, window of {shards} shards", order)
    return rows


def _mixed(name: str, order_N: NDArray[np.intp]) -> list[Row]:
    batches = np.array_split(order_N // PER_SHARD, len(order_N) // BATCH)
    return [
        Row(f"{name}: mixing", _mixing(order_N), "of uniform"),
        Row(f"{name}: shards in a batch", _mean(len(np.unique(each)) for each in batches), ""),
    ]


def _mixing(order_N: NDArray[np.intp]) -> float:
    """Mean distance of neighbours over that of a uniform shuffle, a third of the number."""
    return float(np.abs(np.diff(order_N)).mean() / (len(order_N) / 3))


def _mean(values: Iterator[int]) -> float:
    return statistics.fmean(values)


def _stock_order(folder: Path) -> list[Row]:
    urls = _numbered_shards(folder)
    one, again, two = (_stock_epoch(urls, workers) for workers in (1, 1, 2))
    name = "webdataset, stock, shuffle(1000)"
    counts = np.bincount(two, minlength=SAMPLES)
    return [
        *_mixed(name, one),
        Row(f"{name}: same seed, same order", float(np.array_equal(one, again)), ""),
        Row(f"{name}: same order with 2 workers", float(np.array_equal(one, two)), ""),
        Row(f"{name}: missing with 2 workers", float((counts == 0).sum()), "samples"),
        Row(f"{name}: repeated with 2 workers", float((counts > 1).sum()), "samples"),
    ]


def _numbered_shards(folder: Path) -> list[str]:
    """Tars whose samples are their own numbers."""
    urls = []
    for first in range(0, SAMPLES, PER_SHARD):
        path = folder / f"numbers-{first:06d}.tar"
        with path.open("wb", buffering=0) as stream:
            writer = TarWriter(stream)
            for number in range(first, min(first + PER_SHARD, SAMPLES)):
                writer.add(f"{number:06d}.cls", str(number).encode())
            writer.close()
        urls.append(str(path))
    return urls


def _stock_epoch(urls: list[str], workers: int) -> NDArray[np.intp]:
    data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0)
    data = data.shuffle(SHUFFLE, seed=0).decode().to_tuple("cls")
    samples = DataLoader(data, batch_size=None, num_workers=workers)
    return np.array([int(number) for (number,) in samples])


# Rate ----------------------------------------------------------------------------------------


def _rates(folder: Path) -> list[Row]:
    root = folder / "project"
    files = sorted((cifar_files() / "train").glob("*/*.jpg"))
    make_project(root, files, per_shard=1000)
    urls = sorted(str(path) for path in (root / DATA).glob("shards/train/*.tar"))
    loading = read_params(PROJECT).loading.model_dump() | {"cache_bytes": 0, "workers": 0}
    streaming = {"layout": "streaming", "remote": DATA.as_posix()}
    cases: dict[str, Callable[[], int]] = {
        "ours, local": lambda: _ours(root, LoadingParams.model_validate(loading)),
        "ours, streaming": lambda: _ours(root, LoadingParams.model_validate(loading | streaming)),
        "webdataset, stock": lambda: _stock(urls),
    }
    for case in cases.values():
        case()
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            start = time.process_time()
            count = case()
            rates[name].append(count / (time.process_time() - start))
    found = {name: statistics.median(values) for name, values in rates.items()}
    stock = found["webdataset, stock"]
    return [
        Row(f"{name}: images of 32 px", rate, "a CPU s").against("webdataset", stock)
        for name, rate in found.items()
    ]


def _ours(root: Path, loading: LoadingParams) -> int:
    images = open_split(root, "train", input_shape=(3, 32, 32), loading=loading)
    plan = plan_of(images, seed=0, batch_size=BATCH)
    with Loader(images, plan, PLAIN) as loader:
        return sum(len(batch.images_RHWC) for batch in loader.batches(0, plan.steps_per_epoch))


def _stock(urls: list[str]) -> int:
    data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0).shuffle(SHUFFLE, seed=0)
    data = data.decode("rgb8").to_tuple("jpg", "cls").batched(BATCH)
    return sum(len(labels) for _, labels in data)


if __name__ == "__main__":
    write_results("streaming", measure())

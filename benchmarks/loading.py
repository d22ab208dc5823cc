"""Images per CPU second from disk to batches, ours beside decoding alone and beside other loaders.

`python -m benchmarks.loading`

Each case is a process on one core (`benchmarks.loaders`); the cases of a round follow one another,
and medians over the rounds are told. CPU time is user and system time of the process, its threads
and its children, imports and opening left out. Photographs are read from their second epoch on,
since all epochs are alike; of CIFAR the first epoch is told too, in which ours fills the decoded
cache. Also here: what opening an index of 600,000 images costs.
"""

import json
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.loaders.cases import CASES
from benchmarks.photographs import FOLDER
from benchmarks.results import Row, write_results
from imagemill.records import INDEX_SCHEMA, SHARD_INDEX, STATE, publishing

ROUNDS = 3
EPOCHS = 2
INDEX_ROWS = 600_000
PROJECT = Path(__file__).resolve().parent.parent

DECODING = ["decoding, simplejpeg", "decoding, simplejpeg into one buffer", "decoding, OpenCV"]
PEERS = ["torchvision ImageFolder", "webdataset", "litdata", "mosaicml-streaming", "FFCV", "DALI"]
OURS = {
    "photographs": [
        "imagemill, antialias",
        "imagemill, antialias, pure Python",
        "imagemill, reduced",
        "imagemill, reduced, pure Python",
        "imagemill, linear",
        "imagemill, linear, pure Python",
    ],
    "cifar": [
        "imagemill",
        "imagemill, pure Python",
        "imagemill, decoded cache",
        "imagemill, decoded cache, pure Python",
    ],
}

# One list a case: images per CPU second in each epoch.
Rates = dict[str, list[float]]


def main() -> None:
    """Measure and write benchmarks/results/loading.json."""
    write_results("loading", measure())


def measure() -> list[Row]:
    """A row a case and epoch, each beside the fastest decoding and the best peer."""
    rows = [*_opening()]
    for work in OURS:
        rates = _rates(work)
        yardstick = max(rates[case][-1] for case in DECODING)
        for case, found in rates.items():
            first, later = found[0], found[-1]
            row = Row(f"{work}: {case}", round(later), "images/CPU s")
            rows.append(row.against("the fastest decoding", round(yardstick)))
            if work == "cifar":
                row = Row(f"{work}, first epoch: {case}", round(first), "images/CPU s")
                rows.append(row.against("the fastest decoding", round(yardstick)))
        rows += _beside_peers(work, rates)
    return rows


def _beside_peers(work: str, rates: Rates) -> list[Row]:
    peers = {case: rates[case][-1] for case in PEERS if case in rates}
    if not peers:
        return []
    best = max(peers, key=lambda case: peers[case])
    return [
        Row(f"{work}: {case}", round(rates[case][0]), "images/CPU s").against(
            peer, round(peers[peer])
        )
        for case in OURS[work]
        for peer in (peers if work == "cifar" else [best])
    ]


def _rates(work: str) -> Rates:
    """Medians over the rounds; a case that does not run here is left out with a line."""
    rounds: dict[str, list[list[float]]] = {}
    left_out: set[str] = set()
    for number in range(ROUNDS):
        for case in [*DECODING, *OURS[work], *PEERS]:
            if case in left_out:
                continue
            package = CASES[case].package
            if package is not None and find_spec(package.partition(".")[0]) is None:
                sys.stdout.write(f"{case} is not installed: left out\n")
                left_out.add(case)
                continue
            found = _run(case, work)
            if found is None:
                left_out.add(case)
                continue
            rounds.setdefault(case, []).append(found)
            sys.stdout.write(f"{work}, round {number + 1}: {case}: {found[-1]:.0f} a CPU second\n")
            sys.stdout.flush()
    return {
        case: [statistics.median(epoch) for epoch in zip(*found, strict=True)]
        for case, found in rounds.items()
    }


def _run(case: str, work: str) -> list[float] | None:
    command = [sys.executable, "-m", "benchmarks.loaders", case, work, str(EPOCHS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    if done.returncode != 0:
        told = (done.stderr.strip().splitlines() or ["no word"])[-1]
        sys.stdout.write(f"{case} does not run here ({told}): left out\n")
        return None
    epochs = json.loads(done.stdout.strip().splitlines()[-1])
    return [images / seconds for seconds, images in epochs]


# Opening an index --------------------------------------------------------------------------------


def _opening() -> list[Row]:
    """Seconds and memory of the first opening, which saves the index, and of later ones."""
    root = FOLDER / f"index-{INDEX_ROWS}"
    index = root / SHARD_INDEX
    if not index.exists():
        _write_index(index)
    first, later = [], []
    for _ in range(ROUNDS):
        (root / STATE / "index" / "shards-train.bin").unlink(missing_ok=True)
        first.append(_open_once(index))
        later.append(_open_once(index))
    rows = []
    for name, found in (("first opening", first), ("opening", later)):
        seconds, megabytes = (statistics.median(column) for column in zip(*found, strict=True))
        rows.append(Row(f"index of {INDEX_ROWS} images: {name}", round(seconds, 3), "s"))
        rows.append(Row(f"index of {INDEX_ROWS} images: {name}", round(megabytes, 1), "MB more"))
    return rows


_OPEN = """
import sys, time
from pathlib import Path
from imagemill.frames import read_frames

def kilobytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1])

before, start = kilobytes("VmRSS"), time.perf_counter()
frames = read_frames(Path(sys.argv[1]), "train")
seconds = time.perf_counter() - start
assert len(frames) == int(sys.argv[2])
print(seconds, (kilobytes("VmHWM") - before) * 1024 / 1e6)
"""


def _open_once(index: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", _OPEN, str(index), str(INDEX_ROWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def _write_index(path: Path) -> None:
    """Keys, shards and digests as those of a real index."""
    draws = np.random.default_rng(0)
    rows = INDEX_ROWS
    table = pa.table(
        {
            "key": [f"train/class_{row // 600:04d}/image_{row:09d}" for row in range(rows)],
            "split": ["train"] * rows,
            "shard": [
                f"shards/train/train-{place // 10_000:06d}.tar" for place in draws.permutation(rows)
            ],
            "offset": np.arange(rows) % 10_000 * 3072,
            "size_bytes": draws.integers(900, 1400, rows),
            "sha256": [draws.bytes(32).hex() for _ in range(rows)],
            "target": pa.array(np.arange(rows) // 600, pa.int32()),
            "raw_sha256": pa.nulls(rows, pa.string()),
        }
    )
    with publishing(path) as temporary:
        pq.write_table(table.cast(INDEX_SCHEMA), temporary, compression="zstd")


if __name__ == "__main__":
    main()

"""Images per CPU second from disk to batches, ours beside decoding alone and beside other loaders.

    python -m benchmarks.loading           # both kinds of images
    python -m benchmarks.loading cifar     # one of them, into results/loading-cifar.json

Each case is a process on one core, which decodes the same images alone in turn with the case, slice
by slice (`benchmarks.loaders.meter`), so that both meet the same machine; told are medians over the
rounds of the case's rate and of its ratio to decoding. CPU time is user and system time of the
process, its threads and its children, imports left out. Told are the second epoch, and of CIFAR the
first one too, which opens the split and fills the decoded cache where there is one (and in which
FFCV compiles itself). Also here: what opening an index of 600,000 images costs.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.loaders.cases import CASES
from benchmarks.loaders.meter import Reading
from benchmarks.photographs import FOLDER
from benchmarks.results import Row, write_results
from imagemill.records import INDEX_SCHEMA, SHARD_INDEX, STATE, publishing

ROUNDS = 3
# Of tiny images, where the place of a buffer in memory makes a difference, but for slow cases.
MORE_ROUNDS = 9
EPOCHS = 2
EPOCHS_COMPARED = [
    ("first epoch", 0, "first epoch", 0),
    ("first epoch", 0, "later", -1),
    ("later", -1, "later", -1),
]
INDEX_ROWS = 600_000
PROJECT = Path(__file__).resolve().parent.parent

DECODING = ["decoding, simplejpeg", "decoding, simplejpeg into one buffer", "decoding, OpenCV"]
SLOW_PEERS = ["torchvision ImageFolder", "webdataset", "litdata", "mosaicml-streaming"]
QUICK_PEERS = ["FFCV", "DALI"]
PEERS = [*SLOW_PEERS, *QUICK_PEERS]
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

# Of each case, the median over the rounds of each epoch.
Rates = dict[str, list["Rate"]]


class Rate(NamedTuple):
    """Images per CPU second, and what that is against decoding alone in the same moments."""

    images: float
    ratio: float

    def row(self, case: str) -> Row:
        """As a line of the table."""
        row = Row(case, round(self.images), "images/CPU s")
        return replace(row, relative_to="decoding", ratio=self.ratio)

    def beside(self, case: str, peer: str, other: "Rate") -> Row:
        """The same against a peer, by the ratios of both."""
        row = Row(case, round(self.images), "images/CPU s")
        return replace(row, relative_to=peer, ratio=self.ratio / other.ratio)


def main(works: list[str]) -> None:
    """Measure the named images, or all."""
    write_results("-".join(["loading", *works]), measure(works))


def measure(works: Sequence[str] = ()) -> list[Row]:
    """A row a case and epoch beside decoding, and ours beside the peers."""
    rows = [*_opening()]
    for work in works or OURS:
        rates = _rates(work)
        for case, (first, later) in rates.items():
            rows.append(later.row(f"{work}: {case}"))
            if work == "cifar":
                rows.append(first.row(f"{work}, first epoch: {case}"))
        rows += _beside_peers(work, rates)
    return rows


def _beside_peers(work: str, rates: Rates) -> list[Row]:
    """Ours against the best peer; of CIFAR against every peer, the first epoch too."""
    peers = {case: rates[case][-1] for case in PEERS if case in rates}
    ours = [case for case in OURS[work] if case in rates]
    if work == "cifar":
        return [
            rates[case][mine].beside(
                f"{work}, {epoch}: {case}", f"{peer}, {its}", rates[peer][other]
            )
            for case in ours
            for peer in peers
            for epoch, mine, its, other in EPOCHS_COMPARED
        ]
    best = sorted(peers, key=lambda case: peers[case].ratio)[-1:]
    return [
        rates[case][-1].beside(f"{work}: {case}", peer, peers[peer])
        for case in ours
        for peer in best
    ]


def _rates(work: str) -> Rates:
    """A case that does not run here is left out with a line."""
    rounds: dict[str, list[list[Reading]]] = {}
    left_out: set[str] = set()
    for number in range(MORE_ROUNDS if work == "cifar" else ROUNDS):
        peers = PEERS if number < ROUNDS else QUICK_PEERS
        for case in (*DECODING, *OURS[work], *peers):
            found = None if case in left_out else _readings(case, work)
            if found is None:
                left_out.add(case)
                continue
            rounds.setdefault(case, []).append(found)
            last = found[-1]
            sys.stdout.write(
                f"{work}, round {number + 1}: {case}: {last.rate:.0f} a CPU second, "
                f"{last.ratio:.3f} x decoding\n"
            )
            sys.stdout.flush()
    return {
        case: [_median(epoch) for epoch in zip(*found, strict=True)]
        for case, found in rounds.items()
    }


def _median(readings: Iterable[Reading]) -> Rate:
    found = list(readings)
    return Rate(
        statistics.median(reading.rate for reading in found),
        statistics.median(reading.ratio for reading in found),
    )


def _readings(case: str, work: str) -> list[Reading] | None:
    package = CASES[case].package
    if package is not None and find_spec(package.partition(".")[0]) is None:
        sys.stdout.write(f"{case} is not installed: left out\n")
        return None
    command = [sys.executable, "-m", "benchmarks.loaders", case, work, str(EPOCHS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    if done.returncode != 0:
        told = (done.stderr.strip().splitlines() or ["no word"])[-1]
        sys.stdout.write(f"{case} does not run here ({told}): left out\n")
        return None
    return [Reading(*epoch) for epoch in json.loads(done.stdout.strip().splitlines()[-1])]


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
    main(sys.argv[1:])

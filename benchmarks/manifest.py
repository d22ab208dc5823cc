"""A manifest of millions of rows in bounded memory: `python -m benchmarks.manifest`.

Generated images lie in one file, each a few bytes of it, so that listing, digests, sorting, writing
and reading are what is measured. At each size a process of its own ingests them, another ingests
them again (nothing has changed: their states are looked up), a third reads the manifest and sees
whether its keys are sorted. What counts is the peak of resident memory as the kernel saw it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pyarrow.compute as pc

from benchmarks.memory import peak_bytes
from benchmarks.results import Row, write_results
from imagemill.ingest import ingest
from imagemill.params import read_params
from imagemill.parquet import read_batches
from imagemill.records import MANIFEST
from imagemill.sources import RawImage

SIZES = (1_000_000, 10_000_000)
CLASSES = 1000
IMAGE_BYTES = 64
BLOB = "images.bin"


@dataclass(frozen=True)
class Generated:
    """A source whose images are parts of one file, one byte further each."""

    num_images: int

    def images(self) -> Iterator[RawImage]:
        """In an order that is not that of their keys."""
        for number in range(self.num_images):
            name = f"{number % CLASSES:04d}/{number * 7919 % self.num_images:08d}.jpg"
            yield RawImage(name, BLOB, number, IMAGE_BYTES, f"{number % CLASSES:04d}", None, None)

    def remarks(self) -> list[str]:
        """Nothing."""
        return []


def measure() -> list[Row]:
    """Peak memory and CPU time of writing, writing again, and reading."""
    rows: list[Row] = []
    peaks: dict[str, float] = {}
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / BLOB).write_bytes(os.urandom(size + IMAGE_BYTES))
            for part in PARTS:
                command = [sys.executable, "-m", "benchmarks.manifest", part, folder, str(size)]
                said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                megabytes, seconds = map(float, said.split())
                row = Row(f"{size:,} rows: {part}, peak", megabytes, "MB")
                smaller = f"{SIZES[0]:,} rows"
                rows.append(row.against(smaller, peaks[part]) if part in peaks else row)
                rows.append(Row(f"{size:,} rows: {part}", seconds, "CPU s"))
                peaks.setdefault(part, megabytes)
    return rows


def _write(root: Path, num_images: int) -> None:
    params = read_params(Path.cwd()).ingest.model_copy(update={"source": BLOB})
    with (
        mock.patch("imagemill.ingest.stage.open_source", lambda *_: Generated(num_images)),
        mock.patch("imagemill.ingest.stage.kind_of", lambda *_: "generated"),
    ):
        ingest(root, params, log=lambda _: None)


def _read(root: Path, num_images: int) -> None:
    last, seen = "", 0
    for batch in read_batches(root / MANIFEST):
        keys = batch["key"]
        assert last < keys[0].as_py(), "not sorted"
        assert pc.all(pc.less(keys[:-1], keys[1:])).as_py() is not False, "not sorted"
        last, seen = keys[-1].as_py(), seen + len(keys)
    assert seen == num_images, f"{num_images} rows were written, {seen} read"


PARTS: dict[str, Callable[[Path, int], None]] = {
    "ingest": _write,
    "ingest again, unchanged": _write,
    "read": _read,
}


def _run(part: str, root: Path, num_images: int) -> None:
    start = time.process_time()
    PARTS[part](root, num_images)
    print(peak_bytes(os.getpid()) / 1e6, time.process_time() - start)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        write_results("manifest", measure())

"""How much memory a data stage needs for one more image: `python -m benchmarks.memory`.

Generated 8x8 PNGs of ten classes, all different, with names as cameras and exports give them, in a
plain tar. Each stage runs in a process of its own; what counts is the peak of its resident memory
as the kernel saw it (VmHWM) plus the largest peak of a process it started. The growth is that from
the smaller size, which fills every buffer, to the larger. Allocators keep freed memory as they
like, which moves a peak by some 10 MB: that is +-20 bytes an image.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from threading import Event

import numpy as np
import psutil

from benchmarks.results import Row, write_results
from imagemill.params import read_params
from imagemill.sources.pixels import png
from imagemill.tars import TarWriter

STAGES = ("ingest", "audit", "split", "shard")
SIZES = (100_000, 700_000)
NAME = "06a00c0f-5f9a-410d-a7da-3881a9{:06d}.png"
LIMIT_BYTES_PER_IMAGE = 100


def main() -> None:
    """Measure all stages at both sizes and write benchmarks/results/memory.json."""
    small, large = (_peaks(size) for size in SIZES)
    rows: list[Row] = []
    for stage in STAGES:
        growth = (large[stage] - small[stage]) / (SIZES[1] - SIZES[0])
        row = Row(f"{stage}: growth", round(growth, 1), "bytes an image")
        rows.append(row.against("limit", LIMIT_BYTES_PER_IMAGE))
        rows.append(Row(f"{stage}: {SIZES[1]:,} images", round(large[stage] / 1e6, 1), "MB"))
    write_results("memory", rows)


def _peaks(num_images: int) -> dict[str, int]:
    """Peak bytes of each stage, run one after the other on a new project."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_images(root / "images.tar", num_images)
        found = {}
        for stage in STAGES:
            start = time.monotonic()
            command = [sys.executable, "-m", "benchmarks.memory", stage, str(root)]
            found[stage] = int(subprocess.run(command, check=True, capture_output=True).stdout)
            seconds = time.monotonic() - start
            print(f"{num_images:,} images: {stage} {found[stage] / 1e6:.1f} MB, {seconds:.1f} s")
    return found


def _write_images(path: Path, num_images: int) -> None:
    with path.open("wb", buffering=0) as stream:
        tar = TarWriter(stream)
        for index in range(num_images):
            # The index itself, as pixels: no two images are the same.
            pixels = np.frombuffer(index.to_bytes(64, "little"), np.uint8).reshape(8, 8)
            tar.add(f"{index % 10}/{NAME.format(index)}", png(pixels))
        tar.close()


def _run_stage(stage: str, root: Path) -> None:
    params = read_params(Path.cwd())
    section = getattr(params, stage)
    if stage == "ingest":
        section = section.model_copy(update={"source": "images.tar"})
    ended = Event()
    with ThreadPoolExecutor() as threads:
        workers = threads.submit(_largest_child, ended)
        getattr(import_module(f"imagemill.{stage}"), stage)(root, section, log=lambda _: None)
        ended.set()
        print(peak_bytes(os.getpid()) + workers.result())


def _largest_child(ended: Event) -> int:
    """Peak of the processes this one starts; a child's rusage would hold its parent's size."""
    largest = 0
    while not ended.wait(0.05):
        for child in psutil.Process().children():
            with suppress(FileNotFoundError, ProcessLookupError, KeyError):
                largest = max(largest, peak_bytes(child.pid))
    return largest


def peak_bytes(pid: int) -> int:
    """Peak of resident memory of a process, as the kernel saw it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _run_stage(sys.argv[1], Path(sys.argv[2]))
    else:
        main()

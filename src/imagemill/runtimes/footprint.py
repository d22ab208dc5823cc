"""What a process of its own needs to serve a variant: memory, and time until it answers.

`python -m imagemill.runtimes.footprint FOLDER RUNTIME THREADS BATCH` prints it as JSON.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imagemill.records import ModelCard
from imagemill.runtimes import open_variant

STATUS = Path("/proc/self/status")
_OPENINGS = 3


class Footprint(NamedTuple):
    """What was measured.

    peak_memory_bytes: The most a process held that opened the variant and answered one batch,
        libraries included; None where the system does not tell.
    load_ms: From its file to its first answer, libraries being there: the median of three.
    """

    peak_memory_bytes: int | None
    load_ms: float


def measure_footprint(folder: Path, runtime: str, *, threads: int, batch: int) -> Footprint:
    """Start a process that does nothing else.

    Args:
        folder: models/<variant>.
        runtime: A name in `RUNTIMES` that the variant holds a file for.
        threads: Threads inside one operator.
        batch: Images shown at once.

    Raises:
        CalledProcessError: it died; what it said is on standard error.
    """
    command = [sys.executable, "-m", __name__, str(folder), runtime, str(threads), str(batch)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return Footprint(**json.loads(told.splitlines()[-1]))


def _measure_here(folder: Path, runtime: str, threads: int, batch: int) -> Footprint:
    shape = ModelCard.read(folder / "model.json").input_shape
    images_BCHW = np.zeros((batch, *shape), np.float32)
    open_variant(folder, threads=threads, runtime=runtime)(images_BCHW)
    peak = _peak_memory()
    taken = []
    for _ in range(_OPENINGS):
        start = time.perf_counter()
        open_variant(folder, threads=threads, runtime=runtime)(images_BCHW[:1])
        taken.append(time.perf_counter() - start)
    return Footprint(peak, 1000 * statistics.median(taken))


def _peak_memory() -> int | None:
    """Of this process since it was started; `getrusage` also counts what its parent held."""
    if not STATUS.is_file():
        return None
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    found = _measure_here(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.write(json.dumps(found._asdict()) + "\n")

"""What no INT8 runtime passes on this machine: a net's multiply-adds at the core's best rate.

A convolution in INT8 needs its multiply-adds, 64 to an instruction (AVX-512 VNNI). Their number
over the best rate of a core that does nothing else is a time that real code, which loads and
stores too, stays above.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.results import Row

_SOURCE = Path(__file__).with_name("ceiling.c")
_NEEDED = "avx512_vnni"


class Rates(NamedTuple):
    """Multiply-adds a CPU second of one core at best."""

    int8: float
    float32: float


def best_rates() -> Rates | None:
    """Measured; None, and a line that says why, where there is no compiler or no such processor."""
    compiler = shutil.which("cc")
    if compiler is None or _NEEDED not in Path("/proc/cpuinfo").read_text().split():
        sys.stdout.write(f"the ceiling is left out: it needs a C compiler and {_NEEDED}\n")
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ceiling"
        subprocess.run([compiler, "-O3", "-march=native", _SOURCE, "-o", program], check=True)
        told = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    int8, float32 = map(float, told.split())
    return Rates(int8, float32)


def rows(base: str, macs: int, eager_ms: float) -> list[Row]:
    """The least time of an image, beside what eager takes.

    Args:
        base: Name of the net.
        macs: Its multiply-adds for an image.
        eager_ms: What eager float32 takes for it, milliseconds.
    """
    rates = best_rates()
    if rates is None:
        return []
    return [
        Row(
            f"{base}: {kind} multiply-adds of an image at the core's best", macs / rate * 1e3, "ms"
        ).against("base in eager", eager_ms)
        for kind, rate in rates._asdict().items()
    ]

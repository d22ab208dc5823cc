"""Where figures were taken: they mean nothing without it."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
_LIBRARIES = ("torch", "onnxruntime", "openvino", "numpy")


def describe_machine(*, threads: int) -> dict[str, Any]:
    """Processor, cores we may use, threads of each runtime, and versions."""
    return {
        "cpu": _processor(),
        "cores": num_cores(),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{library: version(library) for library in _LIBRARIES},
        },
    }


def num_cores() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _processor() -> str:
    """Model name; on Linux from the kernel, since `platform` knows the architecture only."""
    if CPUINFO.is_file():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

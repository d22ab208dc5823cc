"""Memory and energy of this process and machine. None is what cannot be told here."""

import platform
import resource
from pathlib import Path

import torch

from imagemill.energy import EnergyMeter

_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> int | None:
    """The most memory this process has had, bytes: the GPU's where it trains on one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if platform.system() == "Darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes there
    # getrusage begins with what the parent had when it started us.
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return peaks[0] if peaks else None


class Energy:
    """What the processor packages drew, whoever used them.

    Args:
        powercap: Usually `energy.POWERCAP`.
        device: Where training computes; what a GPU draws is not counted, so nothing is told there.
    """

    def __init__(self, powercap: Path, device: torch.device) -> None:
        self._meter = EnergyMeter(powercap) if device.type == "cpu" else None
        self._last = self._meter.read() if self._meter else []
        self.in_all: float | None = None  # joules, as far as they were asked for

    def since_last(self) -> float | None:
        """Joules since this was last asked, or since the beginning."""
        if self._meter is None:
            return None
        now = self._meter.read()
        joules, self._last = self._meter.joules_between(self._last, now), now
        if joules is not None:
            self.in_all = joules + (self.in_all or 0.0)
        return joules

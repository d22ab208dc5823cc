"""Energy from the processor's own counters (RAPL), where Linux lets us read them."""

from collections.abc import Sequence
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


class EnergyMeter:
    """Counts what the processor packages draw: everything that runs on them, ours or not."""

    def __init__(self, powercap: Path) -> None:
        """Find the counters.

        Args:
            powercap: Usually `POWERCAP`; Intel and AMD packages both appear there as intel-rapl:N.
        """
        found = sorted(powercap.glob("intel-rapl:*"))
        # intel-rapl:0 is a package, intel-rapl:0:1 a part of it that is counted already.
        packages = [package for package in found if package.name.count(":") == 1]
        self._counters = [package for package in packages if _readable(package)]
        self._wraps_at = [_number(package / "max_energy_range_uj") for package in self._counters]

    def read(self) -> list[int]:
        """The counters now, microjoules; empty where there is none."""
        return [_number(package / "energy_uj") for package in self._counters]

    def joules_between(self, before: Sequence[int], after: Sequence[int]) -> float | None:
        """Energy between two readings, joules; None where there is no counter."""
        if not self._counters:
            return None
        drawn = (
            (late - early) % (wraps_at + 1)
            for early, late, wraps_at in zip(before, after, self._wraps_at, strict=True)
        )
        return sum(drawn) / 1e6


def _readable(package: Path) -> bool:
    """Since 2020 most kernels keep the counters for root: they leak what is computed."""
    try:
        _number(package / "energy_uj")
    except OSError:
        return False
    return True


def _number(path: Path) -> int:
    return int(path.read_text())

"""Signs of life: each rank writes its own into a small file, who started it reads them.

Imports no torch.
"""

import mmap
import os
import platform
import struct
import time
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import psutil

_LAYOUT = struct.Struct("<qqqd")  # process id, phase, steps taken, seconds of the monotonic clock
# Ranks that waited for a hung one in vain say so almost at once; so long the last may take.
_SETTLE_SECONDS = 1.0


class Phase(IntEnum):
    """What a rank is at."""

    OPENING = 0  # may take long: caches are filled, a model is compiled
    STEPPING = 1
    FORSAKEN = 2  # others did not answer
    OVER = 3


class Pulse:
    """Writes this rank's signs of life; half a microsecond each.

    Args:
        folder: `pulse_folder` of the job's folder.
        rank: This one.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._step = 0
        with (folder / str(rank)).open("w+b") as file:
            file.write(bytes(_LAYOUT.size))
            file.flush()
            self._file = mmap.mmap(file.fileno(), _LAYOUT.size)
        self._write(Phase.OPENING)

    def beat(self, step: int | None = None) -> None:
        """Alive, with so many steps taken; None: as many as before."""
        self._step = self._step if step is None else step
        self._write(Phase.STEPPING)

    def forsaken(self) -> None:
        """Others did not answer: it is not this rank that hangs."""
        self._write(Phase.FORSAKEN)

    def over(self) -> None:
        """No more steps will come."""
        self._write(Phase.OVER)

    def _write(self, phase: Phase) -> None:
        _LAYOUT.pack_into(self._file, 0, os.getpid(), phase, self._step, time.monotonic())


class Sign(NamedTuple):
    """The last sign of life of a rank."""

    rank: int
    pid: int
    phase: int
    step: int
    silent_seconds: float  # since then

    def __str__(self) -> str:
        return (
            f"rank {self.rank} (process {self.pid}) hangs: nothing from it since step {self.step} "
            f"for {self.silent_seconds:.0f} s"
        )


def pulse_folder(folder: Path) -> Path:
    """Where the ranks on this host write their signs of life."""
    return folder / "pulse" / (platform.node() or "host")


def hung(folder: Path, timeout_seconds: float) -> list[Sign]:
    """Ranks on this host that get nowhere.

    Where several train together all stand still when one hangs. Those that wait give up after
    `patience_seconds` and say so: who was silent as long and has not said so is the one.
    """
    found = signs(folder)
    forsaken = [sign.silent_seconds for sign in found if sign.phase == Phase.FORSAKEN]
    alive = [sign for sign in found if sign.phase == Phase.STEPPING and _is_alive(sign.pid)]
    if not forsaken:
        return [sign for sign in alive if sign.silent_seconds > timeout_seconds]
    if max(forsaken) < min(_SETTLE_SECONDS, timeout_seconds / 4):
        return []
    return [sign for sign in alive if sign.silent_seconds > 0.9 * patience_seconds(timeout_seconds)]


def patience_seconds(timeout_seconds: float) -> float:
    """How long ranks wait for each other: so that a hung one is found in time."""
    return timeout_seconds / 2


def signs(folder: Path) -> list[Sign]:
    """The last of each rank on this host, by rank."""
    now, found = time.monotonic(), []
    for path in folder.glob("*"):
        data = path.read_bytes()
        if len(data) == _LAYOUT.size:
            pid, phase, step, seconds = _LAYOUT.unpack(data)
            found.append(Sign(int(path.name), pid, phase, step, now - seconds))
    return sorted(found)


def _is_alive(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) != str(psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False

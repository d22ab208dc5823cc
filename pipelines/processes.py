"""Processes we start: each in a session of its own, and none of them left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.05
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def adopt_orphans() -> None:
    """On Linux, make grandchildren whose parent died children of this process.

    Without it a process that was started by a killed one would escape `end_descendants`.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    root: Path,
    stdin: int | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in its own session: a Ctrl-C in the terminal reaches only us."""
    return subprocess.Popen(
        command,
        env=environment,
        cwd=root,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def wait_at_most(process: subprocess.Popen[bytes], *, seconds: float) -> None:
    """Wait for a process that may take longer."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def end_group(leader: subprocess.Popen[bytes], *, grace_seconds: float) -> None:
    """Ask every process of a group to end, and make them end after the grace."""
    _signal_group(leader.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    # The leader may be the first to go: its stage still notes how it ended.
    while _is_group_alive(leader) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    _signal_group(leader.pid, signal.SIGKILL)
    leader.wait()


def end_descendants(*, grace_seconds: float) -> None:
    """Ask every process below this one to end; kill what remains after the grace."""
    _signal_all(psutil.Process().children(recursive=True), signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while (alive := _living_descendants()) and time.monotonic() < deadline:
        psutil.wait_procs(alive, timeout=0.1)
    while alive := _living_descendants():
        _signal_all(alive, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=0.5)


def _living_descendants() -> list[psutil.Process]:
    return [
        process
        for process in psutil.Process().children(recursive=True)
        if process.is_running() and _status(process) != psutil.STATUS_ZOMBIE
    ]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_ZOMBIE)


def _signal_all(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _is_group_alive(leader: subprocess.Popen[bytes]) -> bool:
    leader.poll()
    return any(
        _group_of(process) == leader.pid and _status(process) != psutil.STATUS_ZOMBIE
        for process in psutil.process_iter()
    )


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except (ProcessLookupError, PermissionError):
        return None


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


class StopRequest:
    """Remembers the first signal that asked this process to stop.

    A flag and not an exception: nothing is interrupted between starting a child and noting it.
    """

    def __init__(self) -> None:
        self.number: int | None = None

    def listen(self) -> None:
        for number in _heeded():
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number

    def raise_if_asked(self) -> None:
        """Raise `Stopped` at a place of our choice."""
        if self.number is not None:
            raise Stopped(self.number)


class Stopped(BaseException):
    """A signal asked a process without an event loop of its own to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


def raise_when_stopped() -> None:
    """Turn the first stop signal into `Stopped`; later ones are ignored while we clean up."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for other in STOP_SIGNALS:
            signal.signal(other, signal.SIG_IGN)
        raise Stopped(number)

    for number in _heeded():
        signal.signal(number, stop)


def _heeded() -> list[signal.Signals]:
    """The signals that mean us: `nohup` has SIGHUP ignored, and that is to stay."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in STOP_SIGNALS if not (number == signal.SIGHUP and is_ignored)]

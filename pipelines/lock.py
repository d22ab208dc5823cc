"""One run at a time in a project."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from imagemill import records
from imagemill.errors import BusyError, DiskError

LOCK = records.STATE / "run.lock"


@contextmanager
def run_lock(root: Path) -> Iterator[None]:
    """Hold the project's lock. The system lets go of it whatever way this process ends.

    Raises:
        BusyError: another run holds it.
        DiskError: the lock file cannot be written.
    """
    path = root / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror}") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(_tell_holder(root, path)) from None
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield


def _tell_holder(root: Path, path: Path) -> str:
    holder = path.read_text(encoding="utf-8").strip() or "unknown"
    return f"another run (process {holder}) is at work in {root}; wait for it, or stop it first"

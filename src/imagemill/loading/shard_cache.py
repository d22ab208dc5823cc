"""A bounded folder of shards fetched from elsewhere, shared by all processes of a machine.

`<sha256>` is a whole shard; `<sha256>.part` is on its way here. Whoever maps a shard holds a shared
lock on it for as long as the map lives, and whoever fetches one holds an exclusive lock on its
part: locks end with their process, however that ends, so nothing has to be tidied after a kill.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from imagemill.errors import DiskError
from imagemill.records import STATE

STREAM = STATE / "stream"
_PART = ".part"


class _Stored(NamedTuple):
    path: Path
    size_bytes: int
    used_at_ns: int


class ShardCache:
    """The folder; the least recently used shards go first, those in use never."""

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._folder = root / STREAM
        self._max_bytes = max_bytes

    def opened(self, sha256: str) -> int | None:
        """A descriptor of a stored shard, locked against removal until its last copy is closed.

        Returns:
            None: it is not here.
        """
        while True:
            try:
                descriptor = os.open(self._folder / sha256, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            status = os.fstat(descriptor)
            if status.st_nlink:  # else it was removed between the two calls
                now = time.time_ns()
                os.utime(descriptor, ns=(now, status.st_mtime_ns))
                return descriptor
            os.close(descriptor)

    def holds(self, sha256: str) -> bool:
        """Whether a shard is here now."""
        return (self._folder / sha256).exists()

    def last_written(self, sha256: str) -> float | None:
        """When a byte of a shard on its way was written; None: it is not on its way."""
        try:
            return (self._folder / f"{sha256}{_PART}").stat().st_mtime
        except FileNotFoundError:
            return None

    def drop(self, sha256: str) -> None:
        """Forget a shard whose bytes went bad."""
        (self._folder / sha256).unlink(missing_ok=True)

    @contextmanager
    def receiving(self, sha256: str, size_bytes: int) -> Iterator["Part | None"]:
        """Room for a shard that is to be fetched.

        Yields:
            Where to write it; None while another process is fetching it.

        Raises:
            DiskError: the disk is full, or shards in use leave no room under the limit.
        """
        path = self._folder / f"{sha256}{_PART}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error.strerror}") from None
        try:
            if not _locked(descriptor) or not _is_at(path, descriptor):
                yield None
                return
            try:
                self._reserve(descriptor, size_bytes, sha256)
                yield Part(descriptor, path)
            finally:
                path.unlink(missing_ok=True)  # it is gone after a success
        finally:
            os.close(descriptor)

    def _reserve(self, descriptor: int, size_bytes: int, sha256: str) -> None:
        """Take up the room at once, so that other processes see it is taken."""
        with self._alone():
            os.ftruncate(descriptor, 0)
            stored = sorted(self._stored(), key=lambda each: each.used_at_ns)
            taken = sum(each.size_bytes for each in stored)
            for each in stored:
                if taken + size_bytes <= self._max_bytes:
                    break
                if _removed(each.path):
                    taken -= each.size_bytes
            if taken + size_bytes > self._max_bytes:
                raise DiskError(
                    f"shard {sha256[:16]}... of {size_bytes / 1e6:.2f} MB does not fit: "
                    f"{taken / 1e6:.2f} MB of {self._folder} are in use and "
                    f"loading.stream_cache_bytes is {self._max_bytes / 1e6:.2f} MB; raise it or "
                    "lower loading.window_shards"
                )
            self._allocate(descriptor, size_bytes)

    def _allocate(self, descriptor: int, size_bytes: int) -> None:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size_bytes)
            else:  # macOS
                os.ftruncate(descriptor, size_bytes)
        except OSError as error:
            os.ftruncate(descriptor, 0)
            raise DiskError(
                f"no room for a shard of {size_bytes / 1e6:.2f} MB in {self._folder}: "
                f"{error.strerror}; free some disk or lower loading.stream_cache_bytes"
            ) from None

    def _stored(self) -> list[_Stored]:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if not entry.name.startswith("."):
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        size = status.st_size
                        found.append(_Stored(Path(entry.path), size, status.st_atime_ns))
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time makes room; it takes milliseconds."""
        lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


class Part:
    """A shard that is being received.

    descriptor: Where its bytes go.
    """

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor = descriptor
        self._path = path

    def publish(self) -> None:
        """It is whole: synced, and from now on stored."""
        os.fsync(self.descriptor)
        self._path.replace(self._path.with_suffix(""))


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has this name: its last owner may have published or removed it."""
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _removed(path: Path) -> bool:
    """Remove a file nobody uses; a part left behind by a killed process is one too."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        if not _locked(descriptor):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)

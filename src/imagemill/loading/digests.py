"""Which shards are known to hold the bytes on record: each is hashed once, and again if it changed.

What was found right is remembered in .imagemill/verified by the file's size, modification time and
inode, for all processes and later runs; what `shard` has just written it noted itself.
`imagemill verify` reads everything again.
"""

import fcntl
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imagemill.errors import IntegrityError
from imagemill.records import STATE, write_bytes

VERIFIED = STATE / "verified"
_WRITTEN = STATE / "shards.json"  # by `shard`: path below data/ -> [sha256, size, mtime_ns, inode]
_PIECE = 2**22

Beat = Callable[[], None]  # called while work goes on, so that nobody takes it for a hang


class Digests:
    """What is known about shards; one object a process."""

    def __init__(self, root: Path) -> None:
        self._folder = root / VERIFIED
        self._written = _written(root / _WRITTEN)

    def check(
        self, descriptor: int, mapped: mmap.mmap, *, name: str, sha256: str, beat: Beat
    ) -> None:
        """Make sure that an open file holds the bytes on record.

        Args:
            descriptor: Of the file.
            mapped: Its bytes. Hashed where they will be read from, so that they are brought to
                memory once.
            name: Of the shard, for the message.
            sha256: On record.
            beat: Called while it is being hashed.

        Raises:
            IntegrityError: it holds others.
        """
        stamp = _stamp(descriptor)
        if self._written.get(sha256) == stamp or self._remembered(sha256) == stamp:
            return
        with self._alone(sha256):
            if self._remembered(sha256) == stamp:  # another process hashed it meanwhile
                return
            found = _digest(mapped, beat)
            if found != sha256:
                raise IntegrityError(
                    f"shard {name} is damaged: its sha256 is {found[:16]}..., on record is "
                    f"{sha256[:16]}...; make it again with `imagemill verify --repair` or "
                    "`dvc repro --force shard`"
                )
            self.remember(descriptor, sha256)

    def remember(self, descriptor: int, sha256: str) -> None:
        """Note that an open file is known to have this digest."""
        write_bytes(self._folder / sha256, _stamp(descriptor).encode())

    def _remembered(self, sha256: str) -> str | None:
        try:
            return (self._folder / sha256).read_text(encoding="ascii")
        except (FileNotFoundError, ValueError):
            return None

    @contextmanager
    def _alone(self, sha256: str) -> Iterator[None]:
        """One process hashes a shard; the others wait for what it finds."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / f".{sha256}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _digest(mapped: mmap.mmap, beat: Beat) -> str:
    digest = hashlib.sha256()
    with memoryview(mapped) as view:
        for start in range(0, len(view), _PIECE):
            digest.update(view[start : start + _PIECE])
            beat()
    return digest.hexdigest()


def _stamp(descriptor: int) -> str:
    status = os.fstat(descriptor)
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"


def _written(path: Path) -> dict[str, str]:
    """sha256 -> stamp; empty where there is no such file, or another form of it."""
    try:
        found = json.loads(path.read_bytes())
        rows = list(found.values())
        return {str(row[0]): f"{row[1]} {row[2]} {row[3]}" for row in rows}
    except (FileNotFoundError, ValueError, AttributeError, TypeError, IndexError, KeyError):
        return {}

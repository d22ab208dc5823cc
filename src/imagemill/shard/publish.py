"""A folder of shards takes the place of another in one step."""

import ctypes
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

_EXCHANGE = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_HERE = -100  # AT_FDCWD


def carry_over(old: Path, new: Path) -> None:
    """Let a file that stays as it is appear in the new folder too, without copying its bytes."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        new.hardlink_to(old)
    except OSError:
        # A filesystem without hard links.
        shutil.copy2(old, new)


def publish(new: Path, place: Path) -> None:
    """Put a finished folder where another is, or where none is yet.

    A kill leaves the old folder or the new one. Only where the filesystem cannot exchange two
    folders, files are moved one by one, the manifest last; then the next run finds by digest what
    is not as it should be.
    """
    for folder in (path for path in new.rglob("*") if path.is_dir()):
        _sync(folder)
    _sync(new)
    if not place.exists():
        new.rename(place)
        return
    try:
        _exchange(new, place)
    except OSError:
        _move_one_by_one(new, place)
    _sync(place.parent)
    shutil.rmtree(new)


def _exchange(one: Path, other: Path) -> None:
    names = os.fsencode(one), os.fsencode(other)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(*names, _EXCHANGE)
        else:
            failed = libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
    except AttributeError:
        raise OSError("this system cannot exchange folders") from None
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _move_one_by_one(new: Path, place: Path) -> None:
    files = sorted(path.relative_to(new) for path in new.rglob("*") if path.is_file())
    for name in sorted(files, key=lambda name: name.suffix == ".json"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(place / name)
    for path in sorted(place.rglob("*"), reverse=True):
        if path.is_dir():
            # Only an empty one goes.
            with suppress(OSError):
                path.rmdir()
        elif path.relative_to(place) not in files:
            path.unlink()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

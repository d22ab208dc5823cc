"""A folder of shards takes the place of another in one step."""

import ctypes
import os
import shutil
import sys
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

    A kill leaves the old folder or the new one. Where the filesystem cannot exchange two folders
    there is a moment in which neither is in place: `recover` ends it.
    """
    for folder in (path for path in new.rglob("*") if path.is_dir()):
        _sync(folder)
    _sync(new)
    if not place.exists():
        new.rename(place)
        _sync(place.parent)
        return
    try:
        _exchange(new, place)
    except OSError:
        _step_aside(new, place)
    else:
        _sync(place.parent)
        shutil.rmtree(new)


def recover(place: Path) -> None:
    """Put back what a killed `publish` had moved aside, or remove it where the new is in place."""
    old = _aside(place)
    if not old.exists():
        return
    if place.exists():
        shutil.rmtree(old)
    else:
        old.rename(place)
        _sync(place.parent)


def _step_aside(new: Path, place: Path) -> None:
    """In two renames."""
    old = _aside(place)
    place.rename(old)
    new.rename(place)
    _sync(place.parent)
    shutil.rmtree(old)


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.old")


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


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

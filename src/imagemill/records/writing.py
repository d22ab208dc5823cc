"""How files reach the disk: whole, or not at all."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from imagemill.errors import DiskError


def write_json(path: Path, document: Any) -> None:
    """Write JSON (sorted keys, UTF-8) whole or not at all."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(path, text.encode() + b"\n")


def write_bytes(path: Path, content: bytes) -> None:
    """Write whole or not at all.

    Raises:
        DiskError: the folder cannot be written, or the disk is full.
    """
    with publishing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`; on success its bytes are synced and it becomes `path`.

    Raises:
        DiskError: the folder cannot be written, or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it is gone after a success, and may never have come to be
            temporary.unlink()


def _remove_abandoned(path: Path) -> None:
    """Temporary files of processes that were killed: DVC would keep them with the output."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = leftover.name.split(".")[-2]
        if pid.isdigit() and not _is_alive(int(pid)):
            leftover.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def publishing_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`; on success it becomes `path` and what was there before goes.

    Raises:
        DiskError: the folder cannot be made or renamed.
    """
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        with _refusing(path):
            temporary.mkdir(parents=True)
        yield temporary
        with _refusing(path):
            if path.exists():
                path.rename(old)
            temporary.rename(path)
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What the file system says, said of `path`."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from error


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

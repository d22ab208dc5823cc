"""Shards fetched from an object store, a web server or another folder."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.errors import DiskError, IntegrityError, LoaderError
from imagemill.records import ShardEntry

if TYPE_CHECKING:
    from imagemill.loading.shard_cache import Part

_CHUNK = 2**22
# Seconds before each further attempt; wrong bytes are asked for once more only.
_PAUSES = (0.2, 0.8, 3.0)
# Attempts are ours alone: a client that tries for half a minute by itself looks like a hang.
_OPTIONS = {"s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 10}}}


# A refused password, a back end that is not installed, a scheme nobody knows.
_LASTING = (PermissionError, ImportError, ValueError)


class StoppedError(Exception):
    """Nobody wants the shard any more."""


class Remote:
    """A copy of data/ somewhere else, reached through fsspec.

    Args:
        url: Such as s3://bucket/data, https://host/data, or a folder.
        root: Where a folder's relative path starts.
    """

    def __init__(self, url: str, root: Path) -> None:
        self._url = url.rstrip("/") if "://" in url else str(root / url)
        self._files: tuple[Any, str] | None = None

    def fetch(
        self, entry: ShardEntry, part: "Part", told: Callable[[], None], *, patient: bool
    ) -> None:
        """Write a shard's bytes into `part` and check them.

        Args:
            entry: Its path, size and digest on record.
            part: Where they go.
            told: Called after each piece; what it raises ends the fetch.
            patient: Whether to try again after a failure that may pass.

        Raises:
            IntegrityError: it is not there, or its bytes are other ones.
            LoaderError: it could not be read, in several attempts.
            DiskError: the disk is full.
        """
        where, wrong = f"{self._url}/{entry.path}", 0
        for pause in (*(_PAUSES if patient else ()), None):
            try:
                found = self._copy(entry, part, told)
            except (StoppedError, DiskError):
                raise
            except (FileNotFoundError, IsADirectoryError):
                raise IntegrityError(f"shard {entry.path} is missing: no {where}") from None
            except Exception as error:
                # Each kind of store has errors of its own; whichever it is, it is told below.
                reason = f"{type(error).__name__}: {error}"
                if pause is None or isinstance(error, _LASTING):
                    raise LoaderError(
                        f"shard {entry.path} could not be fetched from {where}: {reason}"
                    ) from None
            else:
                if found == entry.sha256:
                    return
                wrong += 1
                if wrong > 1 or pause is None:
                    raise IntegrityError(
                        f"shard {entry.path} came with wrong bytes from {where}: sha256 "
                        f"{found[:16]}..., on record is {entry.sha256[:16]}...; upload it again"
                    )
            time.sleep(pause)

    def _copy(self, entry: ShardEntry, part: "Part", told: Callable[[], None]) -> str:
        """One attempt; returns the digest of what came."""
        files, base = self._opened()
        digest, offset = hashlib.sha256(), 0
        with files.open(f"{base}/{entry.path}", "rb", block_size=_CHUNK) as stream:
            while piece := stream.read(_CHUNK):
                digest.update(piece)
                if offset + len(piece) <= entry.size_bytes:  # else it is wrong anyway
                    _write(part.descriptor, piece, offset)
                offset += len(piece)
                told()
        return digest.hexdigest()

    def _opened(self) -> tuple[Any, str]:
        """The file system and the path of data/ in it."""
        if self._files is None:
            from fsspec.core import url_to_fs

            scheme = self._url.partition("://")[0]
            self._files = url_to_fs(self._url, **_OPTIONS.get(scheme, {}))
        return self._files


def _write(descriptor: int, piece: bytes, offset: int) -> None:
    view = memoryview(piece)
    try:
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    except OSError as error:
        raise DiskError(f"cannot keep a fetched shard: {error.strerror}") from None

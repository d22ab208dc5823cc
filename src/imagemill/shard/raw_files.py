"""Raw images that are files on disk, known to be those that `ingest` saw.

`ingest` took the digest of every image and noted the state of the file it was taken from. While
that state is the same, so are the bytes, and the digest is not taken again; `imagemill verify`
proves it.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from imagemill.errors import IntegrityError, SourceError
from imagemill.shard.job import JobRows
from imagemill.stamps import stamp_of

# Up to here the digest costs no more than asking for the file's state.
QUICKLY_HASHED_BYTES = 2048
_READ = os.O_RDONLY | os.O_CLOEXEC


class RawFiles:
    """Reads files and refuses those that are not what `ingest` saw; a context manager.

    Args:
        root: The project's root, where relative uris start.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._root)

    def contents(self, rows: JobRows) -> Iterator[bytes]:
        """The bytes of images, in their order.

        Args:
            rows: Of images that are all of a file each.

        Raises:
            IntegrityError: they are not those `ingest` read.
            SourceError: a file is gone or cannot be read.
        """
        return map(self._read, rows.key, rows.uri, rows.size_bytes, rows.sha256, rows.stamp)

    def _read(self, key: str, uri: str, size_bytes: int, sha256: str, stamp: str | None) -> bytes:
        try:
            # An absolute path does not start at the root.
            descriptor = os.open(uri, _READ, dir_fd=self._root)
        except OSError as error:
            raise SourceError(f"cannot read {uri}: {error.strerror}") from None
        try:
            content = os.read(descriptor, size_bytes)
            if (
                size_bytes > QUICKLY_HASHED_BYTES
                and len(content) == size_bytes
                and stamp == stamp_of(os.fstat(descriptor))
            ):
                return content
        finally:
            os.close(descriptor)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise changed(key, uri)
        return content


def changed(key: str, uri: str) -> IntegrityError:
    """The error that tells of an image with other bytes than `ingest` read."""
    return IntegrityError(
        f"{key}: its bytes in {uri} changed since `ingest` read them; "
        "run `imagemill scan` and start again"
    )

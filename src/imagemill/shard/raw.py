"""Raw images on their way into a tar, known to be those that `ingest` saw.

`ingest` took the digest of every image and noted the state of the file it was taken from. While
that state is the same, so are the bytes, and the digest is not taken again; `imagemill verify`
proves it.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.errors import IntegrityError, SourceError
from imagemill.sources import RawReader
from imagemill.sources.entries import IMAGE_EXTENSIONS
from imagemill.sources.files import stamp_of
from imagemill.sources.raw import Frame

_READ = os.O_RDONLY | os.O_CLOEXEC
# Up to here the digest costs no more than asking for the file's state.
_QUICKLY_HASHED_BYTES = 2048
# No scheme, and no archive or table that would have to be known to find an image in it.
_FILE_OF_ITS_OWN = rf"(?i)^[^:]*\.({'|'.join(sorted(IMAGE_EXTENSIONS))})$"


class _Row(NamedTuple):
    """An image, and what `ingest` saw of it."""

    key: str
    uri: str
    offset: int
    size_bytes: int
    sha256: str
    stamp: str | None  # of the file, when its digest was taken


class RawImages:
    """Reads raw images and refuses those that are not what `ingest` saw; a context manager.

    Args:
        root: The project's root, where relative uris start.
    """

    def __init__(self, root: Path) -> None:
        self._reader = RawReader(root)
        self._root = os.open(root, os.O_RDONLY | os.O_CLOEXEC)
        self._stamps: dict[str, str | None] = {}  # of the file read last

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.__exit__(*exception)
        os.close(self._root)

    def contents(self, rows: pa.RecordBatch) -> Iterator[bytes]:
        """The bytes of images, in their order.

        Args:
            rows: With the columns of `JOB_SCHEMA`.

        Raises:
            IntegrityError: they are not those `ingest` read.
            SourceError: a file is gone or cannot be read.
        """
        alone = pc.match_substring_regex(rows["uri"], _FILE_OF_ITS_OWN)
        if pc.all(alone).as_py() and not pc.any(pc.not_equal(rows["offset"], 0)).as_py():
            names = ("key", "uri", "size_bytes", "sha256", "stamp")
            return map(self._read_file, *(rows[name].to_pylist() for name in names))
        return self._read_many(rows)

    def _read_file(
        self, key: str, uri: str, size_bytes: int, sha256: str, stamp: str | None
    ) -> bytes:
        """An image that is all of a file on disk."""
        try:
            # An absolute path does not start at the root.
            descriptor = os.open(uri, _READ, dir_fd=self._root)
        except OSError as error:
            raise SourceError(f"cannot read {uri}: {error.strerror}") from None
        try:
            content = os.read(descriptor, size_bytes)
            if (
                size_bytes > _QUICKLY_HASHED_BYTES
                and len(content) == size_bytes
                and stamp == stamp_of(os.fstat(descriptor))
            ):
                return content
        finally:
            os.close(descriptor)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise _changed(key, uri)
        return content

    def _read_many(self, rows: pa.RecordBatch) -> Iterator[bytes]:
        """Images wherever they are: in archives, on a server, in files made of other files."""
        columns = (rows[name].to_pylist() for name in _Row._fields)
        images = [_Row._make(row) for row in zip(*columns, strict=True)]
        frames = [Frame(image.uri, image.offset, image.size_bytes) for image in images]
        for image, content in zip(images, self._reader.read_many(frames), strict=True):
            known = self._is_unchanged(image)
            if not known and hashlib.sha256(content).hexdigest() != image.sha256:
                raise _changed(image.key, image.uri)
            yield content

    def _is_unchanged(self, image: _Row) -> bool:
        """Whether the file is as it was; of one with many images that is asked once in a row."""
        if (
            image.stamp is None
            or image.size_bytes <= _QUICKLY_HASHED_BYTES
            or "://" in image.uri  # to ask a server takes longer than to take the digest
        ):
            return False
        if image.uri not in self._stamps:
            self._stamps = {image.uri: self._reader.stamp(image.uri)}
        return self._stamps[image.uri] == image.stamp


def _changed(key: str, uri: str) -> IntegrityError:
    return IntegrityError(
        f"{key}: its bytes in {uri} changed since `ingest` read them; "
        "run `imagemill scan` and start again"
    )

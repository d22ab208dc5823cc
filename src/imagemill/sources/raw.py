"""Raw bytes by (uri, offset, size_bytes), as the manifest of `ingest` notes them."""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Self

from imagemill.errors import IntegrityError, SourceError
from imagemill.sources import archive, digits

_MAX_OPEN_FILES = 16
_CHUNK_BYTES = 1 << 20


class RawReader:
    """Reads raw images; a context manager that keeps a few files open.

    Args:
        root: The project's root, where relative uris start.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        while self._open:
            self._close_oldest()

    def read(self, uri: str, offset: int, size_bytes: int) -> bytes:
        """The bytes of one image.

        Raises:
            SourceError: the file is gone or cannot be read.
            IntegrityError: the file is shorter than it was.
        """
        content = self._pread(uri, size_bytes, offset)
        while len(content) < size_bytes:
            more = self._pread(uri, size_bytes - len(content), offset + len(content))
            if not more:
                raise IntegrityError(f"{uri} is shorter than on record; run `imagemill scan`")
            content += more
        return content

    def sha256(self, uri: str, offset: int, size_bytes: int) -> str:
        """Digest of one image, however large."""
        if size_bytes <= _CHUNK_BYTES:
            return hashlib.sha256(self.read(uri, offset, size_bytes)).hexdigest()
        hasher = hashlib.sha256()
        for start in range(offset, offset + size_bytes, _CHUNK_BYTES):
            hasher.update(self.read(uri, start, min(_CHUNK_BYTES, offset + size_bytes - start)))
        return hasher.hexdigest()

    def _pread(self, uri: str, size_bytes: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor(uri), size_bytes, offset)
        except OSError as error:
            raise SourceError(f"cannot read {uri}: {error.strerror}") from None

    def _descriptor(self, uri: str) -> int:
        descriptor = self._open.get(uri)
        if descriptor is None:
            if len(self._open) >= _MAX_OPEN_FILES:
                self._close_oldest()
            descriptor = os.open(_file_of(self._root, uri), os.O_RDONLY | os.O_CLOEXEC)
            self._open[uri] = descriptor
        return descriptor

    def _close_oldest(self) -> None:
        os.close(self._open.popitem(last=False)[1])


def _file_of(root: Path, uri: str) -> Path:
    if uri == digits.NAME:
        return digits.plain_tar(root)
    if archive.is_archive_name(uri):
        return archive.readable_file(root, uri)
    return root / uri

"""Raw images wherever they are: in archives, on a server, in files made of other files.

As in `raw_files`, what `ingest` saw is believed while its file is as it was.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from imagemill.shard.job import JobRows
from imagemill.shard.raw_files import QUICKLY_HASHED_BYTES, changed
from imagemill.sources import RawReader
from imagemill.sources.raw import Frame


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
        self._stamps: dict[str, str | None] = {}  # of the file read last

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._reader.__exit__(*exception)

    def contents(self, rows: JobRows) -> Iterator[bytes]:
        """The bytes of images, in their order.

        Args:
            rows: Of images anywhere.

        Raises:
            IntegrityError: they are not those `ingest` read.
            SourceError: a file is gone or cannot be read.
        """
        columns = (getattr(rows, name) for name in _Row._fields)
        images = [_Row._make(row) for row in zip(*columns, strict=True)]
        frames = [Frame(image.uri, image.offset, image.size_bytes) for image in images]
        for image, content in zip(images, self._reader.read_many(frames), strict=True):
            known = self._is_unchanged(image)
            if not known and hashlib.sha256(content).hexdigest() != image.sha256:
                raise changed(image.key, image.uri)
            yield content

    def _is_unchanged(self, image: _Row) -> bool:
        """Whether the file is as it was; of one with many images that is asked once in a row."""
        if (
            image.stamp is None
            or image.size_bytes <= QUICKLY_HASHED_BYTES
            or "://" in image.uri  # to ask a server takes longer than to take the digest
        ):
            return False
        if image.uri not in self._stamps:
            self._stamps = {image.uri: self._reader.stamp(image.uri)}
        return self._stamps[image.uri] == image.stamp

"""Shards on their way to the disk: whole, checked against `ingest`, and digested in one pass."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from imagemill.errors import IntegrityError
from imagemill.params import ShardParams
from imagemill.parquet import SortedRuns
from imagemill.records import ShardEntry
from imagemill.shard.plan import Plan, number_of, shard_path, split_of
from imagemill.sources import RawReader
from imagemill.tars import TarWriter
from imagemill.tasks import TASKS

_TASK = TASKS["classification"]
_COLUMNS = ("place", "key", "uri", "offset", "size_bytes", "sha256", "format", "split", "class_id")
# Where Pillow's name of a format is not what its files are called.
_EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
_INDEX_CHUNK = 4096


@dataclass(frozen=True)
class Packing:
    """What writing shards needs to know."""

    root: Path
    data: Path  # stands for data/
    plan: Plan  # says how new shards are numbered
    params: ShardParams  # say when a new shard is full
    index: SortedRuns  # takes a row for each image packed


class _Image(NamedTuple):
    """One row of `rows_to_write`; the fields are `_COLUMNS`."""

    place: str
    key: str
    uri: str
    offset: int
    size_bytes: int
    sha256: str
    format: str
    split: str
    class_id: int | None


def write_shards(packing: Packing, rows: Iterable[pa.Table]) -> Iterator[ShardEntry]:
    """Pack images in the order they come.

    Args:
        packing: Where, and how.
        rows: As `rows_to_write` gives them, sorted by `order`.

    Yields:
        Each shard once it is complete and synced.

    Raises:
        IntegrityError: raw bytes are not those `ingest` read.
        SourceError: a raw file is gone.
    """
    shard: _OpenShard | None = None
    with RawReader(packing.root) as reader:
        for image in _images(rows):
            content = _checked(reader, image)
            if shard is None or not shard.takes(image, packing.params):
                path = _path_for(image, shard, packing.plan)
                if shard is not None:
                    yield shard.close()
                shard = _OpenShard(packing, path, image.place)
            shard.add(image, content)
        if shard is not None:
            yield shard.close()


def _checked(reader: RawReader, image: _Image) -> bytes:
    content = reader.read(image.uri, image.offset, image.size_bytes)
    if hashlib.sha256(content).hexdigest() != image.sha256:
        raise IntegrityError(
            f"{image.key}: its bytes in {image.uri} changed since `ingest` read them; "
            "run `imagemill scan` and start again"
        )
    return content


def _images(rows: Iterable[pa.Table]) -> Iterator[_Image]:
    for table in rows:
        columns = (table[name].to_pylist() for name in _COLUMNS)
        yield from map(_Image._make, zip(*columns, strict=True))


def _path_for(image: _Image, before: "_OpenShard | None", plan: Plan) -> str:
    if image.place in plan.surviving:
        return image.place
    if before is not None and before.place == image.place:
        return shard_path(image.split, number_of(before.path) + 1)
    return shard_path(image.split, plan.next_number(image.split))


class _OpenShard:
    """One tar being written."""

    def __init__(self, packing: Packing, path: str, place: str) -> None:
        self.path = path
        self.place = place
        file = packing.data / path
        file.parent.mkdir(parents=True, exist_ok=True)
        self._stream = file.open("wb", buffering=0)
        self._tar = TarWriter(self._stream)
        self._index = packing.index
        self._rows: list[tuple[Any, ...]] = []
        self._num_samples = 0
        self._image_bytes = 0

    def takes(self, image: _Image, params: ShardParams) -> bool:
        """Whether the image belongs here; a shard that had a name before is never too full."""
        if image.place != self.place:
            return False
        if image.place == self.path:
            return True
        full = self._num_samples >= params.max_images
        return not full and self._image_bytes + image.size_bytes <= params.max_bytes

    def add(self, image: _Image, content: bytes) -> None:
        """Append the image, its target behind it, and a row of the index."""
        extension = _EXTENSIONS.get(image.format, image.format.lower())
        offset = self._tar.add(f"{image.key}.{extension}", content)
        if image.class_id is not None:
            self._tar.add(f"{image.key}.{_TASK.extension}", _TASK.pack(image.class_id))
        row = (image.key, split_of(self.path), self.path, offset, image.size_bytes, image.sha256)
        self._rows.append((*row, image.class_id, None))
        self._num_samples += 1
        self._image_bytes += image.size_bytes
        if len(self._rows) == _INDEX_CHUNK:
            self._index_rows()

    def close(self) -> ShardEntry:
        """Finish the tar and bring it to the disk."""
        self._index_rows()
        sha256 = self._tar.close()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return ShardEntry(
            path=self.path,
            sha256=sha256,
            num_samples=self._num_samples,
            size_bytes=self._tar.size_bytes,
        )

    def _index_rows(self) -> None:
        self._index.add_rows(self._rows)
        self._rows = []

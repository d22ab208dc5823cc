"""An index of shards as arrays in one file, mapped into memory instead of parsed at each start.

Parquet has to be decoded column by column: seconds and hundreds of megabytes for millions of rows.
The saved index of a split lies in .imagemill/index/, is made at the first use of an index.parquet
and again when that changes or the file itself is damaged. N is the number of images.
"""

import hashlib
import json
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import IntegrityError
from imagemill.frames.building import write_saved
from imagemill.frames.keys import Keys
from imagemill.frames.layout import DIGEST_BYTES, READ_BYTES, SECTIONS, VERSION, Origin
from imagemill.randomness import U64
from imagemill.records import STATE


@dataclass(frozen=True)
class Frames:
    """Where the images of one split are, sorted by key.

    keys: N keys, made into strings when asked for.
    hashes_N: `randomness.key_hashes` of the keys.
    targets_N: Class ids, int64; -1 where there is none.
    shards: Paths relative to data/.
    shard_N: Position in `shards`, int32.
    offsets_N, sizes_N: Frame of the image's bytes in its shard, int64.
    sha256_N: Of those bytes, 32 bytes each.
    index_sha256: Of the index.parquet all of this was read from.
    """

    keys: Keys
    hashes_N: U64
    targets_N: NDArray[np.int64]
    shards: list[str]
    shard_N: NDArray[np.int32]
    offsets_N: NDArray[np.int64]
    sizes_N: NDArray[np.int64]
    sha256_N: NDArray[np.void]
    index_sha256: str

    def __len__(self) -> int:
        return len(self.keys)

    def in_storage_order(self) -> NDArray[np.intp]:
        """Positions by shard, then offset: the order in which disks like to be read."""
        return np.lexsort((self.offsets_N, self.shard_N))


def read_frames(index: Path, split: str) -> Frames:
    """The rows of an index that belong to a split.

    Args:
        index: `<root>/data/shards/index.parquet` or `<root>/data/augmented/index.parquet`.
        split: "train", "val", "test" or "unlabelled".

    Raises:
        IntegrityError: there is no such index, or it is not sorted by key.
        DiskError: the saved index cannot be written.
    """
    if not index.is_file():
        raise IntegrityError(f"{index} does not exist; `dvc repro` makes it")
    path = index.parents[2] / STATE / "index" / f"{index.parent.name}-{split}.bin"
    saved = _opened(path)
    origin = Origin.of(index, known=saved.origin if saved else None)
    if saved is None or saved.origin.sha256 != origin.sha256:
        write_saved(path, index, split, origin)
        saved = _opened(path)
        assert saved is not None, f"{path} is damaged right after it was written"
    return saved.frames()


class _Saved:
    """An open saved index that is as it was written."""

    def __init__(self, view: memoryview, header: dict[str, Any]) -> None:
        self.origin = Origin(*header["origin"])
        self._view = view
        self._header = header

    def frames(self) -> Frames:
        start, size_bytes = self._header["sections"]["key_blob"]
        return Frames(
            keys=Keys(self._view[start : start + size_bytes], self._section("key_ends")),
            hashes_N=self._section("hashes"),
            targets_N=self._section("targets"),
            shards=self._header["shards"],
            shard_N=self._section("shards"),
            offsets_N=self._section("offsets"),
            sizes_N=self._section("sizes"),
            sha256_N=self._section("sha256"),
            index_sha256=self.origin.sha256,
        )

    def _section(self, name: str) -> NDArray[Any]:
        start, count = self._header["sections"][name]
        return np.frombuffer(self._view, SECTIONS[name], count, start)


def _opened(path: Path) -> _Saved | None:
    """A saved index; None if there is none, or it is not what was written."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= DIGEST_BYTES + 8 or not _is_whole(stream, size - DIGEST_BYTES):
                return None
            view = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        return None
    end = size - DIGEST_BYTES - 8
    length = int.from_bytes(view[end : end + 8], "little")
    header = json.loads(bytes(view[end - length : end]))
    return _Saved(view, header) if header["version"] == VERSION else None


def _is_whole(stream: BinaryIO, size_bytes: int) -> bool:
    """Whether the digest at the end is of what comes before it."""
    hasher = hashlib.sha256()
    # Read, not mapped: pages that were only looked at once would count as this process's memory.
    while size_bytes and (block := stream.read(min(READ_BYTES, size_bytes))):
        hasher.update(block)
        size_bytes -= len(block)
    return stream.read() == hasher.digest()

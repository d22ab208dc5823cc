"""Bytes of images inside shards: files mapped into memory, framed by offset and size."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imagemill.errors import IntegrityError
from imagemill.records import DATA


@dataclass(frozen=True)
class Frames:
    """Where the images of one split are, sorted by key.

    keys: N keys.
    targets_N: Class ids, int64; -1 where there is none.
    shards: Paths relative to data/.
    shard_N: Position in `shards`, int32.
    offsets_N, sizes_N: Frame of the image's bytes in its shard, int64.
    """

    keys: list[str]
    targets_N: NDArray[np.int64]
    shards: list[str]
    shard_N: NDArray[np.int32]
    offsets_N: NDArray[np.int64]
    sizes_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    def in_storage_order(self) -> NDArray[np.intp]:
        """Positions by shard, then offset: the order in which disks like to be read."""
        return np.lexsort((self.offsets_N, self.shard_N))


def read_frames(index: Path, split: str) -> Frames:
    """The rows of an index (data/shards or data/augmented) that belong to a split.

    Raises:
        IntegrityError: there is no such index.
    """
    if not index.is_file():
        raise IntegrityError(f"{index} does not exist; `dvc repro` makes it")
    columns = ["key", "shard", "offset", "size_bytes", "target"]
    table = pq.read_table(index, columns=columns, filters=pc.field("split") == split)
    table = table.sort_by("key").combine_chunks()
    shards = table["shard"].unify_dictionaries().combine_chunks()
    if isinstance(shards, pa.ChunkedArray):
        shards = shards.chunk(0) if shards.num_chunks else pa.array([], shards.type)
    return Frames(
        keys=table["key"].to_pylist(),
        targets_N=pc.fill_null(table["target"], -1).to_numpy().astype(np.int64),
        shards=shards.dictionary.to_pylist(),
        shard_N=shards.indices.to_numpy().astype(np.int32),
        offsets_N=table["offset"].to_numpy(),
        sizes_N=table["size_bytes"].to_numpy(),
    )


class MappedShards:
    """Reads frames; each shard is opened once, at its first frame."""

    def __init__(self, root: Path, frames: Frames) -> None:
        self._root = root
        self._frames = frames
        self._maps: dict[int, mmap.mmap] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for mapped in self._maps.values():
            mapped.close()
        self._maps.clear()

    def read(self, position: int) -> bytes:
        """The encoded image at a position of the frames.

        Raises:
            IntegrityError: the shard is missing or too short.
        """
        shard = int(self._frames.shard_N[position])
        start = int(self._frames.offsets_N[position])
        stop = start + int(self._frames.sizes_N[position])
        mapped = self._mapped(shard)
        if stop > len(mapped):
            raise IntegrityError(
                f"{DATA / self._frames.shards[shard]} ends before {self._frames.keys[position]!r}; "
                "make the shards again with `dvc repro --force shard`"
            )
        return mapped[start:stop]

    def read_all(self) -> Iterator[tuple[int, bytes]]:
        """(position, encoded image) of every frame, in storage order."""
        for position in self._frames.in_storage_order():
            yield int(position), self.read(int(position))

    def _mapped(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            path = self._root / DATA / self._frames.shards[shard]
            try:
                with path.open("rb") as stream:
                    self._maps[shard] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise IntegrityError(f"cannot read shard {path}: {error}") from None
        return self._maps[shard]

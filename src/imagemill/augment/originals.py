"""The images copies are made of: rows of the index in an order of their own, and their bytes."""

import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imagemill.augment.numbers import Numbers
from imagemill.errors import IntegrityError
from imagemill.frames.maps import ShardMaps
from imagemill.parquet import SortedRuns, read_batches
from imagemill.randomness import key_hashes
from imagemill.records import DATA, SHARD_INDEX
from imagemill.tars import BLOCK

_FIELDS = ("key", "shard", "offset", "size_bytes", "sha256", "target")
_FOLLOW_US = "make the shards again with `dvc repro --force shard`"

# Sorted by digest, as `shard` packs them: copies lie in an order that no layout of shards changes,
# and while the shards were written in one go they are read from front to back.
ORDERED = pa.schema(
    [
        pa.field("order", pa.string()),
        pa.field("key", pa.string()),
        pa.field("shard", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("target", pa.int32()),
        pa.field("copies", pa.int64()),
    ]
)


class Original(NamedTuple):
    """A training image that gets copies; the fields are those of `ORDERED` after the first."""

    key: str
    shard: str
    offset: int
    size_bytes: int
    sha256: str
    target: int
    copies: int


def train_counts(root: Path, num_classes: int) -> list[int]:
    """Training images of each class.

    Raises:
        IntegrityError: there is no index.
    """
    counts_K = np.zeros(num_classes, np.int64)
    for rows in _train_rows(root):
        counts_K += np.bincount(rows["target"].to_numpy(), minlength=num_classes)
    return [int(count) for count in counts_K]


def sort_originals(root: Path, numbers: Numbers, into: SortedRuns) -> int:
    """Hand over all training images that get copies.

    Args:
        root: The project's root.
        numbers: How many each gets.
        into: Takes rows of `ORDERED`.

    Returns:
        How many copies that will be.
    """
    total = 0
    for rows in _train_rows(root):
        copies_N = numbers.of(rows["target"].to_numpy(), key_hashes(rows["key"].to_pylist()))
        order = pc.binary_join_element_wise(rows["sha256"], rows["key"], " ")
        table = rows.append_column("copies", pa.array(copies_N)).append_column("order", order)
        chosen = table.filter(pc.greater(table["copies"], 0))
        into.add(chosen.select(ORDERED.names).cast(ORDERED))
        total += int(copies_N.sum())
    return total


def originals(ordered: SortedRuns) -> Iterator[Original]:
    """The images again, in order of their digests."""
    for table in ordered.merged():
        columns = [table[name].to_pylist() for name in Original._fields]
        yield from map(Original._make, zip(*columns, strict=True))


def checked(original: Original, data: bytes) -> bytes:
    """The bytes, if they are those on record.

    Raises:
        IntegrityError: they are not.
    """
    if hashlib.sha256(data).hexdigest() != original.sha256:
        raise IntegrityError(
            f"{DATA / original.shard} is damaged at {original.key!r}; {_FOLLOW_US}"
        )
    return data


class OriginalReader:
    """Reads images and their annotations out of shards."""

    def __init__(self, root: Path) -> None:
        self._maps = ShardMaps(root)

    def read(self, original: Original) -> tuple[bytes, dict[str, Any]]:
        """The encoded image, and what its `.json` says ({} without one).

        Raises:
            IntegrityError: the shard is missing or too short.
        """
        mapped = self._maps.opened(original.shard)
        stop = original.offset + original.size_bytes
        if stop > len(mapped):
            raise IntegrityError(
                f"{DATA / original.shard} ends before {original.key!r}; {_FOLLOW_US}"
            )
        return mapped[original.offset : stop], _annotation(mapped, stop)


def _train_rows(root: Path) -> Iterator[pa.Table]:
    """Labelled training rows of the index."""
    for batch in read_batches(root / SHARD_INDEX, ["split", *_FIELDS]):
        rows = pa.Table.from_batches([batch])
        is_train = pc.equal(rows["split"].cast(pa.string()), "train")
        chosen = rows.filter(pc.and_(is_train, pc.is_valid(rows["target"])))
        if chosen.num_rows:
            yield chosen.select(_FIELDS)


def _annotation(mapped: mmap.mmap, position: int) -> dict[str, Any]:
    """What the `.json` member of the sample says whose image ends at `position`."""
    while True:
        start = -(-position // BLOCK) * BLOCK
        header = mapped[start : start + BLOCK]
        if len(header) < BLOCK or not header[0]:
            return {}
        size_bytes = int(header[124:136].strip(b"\0 ") or b"0", 8)
        position = start + BLOCK + size_bytes
        name = header[:100].rstrip(b"\0")
        # A long name is told by an extended header, and its end stands in the usual place too.
        if header[156:157] == b"0" and name.endswith(b".json"):
            found: dict[str, Any] = json.loads(mapped[start + BLOCK : position])
            return found
        if header[156:157] == b"0" and not name.endswith(b".cls"):
            return {}

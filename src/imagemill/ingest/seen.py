"""Digests known from an earlier run: an unchanged file is recognised by its state, not read again.

Arriving rows are only compared with 64-bit hashes of what was seen (8 bytes of memory an image);
rows that seem known get their digest where all rows come by in order of their keys, and there
everything is compared.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.errors import IntegrityError
from imagemill.parquet import SortedReader, read_batches
from imagemill.sources import Frame, RawReader

State: TypeAlias = tuple[str, int, int, str | None]  # uri, offset, size_bytes, stamp

# In place of a digest until `completed` fills it in.
_KNOWN = ""
_STATE_COLUMNS = ["uri", "offset", "size_bytes", "stamp"]


class Seen:
    """What an earlier run saw.

    Args:
        path: The table it left, of `records.SEEN_SCHEMA`.
        reader: Reads what is not known.
        rehash: Know nothing: every image is read.
    """

    def __init__(self, path: Path, reader: RawReader, *, rehash: bool) -> None:
        self._path = path
        self._reader = reader
        self._hashes_N = np.empty(0, np.int64) if rehash else _hashes(path)
        self.num_read = 0

    def digests(self, states: list[State]) -> list[str]:
        """Digests of images as they arrive; "" for those that are known.

        Raises:
            SourceError: a file is gone or cannot be read.
        """
        known_N = self._knows(states)
        unknown = [
            Frame(*state[:3]) for state, known in zip(states, known_N, strict=True) if not known
        ]
        self.num_read += len(unknown)
        taken = self._reader.sha256_many(unknown)
        return [_KNOWN if known else next(taken) for known in known_N]

    def completed(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Rows sorted by key, all of them with their digests."""
        if not len(self._hashes_N):
            yield from tables
            return
        earlier = SortedReader(read_batches(self._path))
        for table in tables:
            found = earlier.up_to(table["key"][-1].as_py())
            yield self._filled(table if found is None else _with_digests(table, found))

    def _knows(self, states: list[State]) -> list[bool]:
        if not len(self._hashes_N):
            return [False] * len(states)
        hashes_B = np.fromiter(map(hash, states), np.int64, len(states))
        at_B = np.searchsorted(self._hashes_N, hashes_B).clip(max=len(self._hashes_N) - 1)
        known: list[bool] = (self._hashes_N[at_B] == hashes_B).tolist()
        return known

    def _filled(self, table: pa.Table) -> pa.Table:
        """Read what only seemed known: two states with one hash, or an image with another key."""
        digests = table["sha256"].to_pylist()
        if _KNOWN not in digests:
            return table
        columns = (table[name].to_pylist() for name in Frame._fields)
        frames = [Frame(*values) for values in zip(*columns, strict=True)]
        missing = [index for index, digest in enumerate(digests) if digest == _KNOWN]
        for index, digest in zip(
            missing, self._reader.sha256_many([frames[i] for i in missing]), strict=True
        ):
            digests[index] = digest
        self.num_read += len(missing)
        return _replaced(table, pa.array(digests, pa.string()))


def _hashes(path: Path) -> NDArray[np.int64]:
    """Of all states that were seen, sorted."""
    parts = [np.empty(0, np.int64)]
    try:
        for batch in read_batches(path, _STATE_COLUMNS):
            # A file without a stamp has no state to be recognised by.
            known = batch.filter(batch["stamp"].is_valid())
            states = zip(*(known[name].to_pylist() for name in _STATE_COLUMNS), strict=True)
            parts.append(np.fromiter(map(hash, states), np.int64, known.num_rows))
    except (IntegrityError, KeyError):
        # It is a cache: without it everything is read.
        return np.empty(0, np.int64)
    hashes_N = np.concatenate(parts)
    hashes_N.sort()
    return hashes_N


def _with_digests(table: pa.Table, earlier: pa.Table) -> pa.Table:
    """Digests of rows that seemed known, from rows with the same key and the same state."""
    at = pc.index_in(table["key"], value_set=earlier["key"].combine_chunks())
    earlier = earlier.take(at)
    same = pc.equal(table["sha256"], _KNOWN)
    for name in _STATE_COLUMNS:
        same = pc.and_(same, pc.fill_null(pc.equal(table[name], earlier[name]), False))
    return _replaced(table, pc.if_else(same, earlier["sha256"], table["sha256"]))


def _replaced(table: pa.Table, digests: pa.Array) -> pa.Table:
    position = table.schema.get_field_index("sha256")
    # By field: a column by name could hold nulls, and would not fit other tables.
    return table.set_column(position, table.schema.field(position), digests)

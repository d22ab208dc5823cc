"""What `ingest` noted about the files it read: their state when a digest was taken."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.parquet import SortedReader, read_batches
from imagemill.records import SEEN

_SAME = ("uri", "offset", "size_bytes", "sha256")


def with_stamps(root: Path, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Add the column `stamp`: null where nothing is known of the image as it is on record.

    Args:
        root: The project's root.
        tables: Rows of the manifest, sorted by key.
    """
    known = SortedReader(_seen(root))
    for rows in tables:
        seen = known.up_to(rows["key"][-1].as_py())
        yield rows.append_column("stamp", _stamps(rows, seen))


def _seen(root: Path) -> Iterable[pa.RecordBatch]:
    """Nothing where there is no such file: it only saves time."""
    return read_batches(root / SEEN) if (root / SEEN).exists() else ()


def _stamps(rows: pa.Table, seen: pa.Table | None) -> pa.ChunkedArray:
    if seen is None:
        return pa.chunked_array([pa.nulls(rows.num_rows, pa.string())])
    found = seen.take(pc.index_in(rows["key"], value_set=seen["key"].combine_chunks()))
    same = pc.is_valid(found["key"])
    for name in _SAME:
        same = pc.and_(same, pc.fill_null(pc.equal(found[name], rows[name]), False))
    return pc.if_else(same, found["stamp"], pa.scalar(None, pa.string()))

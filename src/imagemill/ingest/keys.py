"""Rows in order of their keys, and no key twice."""

from array import array
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imagemill.errors import SourceError
from imagemill.parquet import SortedRuns
from imagemill.records import MANIFEST_SCHEMA, SEEN_SCHEMA

# `order` is key and origin; `origin` is the path itself and tells an image from every other one.
# NUL comes before every character of a key, ~ after every character a path begins with.
ROW_SCHEMA = pa.schema(
    [
        pa.field("order", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        *MANIFEST_SCHEMA,
        SEEN_SCHEMA.field("stamp"),
    ]
)


class KeyHashes:
    """Tells that no key came twice, without another pass over all rows: 8 bytes a key."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, keys: Iterable[str]) -> None:
        """Take note of keys."""
        self._hashes.extend(map(hash, keys))

    def are_distinct(self) -> bool:
        """Whether no two keys have one hash, and so none is there twice."""
        hashes_N = np.frombuffer(self._hashes, np.int64).copy()
        hashes_N.sort()
        return not bool((hashes_N[1:] == hashes_N[:-1]).any())


def with_unique_keys(rows: SortedRuns, where: str) -> Iterator[pa.Table]:
    """Rows sorted by key; of images with one key, all but the first get `_<extension>` added.

    Args:
        rows: Of `ROW_SCHEMA`, sorted by `order`.
        where: The source's name for messages.

    Raises:
        SourceError: one path is there twice.
    """
    if not any(pc.any(repeats).as_py() for _, repeats in _repeats(rows, "key")):
        yield from rows.merged()
        return
    _refuse_listed_twice(rows, where)
    # A new key may meet another one, so look again; the renamed image gives way then too.
    with SortedRuns(rows.folder / "renamed", ROW_SCHEMA, by="order") as renamed:
        for table, repeats in _repeats(rows, "key"):
            renamed.add(_renamed(table, repeats))
        yield from with_unique_keys(renamed, where)


def _repeats(rows: SortedRuns, column: str) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Tables, and a mask of rows that repeat the value of the row before."""
    last = ""
    for table in rows.merged():
        values = table[column].combine_chunks()
        before = pa.concat_arrays([pa.array([last]), values.slice(0, len(values) - 1)])
        last = values[-1].as_py()
        yield table, pc.equal(values, before)


def _refuse_listed_twice(rows: SortedRuns, where: str) -> None:
    for table, repeats in _repeats(rows, "order"):
        twice = table.filter(repeats)
        if twice.num_rows:
            path = twice["origin"][0].as_py().lstrip("~").replace("\0", ".")
            raise SourceError(f"{where} holds {path} twice; keep one of them")


def _renamed(table: pa.Table, repeats: pa.Array) -> pa.Table:
    longer = pc.binary_join_element_wise(table["key"], table["extension"], "_")
    later = pc.binary_join_element_wise("~", table["origin"], "")
    keys = pc.if_else(repeats, longer, table["key"])
    origins = pc.if_else(repeats, later, table["origin"])
    columns = {name: table[name] for name in ROW_SCHEMA.names}
    columns |= {"order": pc.binary_join_element_wise(keys, origins, "\0")}
    columns |= {"key": keys, "origin": origins}
    return pa.table(columns, schema=ROW_SCHEMA)

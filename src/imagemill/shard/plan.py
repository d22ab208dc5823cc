"""What has to be written: the images of shards that are touched, and new ones.

A shard is touched when one of its images changed, moved to another split or went away, or when
its file is not the one on record. Every other shard is left alone.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.parquet import SortedReader, read_batches
from imagemill.records import INDEX_SCHEMA, SHARD_INDEX
from imagemill.shard.survey import images_to_pack

PLAIN_INDEX = pa.schema(
    [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in INDEX_SCHEMA
    ]
)
_NO_CLASS = -1
# Stands for a shard that has no name yet, and sorts behind all that have one.
_UNNAMED = "~"


class Plan(NamedTuple):
    """Which of the present shards (paths relative to data/) are to be what."""

    touched: frozenset[str]
    surviving: frozenset[str]  # still hold an image; touched or not

    def next_number(self, split: str) -> int:
        """Number of the first new shard of a split."""
        numbers = [number_of(path) for path in self.surviving if split_of(path) == split]
        return max(numbers, default=-1) + 1


def shard_path(split: str, number: int) -> str:
    """Path of a shard, relative to data/."""
    return f"shards/{split}/{split}-{number:06d}.tar"


def split_of(path: str) -> str:
    """The split a shard belongs to."""
    return path.split("/")[1]


def number_of(path: str) -> int:
    """The number of a shard inside its split."""
    return int(path.rpartition("-")[2].removesuffix(".tar"))


def made_plan(root: Path, classes: list[str], *, damaged: frozenset[str] | None) -> Plan:
    """Compare the images to pack with the index of what is there.

    Args:
        root: The project's root.
        classes: Names by class id.
        damaged: Shards to be written again whatever they should hold; None where nothing that is
            there can be carried on.
    """
    if damaged is None:
        return Plan(frozenset(), frozenset())
    touched, surviving = set(damaged), set()
    reader = SortedReader(_index(root))
    for rows in images_to_pack(root):
        old = reader.up_to(rows["key"][-1].as_py())
        if old is None:
            continue
        compared = _compared(rows, old, classes)
        same_keys = compared.filter(compared["same"])["key"].combine_chunks()
        changed = pc.invert(pc.is_in(old["key"], value_set=same_keys))
        touched.update(pc.unique(old.filter(changed)["shard"]).to_pylist())
        surviving.update(pc.unique(compared["shard"].drop_null()).to_pylist())
    for gone in reader.rest():
        touched.update(pc.unique(gone["shard"]).to_pylist())
    return Plan(frozenset(touched), frozenset(surviving))


def rows_to_write(root: Path, classes: list[str], plan: Plan) -> Iterator[pa.Table]:
    """Images of touched shards and new images, in order of their keys.

    Yields:
        The columns of `images_to_pack`, `class_id`, `place` (a shard's path, or where none has
        been found yet a path that ends in ~), and `order`, by which they are to be packed.
    """
    touched = pa.array(sorted(plan.touched), pa.string())
    reader = SortedReader(_index(root) if plan.surviving else ())
    for rows in images_to_pack(root):
        old = reader.up_to(rows["key"][-1].as_py())
        compared = _compared(rows, old if old is not None else _no_index_rows(), classes)
        wanted = pc.or_(pc.is_null(compared["shard"]), pc.is_in(compared["shard"], touched))
        compared = compared.filter(wanted)
        if compared.num_rows:
            yield _ordered(compared)


def carried_on(root: Path, plan: Plan) -> Iterator[pa.Table]:
    """Index rows of shards that stay as they are, sorted by key."""
    kept = pa.array(sorted(plan.surviving - plan.touched), pa.string())
    for batch in _index(root) if len(kept) else ():
        yield pa.Table.from_batches([batch]).filter(pc.is_in(batch["shard"], kept))


def _ordered(rows: pa.Table) -> pa.Table:
    """Sorted by digest inside a shard: a shuffle that needs no seed and mixes the classes."""
    unnamed = pc.binary_join_element_wise("shards", rows["split"], _UNNAMED, "/")
    place = pc.coalesce(rows["shard"], unnamed)
    order = pc.binary_join_element_wise(place, rows["sha256"], rows["key"], " ")
    return rows.append_column("place", place).append_column("order", order)


def _compared(rows: pa.Table, old: pa.Table, classes: list[str]) -> pa.Table:
    """Rows with `class_id`, the `shard` they lie in (null: none of their split), and `same`."""
    class_id = pc.index_in(rows["target"], value_set=pa.array(classes, pa.string()))
    found = pc.index_in(rows["key"], value_set=old["key"].combine_chunks())
    before = old.take(found)
    same_split = _equal(before["split"], rows["split"])
    same = pc.and_(
        pc.and_(same_split, _equal(before["sha256"], rows["sha256"])),
        pc.equal(pc.fill_null(before["target"], _NO_CLASS), pc.fill_null(class_id, _NO_CLASS)),
    )
    shard = pc.if_else(same_split, before["shard"], pa.scalar(None, pa.string()))
    return (
        rows.append_column("class_id", class_id)
        .append_column("shard", shard)
        .append_column("same", same)
    )


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(left, right), False)


def _index(root: Path) -> Iterable[pa.RecordBatch]:
    for batch in read_batches(root / SHARD_INDEX):
        yield batch.cast(PLAIN_INDEX)


def _no_index_rows() -> pa.Table:
    return PLAIN_INDEX.empty_table()

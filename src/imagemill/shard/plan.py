"""What has to be written: the images of shards that are touched, and new ones.

A shard is touched when one of its images changed, moved to another split or went away, or when
its file is not the one on record. Every other shard is left alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.parquet import SortedReader, read_batches
from imagemill.records import INDEX_SCHEMA, SHARD_INDEX, ShardManifest
from imagemill.shard.annotations import AnnotationDigest
from imagemill.shard.job import split_of
from imagemill.shard.seen import with_stamps
from imagemill.shard.survey import images_to_pack

# While rows are on their way, columns that repeat are plain.
PLAIN_INDEX = pa.schema(
    [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in INDEX_SCHEMA
    ]
)
_COLUMNS = ["key", "uri", "offset", "size_bytes", "sha256", "target", "annotation"]
# Stands for a shard that has no name yet, and sorts behind all that have one.
_UNNAMED = "~"


class Plan(NamedTuple):
    """Which of the present shards (paths relative to data/) are to be what."""

    touched: frozenset[str]
    surviving: frozenset[str]  # still hold an image; touched or not
    has_new: bool  # images that lie in no shard of their split

    def next_number(self, split: str) -> int:
        """Number of the first new shard of a split."""
        numbers = [number_of(path) for path in self.surviving if split_of(path) == split]
        return max(numbers, default=-1) + 1

    @property
    def unchanged(self) -> frozenset[str]:
        """Shards that stay as they are."""
        return self.surviving - self.touched


FROM_SCRATCH = Plan(frozenset(), frozenset(), has_new=True)


def shard_path(split: str, number: int) -> str:
    """Path of a shard, relative to data/."""
    return f"shards/{split}/{split}-{number:06d}.tar"


def number_of(path: str) -> int:
    """The number of a shard inside its split."""
    return int(path.rpartition("-")[2].removesuffix(".tar"))


class Comparison:
    """Compares the images to pack with the index of what is there.

    Args:
        root: The project's root.
        before: What is there.
        damaged: Shards to be written again whatever they should hold.
    """

    def __init__(self, root: Path, before: ShardManifest, damaged: Iterable[str]) -> None:
        self._reader = SortedReader(_index(root))
        self._classes = before.classes
        self._recorded = {entry.path: entry.annotations for entry in before.shards}
        self._annotations: dict[str, AnnotationDigest] = defaultdict(AnnotationDigest)
        self._touched = set(damaged)
        self._surviving: set[str] = set()
        self._has_new = False

    def add(self, rows: pa.Table) -> None:
        """Take in the next images, in order of their keys."""
        old = self._reader.up_to(rows["key"][-1].as_py())
        if old is None:
            self._has_new = True
            return
        compared = _compared(rows, old, self._classes)
        same_keys = compared.filter(compared["same"])["key"].combine_chunks()
        changed = pc.invert(pc.is_in(old["key"], value_set=same_keys))
        self._touched.update(pc.unique(old.filter(changed)["shard"]).to_pylist())
        self._surviving.update(pc.unique(compared["shard"].drop_null()).to_pylist())
        self._has_new = self._has_new or bool(compared["shard"].null_count)
        self._note(compared.filter(pc.is_valid(compared["annotation"])))

    def plan(self) -> Plan:
        """What follows, once all images were taken in."""
        for gone in self._reader.rest():
            self._touched.update(pc.unique(gone["shard"]).to_pylist())
        for path in self._surviving:
            if self._annotations[path].hexdigest() != self._recorded[path]:
                self._touched.add(path)
        return Plan(frozenset(self._touched), frozenset(self._surviving), self._has_new)

    def _note(self, annotated: pa.Table) -> None:
        columns = (annotated[name].to_pylist() for name in ("shard", "key", "annotation"))
        for path, key, annotation in zip(*columns, strict=True):
            if path is not None:
                self._annotations[path].add(key, annotation)


def rows_to_write(root: Path, classes: Sequence[str], plan: Plan) -> Iterator[pa.Table]:
    """Images of touched shards and new images, in order of their keys.

    Yields:
        Columns of the manifest, `format`, `split`, `stamp` (the state of the raw file its digest
        was taken from), `class_id`, `place` (a shard's path, or where none has been found yet a
        path that ends in ~), and `order`, by which they are to be packed.
    """
    if not (plan.touched or plan.has_new):
        return
    touched = pa.array(sorted(plan.touched), pa.string())
    class_names = pa.array(classes, pa.string())
    reader = SortedReader(_index(root) if plan.surviving else ())
    for rows in with_stamps(root, images_to_pack(root, _COLUMNS, ["format"])):
        old = reader.up_to(rows["key"][-1].as_py())
        shard = _shard(rows, _beside(rows, old if old is not None else PLAIN_INDEX.empty_table()))
        wanted = pc.or_(pc.is_null(shard), pc.is_in(shard, touched))
        chosen = rows.append_column("shard", shard).filter(wanted)
        if chosen.num_rows:
            class_id = pc.index_in(chosen["target"], value_set=class_names)
            yield _ordered(chosen.append_column("class_id", class_id))


def carried_on(root: Path, plan: Plan) -> Iterator[pa.Table]:
    """Index rows of shards that stay as they are, sorted by key."""
    kept = pa.array(sorted(plan.unchanged), pa.string())
    for batch in _index(root) if len(kept) else ():
        yield pa.Table.from_batches([batch]).filter(pc.is_in(batch["shard"], kept))


def _ordered(rows: pa.Table) -> pa.Table:
    """Sorted by digest inside a shard: a shuffle that needs no seed and mixes the classes."""
    unnamed = pc.binary_join_element_wise("shards", rows["split"], _UNNAMED, "/")
    place = pc.coalesce(rows["shard"], unnamed)
    order = pc.binary_join_element_wise(place, rows["sha256"], rows["key"], " ")
    return rows.append_column("place", place).append_column("order", order)


def _compared(rows: pa.Table, old: pa.Table, classes: Sequence[str]) -> pa.Table:
    """Rows with the `shard` they lie in (null: none of their split), and `same`."""
    before = _beside(rows, old)
    shard = _shard(rows, before)
    raw_sha256 = pc.coalesce(before["raw_sha256"], before["sha256"])
    target = pc.take(pa.array(classes, pa.string()), before["target"])
    same = pc.and_(pc.is_valid(shard), _equal(raw_sha256, rows["sha256"]))
    same = pc.and_(same, _equal(pc.fill_null(target, ""), pc.fill_null(rows["target"], "")))
    return rows.append_column("shard", shard).append_column("same", same)


def _beside(rows: pa.Table, old: pa.Table) -> pa.Table:
    """The index's rows of the same keys; nulls where it has none."""
    return old.take(pc.index_in(rows["key"], value_set=old["key"].combine_chunks()))


def _shard(rows: pa.Table, before: pa.Table) -> pa.ChunkedArray:
    """The shards that images lie in; null where that is none of their split."""
    stays = _equal(before["split"], rows["split"])
    return pc.if_else(stays, before["shard"], pa.scalar(None, pa.string()))


def _equal(left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(left, right), False)


def _index(root: Path) -> Iterable[pa.RecordBatch]:
    for batch in read_batches(root / SHARD_INDEX):
        yield batch.cast(PLAIN_INDEX)

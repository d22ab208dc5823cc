"""Offline augmentation: copies of train's images in shards of their own, and one index of all.

A copy is a PNG with the key `<parent>%copy<n>` (a percent sign followed by no hex digits stands in
no key of an original). It knows its parent, its operations with their values, and the seed; where
the parent has boxes, the copy has them where they are now. Memory does not grow with the data.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from imagemill.augment.numbers import numbers_of_copies
from imagemill.augment.originals import (
    ORDERED,
    OriginalReader,
    originals,
    sort_originals,
    train_counts,
)
from imagemill.augment.policy import Policy
from imagemill.augment.work import Copy, Recipe, made_in_order
from imagemill.params import CopiesParams, ShardParams
from imagemill.parquet import SortedRuns, as_table, interleaved, read_batches, writing
from imagemill.records import (
    AUGMENTED,
    AUGMENTED_INDEX,
    AUGMENTED_MANIFEST,
    AUGMENTED_SCHEMA,
    DATA,
    SHARD_INDEX,
    SHARD_MANIFEST,
    STATE,
    CopiesManifest,
    ShardEntry,
    ShardManifest,
    publishing,
    publishing_folder,
    sha256_of_file,
)
from imagemill.tars import TarWriter

_INDEX_CHUNK = 4096
# While rows are sorted, columns that repeat are plain: each batch would bring its own dictionary.
_PLAIN = pa.schema(
    [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in AUGMENTED_SCHEMA
    ]
)


@dataclass(frozen=True)
class Workplace:
    """Where the new data/augmented is made.

    root: The project's root.
    folder: Becomes data/augmented.
    rows: Takes the copies' rows of the index.
    """

    root: Path
    folder: Path
    rows: SortedRuns


@contextmanager
def workplace(root: Path) -> Iterator[Workplace]:
    """An empty data/augmented that takes the place of the old one when the block ends well."""
    with (
        publishing_folder(root / AUGMENTED) as folder,
        SortedRuns(root / STATE / "augment-index", _PLAIN, by="key") as rows,
    ):
        yield Workplace(root, folder, rows)


def write_copies(
    place: Workplace,
    copies: CopiesParams,
    policy: Policy,
    shard: ShardParams,
    *,
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
    workers: int | None = None,
) -> int:
    """Write the copies' shards.

    Args:
        place: Where to.
        copies: How many of each image; with 0 nothing is written.
        policy: What happens to them.
        shard: Limits of a shard.
        seed: The policy's.
        progress: Gets the share that is done, 0..1.
        workers: Threads; by default one for each CPU. The result does not depend on it.

    Returns:
        Their number.

    Raises:
        UnknownNameError: `copies` names a class that is not there.
        IntegrityError: shards are missing or damaged, or an image cannot be decoded.
    """
    data = ShardManifest.read(place.root / SHARD_MANIFEST)
    counts_K = train_counts(place.root, len(data.classes))
    numbers = numbers_of_copies(copies, data.classes, counts_K, seed=seed)
    if numbers.none:
        return 0
    with SortedRuns(place.root / STATE / "augment-order", ORDERED, by="order") as ordered:
        total = sort_originals(place.root, numbers, ordered)
        reader = OriginalReader(place.root)
        recipe = Recipe(policy, seed, data.channels)
        made = made_in_order(originals(ordered), reader, recipe, workers=workers)
        entries: list[ShardEntry] = []
        for number in _packed(made, place, shard, seed, entries):
            progress(number / total)
    CopiesManifest(shards=entries).write(place.folder / AUGMENTED_MANIFEST.name)
    return total


def write_index(place: Workplace) -> int:
    """Write the index of originals and copies, sorted by key.

    Returns:
        The number of originals.
    """
    num_originals = 0

    def from_shards() -> Iterator[pa.Table]:
        nonlocal num_originals
        for batch in read_batches(place.root / SHARD_INDEX):
            rows = as_table(batch)
            for field in list(_PLAIN)[len(rows.schema) :]:
                rows = rows.append_column(field, pa.nulls(len(rows), field.type))
            num_originals += len(rows)
            yield rows.cast(_PLAIN)

    with writing(place.folder / AUGMENTED_INDEX.name, AUGMENTED_SCHEMA) as index:
        for rows in interleaved(from_shards(), place.rows.merged()):
            index.write(rows)
    return num_originals


def _packed(
    copies: Iterator[Copy],
    place: Workplace,
    limits: ShardParams,
    seed: int,
    entries: list[ShardEntry],
) -> Iterator[int]:
    """Pack copies in the order they come, and tell after each how many there are by now.

    What goes on record of each shard is appended to `entries`.
    """
    copy, number, count = next(copies, None), 0, 0
    while copy is not None:
        path = place.folder / "train" / f"copies-{number:06d}.tar"
        with publishing(path) as temporary, temporary.open("wb", buffering=0) as stream:
            shard = _OpenShard(TarWriter(stream), AUGMENTED / "train" / path.name, place, seed)
            while copy is not None and shard.takes(copy, limits):
                shard.add(copy)
                count += 1
                yield count
                copy = next(copies, None)
            shard.close()
        entries.append(shard.entry(path))
        number += 1


class _OpenShard:
    """One tar of copies being written."""

    def __init__(self, tar: TarWriter, path: Path, place: Workplace, seed: int) -> None:
        self._tar = tar
        self._path = path.relative_to(DATA).as_posix()
        self._index = place.rows
        self._seed = seed
        self._rows: list[tuple[Any, ...]] = []
        self._num_copies = 0
        self._image_bytes = 0

    def takes(self, copy: Copy, limits: ShardParams) -> bool:
        """Whether there is room; a copy larger than a shard is alone in one."""
        if not self._num_copies:
            return True
        size_bytes = self._image_bytes + len(copy.data)
        return self._num_copies < limits.max_images and size_bytes <= limits.max_bytes

    def add(self, copy: Copy) -> None:
        """Append the copy, its target and its description, and a row of the index."""
        offset = self._tar.add(f"{copy.key}.png", copy.data)
        self._tar.add(f"{copy.key}.cls", str(copy.target).encode())
        self._tar.add(f"{copy.key}.json", copy.description)
        row = (copy.key, "train", self._path, offset, len(copy.data), copy.sha256, copy.target)
        self._rows.append((*row, None, copy.parent_key, copy.operations, self._seed))
        self._num_copies += 1
        self._image_bytes += len(copy.data)
        if len(self._rows) == _INDEX_CHUNK:
            self._index_rows()

    def close(self) -> None:
        """Finish the tar."""
        self._index_rows()
        self._tar.close()

    def entry(self, path: Path) -> ShardEntry:
        """What goes on record of the finished tar, which lies at `path`."""
        return ShardEntry(
            path=self._path,
            sha256=sha256_of_file(path),
            num_samples=self._num_copies,
            size_bytes=path.stat().st_size,
        )

    def _index_rows(self) -> None:
        self._index.add_rows(self._rows)
        self._rows = []

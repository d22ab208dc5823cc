"""What decides about images, read from the stages before and from the last assignment.

N images in order of their keys.
"""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.parquet import SortedReader, matching, num_rows, read_batches
from imagemill.records import KEEP, MANIFEST, SPLIT_NAMES

TRAIN, VAL, TEST, UNLABELLED = range(4)
assert SPLIT_NAMES == ("train", "val", "test", "unlabelled")
NOT_GIVEN, NO_LABEL, NEW = -1, -1, -1
ALONE = 0


class Images(NamedTuple):
    """Narrow: 15 bytes an image, and 8 more where there are near duplicates."""

    hash_N: NDArray[np.uint64]  # of seed and key, or of seed and group: equal inside a group
    label_N: NDArray[np.int32]  # position in `classes`, or NO_LABEL
    given_N: NDArray[np.int8]  # position in SPLIT_NAMES, or NOT_GIVEN
    classes: list[str]
    earlier_N: NDArray[np.int8]  # position in SPLIT_NAMES when last assigned, or NEW
    grouped_N: NDArray[np.bool_]  # whether it has a group
    near_N: NDArray[np.uint64] | None  # hash of its near group, or ALONE


def read_images(root: Path, seed: int, *, earlier: Path | None) -> Images:
    """Read manifest and keep list.

    Args:
        root: The project's root.
        seed: Of the hashes.
        earlier: A split.parquet to remember, or None.
    """
    count = num_rows(root / KEEP)
    images = Images(
        np.empty(count, np.uint64),
        np.empty(count, np.int32),
        np.empty(count, np.int8),
        [],
        np.full(count, NEW, np.int8),
        np.empty(count, bool),
        None,
    )
    before = SortedReader(read_batches(earlier) if earlier else ())
    stop = 0
    for rows in kept_rows(root, ["key", "target", "group", "split"]):
        start, stop = stop, stop + rows.num_rows
        part = slice(start, stop)
        targets = pc.unique(rows["target"].drop_null()).to_pylist()
        images.classes.extend(sorted(set(targets).difference(images.classes)))
        images.hash_N[part] = _hashes(seed, rows["key"], rows["group"])
        images.label_N[part] = _places(rows["target"], images.classes)
        images.given_N[part] = _places(rows["split"], SPLIT_NAMES)
        images.grouped_N[part] = rows["group"].is_valid()
        images.earlier_N[part] = _places(_earlier(rows["key"], before), SPLIT_NAMES)
        if rows["near_group"].null_count < rows.num_rows:
            if images.near_N is None:
                images = images._replace(near_N=np.full(count, ALONE, np.uint64))
            assert images.near_N is not None
            images.near_N[part] = _near_hashes(seed, rows["near_group"])
    return images


def kept_rows(root: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Columns of the manifest of all kept images, with their `near_group`."""
    manifest = read_batches(root / MANIFEST, columns)
    for rows, kept in matching(manifest, read_batches(root / KEEP, ["key", "near_group"])):
        yield rows.append_column("near_group", kept["near_group"])


def _places(names: pa.ChunkedArray, known: Sequence[str]) -> NDArray[np.int64]:
    """Position of each name among the known ones; -1 of a null."""
    assert NOT_GIVEN == NO_LABEL == NEW == -1
    places = pc.index_in(names, value_set=pa.array(known, pa.string()))
    return np.asarray(pc.fill_null(places, -1))


def _earlier(keys: pa.ChunkedArray, before: SortedReader) -> pa.ChunkedArray:
    """The splits these keys were in, null if in none; rows of images that are gone pass by."""
    found = before.up_to(keys[-1].as_py())
    if found is None:
        return pa.chunked_array([pa.nulls(len(keys), pa.string())])
    return found["split"].take(pc.index_in(keys, value_set=found["key"].combine_chunks()))


def _hashes(seed: int, keys: pa.ChunkedArray, groups: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Of groups, and of images without one: a group and a key of the same name differ."""
    whose = pc.if_else(groups.is_valid(), "group", "key")
    names = pc.binary_join_element_wise(str(seed), whose, pc.coalesce(groups, keys), " ")
    return _uniform(names.to_pylist())


def _near_hashes(seed: int, near: pa.ChunkedArray) -> NDArray[np.uint64]:
    """Of near groups; ALONE where there is none."""
    known = pc.unique(near.drop_null())
    hashes = _uniform([f"{seed} group near {name}" for name in known.to_pylist()]) | np.uint64(1)
    # The last one is found for nulls.
    return np.append(hashes, np.uint64(ALONE))[_places(near, known.to_pylist())]


def _uniform(names: list[str]) -> NDArray[np.uint64]:
    """Hashes of names, uniform over 64 bits."""
    digests = b"".join([sha256(name.encode()).digest()[:8] for name in names])
    return np.frombuffer(digests, "<u8")

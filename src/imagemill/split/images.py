"""What decides about images, read from the stages before and from the last assignment.

N images in order of their keys.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
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
    labels: dict[str | None, int] = {None: NO_LABEL}
    stop = 0
    for rows in kept_rows(root, ["key", "target", "group", "split"]):
        start, stop = stop, stop + rows.num_rows
        targets, groups, splits = (rows[n].to_pylist() for n in ("target", "group", "split"))
        for name in sorted({name for name in targets if name not in labels}):
            labels[name] = len(images.classes)
            images.classes.append(name)
        images.hash_N[start:stop] = [
            _hash(seed, key, group)
            for key, group in zip(rows["key"].to_pylist(), groups, strict=True)
        ]
        images.label_N[start:stop] = [labels[name] for name in targets]
        images.given_N[start:stop] = [
            NOT_GIVEN if name is None else SPLIT_NAMES.index(name) for name in splits
        ]
        images.grouped_N[start:stop] = [group is not None for group in groups]
        _remember(images.earlier_N[start:stop], rows["key"], before)
        if rows["near_group"].null_count < rows.num_rows:
            if images.near_N is None:
                images = images._replace(near_N=np.full(count, ALONE, np.uint64))
            assert images.near_N is not None
            images.near_N[start:stop] = [
                ALONE if name is None else _hash(seed, "", f"near {name}") | 1
                for name in rows["near_group"].to_pylist()
            ]
    return images


def kept_rows(root: Path, columns: list[str]) -> Iterator[pa.Table]:
    """Columns of the manifest of all kept images, with their `near_group`."""
    manifest = read_batches(root / MANIFEST, columns)
    for rows, kept in matching(manifest, read_batches(root / KEEP, ["key", "near_group"])):
        yield rows.append_column("near_group", kept["near_group"])


def _remember(earlier_N: NDArray[np.int8], keys: pa.ChunkedArray, before: SortedReader) -> None:
    """Fill in what earlier rows say of these keys; rows of images that are gone pass by."""
    found = before.up_to(keys[-1].as_py())
    if found is None:
        return
    places = {key: place for place, key in enumerate(keys.to_pylist())}
    for key, name in zip(found["key"].to_pylist(), found["split"].to_pylist(), strict=True):
        if key in places:
            earlier_N[places[key]] = SPLIT_NAMES.index(name)


def _hash(seed: int, key: str, group: str | None) -> int:
    """Uniform over 64 bits; a group and a key of the same name have nothing in common."""
    who = f"key {key}" if group is None else f"group {group}"
    return int.from_bytes(hashlib.sha256(f"{seed} {who}".encode()).digest()[:8], "little")

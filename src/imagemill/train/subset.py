"""A part of a project as a project of its own: other indexes over the same shards.

So it is loaded by what loads everything, whatever the layout, the number of decoding processes or
the size of the cache.
"""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imagemill.parquet import writing
from imagemill.randomness import key_hashes, mixed
from imagemill.records import AUGMENTED, AUGMENTED_INDEX, SHARD_INDEX, SHARDS, STATE

# What is known about the shards' digests, and shards that were fetched: for all that read them.
_SHARED_STATE = ("shards.json", "stream", "verified")
_SHOTS = 0x5407  # the purpose of these draws


def share_files(root: Path, folder: Path) -> None:
    """Everything a loader reads but the indexes, as links.

    Args:
        root: The project's root.
        folder: Becomes the root of another one; not there yet.
    """
    root = root.resolve()
    for part in (SHARDS, AUGMENTED):
        (folder / part).mkdir(parents=True)
        for entry in (root / part).iterdir():
            if entry.name != SHARD_INDEX.name:
                (folder / part / entry.name).symlink_to(entry)
    (folder / STATE).mkdir()
    (root / STATE / "verified").mkdir(parents=True, exist_ok=True)
    for name in _SHARED_STATE:
        if (root / STATE / name).exists():
            (folder / STATE / name).symlink_to(root / STATE / name)


def write_few_shot(root: Path, folder: Path, images_per_class: int, *, seed: int) -> None:
    """A project whose train split has so many images of each class, and their copies.

    Args:
        root: The project's root.
        folder: Root of the part; made anew.
        images_per_class: A class with fewer gives all it has.
        seed: Which ones are taken is a pure function of it and the keys.
    """
    shutil.rmtree(folder, ignore_errors=True)
    share_files(root, folder)
    rows = pq.read_table(root / AUGMENTED_INDEX)
    rows = rows.filter(pc.equal(rows["split"].cast(pa.string()), "train"))
    originals = rows
    if "parent_key" in rows.column_names:
        originals = rows.filter(pc.is_null(rows["parent_key"]))
    chosen_N = few_of_each(
        originals["key"].to_pylist(), originals["target"].to_numpy(), images_per_class, seed=seed
    )
    keys = originals["key"].filter(pa.array(chosen_N))
    is_taken = pc.is_in(rows["key"], keys)
    if "parent_key" in rows.column_names:
        is_taken = pc.or_(is_taken, pc.is_in(rows["parent_key"], keys))
    with writing(folder / AUGMENTED_INDEX, rows.schema) as table:
        table.write(rows.filter(is_taken))


def few_of_each(
    keys: list[str], targets_N: NDArray[np.integer], count: int, *, seed: int
) -> NDArray[np.bool_]:
    """Which images are the `count` of their class with the lowest draws, bool [N]."""
    draws_N = mixed(key_hashes(keys), _SHOTS, seed)
    chosen_N = np.zeros(len(keys), np.bool_)
    for target in np.unique(targets_N):
        of_class_M = np.flatnonzero(targets_N == target)
        chosen_N[of_class_M[np.argsort(draws_N[of_class_M], kind="stable")[:count]]] = True
    return chosen_N


def write_unlabelled(root: Path, folder: Path) -> None:
    """A project whose train split are the originals of train and unlabelled, without labels.

    Args:
        root: The project's root.
        folder: Root of the part; made anew.
    """
    shutil.rmtree(folder, ignore_errors=True)
    share_files(root, folder)
    rows = pq.read_table(root / SHARD_INDEX)
    rows = rows.filter(pc.is_in(rows["split"].cast(pa.string()), pa.array(["train", "unlabelled"])))
    nothing = {"target": pa.nulls(len(rows), pa.int32())}
    train = pa.array(["train"] * len(rows))
    for name, values in {**nothing, "split": train}.items():
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        rows = rows.set_column(place, field, values.cast(field.type))
    with writing(folder / AUGMENTED_INDEX, rows.schema) as table:
        table.write(rows)

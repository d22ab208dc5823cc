"""Offline augmentation: copies of train's images in shards of their own, and one index of all.

A copy is a PNG with the key `<parent>%copy<n>` (a percent sign followed by no hex digits stands in
no key of an original). It knows its parent, its operations with their values, and the seed.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.augment.policy import Drawn, Policy
from imagemill.decoding import decode, encode_png
from imagemill.errors import IntegrityError
from imagemill.frames import MappedShards, read_frames
from imagemill.params import ShardParams
from imagemill.randomness import key_hashes
from imagemill.records import (
    AUGMENTED,
    AUGMENTED_INDEX,
    AUGMENTED_SCHEMA,
    DATA,
    SHARD_INDEX,
    SHARD_MANIFEST,
    ShardManifest,
    publishing,
)
from imagemill.tars import TarWriter

_COLUMNS = AUGMENTED_SCHEMA.names


class Copy(NamedTuple):
    """A derived image before it is written."""

    parent_key: str
    number: int  # from 1
    target: int
    drawn: list[Drawn]
    data: bytes

    @property
    def key(self) -> str:
        return f"{self.parent_key}%copy{self.number}"


def write_copies(
    root: Path, copies: int, policy: Policy, shard: ShardParams, *, seed: int
) -> pa.Table:
    """Write the copies' shards.

    Args:
        root: The project's root.
        copies: How many of each image; with 0 nothing is written.
        policy: What happens to them.
        shard: Limits of a shard.
        seed: The policy's, for the record.

    Returns:
        Their rows of the index.

    Raises:
        IntegrityError: shards are missing or damaged, or an image cannot be decoded.
    """
    rows: dict[str, list[object]] = {name: [] for name in _COLUMNS}
    pending = _copies(root, copies, policy) if copies else iter(())
    number, copy = 0, next(pending, None)
    while copy is not None:
        path = AUGMENTED / "train" / f"copies-{number:06d}.tar"
        with publishing(root / path) as temporary, temporary.open("wb", buffering=0) as stream:
            writer = TarWriter(stream)
            for _ in range(shard.max_images):
                _add(writer, copy, path.relative_to(DATA), seed, rows)
                copy = next(pending, None)
                if copy is None or writer.size_bytes >= shard.max_bytes:
                    break
            writer.close()
        number += 1
    return pa.table(rows, schema=AUGMENTED_SCHEMA)


def write_index(root: Path, copies: pa.Table) -> int:
    """Write the index of originals and copies, sorted by key.

    Returns:
        The number of originals.
    """
    originals = pq.read_table(root / SHARD_INDEX)
    for field in list(AUGMENTED_SCHEMA)[len(originals.schema) :]:
        originals = originals.append_column(field, pa.nulls(len(originals), field.type))
    together = pa.concat_tables([originals.cast(AUGMENTED_SCHEMA), copies]).sort_by("key")
    with publishing(root / AUGMENTED_INDEX) as temporary:
        pq.write_table(together.unify_dictionaries(), temporary, compression="zstd")
    return int(originals.num_rows)


def _copies(root: Path, copies: int, policy: Policy) -> Iterator[Copy]:
    """Copies in the order their parents lie on disk."""
    channels = ShardManifest.read(root / SHARD_MANIFEST).channels
    frames = read_frames(root / SHARD_INDEX, "train")
    hashes_N = key_hashes(frames.keys)
    with MappedShards(root, frames) as shards:
        for position, data in shards.read_all():
            key, target = frames.keys[position], int(frames.targets_N[position])
            try:
                image_1HWC = decode(data, channels=channels)[np.newaxis]
            except IntegrityError as error:
                raise IntegrityError(f"image {key!r} {error}") from None
            hash_1 = hashes_N[position : position + 1]
            for number in range(1, copies + 1):
                changed_1HWC = policy.apply(image_1HWC, hash_1, epoch=number)
                drawn = policy.drawn(hash_1, epoch=number)
                yield Copy(key, number, target, drawn, encode_png(changed_1HWC[0]))


def _add(
    writer: TarWriter, copy: Copy, shard: Path, seed: int, rows: dict[str, list[object]]
) -> None:
    operations = [drawn._asdict() for drawn in copy.drawn]
    description = {"parent_key": copy.parent_key, "operations": operations, "seed": seed}
    offset = writer.add(f"{copy.key}.png", copy.data)
    writer.add(f"{copy.key}.cls", str(copy.target).encode())
    writer.add(f"{copy.key}.json", json.dumps(description, sort_keys=True).encode())
    row = {
        "key": copy.key,
        "split": "train",
        "shard": shard.as_posix(),
        "offset": offset,
        "size_bytes": len(copy.data),
        "sha256": hashlib.sha256(copy.data).hexdigest(),
        "target": copy.target,
        "raw_sha256": None,
        "parent_key": copy.parent_key,
        "operations": json.dumps(operations),
        "seed": seed,
    }
    for name in _COLUMNS:
        rows[name].append(row[name])

"""A small project with real shards: grey squares whose brightness is the class."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.decoding import encode_png
from imagemill.frames import FrameReader, Frames
from imagemill.frames.maps import ShardMaps
from imagemill.records import (
    AUGMENTED_INDEX,
    DATA,
    INDEX_SCHEMA,
    SHARD_INDEX,
    SHARD_MANIFEST,
    ShardEntry,
    ShardManifest,
    SplitSize,
    sha256_of_file,
)
from imagemill.tars import TarWriter

CLASSES = ("dark", "grey", "light")


def make_shards(
    root: Path,
    *,
    size: int = 12,
    train: int = 60,
    val: int = 30,
    test: int = 30,
    per_shard: int | None = None,
    digests: bool = False,
) -> None:
    """Write data/shards and an index of originals alone as data/augmented.

    Args:
        root: The project's root.
        size: Height and width of the images.
        train, val, test: How many there are.
        per_shard: Images of a shard; None: each split is one.
        digests: Whether the digests of the shards are on record.
    """
    rows: list[dict[str, object]] = []
    entries: list[ShardEntry] = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        step = per_shard or count
        for number, first in enumerate(range(0, count, step)):
            shard = Path("shards") / split / f"{split}-{number:06d}.tar"
            images = range(first, min(first + step, count))
            (root / DATA / shard).parent.mkdir(parents=True, exist_ok=True)
            with (root / DATA / shard).open("wb", buffering=0) as stream:
                writer = TarWriter(stream)
                rows += [_add(writer, split, shard, image, size) for image in images]
                writer.close()
            entries.append(_entry(root, shard, len(images)))
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA).sort_by("key")
    for path in (root / SHARD_INDEX, root / AUGMENTED_INDEX):
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
    ShardManifest(
        digest="d" * 64,
        index_digest="i" * 64,
        classes=list(CLASSES),
        channels=1,
        pixel_mean=[0.5],
        pixel_std=[0.3],
        splits={
            name: SplitSize(num_samples=count, num_shards=1, size_bytes=0)
            for name, count in (("train", train), ("val", val), ("test", test))
        },
        shards=entries if digests else [],
    ).write(root / SHARD_MANIFEST)


def _entry(root: Path, shard: Path, num_samples: int) -> ShardEntry:
    file = root / DATA / shard
    return ShardEntry(
        path=shard.as_posix(),
        sha256=sha256_of_file(file),
        num_samples=num_samples,
        size_bytes=file.stat().st_size,
    )


def reader_of(root: Path, frames: Frames) -> FrameReader:
    """Reads a project's local shards."""
    return FrameReader(frames, ShardMaps(root).opened)


def picture(number: int, size: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Noise around the brightness of class `number % 3`, uint8 [size, size, 1]."""
    noise = np.random.default_rng(number).integers(-30, 30, (size, size, 1))
    return (40 + 80 * (number % 3) + noise).astype(np.uint8)


def _add(writer: TarWriter, split: str, shard: Path, number: int, size: int) -> dict[str, object]:
    data = encode_png(picture(number, size))
    key = f"{split}/{CLASSES[number % 3]}/{number:04d}"
    return {
        "key": key,
        "split": split,
        "shard": shard.as_posix(),
        "offset": writer.add(f"{key}.png", data),
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "target": number % 3,
    }

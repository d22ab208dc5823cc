"""Image files as a project with shards: what the loader's benchmarks read."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.records import (
    AUGMENTED_INDEX,
    DATA,
    INDEX_SCHEMA,
    SHARD_INDEX,
    SHARD_MANIFEST,
    ShardEntry,
    ShardManifest,
    SplitSize,
)
from imagemill.tars import TarWriter


def pack(root: Path, files: Sequence[Path], *, per_shard: int) -> None:
    """Write data/shards and data/augmented of a project whose train split is these files.

    Args:
        root: The project's root.
        files: Images; the folder of each is its class.
        per_shard: Images of a shard.
    """
    classes = sorted({file.parent.name for file in files})
    rows: list[dict[str, Any]] = []
    entries: list[ShardEntry] = []
    for number, first in enumerate(range(0, len(files), per_shard)):
        shard = Path("shards/train") / f"train-{number:06d}.tar"
        (root / DATA / shard).parent.mkdir(parents=True, exist_ok=True)
        with (root / DATA / shard).open("wb", buffering=0) as stream:
            writer = TarWriter(stream)
            for file in files[first : first + per_shard]:
                rows.append(_added(writer, file, shard, classes))
            writer.close()
        content = (root / DATA / shard).read_bytes()
        entries.append(
            ShardEntry(
                path=shard.as_posix(),
                sha256=hashlib.sha256(content).hexdigest(),
                num_samples=len(files[first : first + per_shard]),
                size_bytes=len(content),
            )
        )
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA).sort_by("key")
    for index in (SHARD_INDEX, AUGMENTED_INDEX):
        (root / index).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / index)
    _manifest(classes, entries).write(root / SHARD_MANIFEST)


def _added(writer: TarWriter, file: Path, shard: Path, classes: list[str]) -> dict[str, Any]:
    data, target = file.read_bytes(), classes.index(file.parent.name)
    key = f"{file.parent.name}/{file.stem}"
    offset = writer.add(f"{key}{file.suffix}", data)
    writer.add(f"{key}.cls", str(target).encode())
    return {
        "key": key,
        "split": "train",
        "shard": shard.as_posix(),
        "offset": offset,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "target": target,
    }


def _manifest(classes: list[str], entries: list[ShardEntry]) -> ShardManifest:
    size = SplitSize(
        num_samples=sum(entry.num_samples for entry in entries),
        num_shards=len(entries),
        size_bytes=sum(entry.size_bytes for entry in entries),
    )
    return ShardManifest(
        digest="0" * 64,
        index_digest="0" * 64,
        classes=classes,
        channels=3,
        pixel_mean=[0.5] * 3,
        pixel_std=[0.25] * 3,
        splits={"train": size},
        shards=entries,
    )

"""A project with shards, made from a folder of images without running its stages."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.records import (
    AUGMENTED_INDEX,
    AUGMENTED_SCHEMA,
    DATA,
    INDEX_SCHEMA,
    SHARD_INDEX,
    SHARD_MANIFEST,
    ShardEntry,
    ShardManifest,
    SplitSize,
)
from imagemill.tars import TarWriter


def make_project(root: Path, files: Sequence[Path], *, per_shard: int = 10_000) -> None:
    """Write data/shards and data/augmented of one split, in the form `shard` gives them.

    Args:
        root: Where to.
        files: Images; the folder of each is its class.
        per_shard: Images of a shard.
    """
    classes = sorted({file.parent.name for file in files})
    rows: list[dict[str, object]] = []
    shards: list[ShardEntry] = []
    # By digest, as our shards are: keys of neighbours have nothing to do with one another.
    mixed = sorted(files, key=lambda file: sha256(str(file).encode()).digest())
    for start in range(0, len(mixed), per_shard):
        name = f"shards/train/train-{len(shards):06d}.tar"
        path = root / DATA / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = mixed[start : start + per_shard]
        with path.open("wb", buffering=0) as stream:
            writer = TarWriter(stream)
            rows += [_add(writer, file, name, classes) for file in part]
            digest = writer.close()
        size_bytes = path.stat().st_size
        shards.append(
            ShardEntry(path=name, sha256=digest, num_samples=len(part), size_bytes=size_bytes)
        )
    _write_index(root, rows)
    size = SplitSize(
        num_samples=len(rows),
        num_shards=len(shards),
        size_bytes=sum(shard.size_bytes for shard in shards),
    )
    ShardManifest(
        digest="0" * 64,
        index_digest="0" * 64,
        classes=classes,
        channels=3,
        pixel_mean=[0.5] * 3,
        pixel_std=[0.25] * 3,
        splits={"train": size},
        shards=shards,
    ).write(root / SHARD_MANIFEST)


def _add(writer: TarWriter, file: Path, shard: str, classes: list[str]) -> dict[str, object]:
    data, target = file.read_bytes(), classes.index(file.parent.name)
    key = f"{file.parent.name}/{file.stem}"
    offset = writer.add(f"{key}{file.suffix}", data)
    writer.add(f"{key}.cls", str(target).encode())
    return {
        "key": key,
        "split": "train",
        "shard": shard,
        "offset": offset,
        "size_bytes": len(data),
        "sha256": sha256(data).hexdigest(),
        "target": target,
    }


def _write_index(root: Path, rows: list[dict[str, object]]) -> None:
    for path, schema in ((SHARD_INDEX, INDEX_SCHEMA), (AUGMENTED_INDEX, AUGMENTED_SCHEMA)):
        table = pa.Table.from_pylist(rows, schema=schema).sort_by("key")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / path, compression="zstd")

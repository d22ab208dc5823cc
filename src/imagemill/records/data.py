"""What stages say of the data."""

from typing import Literal

from imagemill.records.record import Record

SPLIT_NAMES = ("train", "val", "test", "unlabelled")


class SplitSize(Record):
    num_samples: int
    num_shards: int
    size_bytes: int


class ShardEntry(Record):
    path: str  # relative to data/
    sha256: str
    num_samples: int
    size_bytes: int
    annotations: str | None = None  # digest of those it holds; None: it holds none


class ShardManifest(Record):
    """data/shards/manifest.json."""

    schema_version: Literal[1] = 1
    digest: str  # of the data: sha256 over the sorted (key, sha256, target, split)
    index_digest: str  # sha256 of index.parquet
    classes: list[str]  # position = class id; append-only
    channels: Literal[1, 3]  # 1 if every image is grey
    pixel_mean: list[float]  # of train, per channel, in 0..1
    pixel_std: list[float]
    splits: dict[str, SplitSize]
    shards: list[ShardEntry]
    # Class ids and shards are carried on only while these stay what they are.
    source: str | None = None
    max_images: int | None = None
    max_bytes: int | None = None
    max_side: int | None = None
    strip_metadata: bool = False


class CopiesManifest(Record):
    """data/augmented/manifest.json; not there where no copies were written."""

    shards: list[ShardEntry]

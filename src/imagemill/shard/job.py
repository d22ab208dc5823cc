"""One shard to be written, and what comes of it: plain values for any process of any machine.

Whoever writes shards imports this and little else: a process is up before it has cost more than
the shard it writes.
"""

from typing import NamedTuple

import pyarrow as pa

# All that writing a shard needs to know of an image.
JOB_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("format", pa.string()),
        pa.field("class_id", pa.int32()),
        pa.field("annotation", pa.string()),
        pa.field("stamp", pa.string()),
    ]
)
# What is known of an image once it is packed: columns of the index.
PACKED_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("target", pa.int32()),
        pa.field("raw_sha256", pa.string()),
    ]
)


class ShardJob(NamedTuple):
    """One shard to be written."""

    root: str  # the project's
    rows: str  # an Arrow file of `JOB_SCHEMA`, in the order of packing
    path: str  # of the shard, relative to data/
    target: str  # the file to write
    max_side: int | None
    strip_metadata: bool
    whole_files: bool = False  # whether each image is known to be all of a file on disk


class WrittenShard(NamedTuple):
    """What came of a job, as the manifest of shards will tell it."""

    sha256: str
    num_samples: int
    size_bytes: int
    annotations: str | None  # digest of those it holds; None: it holds none


def split_of(path: str) -> str:
    """The split a shard belongs to."""
    return path.split("/")[1]

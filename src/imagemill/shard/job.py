"""One shard to be written: what goes to whoever writes it, in whichever process."""

from typing import NamedTuple

import pyarrow as pa

from imagemill.records import INDEX_SCHEMA

# While rows are on their way, columns that repeat are plain.
PLAIN_INDEX = pa.schema(
    [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in INDEX_SCHEMA
    ]
)
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


class ShardJob(NamedTuple):
    """One shard to be written. Plain values: it can go to any process of any machine."""

    root: str  # the project's
    rows: str  # an Arrow file of `JOB_SCHEMA`, in the order of packing
    path: str  # of the shard, relative to data/
    target: str  # the file to write
    max_side: int | None
    strip_metadata: bool


def split_of(path: str) -> str:
    """The split a shard belongs to."""
    return path.split("/")[1]

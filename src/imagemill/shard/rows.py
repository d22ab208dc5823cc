"""Rows on their way to those who write shards and back: from tables to plain values and again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from imagemill.parquet import Rows
from imagemill.shard.job import (
    JobRows,
    ShardJob,
    packed_path,
    read_job_rows,
    read_packed_rows,
    split_of,
    write_rows,
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
assert tuple(JOB_SCHEMA.names) == JobRows._fields
# What a batch needs stays in the processor's cache.
_BATCH_ROWS = 1024


def hand_out(stream: BinaryIO, rows: Rows) -> None:
    """Append to the rows of a job: a table with the columns of `JOB_SCHEMA`."""
    for start in range(0, rows.num_rows, _BATCH_ROWS):
        batch = rows.slice(start, _BATCH_ROWS)
        write_rows(stream, JobRows._make(batch[name].to_pylist() for name in JobRows._fields))


def take_back(job: ShardJob, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """A written shard's rows of the index; the files that went to and fro are removed."""
    for rows, packed in zip(read_job_rows(job), read_packed_rows(job), strict=True):
        count = len(rows.key)
        columns: dict[str, Any] = packed._asdict() | {
            "key": rows.key,
            "split": pa.repeat(split_of(job.path), count),
            "shard": pa.repeat(job.path, count),
            "target": rows.class_id,
            "raw_sha256": packed.raw_sha256 or pa.nulls(count, pa.string()),
        }
        yield pa.RecordBatch.from_pydict(
            {name: columns[name] for name in schema.names}, schema=schema
        )
    Path(job.rows).unlink()
    packed_path(job).unlink()

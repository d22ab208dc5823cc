"""One shard to be written, and what comes of it: plain values for any process.

Whoever writes shards imports this and no Arrow, no NumPy: a process is up before it has cost more
than a few megabytes that it writes. Rows lie in files as `marshal` writes them, a batch after the
other: those at both ends are the same Python, it takes half the time of JSON, and no file outlives
the run.
"""

import marshal
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_LENGTH_BYTES = 8


class ShardJob(NamedTuple):
    """One shard to be written."""

    root: str  # the project's
    rows: str  # a file of `JobRows`, in the order of packing
    path: str  # of the shard, relative to data/
    target: str  # the file to write
    max_side: int | None
    strip_metadata: bool
    whole_files: bool = False  # whether each image is known to be all of a file on disk


class JobRows(NamedTuple):
    """All that writing a shard needs to know of some images, a column each."""

    key: list[str]
    uri: list[str]
    offset: list[int]
    size_bytes: list[int]
    sha256: list[str]
    format: list[str]
    class_id: list[int | None]
    annotation: list[str | None]
    stamp: list[str | None]


class PackedRows(NamedTuple):
    """What is known of the same images once they are packed: columns of the index."""

    offset: list[int]
    size_bytes: list[int]
    sha256: list[str]
    raw_sha256: list[str | None]  # where the shard holds other bytes; empty: nowhere


class WrittenShard(NamedTuple):
    """What came of a job, as the manifest of shards will tell it."""

    sha256: str
    num_samples: int
    size_bytes: int
    annotations: str | None  # digest of those it holds; None: it holds none


def write_rows(stream: BinaryIO, rows: JobRows | PackedRows) -> None:
    """Append a batch to a file that `read_job_rows` or `read_packed_rows` will read."""
    batch = marshal.dumps(tuple(rows))
    stream.write(len(batch).to_bytes(_LENGTH_BYTES) + batch)


def read_job_rows(job: ShardJob) -> Iterator[JobRows]:
    """What is to be packed, a batch at a time."""
    return map(JobRows._make, _batches(Path(job.rows)))


def read_packed_rows(job: ShardJob) -> Iterator[PackedRows]:
    """What `write_shard` leaves of each batch."""
    return map(PackedRows._make, _batches(packed_path(job)))


def packed_path(job: ShardJob) -> Path:
    """Where `write_shard` leaves its rows of the index."""
    return Path(job.rows).with_suffix(".packed")


def split_of(path: str) -> str:
    """The split a shard belongs to."""
    return path.split("/")[1]


def _batches(path: Path) -> Iterator[tuple[list[object], ...]]:
    with path.open("rb") as stream:
        while length := stream.read(_LENGTH_BYTES):
            # Not `marshal.load`: it asks the stream for every value.
            yield marshal.loads(stream.read(int.from_bytes(length)))

"""One shard made again from raw files, byte for byte."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.errors import IntegrityError
from imagemill.parquet import as_table, matching, read_batches
from imagemill.records import (
    DATA,
    KEEP,
    MANIFEST,
    SHARD_INDEX,
    STATE,
    ShardEntry,
    ShardManifest,
    publishing,
)
from imagemill.shard.job import ShardJob
from imagemill.shard.rows import JOB_SCHEMA, hand_out
from imagemill.shard.write import write_shard

_FOLDER = STATE / "repair"
_MANIFEST_COLUMNS = ["key", "uri", "offset", "size_bytes", "sha256", "annotation"]


def rebuild_shard(root: Path, manifest: ShardManifest, entry: ShardEntry) -> None:
    """Write a shard of the present manifest again from its raw files.

    Raises:
        IntegrityError: it does not become what is on record: raw files changed, or other images
            were ingested since.
        SourceError: a raw file is gone.
    """
    rows = pa.concat_tables(list(_rows_of_shard(root, entry.path)))
    (root / _FOLDER).mkdir(parents=True, exist_ok=True)
    file = root / _FOLDER / "rows"
    try:
        with file.open("wb") as stream:
            hand_out(stream, rows.sort_by("place").select(JOB_SCHEMA.names).cast(JOB_SCHEMA))
        with publishing(root / DATA / entry.path) as temporary:
            job = ShardJob(
                root=str(root),
                rows=str(file),
                path=entry.path,
                target=str(temporary),
                max_side=manifest.max_side,
                strip_metadata=manifest.strip_metadata,
            )
            if write_shard(job).sha256 != entry.sha256:
                raise IntegrityError("raw images no longer make the shard on record")
    finally:
        shutil.rmtree(root / _FOLDER)


def _rows_of_shard(root: Path, path: str) -> Iterator[pa.Table]:
    """Rows of `JOB_SCHEMA` for the images of a shard, and their `place` in it."""
    index = (
        as_table(batch).filter(pc.equal(batch["shard"].cast(pa.string()), path))
        for batch in read_batches(root / SHARD_INDEX)
    )
    manifest = read_batches(root / MANIFEST, _MANIFEST_COLUMNS)
    kept = (
        raw.append_column("format", measured["format"])
        for raw, measured in matching(manifest, read_batches(root / KEEP, ["key", "format"]))
    )
    for raw, placed in matching(kept, index):
        yield (
            raw.append_column("class_id", placed["target"])
            .append_column("place", placed["offset"])
            .append_column("stamp", pa.nulls(raw.num_rows, pa.string()))
        )

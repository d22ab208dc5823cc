"""The stage `shard`: WebDataset tars, their index and their manifest.

Images are packed in the order of their digests. That mixes the classes, which matters to whoever
streams shards through a small shuffle buffer, and needs no seed; and since new images only ever go
to new shards, adding some rewrites none that is there.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from imagemill.errors import DiskError
from imagemill.ingest import SUMMARY, IngestSummary
from imagemill.params import ShardParams
from imagemill.parquet import SortedRuns, interleaved, writing
from imagemill.records import (
    DATA,
    INDEX_SCHEMA,
    SHARD_INDEX,
    SHARD_MANIFEST,
    SHARDS,
    SPLIT_NAMES,
    STATE,
    ShardEntry,
    ShardManifest,
    SplitSize,
    sha256_of_file,
)
from imagemill.shard.plan import (
    PLAIN_INDEX,
    Plan,
    carried_on,
    made_plan,
    rows_to_write,
    split_of,
)
from imagemill.shard.publish import carry_over, publish
from imagemill.shard.survey import Survey, survey
from imagemill.shard.verified import damaged_shards, remember
from imagemill.shard.write import Packing, write_shards
from imagemill.tasks.classification import extended_classes

# Row order of the packing, and all that packing needs.
_ROW_SCHEMA = pa.schema(
    [
        pa.field("order", pa.string()),
        pa.field("place", pa.string()),
        pa.field("key", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("format", pa.string()),
        pa.field("split", pa.string()),
        pa.field("class_id", pa.int32()),
    ]
)


def shard(
    root: Path, params: ShardParams, *, log: Callable[[str], None], full: bool = False
) -> None:
    """Pack all images of the split, leaving shards alone whose images did not change.

    The new state is made beside the old one, where unchanged shards appear as hard links, and
    takes its place in one step: a kill at any moment leaves the one or the other.

    Args:
        root: The project's root.
        params: The section `shard` of params.yaml.
        log: Takes one line for whoever watches the run.
        full: Write every shard again. Class ids stay.

    Raises:
        IntegrityError: raw bytes changed since `ingest`, or stages disagree.
        SourceError: raw files are gone.
        DiskError: `data/shards` cannot be written, or the disk is full.
    """
    found = survey(root)
    source = IngestSummary.read(root / SUMMARY).source
    before = ShardManifest.read(root / SHARD_MANIFEST) if (root / SHARD_MANIFEST).exists() else None
    classes = extended_classes(_known_classes(before, found, source), found.classes)
    plan = made_plan(root, classes, damaged=None if full else _damaged(root, before, params))
    with _staging(root) as staging:
        unchanged = [
            entry
            for entry in (before.shards if before else ())
            if entry.path in plan.surviving - plan.touched
        ]
        for entry in unchanged:
            carry_over(root / DATA / entry.path, staging / entry.path)
        written = _pack(root, staging, plan, classes, params)
        entries = sorted([*unchanged, *written], key=lambda entry: entry.path)
        index_digest = sha256_of_file(staging / SHARD_INDEX.relative_to(DATA))
        manifest = ShardManifest(
            digest=found.digest,
            index_digest=index_digest,
            classes=classes,
            channels=1 if found.all_grey else 3,
            pixel_mean=found.pixel_mean,
            pixel_std=found.pixel_std,
            splits=_sizes(entries),
            shards=entries,
            source=source,
            max_images=params.max_images,
            max_bytes=params.max_bytes,
        )
        manifest.write(staging / SHARD_MANIFEST.relative_to(DATA))
        publish(staging / SHARDS.relative_to(DATA), root / SHARDS)
    remember(root, entries)
    log(_told(manifest, len(written)))


def _known_classes(before: ShardManifest | None, found: Survey, source: str) -> list[str]:
    """Class ids given so far.

    They begin anew when the source is another one and lacks some of them: then it is another data
    set, and a model should have no outputs for classes it can never see.
    """
    if before is None:
        return []
    same_data_set = before.source == source or found.classes.issuperset(before.classes)
    return before.classes if same_data_set else []


def _damaged(
    root: Path, before: ShardManifest | None, params: ShardParams
) -> frozenset[str] | None:
    """Shards that are not what the manifest says; None where nothing can be carried on."""
    if before is None or (before.max_images, before.max_bytes) != (
        params.max_images,
        params.max_bytes,
    ):
        return None
    index = root / SHARD_INDEX
    if not index.exists() or sha256_of_file(index) != before.index_digest:
        return None
    return damaged_shards(root, before.shards)


def _pack(
    root: Path, staging: Path, plan: Plan, classes: list[str], params: ShardParams
) -> list[ShardEntry]:
    """Write the shards that the plan asks for, and the index of all."""
    with (
        SortedRuns(root / STATE / "shard-order", _ROW_SCHEMA, by="order") as rows,
        SortedRuns(root / STATE / "shard-index", PLAIN_INDEX, by="key") as index,
    ):
        for table in rows_to_write(root, classes, plan):
            rows.add(table.select(_ROW_SCHEMA.names).cast(_ROW_SCHEMA))
        packing = Packing(root, staging, plan, params, index)
        written = list(write_shards(packing, rows.merged()))
        with writing(staging / SHARD_INDEX.relative_to(DATA), INDEX_SCHEMA) as table:
            for batch in interleaved(carried_on(root, plan), index.merged()):
                table.write(batch)
    return written


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A folder that stands for data/ until all is done; empty at first, gone at the end.

    Raises:
        DiskError: instead of any OSError inside.
    """
    staging = root / DATA / ".staging"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        (staging / SHARDS.relative_to(DATA)).mkdir(parents=True)
        yield staging
    except OSError as error:
        told = error.strerror or error
        raise DiskError(f"cannot write {root / SHARDS}: {told}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _sizes(entries: list[ShardEntry]) -> dict[str, SplitSize]:
    sizes = {}
    for split in SPLIT_NAMES:
        of_split = [entry for entry in entries if split_of(entry.path) == split]
        if of_split:
            sizes[split] = SplitSize(
                num_samples=sum(entry.num_samples for entry in of_split),
                num_shards=len(of_split),
                size_bytes=sum(entry.size_bytes for entry in of_split),
            )
    return sizes


def _told(manifest: ShardManifest, num_written: int) -> str:
    sizes = ", ".join(f"{name} {size.num_samples:,}" for name, size in manifest.splits.items())
    total = sum(size.size_bytes for size in manifest.splits.values())
    return (
        f"shard: {sizes} images in {len(manifest.shards)} shards, {total / 1e6:.1f} MB; "
        f"{num_written} written, {len(manifest.shards) - num_written} left as they were"
    )

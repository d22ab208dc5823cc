"""The stage `shard`: WebDataset tars, their index and their manifest.

Images are packed in the order of their digests. That mixes the classes, which matters to whoever
streams shards through a small shuffle buffer, and needs no seed; and since new images only ever go
to new shards, adding some rewrites none that is there.
"""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.collector import collecting_seldom
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
from imagemill.shard.job import split_of
from imagemill.shard.jobs import ROW_SCHEMA, Packing, cut
from imagemill.shard.metadata import BARE_FORMATS, STRIPPERS
from imagemill.shard.plan import (
    FROM_SCRATCH,
    PLAIN_INDEX,
    Comparison,
    Plan,
    carried_on,
    rows_to_write,
)
from imagemill.shard.publish import carry_over, publish, recover
from imagemill.shard.rows import take_back
from imagemill.shard.survey import MEASURED, Survey, Surveyor, images_to_pack
from imagemill.shard.verified import damaged_shards, remember
from imagemill.shard.workers import worthwhile_workers, write_all
from imagemill.tasks.classification import extended_classes


@collecting_seldom()
def shard(
    root: Path,
    params: ShardParams,
    *,
    log: Callable[[str], None],
    full: bool = False,
    workers: int | None = None,
) -> None:
    """Pack all images of the split, leaving shards alone whose images did not change.

    The new state is made beside the old one, where unchanged shards appear as hard links, and
    takes its place in one step: a kill at any moment leaves the one or the other.

    Args:
        root: The project's root.
        params: The section `shard` of params.yaml.
        log: Takes one line for whoever watches the run.
        full: Write every shard again. Class ids stay.
        workers: Processes that write shards, 1 for none but this one; None: as many as the amount
            of work is worth. They change nothing in the result.

    Raises:
        IntegrityError: raw bytes changed since `ingest`, or stages disagree.
        SourceError: raw files are gone.
        DiskError: `data/shards` cannot be written, or the disk is full.
    """
    with _staging(root) as staging:
        recover(root / SHARDS)
        path = root / SHARD_MANIFEST
        before = ShardManifest.read(path) if path.exists() else None
        found, plan = _planned(root, None if full else _trusted(root, before, params))
        source = IngestSummary.read(root / SUMMARY).source
        known = _known_classes(before, found, source)
        if before is not None and known != before.classes:
            plan = FROM_SCRATCH
        classes = extended_classes(known, found.classes)
        unchanged = [
            entry for entry in (before.shards if before else ()) if entry.path in plan.unchanged
        ]
        for entry in unchanged:
            carry_over(root / DATA / entry.path, staging / entry.path)
        written, digest = _pack(Packing(root, staging, plan, params), classes, workers)
        entries = sorted([*unchanged, *written], key=lambda entry: entry.path)
        manifest = ShardManifest(
            digest=digest,
            index_digest=sha256_of_file(staging / SHARD_INDEX.relative_to(DATA)),
            classes=classes,
            channels=1 if found.all_grey else 3,
            pixel_mean=found.pixel_mean,
            pixel_std=found.pixel_std,
            splits=_sizes(entries),
            shards=entries,
            source=source,
            **params.model_dump(),
        )
        manifest.write(staging / SHARD_MANIFEST.relative_to(DATA))
        publish(staging / SHARDS.relative_to(DATA), root / SHARDS)
    remember(root, entries)
    log(_told(manifest, len(written)))
    if params.strip_metadata:
        _tell_what_was_not_stripped(found.formats, log)


def _trusted(root: Path, before: ShardManifest | None, params: ShardParams) -> ShardManifest | None:
    """What is there, if it can be carried on."""
    if before is None or before.model_copy(update=params.model_dump()) != before:
        return None
    index = root / SHARD_INDEX
    if not index.exists() or sha256_of_file(index) != before.index_digest:
        return None
    return before


def _planned(root: Path, before: ShardManifest | None) -> tuple[Survey, Plan]:
    """One pass over all images: what they are, and which shards they touch."""
    surveyor = Surveyor()
    comparison = Comparison(root, before, damaged_shards(root, before.shards)) if before else None
    columns = ["key", "size_bytes", "sha256", "target", "annotation"]
    for rows in images_to_pack(root, columns, MEASURED):
        surveyor.add(rows)
        if comparison:
            comparison.add(rows)
    return surveyor.survey(), comparison.plan() if comparison else FROM_SCRATCH


def _known_classes(before: ShardManifest | None, found: Survey, source: str) -> list[str]:
    """Class ids given so far.

    They begin anew when the source is another one and lacks some of them: then it is another data
    set, and a model should have no outputs for classes it can never see.
    """
    if before is None:
        return []
    same_data_set = before.source == source or found.classes.issuperset(before.classes)
    return before.classes if same_data_set else []


def _pack(
    packing: Packing, classes: Sequence[str], workers: int | None
) -> tuple[list[ShardEntry], str]:
    """Write the shards that the plan asks for, and the index of all; the digest of the data."""
    root, plan = packing.root, packing.plan
    written = []
    with (
        SortedRuns(root / STATE / "shard-order", ROW_SCHEMA, by="order") as rows,
        SortedRuns(root / STATE / "shard-index", PLAIN_INDEX, by="key") as index,
    ):
        num_images = size_bytes = 0
        for table in rows_to_write(root, classes, plan):
            rows.add(table.select(ROW_SCHEMA.names).cast(ROW_SCHEMA))
            num_images += table.num_rows
            size_bytes += pc.sum(table["size_bytes"]).as_py()
        changed = packing.params.max_side is not None
        count = workers or worthwhile_workers(num_images, size_bytes, changed=changed)
        for job, shard in write_all(cut(rows.merged(), packing), workers=count):
            for batch in take_back(job, PLAIN_INDEX):
                index.add(batch)
            written.append(ShardEntry(path=job.path, **shard._asdict()))
        return written, _write_index(packing, classes, index)


def _write_index(packing: Packing, classes: Sequence[str], index: SortedRuns) -> str:
    """Write the index of all shards, and take the digest of the data on the way."""
    hasher = hashlib.sha256()
    names = pa.array(classes, pa.string())
    before = carried_on(packing.root, packing.plan)
    with writing(packing.data / SHARD_INDEX.relative_to(DATA), INDEX_SCHEMA) as table:
        for batch in interleaved(before, index.merged()):
            table.write(batch)
            hasher.update(_lines(batch, names))
    return hasher.hexdigest()


def _lines(rows: pa.Table, classes: pa.Array) -> bytes:
    """One line an image: key, sha256, class name (empty: none) and split, parted by tabs."""
    target = pc.fill_null(pc.take(classes, rows["target"]), "")
    lines = pc.binary_join_element_wise(rows["key"], rows["sha256"], target, rows["split"], "\t")
    return ("\n".join(lines.to_pylist()) + "\n").encode()


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A folder that stands for data/ until all is done; empty at first, gone at the end.

    Its name is this process's own: what a worker of a killed run still writes goes nowhere.

    Raises:
        DiskError: instead of any OSError inside.
    """
    above = root / DATA / ".staging"
    staging = above / str(os.getpid())
    try:
        shutil.rmtree(above, ignore_errors=True)
        (staging / SHARDS.relative_to(DATA)).mkdir(parents=True)
        yield staging
    except OSError as error:
        told = error.strerror or error
        raise DiskError(f"cannot write {root / SHARDS}: {told}") from error
    finally:
        shutil.rmtree(above, ignore_errors=True)


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


def _tell_what_was_not_stripped(formats: Counter[str], log: Callable[[str], None]) -> None:
    """Never in silence: formats out of which we take nothing."""
    kept = {form: count for form, count in formats.items() if form not in STRIPPERS}
    told = [f"{count:,} {form}" for form, count in kept.items() if form not in BARE_FORMATS]
    if told:
        log(f"shard: strip_metadata does not know {', '.join(told)}: these files are as they were")

"""Raw files against the manifest of `ingest`: every image is read and hashed again."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa

from imagemill.errors import UserError
from imagemill.parquet import read_batches
from imagemill.records import MANIFEST
from imagemill.sources import RawReader
from imagemill.sources.entries import is_own_file
from imagemill.sources.raw import Frame
from imagemill.verify.findings import Fault, Slice, Watch, in_parallel

AREA = "raw"
_COLUMNS = ["key", "uri", "offset", "size_bytes", "sha256"]
_BATCH_ROWS = 512


def faults_in_raw_files(
    root: Path, part: Slice, threads: ThreadPoolExecutor, watch: Watch, *, ahead: int
) -> Iterator[Fault]:
    """Images whose bytes are not those on record; nothing where there is no manifest."""
    if not (root / MANIFEST).exists():
        return
    batches = (
        batch.filter(pa.array(part.mask(batch["key"].to_pylist()), pa.bool_()))
        for batch in read_batches(root / MANIFEST, _COLUMNS, batch_rows=_BATCH_ROWS)
    )
    check = partial(_checked, root)
    for num_images, faults in in_parallel(check, batches, threads, ahead=ahead):
        watch.count("raw images", num_images)
        yield from faults


def own_file(root: Path, uri: str, offset: int) -> Path | None:
    """The file on disk that is one raw image and nothing else; None where there is none."""
    return root / uri if is_own_file(uri, offset) else None


def _checked(root: Path, rows: pa.RecordBatch) -> tuple[int, list[Fault]]:
    keys, *places, expected = (rows[name].to_pylist() for name in _COLUMNS)
    frames = [Frame(*frame) for frame in zip(*places, strict=True)]
    with RawReader(root) as reader:
        digests = _digests(reader, frames) if frames else []
    faults = []
    for key, frame, digest, found in zip(keys, frames, expected, digests, strict=True):
        reason = _reason(found) if found != digest else _wrong_size(root, frame)
        if reason:
            faults.append(Fault(AREA, frame.uri, reason, member=key, raw=frame.uri))
    return rows.num_rows, faults


def _wrong_size(root: Path, frame: Frame) -> str | None:
    """What comes after the bytes on record is noticed too."""
    file = own_file(root, frame.uri, frame.offset)
    size = frame.size_bytes if file is None else file.stat().st_size
    return None if size == frame.size_bytes else f"it has {size} bytes, not {frame.size_bytes}"


def _digests(reader: RawReader, frames: list[Frame]) -> list[str | UserError]:
    """The digest of each image, or why there is none."""
    try:
        return list(reader.sha256_many(frames))
    except UserError:
        # One by one, to know which.
        return [_digest(reader, frame) for frame in frames]


def _digest(reader: RawReader, frame: Frame) -> str | UserError:
    try:
        return reader.sha256(*frame)
    except UserError as error:
        return error


def _reason(found: str | UserError) -> str:
    return (
        f"its sha256 is {found[:12]}, not that on record" if isinstance(found, str) else str(found)
    )

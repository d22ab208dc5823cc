"""The stage: list the source, take digests of what is new, apply what people decided, write."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from imagemill.errors import SourceError
from imagemill.ingest.keys import ROW_SCHEMA, KeyHashes, with_unique_keys
from imagemill.ingest.review import Reviews
from imagemill.ingest.seen import Seen
from imagemill.ingest.summary import SUMMARY, Tally, told
from imagemill.params import IngestParams
from imagemill.parquet import SortedRuns, writing
from imagemill.records import MANIFEST, MANIFEST_SCHEMA, REVIEW, SEEN, SEEN_SCHEMA, STATE
from imagemill.sources import Frame, RawImage, RawReader, key_and_extension, kind_of, open_source

_CHUNK_IMAGES = 2048


def ingest(
    root: Path, params: IngestParams, *, log: Callable[[str], None], rehash: bool = False
) -> None:
    """Read the source once and write the manifest, sorted by key.

    An image whose file is in the state its digest was taken from is not read again.

    Args:
        root: The project's root.
        params: The section `ingest` of params.yaml.
        log: Takes one line for whoever watches the run.
        rehash: Read every image, whatever is known of it.

    Raises:
        SourceError: the source is missing, empty, damaged, or has one class only.
        ReviewError: labels/review.csv does not say what it must.
        DiskError: `data/` or `.imagemill/` cannot be written.
    """
    source = open_source(root, params.source)
    reviews = Reviews.read(root / REVIEW)
    tally = Tally()
    with (
        writing(root / MANIFEST, MANIFEST_SCHEMA) as manifest,
        writing(root / SEEN, SEEN_SCHEMA) as seen_now,
        SortedRuns(root / STATE / "ingest", ROW_SCHEMA, by="order") as rows,
        RawReader(root) as reader,
    ):
        seen, keys = Seen(root / SEEN, reader, rehash=rehash), KeyHashes()
        for chunk in _chunks(source.images()):
            batch = _as_rows(chunk, seen, reader)
            keys.add(batch["key"].to_pylist())
            rows.add(batch)
            tally.add(chunk)
        tally.check(params.source)
        in_order = rows.merged() if keys.are_distinct() else with_unique_keys(rows, params.source)
        for table in seen.completed(in_order):
            manifest.write(reviews.applied(table, tally))
            seen_now.write(table)
        tally.check(params.source)
    summary = tally.summary(
        params.source, kind_of(root, params.source), source.remarks(), reviews.summary()
    )
    summary.write(root / SUMMARY)
    log(told(summary, num_read=seen.num_read))


def _chunks(images: Iterator[RawImage]) -> Iterator[list[RawImage]]:
    while chunk := list(islice(images, _CHUNK_IMAGES)):
        yield chunk


def _as_rows(chunk: list[RawImage], seen: Seen, reader: RawReader) -> pa.RecordBatch:
    keys_extensions = [key_and_extension(image.path) for image in chunk]
    uris = [_utf8(image.uri) for image in chunk]
    stamps = _stamps(chunk, reader)
    frames = [Frame(image.uri, image.offset, image.size_bytes) for image in chunk]
    columns = {
        "order": [f"{key}\0{key}\0{extension}" for key, extension in keys_extensions],
        "origin": [f"{key}\0{extension}" for key, extension in keys_extensions],
        "extension": [extension for _, extension in keys_extensions],
        "key": [key for key, _ in keys_extensions],
        "uri": uris,
        "offset": [image.offset for image in chunk],
        "size_bytes": [image.size_bytes for image in chunk],
        "sha256": seen.digests(frames, stamps),
        "target": [image.target and _utf8(image.target) for image in chunk],
        "group": [image.group for image in chunk],
        "split": [image.split for image in chunk],
        "annotation": [image.annotation for image in chunk],
        "review": pa.nulls(len(chunk), pa.string()),
        "stamp": stamps,
    }
    return pa.RecordBatch.from_pydict(columns, schema=ROW_SCHEMA)


def _stamps(chunk: list[RawImage], reader: RawReader) -> list[str | None]:
    """States of the files before they are read: a change while reading shows the next time."""
    of_shared = {image.uri: reader.stamp(image.uri) for image in _one_a_file(chunk)}
    return [of_shared[i.uri] if i.stamp is None else i.stamp for i in chunk]


def _one_a_file(chunk: list[RawImage]) -> list[RawImage]:
    """An image of each file whose state listing did not tell."""
    return list({image.uri: image for image in chunk if image.stamp is None}.values())


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise SourceError(f"the name {shown} is not UTF-8; rename it") from None
    return name

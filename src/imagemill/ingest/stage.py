"""The stage: list the source, take digests of what is new, apply what people decided, write."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.collector import collecting_seldom
from imagemill.errors import SourceError
from imagemill.ingest.keys import ROW_SCHEMA, KeyHashes, with_unique_keys
from imagemill.ingest.review import Reviews
from imagemill.ingest.seen import Seen
from imagemill.ingest.summary import SUMMARY, Tally, told
from imagemill.params import IngestParams
from imagemill.parquet import SortedRuns, writing
from imagemill.records import MANIFEST, MANIFEST_SCHEMA, REVIEW, SEEN, SEEN_SCHEMA, STATE
from imagemill.sources import RawImage, RawReader, key_and_extension, kind_of, open_source

_CHUNK_IMAGES = 2048


@collecting_seldom()
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
            rows.add(_as_rows(chunk, keys, seen, reader))
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


def _as_rows(
    chunk: list[RawImage], known_keys: KeyHashes, seen: Seen, reader: RawReader
) -> pa.RecordBatch:
    paths, uris, offsets, sizes, targets, groups, splits, annotations, listed = zip(
        *chunk, strict=True
    )
    keys, extensions = zip(*map(key_and_extension, paths), strict=True)
    known_keys.add(keys)
    key, extension = pa.array(keys, pa.string()), pa.array(extensions, pa.string())
    origin = pc.binary_join_element_wise(key, extension, "\0")
    stamps = _stamps(uris, listed, reader)
    columns = {
        "order": pc.binary_join_element_wise(key, origin, "\0"),
        "origin": origin,
        "extension": extension,
        "key": key,
        "uri": _utf8(uris),
        "offset": offsets,
        "size_bytes": sizes,
        "sha256": seen.digests(list(zip(uris, offsets, sizes, stamps, strict=True))),
        "target": _utf8(targets),
        "group": groups,
        "split": splits,
        "annotation": annotations,
        "review": pa.nulls(len(chunk), pa.string()),
        "stamp": stamps,
    }
    return pa.RecordBatch.from_pydict(columns, schema=ROW_SCHEMA)


def _stamps(
    uris: Sequence[str], listed: Sequence[str | None], reader: RawReader
) -> Sequence[str | None]:
    """States of the files before they are read: a change while reading shows the next time."""
    if None not in listed:
        return listed
    unlisted = dict.fromkeys(uri for uri, stamp in zip(uris, listed, strict=True) if stamp is None)
    asked = {uri: reader.stamp(uri) for uri in unlisted}
    return [asked.get(uri) if s is None else s for uri, s in zip(uris, listed, strict=True)]


def _utf8(names: Sequence[str | None]) -> pa.Array:
    try:
        return pa.array(names, pa.string())
    except UnicodeEncodeError as error:
        shown = error.object.encode("utf-8", "backslashreplace").decode()
        raise SourceError(f"the name {shown} is not UTF-8; rename it") from None

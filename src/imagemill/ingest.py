"""From a source to `data/ingest/manifest.parquet`: one row an image, with its digest."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.errors import SourceError
from imagemill.params import IngestParams
from imagemill.parquet import SortedRuns, writing
from imagemill.records import INGEST, MANIFEST, MANIFEST_SCHEMA, STATE, Record
from imagemill.sources import RawImage, RawReader, key_and_extension, kind_of, open_source

SUMMARY = INGEST / "summary.json"

_CHUNK_IMAGES = 2048
# `order` is key and origin; `origin` is the path itself and tells an image from every other one.
# NUL comes before every character of a key, ~ after every character a path begins with.
_ROW_SCHEMA = pa.schema(
    [
        pa.field("order", pa.string(), nullable=False),
        pa.field("origin", pa.string(), nullable=False),
        pa.field("extension", pa.string(), nullable=False),
        *MANIFEST_SCHEMA,
    ]
)


class IngestSummary(Record):
    """data/ingest/summary.json."""

    source: str
    kind: str
    num_images: int
    num_unlabelled: int
    size_bytes: int
    classes: dict[str, int]  # name -> images
    given_splits: dict[str, int]  # name -> images; images without a given split are not here


def ingest(root: Path, params: IngestParams, *, log: Callable[[str], None]) -> None:
    """Read the source once and write the manifest, sorted by key.

    Args:
        root: The project's root.
        params: The section `ingest` of params.yaml.
        log: Takes one line for whoever watches the run.

    Raises:
        SourceError: the source is missing, empty, damaged, or has one class only.
        DiskError: `data/` or `.imagemill/` cannot be written.
    """
    source = open_source(root, params.source)
    tally = _Tally()
    with (
        writing(root / MANIFEST, MANIFEST_SCHEMA) as manifest,
        SortedRuns(root / STATE / "ingest", _ROW_SCHEMA, by="order") as rows,
        RawReader(root) as reader,
    ):
        for chunk in _chunks(source.images()):
            rows.add(_hashed(chunk, reader))
            tally.add(chunk)
        tally.check(params.source)
        for table in _with_unique_keys(rows, params.source):
            manifest.write(table)
    summary = tally.summary(params.source, kind_of(root, params.source))
    summary.write(root / SUMMARY)
    log(_told(summary))


def _chunks(images: Iterator[RawImage]) -> Iterator[list[RawImage]]:
    while chunk := list(islice(images, _CHUNK_IMAGES)):
        yield chunk


def _hashed(chunk: list[RawImage], reader: RawReader) -> pa.RecordBatch:
    keys_extensions = [key_and_extension(image.path) for image in chunk]
    columns = {
        "order": [f"{key}\0{key}\0{extension}" for key, extension in keys_extensions],
        "origin": [f"{key}\0{extension}" for key, extension in keys_extensions],
        "extension": [extension for _, extension in keys_extensions],
        "key": [key for key, _ in keys_extensions],
        "uri": [_utf8(image.uri) for image in chunk],
        "offset": [image.offset for image in chunk],
        "size_bytes": [image.size_bytes for image in chunk],
        "sha256": [reader.sha256(i.uri, i.offset, i.size_bytes) for i in chunk],
        "target": [image.target and _utf8(image.target) for image in chunk],
        "group": [image.group for image in chunk],
        "split": [image.split for image in chunk],
        "annotation": [image.annotation for image in chunk],
        "review": pa.nulls(len(chunk), pa.string()),
    }
    return pa.RecordBatch.from_pydict(columns, schema=_ROW_SCHEMA)


def _utf8(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = name.encode("utf-8", "backslashreplace").decode()
        raise SourceError(f"the name {shown} is not UTF-8; rename it") from None
    return name


# Keys ----------------------------------------------------------------------------------------


def _with_unique_keys(rows: SortedRuns, where: str) -> Iterator[pa.Table]:
    """Rows sorted by key; of images with one key, all but the first get `_<extension>` added."""
    if not any(pc.any(repeats).as_py() for _, repeats in _repeats(rows, "key")):
        yield from rows.merged()
        return
    _refuse_listed_twice(rows, where)
    # A new key may meet another one, so look again; the renamed image gives way then too.
    with SortedRuns(rows.folder / "renamed", _ROW_SCHEMA, by="order") as renamed:
        for table, repeats in _repeats(rows, "key"):
            renamed.add(_renamed(table, repeats))
        yield from _with_unique_keys(renamed, where)


def _repeats(rows: SortedRuns, column: str) -> Iterator[tuple[pa.Table, pa.Array]]:
    """Tables, and a mask of rows that repeat the value of the row before."""
    last = ""
    for table in rows.merged():
        values = table[column].combine_chunks()
        before = pa.concat_arrays([pa.array([last]), values.slice(0, len(values) - 1)])
        last = values[-1].as_py()
        yield table, pc.equal(values, before)


def _refuse_listed_twice(rows: SortedRuns, where: str) -> None:
    for table, repeats in _repeats(rows, "order"):
        twice = table.filter(repeats)
        if twice.num_rows:
            path = twice["origin"][0].as_py().lstrip("~").replace("\0", ".")
            raise SourceError(f"{where} holds {path} twice; keep one of them")


def _renamed(table: pa.Table, repeats: pa.Array) -> pa.Table:
    longer = pc.binary_join_element_wise(table["key"], table["extension"], "_")
    later = pc.binary_join_element_wise("~", table["origin"], "")
    keys = pc.if_else(repeats, longer, table["key"])
    origins = pc.if_else(repeats, later, table["origin"])
    columns = {name: table[name] for name in _ROW_SCHEMA.names}
    columns |= {"order": pc.binary_join_element_wise(keys, origins, "\0")}
    columns |= {"key": keys, "origin": origins}
    return pa.table(columns, schema=_ROW_SCHEMA)


# Summary -------------------------------------------------------------------------------------


class _Tally:
    """What the source holds, counted while it streams by."""

    def __init__(self) -> None:
        self._classes: Counter[str | None] = Counter()
        self._splits: Counter[str | None] = Counter()
        self._size_bytes = 0

    def add(self, chunk: list[RawImage]) -> None:
        self._classes.update(image.target for image in chunk)
        self._splits.update(image.split for image in chunk)
        self._size_bytes += sum(image.size_bytes for image in chunk)

    def check(self, where: str) -> None:
        """Two classes at least, or there is nothing to tell apart."""
        names = sorted(name for name in self._classes if name is not None)
        if not self._classes:
            raise SourceError(f"{where} lists no images")
        if not names:
            raise SourceError(f"{where} has no labelled image: expected <class>/<image>")
        if len(names) == 1:
            raise SourceError(
                f"{where} has one class only ({names[0]!r}); a classifier needs two or more"
            )

    def summary(self, source: str, kind: str) -> IngestSummary:
        return IngestSummary(
            source=source,
            kind=kind,
            num_images=self._classes.total(),
            num_unlabelled=self._classes[None],
            size_bytes=self._size_bytes,
            classes={name: self._classes[name] for name in _named(self._classes)},
            given_splits={name: self._splits[name] for name in _named(self._splits)},
        )


def _named(counts: Counter[str | None]) -> list[str]:
    return sorted(name for name in counts if name is not None)


def _told(summary: IngestSummary) -> str:
    splits = ", ".join(f"{name} {count:,}" for name, count in summary.given_splits.items())
    return (
        f"ingest: {summary.num_images:,} images of {len(summary.classes)} classes, "
        f"{summary.size_bytes / 1e6:.1f} MB, from {summary.source}"
        + (f"; given splits: {splits}" if splits else "")
        + (f"; {summary.num_unlabelled:,} without a label" if summary.num_unlabelled else "")
    )

"""A CSV or Parquet file that lists images: path, label, and if wanted split and group."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from imagemill.errors import SourceError, UnknownNameError
from imagemill.sources import remote
from imagemill.sources.entries import FileStat, RawImage, Volume
from imagemill.sources.files import RawFile, file_on_disk, raw_file
from imagemill.sources.layout import SPLIT_OF_FOLDER, UNLABELLED

SUFFIXES = (".csv", ".parquet")
_REQUIRED = ("path", "label")
_OPTIONAL = ("split", "group")
_SPLITS = {**SPLIT_OF_FOLDER, UNLABELLED: UNLABELLED}
_BATCH_ROWS = 4096
# A remote list asks for the state of so many images at a time.
_BLOCK_ROWS = 256


class _Row(NamedTuple):
    number: int
    path: str
    label: str | None
    split: str | None
    group: str | None


class ManifestFile:
    """Rows of images whose paths start at the file's own folder. An empty label means none."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._uri = uri
        self._folder = uri.rpartition("/")[0] if remote.is_remote(uri) else str(Path(uri).parent)

    def images(self) -> Iterator[RawImage]:
        """All rows."""
        for row, file in self._files():
            if row.split is not None and row.split not in _SPLITS:
                where = f"split (row {row.number} of {self._uri})"
                raise UnknownNameError(where, row.split, _SPLITS)
            split = row.split and _SPLITS[row.split]
            yield RawImage(
                row.path,
                file.uri,
                0,
                file.size_bytes,
                row.label,
                row.group,
                split,
                stamp=file.stamp,
            )

    def stats(self) -> Iterator[FileStat]:
        """The file itself and every image it lists."""
        yield raw_file(self._root, self._uri).stat()
        for row, file in self._files():
            yield file.stat(row.path)

    def volume(self) -> Volume:
        """The images it lists."""
        num_files = size_bytes = 0
        for _, file in self._files():
            num_files += 1
            size_bytes += file.size_bytes
        return Volume(num_files, size_bytes, 0)

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    def _files(self) -> Iterator[tuple[_Row, RawFile]]:
        rows = self._rows()
        while block := list(islice(rows, _BLOCK_ROWS)):
            uris = [self._uri_of(row) for row in block]
            if not remote.is_remote(self._uri):
                for row, uri in zip(block, uris, strict=True):
                    yield row, self._found(row, uri)
                continue
            for row, uri, status in zip(block, uris, remote.statuses(uris), strict=True):
                if status is None:
                    raise SourceError(f"{self._where(row)}: there is no {uri}")
                yield row, RawFile(uri, None, status.size_bytes, status.stamp, status.stamp)

    def _uri_of(self, row: _Row) -> str:
        if not row.path:
            raise SourceError(f"{self._where(row)} has no path")
        if remote.is_remote(self._uri):
            return remote.uri_below(self._folder, row.path)
        return row.path if row.path.startswith("/") else f"{self._folder}/{row.path}"

    def _found(self, row: _Row, uri: str) -> RawFile:
        try:
            return file_on_disk(self._root / uri, uri)
        except SourceError as error:
            raise SourceError(f"{self._where(row)}: {error}") from None

    def _where(self, row: _Row) -> str:
        return f"row {row.number} of {self._uri}"

    def _rows(self) -> Iterator[_Row]:
        number = 0
        for batch in self._batches():
            columns = [self._column(batch, name) for name in (*_REQUIRED, *_OPTIONAL)]
            for path, label, split, group in zip(*columns, strict=True):
                number += 1
                yield _Row(number, path or "", label, split, group)

    def _column(self, batch: pa.RecordBatch, name: str) -> list[str | None]:
        if name not in batch.schema.names:
            return [None] * batch.num_rows
        values: list[str | None] = batch[name].cast(pa.string()).to_pylist()
        return [value or None for value in values]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        file = raw_file(self._root, self._uri)
        try:
            if self._uri.lower().endswith(".parquet"):
                with pq.ParquetFile(file.open(), pre_buffer=False) as parquet:
                    columns = self._wanted(parquet.schema_arrow.names)
                    yield from parquet.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
            else:
                with _open_csv(file, self._wanted(_column_names(file))) as reader:
                    yield from reader
        except (pa.ArrowInvalid, pa.ArrowKeyError, pa.ArrowNotImplementedError) as error:
            told = str(error).splitlines()[0]
            raise SourceError(f"{self._uri} cannot be read as a table: {told}") from None
        except OSError as error:
            raise SourceError(f"cannot read {self._uri}: {error.strerror or error}") from None

    def _wanted(self, names: list[str]) -> list[str]:
        missing = [name for name in _REQUIRED if name not in names]
        if missing:
            raise SourceError(
                f"{self._uri} has no column {missing[0]!r}; expected path and label, and if "
                f"wanted split and group, got {', '.join(names)}"
            )
        return [name for name in (*_REQUIRED, *_OPTIONAL) if name in names]


def _column_names(file: RawFile) -> list[str]:
    with pa.csv.open_csv(file.open()) as reader:
        names: list[str] = reader.schema.names
        return names


def _open_csv(file: RawFile, columns: list[str]) -> pa.csv.CSVStreamingReader:
    """Some columns as text: a label like 007 or NA means what it says."""
    return pa.csv.open_csv(
        file.open(),
        read_options=pa.csv.ReadOptions(use_threads=False),
        convert_options=pa.csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )

"""A CSV or Parquet file that lists images: path, label, and if wanted split and group."""

import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from imagemill.errors import SourceError, UnknownNameError
from imagemill.sources.entries import FileStat, RawImage
from imagemill.sources.layout import SPLIT_OF_FOLDER, UNLABELLED

SUFFIXES = (".csv", ".parquet")
_REQUIRED = ("path", "label")
_OPTIONAL = ("split", "group")
_SPLITS = {**SPLIT_OF_FOLDER, UNLABELLED: UNLABELLED}
_BATCH_ROWS = 4096


class ManifestFile:
    """Rows of images whose paths start at the file's own folder. An empty label means none."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._uri = uri
        self._folder = str(Path(uri).parent)

    def images(self) -> Iterator[RawImage]:
        """All rows."""
        for number, (path, label, split, group) in enumerate(self._rows(), start=1):
            uri, status = self._found(path, number)
            if split is not None and split not in _SPLITS:
                raise UnknownNameError(f"split (row {number} of {self._uri})", split, _SPLITS)
            yield RawImage(path, uri, 0, status.st_size, label, group, split and _SPLITS[split])

    def stats(self) -> Iterator[FileStat]:
        """The file itself and every image it lists."""
        status = (self._root / self._uri).stat()
        yield FileStat(Path(self._uri).name, status.st_size, status.st_mtime_ns)
        for number, (path, *_) in enumerate(self._rows(), start=1):
            _, status = self._found(path, number)
            yield FileStat(path, status.st_size, status.st_mtime_ns)

    def _found(self, path: str | None, number: int) -> tuple[str, os.stat_result]:
        where = f"row {number} of {self._uri}"
        if not path:
            raise SourceError(f"{where} has no path")
        uri = path if path.startswith("/") else f"{self._folder}/{path}"
        try:
            return uri, (self._root / uri).stat()
        except OSError as error:
            raise SourceError(f"{where}: cannot read {uri}: {error.strerror}") from None

    def _rows(self) -> Iterator[tuple[str, str | None, str | None, str | None]]:
        for batch in self._batches():
            columns = [self._column(batch, name) for name in (*_REQUIRED, *_OPTIONAL)]
            yield from zip(*columns, strict=True)

    def _column(self, batch: pa.RecordBatch, name: str) -> list[str | None]:
        if name not in batch.schema.names:
            return [None] * batch.num_rows
        values: list[str | None] = batch[name].cast(pa.string()).to_pylist()
        return [value or None for value in values]

    def _batches(self) -> Iterator[pa.RecordBatch]:
        path = self._root / self._uri
        try:
            if self._uri.lower().endswith(".parquet"):
                with pq.ParquetFile(path, pre_buffer=False) as file:
                    columns = self._wanted(file.schema_arrow.names)
                    yield from file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False)
            else:
                with _open_csv(path, self._wanted(_column_names(path))) as reader:
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


def _column_names(path: Path) -> list[str]:
    with pa.csv.open_csv(path) as reader:
        names: list[str] = reader.schema.names
        return names


def _open_csv(path: Path, columns: list[str]) -> pa.csv.CSVStreamingReader:
    """Some columns as text: a label like 007 or NA means what it says."""
    return pa.csv.open_csv(
        path,
        read_options=pa.csv.ReadOptions(use_threads=False),
        convert_options=pa.csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )

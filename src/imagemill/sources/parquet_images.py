"""Parquet files with the images' bytes in a column, as Hugging Face data sets come.

The images of each file are copied to a plain tar: pages of Parquet are compressed, and an image in
one cannot be framed by an offset.
"""

import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from imagemill import tars
from imagemill.errors import SourceError
from imagemill.sources import plain_tars
from imagemill.sources.entries import IMAGE_EXTENSIONS, FileStat, RawImage, Volume
from imagemill.sources.files import RawFile, raw_file
from imagemill.sources.layout import split_in_name
from imagemill.sources.trees import Tree, levels, open_tree

PREFIX = "parquet:"
SUFFIX = ".parquet"
_SUBFOLDER = "data/"  # of a repository on the Hugging Face hub
_LABELS = ("label", "labels", "class", "target", "fine_label", "category")
_BATCH_IMAGES = 32
_BATCH_LABELS = 4096
_BEGINNINGS = (
    (b"\x89PNG", "png"), (b"\xff\xd8\xff", "jpg"), (b"GIF8", "gif"), (b"BM", "bmp"),
    (b"II*\0", "tif"), (b"MM\0*", "tif"), (b"\0\0\0\x0cjP", "jp2"),
)  # fmt: skip


class Columns(NamedTuple):
    """What the columns of a file mean."""

    image: str
    is_struct: bool
    label: str | None
    classes: list[str] | None  # by id


class ParquetImages:
    """One file, or a folder of them such as `train-00000-of-00002.parquet`."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._uri = uri

    def images(self) -> Iterator[RawImage]:
        """All rows; a file's name says its split."""
        for name, file in self._files():
            yield from self._images_in(name, file)

    def stats(self) -> Iterator[FileStat]:
        """The files."""
        for name, file in self._files():
            yield file.stat(name)

    def volume(self) -> Volume:
        """Rows as the files' ends say, bytes as packed: images hardly shrink."""
        num_files = size_bytes = 0
        for _, file in self._files():
            with _opened(file) as parquet:
                num_files += parquet.metadata.num_rows
            size_bytes += file.size_bytes
        return Volume(num_files, size_bytes, size_bytes + 2 * tars.BLOCK * num_files)

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    def _files(self) -> Iterator[tuple[str, RawFile]]:
        if self._uri.lower().endswith(SUFFIX):
            yield self._uri.rpartition("/")[2], raw_file(self._root, self._uri)
            return
        tree = open_tree(self._root, self._uri)
        folder, names = parquet_names(tree)
        base = self._uri.rstrip("/")
        for name in names:
            yield name, raw_file(self._root, f"{base}/{folder}{name}")

    def _images_in(self, name: str, file: RawFile) -> Iterator[RawImage]:
        stem = name[: -len(SUFFIX)]
        split = split_in_name(stem)
        members = tars.members(plain_tar(self._root, file.uri))
        labels = _labels(file)
        for member, label in zip(members, labels, strict=True):
            path, uri = f"{stem}/{member.name}", PREFIX + file.uri
            yield RawImage(path, uri, member.offset, member.size_bytes, label, None, split)


def parquet_names(tree: Tree) -> tuple[str, list[str]]:
    """Where the Parquet files of a tree lie and what they are called; no names: it has none."""
    for folder, names in levels(tree):
        for subfolder in ("", _SUBFOLDER):
            if subfolder and subfolder not in names:
                continue
            inside = tree.names(folder + subfolder) if subfolder else names
            found = [name for name in inside if name.lower().endswith(SUFFIX)]
            if found:
                return folder + subfolder, found
    return "", []


def has_images(root: Path, uri: str) -> bool:
    """Whether a Parquet file holds images, and is no list of paths.

    Raises:
        SourceError: it is no Parquet file.
    """
    with _opened(raw_file(root, uri)) as parquet:
        return _image_column(parquet.schema_arrow, _features(parquet.schema_arrow)) is not None


def plain_tar(root: Path, uri: str) -> Path:
    """The tar of one file's images, made again when it is missing.

    Raises:
        SourceError: the file is damaged, or a row has no image.
    """
    file = raw_file(root, uri)
    return plain_tars.made(
        root, place=f"parquet {file.place}", state=file.state, write=partial(_write, file)
    )


def _write(file: RawFile, target: Path) -> None:
    limit = plain_tars.expansion_limit(file.size_bytes)
    with target.open("wb", buffering=0) as stream:
        writer = tars.TarWriter(stream)
        for number, (content, path) in enumerate(_contents(file)):
            if content is None:
                raise SourceError(
                    f"row {number + 1} of {file.uri} has no image bytes"
                    + (f", only the path {path}; list such files in a CSV" if path else "")
                )
            plain_tars.refuse_bomb(writer.size_bytes + len(content), limit, file.uri)
            writer.add(f"{number:08d}{_suffix(content, path)}", content)
        writer.close()


def _suffix(content: bytes, path: str | None) -> str:
    """As the file was called, right or wrong; else by content; "" where neither tells."""
    _, dot, named = (path or "").rpartition(".")
    if dot and named.lower() in IMAGE_EXTENSIONS:
        return f".{named}"
    for beginning, extension in _BEGINNINGS:
        if content.startswith(beginning):
            return f".{extension}"
    return ".webp" if content[8:12] == b"WEBP" else ""


# Columns -------------------------------------------------------------------------------------


def _opened(file: RawFile) -> pq.ParquetFile:
    try:
        # Pages come one after the other, not a whole row group at once.
        return pq.ParquetFile(file.open(), pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowInvalid, OSError) as error:
        told = str(error).splitlines()[0]
        raise SourceError(f"{file.uri} is no Parquet file, or cut short: {told}") from None


def _columns(schema: pa.Schema, where: str) -> Columns:
    features = _features(schema)
    image = _image_column(schema, features)
    if image is None:
        raise SourceError(
            f"{where} has no column of images: expected binary values or structs with 'bytes', "
            f"got {', '.join(schema.names)}"
        )
    label = _label_column(schema, features)
    classes = features.get(label, {}).get("names") if label else None
    is_struct = pa.types.is_struct(schema.field(image).type)
    return Columns(image, is_struct, label, classes if isinstance(classes, list) else None)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What the `datasets` library notes about columns: {name: {_type, names}}."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = noted["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {name: entry for name, entry in features.items() if isinstance(entry, dict)}


def _image_column(schema: pa.Schema, features: dict[str, Any]) -> str | None:
    fitting = [field.name for field in schema if _holds_bytes(field.type)]
    noted = [name for name in fitting if features.get(name, {}).get("_type") == "Image"]
    called = [name for name in fitting if re.match("image|img", name, re.IGNORECASE)]
    return next(iter([*noted, *called, *fitting]), None)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _holds_bytes(kind.field(position).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _label_column(schema: pa.Schema, features: dict[str, Any]) -> str | None:
    noted = [name for name in schema.names if features.get(name, {}).get("_type") == "ClassLabel"]
    for candidates in (noted, schema.names):
        for name in _LABELS:
            if name in candidates:
                return name
    return noted[0] if noted else None


# Rows ----------------------------------------------------------------------------------------


def _batches(file: RawFile, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    with _opened(file) as parquet:
        try:
            yield from parquet.iter_batches(batch_rows, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            told = str(error).splitlines()[0]
            raise SourceError(f"{file.uri} is damaged: {told}") from None


def _schema(file: RawFile) -> pa.Schema:
    with _opened(file) as parquet:
        return parquet.schema_arrow


def _contents(file: RawFile) -> Iterator[tuple[bytes | None, str | None]]:
    columns = _columns(_schema(file), file.uri)
    for batch in _batches(file, [columns.image], _BATCH_IMAGES):
        for value in batch[columns.image].to_pylist():
            if columns.is_struct:
                yield (value["bytes"], value.get("path")) if value else (None, None)
            else:
                yield value, None


def _labels(file: RawFile) -> Iterator[str | None]:
    columns = _columns(_schema(file), file.uri)
    if columns.label is None:
        with _opened(file) as parquet:
            yield from (None for _ in range(parquet.metadata.num_rows))
        return
    for batch in _batches(file, [columns.label], _BATCH_LABELS):
        yield from _named(batch[columns.label], columns, file.uri)


def _named(values: pa.Array, columns: Columns, where: str) -> Iterable[str | None]:
    if not pa.types.is_integer(values.type):
        if pa.types.is_nested(values.type) or pa.types.is_floating(values.type):
            raise SourceError(
                f"{where}: the column {columns.label!r} holds {values.type}, expected class ids "
                "or names"
            )
        return [value or None for value in values.cast(pa.string()).to_pylist()]
    # The `datasets` library writes -1 where there is no label.
    ids = [None if value is None or value < 0 else value for value in values.to_pylist()]
    if columns.classes is None:
        return [None if value is None else str(value) for value in ids]
    beyond = max((value for value in ids if value is not None), default=0)
    if beyond >= len(columns.classes):
        raise SourceError(
            f"{where} has the label {beyond}, but only {len(columns.classes)} classes are named"
        )
    return [None if value is None else columns.classes[value] for value in ids]

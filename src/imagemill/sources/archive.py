"""Archives, read in place; a compressed one is first turned into a plain tar, never extracted."""

import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from gzip import BadGzipFile, GzipFile
from itertools import islice
from pathlib import Path
from typing import IO, BinaryIO

import pyarrow as pa

from imagemill import tars
from imagemill.errors import SourceError
from imagemill.parquet import read_batches, writing
from imagemill.sources import plain_tars, zips
from imagemill.sources.entries import Entry, Volume, checked_name, is_hidden, is_image_name
from imagemill.sources.files import RawFile, file_on_disk, raw_file

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
# Small members that a source reads to know what an image is.
TEXTS = (".cls", ".json", ".txt", ".xml")
_MAX_TEXT_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 20
_SAMPLE = 1000
_GZIP_MAGIC = b"\x1f\x8b"
_ZIP_MAGIC = b"PK"
_LISTING_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("text", pa.binary()),
    ]
)
_LISTING_ROWS = 4096

Described = tuple[Entry, bytes | None]


def is_archive_name(uri: str) -> bool:
    """Whether the name is that of an archive; what follows a question mark is no name."""
    return uri.partition("?")[0].lower().endswith(SUFFIXES)


def readable_file(root: Path, uri: str) -> RawFile:
    """The file in which members can be read in place, made again when it is missing.

    That is the archive itself, or a plain tar in `.imagemill/` that belongs to one state of it.

    Raises:
        SourceError: the archive is missing, damaged or a decompression bomb.
    """
    packed = raw_file(root, uri)
    magic = _magic(packed)
    if magic == _GZIP_MAGIC:
        return _plain(root, packed, _decompress)
    if _is_read_in_place_remotely(packed):
        return packed
    if magic == _ZIP_MAGIC and _is_compressed(packed):
        return _plain(root, packed, _repack)
    return packed


def _plain(root: Path, packed: RawFile, convert: Callable[[RawFile, Path], None]) -> RawFile:
    path = plain_tars.made(
        root, place=packed.place, state=packed.state, write=partial(convert, packed)
    )
    return file_on_disk(path, packed.uri)


def volume(root: Path, uri: str) -> Volume:
    """Look at the directory of a zip, or at the first members of a tar.

    Raises:
        SourceError: the archive is missing or damaged.
    """
    packed = raw_file(root, uri)
    magic = _magic(packed)
    if _is_read_in_place_remotely(packed):
        sizes = [entry.size_bytes for entry, _ in _listing(root, packed) if entry.kind == "file"]
        return Volume(len(sizes), sum(sizes), 0)
    if magic == _ZIP_MAGIC:
        with packed.open() as stream:
            sizes = [m.size_bytes for m in zips.members(stream, uri) if m.kind == "file"]
        tar_bytes = sum(sizes) + 2 * tars.BLOCK * len(sizes)
        return Volume(len(sizes), sum(sizes), tar_bytes if _is_compressed(packed) else 0)
    total = packed.size_bytes
    if magic == _GZIP_MAGIC:
        with packed.open() as stream:
            # gzip keeps the size modulo 4 GiB, and images do not shrink.
            stream.seek(-4, 2)
            total = max(int.from_bytes(stream.read(4), "little"), total)
    files = [entry for entry in _first_members(packed, total) if entry.kind == "file"]
    end = files[-1].offset + files[-1].size_bytes if files else 0
    # As if all files were as large as the first ones.
    num_files = round(len(files) * total / end) if end else 0
    return Volume(num_files, total, total if magic == _GZIP_MAGIC else 0)


def first_names(root: Path, uri: str, limit: int = _SAMPLE) -> list[str]:
    """Paths of the first members (folders with a slash at the end), hidden ones left out.

    Raises:
        SourceError: the archive is missing or damaged.
    """
    packed = raw_file(root, uri)
    if _is_read_in_place_remotely(packed):
        found = [entry for entry, _ in islice(_listing(root, packed), limit)]
    elif _magic(packed) == _ZIP_MAGIC:
        with packed.open() as stream:
            found = [Entry(m.name, m.kind, 0, 0) for m in islice(zips.members(stream, uri), limit)]
    else:
        found = _first_members(packed, 1 << 62, limit)
    names = [(checked_name(entry.path, where=uri), entry.kind) for entry in found]
    return [name + "/" * (kind == "folder") for name, kind in names if name and not is_hidden(name)]


def _first_members(packed: RawFile, total_bytes: int, limit: int = _SAMPLE) -> list[Entry]:
    try:
        with packed.open(buffering=1 << 14) as stream:
            inside: IO[bytes] | GzipFile = stream
            if _magic(packed) == _GZIP_MAGIC:
                inside = GzipFile(fileobj=stream)
            found = tars.members_of(inside, packed.uri, total_bytes=total_bytes)
            return [Entry(*member) for member in islice(found, limit)]
    except (BadGzipFile, EOFError, zlib.error):
        raise _damaged(packed) from None


def _damaged(packed: RawFile) -> SourceError:
    return SourceError(f"{packed.uri} is damaged or cut short: it cannot be decompressed")


# Members -------------------------------------------------------------------------------------


def entries(root: Path, uri: str) -> Iterator[Entry]:
    """What lies in an archive, hidden files left out.

    Raises:
        SourceError: damaged, or a member that points outside.
    """
    file = readable_file(root, uri)
    if file.path is None:
        yield from (entry for entry, _ in _listing(root, file))
        return
    with file.open(buffering=1 << 14) as stream:
        found = _zip_entries(file, stream) if _is_zip(file) else _tar_entries(file, stream)
        yield from _visible(found, uri)


def described(root: Path, uri: str) -> Iterator[Described]:
    """Members of a tar with the content of small texts among them.

    Raises:
        SourceError: damaged, or a member that points outside.
    """
    file = readable_file(root, uri)
    if file.path is None:
        yield from _listing(root, file)
        return
    with file.open(buffering=1 << 14) as stream:
        for entry in _visible(_tar_entries(file, stream), uri):
            yield entry, _text(entry, stream)


def _visible(found: Iterator[Entry], where: str) -> Iterator[Entry]:
    for entry in found:
        name = checked_name(entry.path, where=where)
        if name and not is_hidden(name):
            yield entry if name == entry.path else entry._replace(path=name)


def _text(entry: Entry, stream: BinaryIO) -> bytes | None:
    """Reading moves the stream, and walking a tar moves it on from wherever it is."""
    if entry.kind != "file" or not entry.path.lower().endswith(TEXTS):
        return None
    if entry.size_bytes > _MAX_TEXT_BYTES:
        return None
    stream.seek(entry.offset)
    return stream.read(entry.size_bytes)


def _tar_entries(file: RawFile, stream: BinaryIO) -> Iterator[Entry]:
    where = file.path or file.uri
    for member in tars.members_of(stream, where, total_bytes=file.size_bytes):
        yield Entry(member.name, member.kind, member.offset, member.size_bytes)


def _zip_entries(file: RawFile, stream: BinaryIO) -> Iterator[Entry]:
    with file.open(buffering=64) as headers:
        for member in zips.members(stream, file.uri):
            offset = zips.content_offset(headers, member) if member.kind == "file" else 0
            yield Entry(member.name, member.kind, offset, member.size_bytes)


def _listing(root: Path, file: RawFile) -> Iterator[Described]:
    """Members of a remote archive, kept on disk: walking it again costs no request."""
    path = plain_tars.made(
        root, place=file.uri, state=file.state, write=partial(_list, file), suffix=".members"
    )
    for batch in read_batches(path):
        yield from (
            (Entry(row["path"], row["kind"], row["offset"], row["size_bytes"]), row["text"])
            for row in batch.to_pylist()
        )


def _list(file: RawFile, target: Path) -> None:
    with writing(target, _LISTING_SCHEMA) as rows, file.open() as stream:
        found = _zip_entries(file, stream) if _is_zip(file) else _tar_entries(file, stream)
        described = (
            {"text": None if _is_zip(file) else _text(entry, stream), **entry._asdict()}
            for entry in _visible(found, file.uri)
        )
        while block := list(islice(described, _LISTING_ROWS)):
            rows.write(pa.Table.from_pylist(block, schema=_LISTING_SCHEMA))


# Making plain --------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def _magic(file: RawFile) -> bytes:
    """How a file in this state begins."""
    with file.open(buffering=0) as stream:
        return stream.read(2)


@lru_cache(maxsize=64)
def _is_read_in_place_remotely(packed: RawFile) -> bool:
    """Whether its members are read by ranges: then they are listed once and for all."""
    if packed.path is not None or _magic(packed) == _GZIP_MAGIC:
        return False
    return not (_is_zip(packed) and _is_compressed(packed))


def _is_zip(file: RawFile) -> bool:
    return _magic(file) == _ZIP_MAGIC


def _is_compressed(file: RawFile) -> bool:
    with file.open() as stream:
        return any(
            member.method != zips.STORED and member.kind == "file"
            for member in zips.members(stream, file.uri)
        )


def _decompress(packed: RawFile, target: Path) -> None:
    limit = plain_tars.expansion_limit(packed.size_bytes)
    with packed.open() as stream, target.open("wb") as out:
        unzipped = GzipFile(fileobj=stream)
        written = 0
        while chunk := _read(unzipped, packed):
            written += len(chunk)
            plain_tars.refuse_bomb(written, limit, packed.uri)
            out.write(chunk)


def _read(stream: GzipFile, packed: RawFile) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except (BadGzipFile, EOFError, zlib.error):
        raise _damaged(packed) from None


def _repack(packed: RawFile, target: Path) -> None:
    """From zip to tar: folders and files, all but hidden ones."""
    limit = plain_tars.expansion_limit(packed.size_bytes)
    with (
        packed.open() as directory,
        packed.open() as stream,
        target.open("wb", buffering=0) as out,
    ):
        writer = tars.TarWriter(out)
        for member in zips.members(directory, packed.uri):
            name = checked_name(member.name, where=packed.uri)
            if not name or is_hidden(name):
                continue
            if member.kind == "folder":
                writer.add_folder(name)
                continue
            plain_tars.refuse_bomb(writer.size_bytes + member.size_bytes, limit, packed.uri)
            _add(writer, stream, member._replace(name=name), packed.uri)
        writer.close()


def _add(writer: tars.TarWriter, stream: BinaryIO, member: zips.ZipMember, where: str) -> None:
    if member.kind == "other" and is_image_name(member.name):
        raise SourceError(f"{where}: {member.name!r} is a link, not a file; pack the image itself")
    if member.kind == "file":
        writer.add_chunks(member.name, member.size_bytes, zips.content(stream, member, where))

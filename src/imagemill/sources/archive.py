"""An archive read in place; a compressed one is first turned into a plain tar, never extracted."""

import hashlib
import zlib
from collections.abc import Callable, Iterator
from gzip import BadGzipFile, GzipFile
from itertools import islice
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from imagemill import tars
from imagemill.errors import SourceError
from imagemill.records import STATE, publishing
from imagemill.sources import zips
from imagemill.sources.entries import (
    Entry,
    FileStat,
    RawImage,
    checked_name,
    is_hidden,
    is_image_name,
)
from imagemill.sources.layout import labelled

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")
# Images are compressed already: mnist.tar.gz expands 6 times (tar pads tiny files), blank bitmaps
# some 200 times. What expands further is a bomb.
MAX_EXPANSION = 250
_NEVER_A_BOMB_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20
_SAMPLE = 1000
_GZIP_MAGIC = b"\x1f\x8b"
_ZIP_MAGIC = b"PK"


class Archive:
    """A tar, tar.gz or zip with the folders of `Folder` inside."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._uri = uri

    def images(self) -> Iterator[RawImage]:
        """All images; those in no class folder, or in `unlabelled`, have no class."""
        file = readable_file(self._root, self._uri)
        yield from labelled(
            lambda: entries(file, where=self._uri), where=self._uri, uri_of=lambda _: self._uri
        )

    def stats(self) -> Iterator[FileStat]:
        """The archive alone."""
        status = (self._root / self._uri).stat()
        yield FileStat(Path(self._uri).name, status.st_size, status.st_mtime_ns)


def is_archive_name(path: str) -> bool:
    """Whether the name is that of an archive."""
    return path.lower().endswith(SUFFIXES)


def readable_file(root: Path, uri: str) -> Path:
    """The file in which members can be read in place, made again when it is missing.

    That is the archive itself, or a plain tar in `.imagemill/` that belongs to the archive's
    path, size and modification time.

    Raises:
        SourceError: the archive is missing, damaged or a decompression bomb.
    """
    path = root / uri
    magic = _magic(path)
    if magic == _GZIP_MAGIC:
        return _plain_tar(root, path, _decompress)
    if magic == _ZIP_MAGIC and _is_compressed(path):
        return _plain_tar(root, path, _repack)
    return path


class Volume(NamedTuple):
    """Roughly what an archive holds, told without unpacking it."""

    num_files: int
    content_bytes: int
    unpacked_bytes: int  # of the plain tar in `.imagemill/`; 0 if it is read in place


def volume(root: Path, uri: str) -> Volume:
    """Look at the directory of a zip, or at the first members of a tar.

    Raises:
        SourceError: the archive is missing or damaged.
    """
    path = root / uri
    magic = _magic(path)
    if magic == _ZIP_MAGIC:
        sizes = [member.size_bytes for member in zips.members(path) if member.kind == "file"]
        tar_bytes = sum(sizes) + 2 * tars.BLOCK * len(sizes)
        return Volume(len(sizes), sum(sizes), tar_bytes if _is_compressed(path) else 0)
    if magic == _GZIP_MAGIC:
        # gzip keeps the size modulo 4 GiB, and images do not shrink.
        with path.open("rb") as packed:
            packed.seek(-4, 2)
            unpacked = max(int.from_bytes(packed.read(4), "little"), path.stat().st_size)
        with GzipFile(path) as unzipped:
            return Volume(_num_files(unzipped, path, unpacked), unpacked, unpacked)
    total = path.stat().st_size
    with path.open("rb", buffering=16384) as stream:
        return Volume(_num_files(stream, path, total), total, 0)


def _num_files(stream: IO[bytes] | GzipFile, path: Path, total_bytes: int) -> int:
    """Files in a tar, as if all were as large as the first ones."""
    try:
        first = list(islice(tars.members_of(stream, path, total_bytes=total_bytes), _SAMPLE))
    except (BadGzipFile, EOFError, zlib.error):
        raise SourceError(f"{path} is damaged or cut short: it cannot be decompressed") from None
    files = [member for member in first if member.kind == "file"]
    if not files:
        return 0
    return round(len(files) * total_bytes / (files[-1].offset + files[-1].size_bytes))


def entries(file: Path, *, where: str) -> Iterator[Entry]:
    """What lies in a readable file, hidden files left out.

    Raises:
        SourceError: damaged, or a member that points outside.
    """
    found = _zip_entries(file) if _magic(file) == _ZIP_MAGIC else _tar_entries(file)
    for entry in found:
        name = checked_name(entry.path, where=where)
        if name and not is_hidden(name):
            yield entry if name == entry.path else entry._replace(path=name)


def _tar_entries(file: Path) -> Iterator[Entry]:
    for member in tars.members(file):
        yield Entry(member.name, member.kind, member.offset, member.size_bytes)


def _zip_entries(file: Path) -> Iterator[Entry]:
    with file.open("rb", buffering=64) as stream:
        for member in zips.members(file):
            offset = zips.content_offset(stream, member) if member.kind == "file" else 0
            yield Entry(member.name, member.kind, offset, member.size_bytes)


def _magic(path: Path) -> bytes:
    try:
        with path.open("rb", buffering=0) as stream:
            return stream.read(2)
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from None


def _is_compressed(path: Path) -> bool:
    return any(
        member.method != zips.STORED and is_image_name(member.name) for member in zips.members(path)
    )


def _plain_path(root: Path, path: Path) -> Path:
    status = path.stat()
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    content = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:16]
    return root / STATE / "sources" / f"{place}-{content}.tar"


def _plain_tar(root: Path, path: Path, convert: Callable[[Path, Path], None]) -> Path:
    plain = _plain_path(root, path)
    if not plain.exists():
        with publishing(plain) as temporary:
            convert(path, temporary)
        _remove_older(plain)
    return plain


def _remove_older(plain: Path) -> None:
    """Tars of the same archive before it changed."""
    place = plain.name.partition("-")[0]
    for other in plain.parent.glob(f"{place}-*.tar"):
        if other != plain:
            other.unlink(missing_ok=True)


def _decompress(path: Path, target: Path) -> None:
    limit = _limit(path)
    with path.open("rb") as packed, target.open("wb") as out:
        stream = GzipFile(fileobj=packed)
        written = 0
        while chunk := _read(stream, path):
            written += len(chunk)
            _refuse_bomb(written, limit, path)
            out.write(chunk)


def _read(stream: GzipFile, path: Path) -> bytes:
    try:
        return stream.read(_CHUNK_BYTES)
    except (BadGzipFile, EOFError, zlib.error):
        raise SourceError(f"{path} is damaged or cut short: it cannot be decompressed") from None


def _repack(path: Path, target: Path) -> None:
    """From zip to tar: folders, and files with the name of an image."""
    limit = _limit(path)
    with path.open("rb") as packed, target.open("wb", buffering=0) as out:
        writer = tars.TarWriter(out)
        for member in zips.members(path):
            name = checked_name(member.name, where=str(path))
            if not name or is_hidden(name):
                continue
            if member.kind == "folder":
                writer.add_folder(name)
            elif is_image_name(name):
                _refuse_bomb(writer.size_bytes + member.size_bytes, limit, path)
                _add(writer, packed, member._replace(name=name), path)
        writer.close()


def _add(writer: tars.TarWriter, packed: BinaryIO, member: zips.ZipMember, path: Path) -> None:
    if member.kind == "other":
        raise SourceError(f"{path}: {member.name!r} is a link, not a file; pack the image itself")
    writer.add_chunks(member.name, member.size_bytes, zips.content(packed, member, path))


def _limit(path: Path) -> int:
    return max(_NEVER_A_BOMB_BYTES, MAX_EXPANSION * path.stat().st_size)


def _refuse_bomb(size_bytes: int, limit: int, path: Path) -> None:
    if size_bytes > limit:
        raise SourceError(
            f"{path} expands to more than {limit} bytes, {MAX_EXPANSION} times its size: "
            "this looks like a decompression bomb; pack the images as a plain .tar"
        )

"""Raw bytes by (uri, offset, size_bytes), as the manifest of `ingest` notes them."""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Self

from imagemill.errors import IntegrityError, SourceError
from imagemill.sources import archive, digits, parquet_images, remote
from imagemill.sources.cifar import Cifar
from imagemill.sources.files import file_on_disk, raw_file
from imagemill.sources.idx import Idx

_MAX_OPEN_FILES = 16
_CHUNK_BYTES = 1 << 20
# What is fetched at once lies in memory.
_MAX_FETCHED_BYTES = 1 << 26

# Beginning of a uri -> the plain tar made of what comes after it.
_MADE: dict[str, Callable[[Path, str], Path]] = {
    Cifar.prefix: Cifar.plain_tar,
    Idx.prefix: Idx.plain_tar,
    parquet_images.PREFIX: parquet_images.plain_tar,
}


class Frame(NamedTuple):
    """Where the bytes of an image lie."""

    uri: str
    offset: int
    size_bytes: int


class RawReader:
    """Reads raw images; a context manager that keeps a few files open.

    Args:
        root: The project's root, where relative uris start.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._open: OrderedDict[str, int] = OrderedDict()
        self._streams: OrderedDict[str, remote.Stream] = OrderedDict()
        self._holders: dict[str, Path | None] = {}
        self._threads: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        while self._open:
            self._close_oldest()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def read(self, uri: str, offset: int, size_bytes: int) -> bytes:
        """The bytes of one image.

        Raises:
            SourceError: the file is gone or cannot be read.
            IntegrityError: the file is shorter than it was.
        """
        if offset == 0 and _is_whole_file(uri):
            return _fetched(Frame(uri, offset, size_bytes))
        return self._read_part(uri, offset, size_bytes)

    def _read_part(self, uri: str, offset: int, size_bytes: int) -> bytes:
        content = self._read_some(uri, size_bytes, offset)
        while len(content) < size_bytes:
            more = self._read_some(uri, size_bytes - len(content), offset + len(content))
            if not more:
                raise IntegrityError(f"{uri} is shorter than on record; run `imagemill scan`")
            content += more
        return content

    def sha256(self, uri: str, offset: int, size_bytes: int) -> str:
        """Digest of one image, however large."""
        if size_bytes <= _CHUNK_BYTES:
            return hashlib.sha256(self.read(uri, offset, size_bytes)).hexdigest()
        hasher = hashlib.sha256()
        for start in range(offset, offset + size_bytes, _CHUNK_BYTES):
            size = min(_CHUNK_BYTES, offset + size_bytes - start)
            hasher.update(self._read_part(uri, start, size))
        return hasher.hexdigest()

    def read_many(self, frames: Iterable[Frame]) -> Iterator[bytes]:
        """The bytes of images in the order asked for; remote files are fetched several at a time.

        Raises:
            SourceError: a file is gone or cannot be read.
            IntegrityError: a file is shorter than it was.
        """
        for block in _blocks(frames):
            if all(_is_whole_file(frame.uri) for frame in block):
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(remote.NUM_THREADS)
                yield from self._threads.map(_fetched, block)
            else:
                yield from (self.read(*frame) for frame in block)

    def sha256_many(self, frames: list[Frame]) -> Iterator[str]:
        """Digests of images in the order asked for; remote files are fetched several at a time."""
        if all(_is_whole_file(f.uri) and f.size_bytes <= _MAX_FETCHED_BYTES for f in frames):
            for content in self.read_many(frames):
                yield hashlib.sha256(content).hexdigest()
        else:
            yield from (self.sha256(*frame) for frame in frames)

    def stamp(self, uri: str) -> str | None:
        """The present state of the file that holds the bytes; None if nothing tells it.

        While it is the same, so are the bytes: of a local file "mtime_ns inode size", of a remote
        one its etag and size.

        Raises:
            SourceError: the file is gone or cannot be reached.
        """
        path = self.local_file(uri)
        return raw_file(self._root, uri).stamp if path is None else file_on_disk(path, uri).stamp

    def local_file(self, uri: str) -> Path | None:
        """The local file that holds the bytes; None: they are read from the address itself.

        Raises:
            SourceError: the source is gone or damaged.
        """
        if uri == digits.NAME:
            return digits.plain_tar(self._root)
        prefix, colon, rest = uri.partition(":")
        if prefix + colon in _MADE:
            return _MADE[prefix + colon](self._root, rest)
        if archive.is_archive_name(uri):
            return archive.readable_file(self._root, uri).path
        return None if remote.is_remote(uri) else self._root / uri

    def _read_some(self, uri: str, size_bytes: int, offset: int) -> bytes:
        if remote.is_remote(uri) and self._holder(uri) is None:
            return self._stream(uri).read_at(offset, size_bytes)
        try:
            return os.pread(self._descriptor(uri), size_bytes, offset)
        except OSError as error:
            raise SourceError(f"cannot read {uri}: {error.strerror}") from None

    def _descriptor(self, uri: str) -> int:
        descriptor = self._open.get(uri)
        if descriptor is None:
            if len(self._open) >= _MAX_OPEN_FILES:
                self._close_oldest()
            path = self._holder(uri)
            assert path is not None
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._open[uri] = descriptor
        return descriptor

    def _close_oldest(self) -> None:
        os.close(self._open.popitem(last=False)[1])

    def _stream(self, uri: str) -> remote.Stream:
        stream = self._streams.get(uri)
        if stream is None:
            if len(self._streams) >= _MAX_OPEN_FILES:
                self._streams.popitem(last=False)
            stream = remote.Stream(uri, raw_file(self._root, uri).size_bytes)
            self._streams[uri] = stream
        return stream

    def _holder(self, uri: str) -> Path | None:
        """`local_file`, asked once for what many images share."""
        if not _is_shared(uri):
            return self.local_file(uri)
        if uri not in self._holders:
            self._holders[uri] = self.local_file(uri)
        return self._holders[uri]


def _is_shared(uri: str) -> bool:
    """Whether a uri names something with many images in it."""
    prefix, colon, _ = uri.partition(":")
    return prefix + colon in _MADE or archive.is_archive_name(uri)


def _is_whole_file(uri: str) -> bool:
    """Whether a uri names a remote file that is one image."""
    return remote.is_remote(uri) and not _is_shared(uri)


def _fetched(frame: Frame) -> bytes:
    content = remote.read(frame.uri)
    if len(content) != frame.size_bytes:
        raise IntegrityError(
            f"{frame.uri} has {len(content)} bytes, not the {frame.size_bytes} on record; run "
            "`imagemill scan`"
        )
    return content


def _blocks(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Frames in groups of not too many bytes."""
    block: list[Frame] = []
    size_bytes = 0
    for frame in frames:
        if block and size_bytes + frame.size_bytes > _MAX_FETCHED_BYTES:
            yield block
            block, size_bytes = [], 0
        block.append(frame)
        size_bytes += frame.size_bytes
    if block:
        yield block

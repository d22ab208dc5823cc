"""What is packed in an archive as a tree of files."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from imagemill.sources import archive
from imagemill.sources.entries import Entry, FileStat, Volume
from imagemill.sources.files import RawFile, raw_file


class ArchiveTree:
    """What is packed in a tar, tar.gz or zip.

    `find` keeps the places of all members in memory, some 250 bytes each, from its first call on.
    """

    def __init__(self, root: Path, uri: str) -> None:
        self.uri = uri
        self._root = root
        self._places: dict[str, Entry] | None = None
        self._first_names: list[str] | None = None
        self._readable: RawFile | None = None

    def entries(self) -> Iterator[Entry]:
        """Everything that is not hidden."""
        return archive.entries(self._root, self.uri)

    def outline(self) -> Iterator[Entry]:
        """The same."""
        return self.entries()

    def names(self, folder: str) -> list[str]:
        """What lies right in a folder, as far as the first thousand members tell."""
        below = (name[len(folder) :] for name in self._firsts() if name.startswith(folder))
        return sorted({head + slash for head, slash, _ in (n.partition("/") for n in below)} - {""})

    def has(self, path: str) -> bool:
        """Whether it is among the first members."""
        return path in self._firsts()

    def _firsts(self) -> list[str]:
        if self._first_names is None:
            self._first_names = archive.first_names(self._root, self.uri)
        return self._first_names

    def find(self, path: str) -> Entry | None:
        """The member of that name."""
        if self._places is None:
            self._places = {e.path: e for e in self.entries() if e.kind == "file"}
        return self._places.get(path)

    def open(self, entry: Entry) -> BinaryIO:
        """The member's bytes, read in place."""
        if self._readable is None:
            self._readable = archive.readable_file(self._root, self.uri)
        stream = self._readable.open()
        stream.seek(entry.offset)
        return _Section(stream, entry.offset, entry.size_bytes)  # type: ignore[return-value]

    def uri_of(self, entry: Entry) -> str:  # noqa: ARG002
        """The archive's own."""
        return self.uri

    def stats(self) -> Iterator[FileStat]:
        """The archive alone."""
        yield raw_file(self._root, self.uri).stat()

    def volume(self) -> Volume:
        """From its directory or its first members."""
        return archive.volume(self._root, self.uri)


class _Section(io.RawIOBase):
    """A part of a stream as a stream of its own."""

    def __init__(self, stream: BinaryIO, offset: int, size_bytes: int) -> None:
        super().__init__()
        self._stream, self._offset, self._size = stream, offset, size_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._position, 0)
        self._stream.seek(self._offset + self._position)
        content = self._stream.read(left if size < 0 else min(size, left))
        self._position += len(content)
        return content

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()

"""One file of a source, on disk or at an address, behind the same calls."""

from pathlib import Path
from typing import BinaryIO, NamedTuple

from imagemill.errors import SourceError
from imagemill.sources import remote
from imagemill.sources.entries import FileStat
from imagemill.stamps import stamp_of


class RawFile(NamedTuple):
    """A file of a source as it is now."""

    uri: str
    path: Path | None  # None: it is read from its address by ranges
    size_bytes: int
    mark: int | str | None  # as in FileStat
    stamp: str | None  # as of `RawReader.stamp`

    @property
    def place(self) -> str:
        """Where it is, the same in all its states."""
        return self.uri if self.path is None else str(self.path.resolve())

    @property
    def state(self) -> str:
        """What changes when its content does."""
        return f"{self.size_bytes} {self.mark}"

    def open(self, *, buffering: int = 1 << 16) -> BinaryIO:
        """A seekable stream of its bytes.

        Raises:
            SourceError: it cannot be read.
        """
        if self.path is None:
            return remote.open_stream(self.uri, self.size_bytes)
        try:
            return self.path.open("rb", buffering=buffering)
        except OSError as error:
            raise SourceError(f"cannot read {self.path}: {error.strerror}") from None

    def read(self, *, max_bytes: int) -> bytes:
        """All of its bytes.

        Raises:
            SourceError: there are more than `max_bytes`, or it cannot be read.
        """
        if self.size_bytes > max_bytes:
            raise SourceError(
                f"{self.uri} has {self.size_bytes} bytes, expected {max_bytes} at most"
            )
        with self.open() as stream:
            return stream.read()

    def stat(self, name: str | None = None) -> FileStat:
        """Its line for `scan`."""
        return FileStat(name or self.uri.rpartition("/")[2], self.size_bytes, self.mark)


def raw_file(root: Path, uri: str) -> RawFile:
    """The file at a uri; a relative one starts at the project's root.

    Raises:
        SourceError: there is no such file, or it cannot be reached.
    """
    if remote.is_remote(uri):
        found = remote.status(uri)
        if found is None or found.kind != "file":
            raise SourceError(f"{uri} does not exist or is no file")
        return RawFile(uri, None, found.size_bytes, found.stamp, found.stamp)
    return file_on_disk(root / uri, uri)


def file_on_disk(path: Path, uri: str) -> RawFile:
    """The file at a path that a uri stands for.

    Raises:
        SourceError: there is no such file, or it cannot be reached.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise SourceError(f"cannot read {uri}: {error.strerror}") from None
    return RawFile(uri, path, status.st_size, status.st_mtime_ns, stamp_of(status))


def exists(root: Path, uri: str) -> bool:
    """Whether there is a file or a folder at a uri.

    Raises:
        SourceError: its server cannot be reached, or refuses.
    """
    return remote.status(uri) is not None if remote.is_remote(uri) else (root / uri).exists()

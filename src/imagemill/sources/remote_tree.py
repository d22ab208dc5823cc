"""What lies below an address as a tree of files."""

from collections.abc import Iterator
from typing import BinaryIO

from imagemill.sources import remote
from imagemill.sources.entries import Entry, FileStat, Volume, counted


class RemoteTree:
    """What lies below an address."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def entries(self) -> Iterator[Entry]:
        """Everything that is not hidden."""
        return remote.entries(self.uri)

    def outline(self) -> Iterator[Entry]:
        """The same."""
        return self.entries()

    def names(self, folder: str) -> list[str]:
        """What lies right in a folder."""
        return remote.names(remote.uri_below(self.uri, folder))

    def has(self, path: str) -> bool:
        """Whether there is a file."""
        return self.find(path) is not None

    def find(self, path: str) -> Entry | None:
        """The file at a path."""
        found = remote.status(remote.uri_below(self.uri, path))
        if found is None or found.kind != "file":
            return None
        return Entry(path, "file", 0, found.size_bytes, found.stamp)

    def open(self, entry: Entry) -> BinaryIO:
        """The file."""
        return remote.open_stream(self.uri_of(entry), entry.size_bytes)

    def uri_of(self, entry: Entry) -> str:
        """The file's own address."""
        return remote.uri_below(self.uri, entry.path)

    def stats(self) -> Iterator[FileStat]:
        """All files; an etag is their mark."""
        for entry in self.entries():
            slash = "/" if entry.kind == "folder" else ""
            yield FileStat(entry.path + slash, entry.size_bytes, entry.stamp)

    def volume(self) -> Volume:
        """All files."""
        return counted(self.entries())

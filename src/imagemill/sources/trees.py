"""Where the files of a source lie: in a folder, in an archive, or at an address; one face for all.

A kind of source (class folders, VOC, ...) asks a tree for names and bytes and does not know which
of the three it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from imagemill.errors import SourceError
from imagemill.sources import archive, remote
from imagemill.sources.archive_tree import ArchiveTree
from imagemill.sources.entries import Entry, FileStat, Volume
from imagemill.sources.folder_tree import FolderTree
from imagemill.sources.remote_tree import RemoteTree

_MAX_LOOKED_THROUGH = 4


class Tree(Protocol):
    """Files below one name."""

    uri: str

    def entries(self) -> Iterator[Entry]:
        """Everything that is not hidden, in any order; paths are relative to the tree."""

    def outline(self) -> Iterator[Entry]:
        """The same, but what costs time may be left out: sizes, states, and a folder's images
        behind the first of them."""

    def names(self, folder: str) -> list[str]:
        """What lies right in a folder ("" or "a/b/"), sorted; folders end with a slash."""

    def has(self, path: str) -> bool:
        """Whether there is a file, told cheaply: of an archive only the beginning is looked at."""

    def find(self, path: str) -> Entry | None:
        """The file at a path."""

    def open(self, entry: Entry) -> BinaryIO:
        """A seekable stream that begins with the entry's bytes and may go on after them."""

    def uri_of(self, entry: Entry) -> str:
        """What the manifest says as the place of an entry."""

    def stats(self) -> Iterator[FileStat]:
        """All files in an order that only depends on their names."""

    def volume(self) -> Volume:
        """Roughly how much there is."""


def open_tree(root: Path, uri: str) -> Tree:
    """The folder, archive or address at a uri.

    Raises:
        SourceError: there is nothing, or it cannot be reached.
    """
    if archive.is_archive_name(uri) and (remote.is_remote(uri) or not (root / uri).is_dir()):
        return ArchiveTree(root, uri)
    return RemoteTree(uri) if remote.is_remote(uri) else FolderTree(root, uri)


def content_of(tree: Tree, path: str, *, max_bytes: int) -> bytes | None:
    """The bytes of a small file; None if there is none at that path.

    Raises:
        SourceError: it has more than `max_bytes`, or cannot be read.
    """
    entry = tree.find(path)
    if entry is None:
        return None
    if entry.size_bytes > max_bytes:
        raise SourceError(
            f"{tree.uri}: {path} has {entry.size_bytes} bytes, expected {max_bytes} at most"
        )
    with tree.open(entry) as stream:
        return stream.read(entry.size_bytes)


def single_folder(names: list[str]) -> str | None:
    """The folder around everything, if there is one and no image beside it."""
    folders = [name for name in names if name.endswith("/")]
    return folders[0] if len(folders) == 1 else None


def levels(tree: Tree) -> Iterator[tuple[str, list[str]]]:
    """Folders in which a known layout may begin, and their names: the top, and single ones in it.

    Raises:
        SourceError: the tree cannot be read.
    """
    folder = ""
    for _ in range(_MAX_LOOKED_THROUGH):
        names = tree.names(folder)
        yield folder, names
        below = single_folder(names)
        if below is None:
            return
        folder += below

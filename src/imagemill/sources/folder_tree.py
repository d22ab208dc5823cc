"""A folder on disk as a tree of files."""

import os
import stat
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from imagemill.errors import SourceError
from imagemill.sources.entries import HIDDEN, Entry, FileStat, Volume, counted, is_image_name
from imagemill.sources.files import file_on_disk
from imagemill.stamps import stamp_of


class FolderTree:
    """A folder on disk. Links are followed, but not in circles."""

    def __init__(self, root: Path, uri: str) -> None:
        self.uri = uri
        self._path = root / uri
        self._base = uri.rstrip("/")

    def entries(self) -> Iterator[Entry]:
        """Everything that is not hidden."""
        return map(itemgetter(0), _walk(str(self._path), "", (), in_order=False))

    def outline(self) -> Iterator[Entry]:
        """Everything that is not hidden without its sizes; of a folder's images one is enough."""
        return _outline(str(self._path), "", ())

    def names(self, folder: str) -> list[str]:
        """What lies right in a folder."""
        items = _items(str(self._path / folder), in_order=True)
        return [item.name + "/" * _is_folder(item) for item in items]

    def has(self, path: str) -> bool:
        """Whether there is a file."""
        return self.find(path) is not None

    def find(self, path: str) -> Entry | None:
        """The file at a path."""
        try:
            status = (self._path / path).stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return Entry(path, "file", 0, status.st_size, stamp_of(status))

    def open(self, entry: Entry) -> BinaryIO:
        """The file."""
        return file_on_disk(self._path / entry.path, self.uri_of(entry)).open()

    def uri_of(self, entry: Entry) -> str:
        """The file's own path."""
        return f"{self._base}/{entry.path}"

    def stats(self) -> Iterator[FileStat]:
        """All files and folders that are not hidden."""
        for entry, mtime_ns in _walk(str(self._path), "", (), in_order=True):
            slash = "/" if entry.kind == "folder" else ""
            yield FileStat(entry.path + slash, entry.size_bytes, mtime_ns)

    def volume(self) -> Volume:
        """All files."""
        return counted(self.entries())


# Walking a folder ----------------------------------------------------------------------------


_Identity = tuple[int, int]  # device and inode


def _outline(folder: str, prefix: str, parents: tuple[_Identity, ...]) -> Iterator[Entry]:
    """Everything below a folder by its kind, which listing tells: only folders are asked."""
    has_image = False
    for item in _items(folder, in_order=False):
        if _is_folder(item):
            status = item.stat()
            identity = (status.st_dev, status.st_ino)
            if identity not in parents:
                yield Entry(prefix + item.name, "folder", 0, 0)
                yield from _outline(item.path, f"{prefix}{item.name}/", (*parents, identity))
        elif not item.is_file():
            yield Entry(prefix + item.name, "other", 0, 0)
        elif not is_image_name(item.name):
            yield Entry(prefix + item.name, "file", 0, 0)
        elif not has_image:
            has_image = True
            yield Entry(prefix + item.name, "file", 0, 0)


def _walk(
    folder: str, prefix: str, parents: tuple[_Identity, ...], *, in_order: bool
) -> Iterator[tuple[Entry, int]]:
    """Everything below a folder with its mtime; links are followed, but not in circles."""
    for item in _items(folder, in_order=in_order):
        path = prefix + item.name
        status = _status(item)
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            yield Entry(path, "file", 0, status.st_size, stamp_of(status)), status.st_mtime_ns
        elif kind != stat.S_IFDIR:
            yield Entry(path, "other", 0, status.st_size, stamp_of(status)), status.st_mtime_ns
        elif (identity := (status.st_dev, status.st_ino)) not in parents:
            # Not the folder's own mtime: every file in it has one.
            yield Entry(path, "folder", 0, 0), 0
            yield from _walk(item.path, f"{path}/", (*parents, identity), in_order=in_order)


def _items(folder: str, *, in_order: bool) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder; a list of it only where order matters."""
    try:
        with os.scandir(folder) as found:
            for item in sorted(found, key=lambda item: item.name) if in_order else found:
                if not item.name.startswith(HIDDEN):
                    yield item
    except OSError as error:
        raise SourceError(f"cannot read folder {folder}: {error.strerror}") from None


def _status(item: os.DirEntry[str]) -> os.stat_result:
    """Of what a link points to; of the link itself where that is nothing."""
    try:
        return item.stat()
    except OSError:
        return item.stat(follow_symlinks=False)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:
        return False

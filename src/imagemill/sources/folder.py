"""A folder of images on disk."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from imagemill.errors import SourceError
from imagemill.sources.entries import Entry, FileStat, RawImage, is_hidden
from imagemill.sources.layout import labelled


class Folder:
    """`<class>/*.jpg`, or `train|val|validation|test/<class>/*.jpg`, or both below one folder."""

    def __init__(self, root: Path, uri: str) -> None:
        self._path = root / uri
        self._uri = uri

    def images(self) -> Iterator[RawImage]:
        """All images; those in no class folder, or in `unlabelled`, have no class."""
        base = self._uri.rstrip("/")
        yield from labelled(self._entries, where=self._uri, uri_of=lambda e: f"{base}/{e.path}")

    def stats(self) -> Iterator[FileStat]:
        """All files and folders that are not hidden."""
        for entry, mtime_ns in _walk(str(self._path), "", (), in_order=True):
            slash = "/" if entry.kind == "folder" else ""
            yield FileStat(entry.path + slash, entry.size_bytes, mtime_ns)

    def _entries(self) -> Iterator[Entry]:
        return (entry for entry, _ in _walk(str(self._path), "", (), in_order=False))


def _walk(
    folder: str, prefix: str, parents: tuple[tuple[int, int], ...], *, in_order: bool
) -> Iterator[tuple[Entry, int]]:
    """Everything below a folder with its mtime; links are followed, but not in circles."""
    for item in _items(folder, in_order=in_order):
        path = prefix + item.name
        status = _status(item)
        if not stat.S_ISDIR(status.st_mode):
            kind: Literal["file", "other"] = "file" if stat.S_ISREG(status.st_mode) else "other"
            yield Entry(path, kind, 0, status.st_size), status.st_mtime_ns
            continue
        identity = (status.st_dev, status.st_ino)
        if identity not in parents:
            # Not the folder's own mtime: every file in it has one.
            yield Entry(path, "folder", 0, 0), 0
            yield from _walk(item.path, f"{path}/", (*parents, identity), in_order=in_order)


def _items(folder: str, *, in_order: bool) -> Iterator[os.DirEntry[str]]:
    """What lies in a folder; a list of it only where order matters."""
    try:
        with os.scandir(folder) as found:
            items = (item for item in found if not is_hidden(item.name))
            yield from sorted(items, key=lambda item: item.name) if in_order else items
    except OSError as error:
        raise SourceError(f"cannot read folder {folder}: {error.strerror}") from None


def _status(item: os.DirEntry[str]) -> os.stat_result:
    """Of what a link points to; of the link itself where that is nothing."""
    try:
        return item.stat()
    except OSError:
        return item.stat(follow_symlinks=False)

"""Images in folders that are their classes: on disk, in an archive, or at an address."""

from collections.abc import Iterator
from pathlib import Path

from imagemill.sources.entries import FileStat, RawImage, Volume
from imagemill.sources.layout import labelled
from imagemill.sources.trees import open_tree


class Folder:
    """`<class>/*.jpg`, or `train|val|validation|test/<class>/*.jpg`, or both below one folder."""

    def __init__(self, root: Path, uri: str) -> None:
        self._tree = open_tree(root, uri)

    def images(self) -> Iterator[RawImage]:
        """All images; those in no class folder, or in `unlabelled`, have no class."""
        return labelled(self._tree)

    def stats(self) -> Iterator[FileStat]:
        """All files and folders that are not hidden."""
        return self._tree.stats()

    def volume(self) -> Volume:
        """All files."""
        return self._tree.volume()

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

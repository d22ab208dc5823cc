"""Raw pixels as PNG files in a plain tar: the same bytes on every machine."""

import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from imagemill import tars
from imagemill.errors import SourceError
from imagemill.sources.entries import FileStat, RawImage, Volume
from imagemill.sources.plain_tars import expansion_limit, made, refuse_bomb
from imagemill.sources.trees import open_tree

_GREY, _RGB = 0, 2
# Around the pixels of a PNG: signature, header, ends of chunks, frame of the stored block.
_FRAME_BYTES = 68


def png(levels: NDArray[np.uint8]) -> bytes:
    """An 8-bit PNG with stored (not compressed) pixels; compressors differ between machines.

    Args:
        levels: Grey [H, W] or RGB [H, W, 3].
    """
    height, width = levels.shape[:2]
    colour = _GREY if levels.ndim == 2 else _RGB
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    # Each row begins with the number of its filter: 0, none.
    rows = np.zeros((height, 1 + levels[0].size), np.uint8)
    rows[:, 1:] = levels.reshape(height, -1)
    pixels = zlib.compress(rows.tobytes(), 0)
    body = _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def tar_bytes(num_images: int, image_bytes: int) -> int:
    """Room that a tar of PNGs takes, from above."""
    return num_images * (image_bytes + _FRAME_BYTES + 2 * tars.BLOCK) + 2 * tars.BLOCK


class PixelSet(ABC):
    """A source of raw pixels: its images are those of a plain tar of PNGs, made of them once."""

    prefix: ClassVar[str]  # of the uri in the manifest; after it comes that of the source

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._uri = uri
        self._tree = open_tree(root, uri)

    @abstractmethod
    def volume(self) -> Volume:
        """How much there is of it."""

    @abstractmethod
    def pictures(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Names and pixels, as `png` takes them."""

    @abstractmethod
    def labels(self) -> Iterator[tuple[str, str]]:
        """Class and split of each picture."""

    def images(self) -> Iterator[RawImage]:
        """All images.

        Raises:
            SourceError: a file is missing or damaged, or there are not as many labels as images.
        """
        uri = self.prefix + self._uri
        members = tars.members(self.plain_tar(self._root, self._uri))
        try:
            for (target, split), member in zip(self.labels(), members, strict=True):
                frame = (member.offset, member.size_bytes)
                yield RawImage(member.name, uri, *frame, target, None, split)
        except ValueError:
            told = f"{self._uri} does not have as many labels as images"
            raise SourceError(told) from None

    def stats(self) -> Iterator[FileStat]:
        """The folder's files, or the archive."""
        return self._tree.stats()

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    @classmethod
    def plain_tar(cls, root: Path, uri: str) -> Path:
        """The tar of PNGs, made again when it is missing.

        Raises:
            SourceError: a file is missing, damaged, or not what it should be.
        """
        source = cls(root, uri)
        stats = list(source.stats())
        limit = expansion_limit(sum(found.size_bytes for found in stats))
        return made(
            root,
            place=f"{cls.prefix}{uri if '://' in uri else (root / uri).resolve()}",
            state=repr(stats),
            write=partial(_write_tar, source.pictures(), limit, uri),
        )


def _write_tar(
    pictures: Iterator[tuple[str, NDArray[np.uint8]]], limit: int, where: str, path: Path
) -> None:
    with path.open("wb", buffering=0) as stream:
        writer = tars.TarWriter(stream)
        for name, levels in pictures:
            writer.add(name, png(levels))
            refuse_bomb(writer.size_bytes, limit, where)
        writer.close()

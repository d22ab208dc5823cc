"""Raw pixels as PNG files in a plain tar: the same bytes on every machine."""

import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill import tars
from imagemill.errors import SourceError
from imagemill.sources.entries import RawImage
from imagemill.sources.plain_tars import expansion_limit, refuse_bomb

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


def write_tar(
    path: Path, named: Iterable[tuple[str, NDArray[np.uint8]]], *, packed_bytes: int, where: str
) -> None:
    """Write named images as members of a tar.

    Raises:
        SourceError: there is far more than a source of `packed_bytes` can hold.
    """
    limit = expansion_limit(packed_bytes)
    with path.open("wb", buffering=0) as stream:
        writer = tars.TarWriter(stream)
        for name, levels in named:
            writer.add(name, png(levels))
            refuse_bomb(writer.size_bytes, limit, where)
        writer.close()


def labelled_members(
    tar: Path, uri: str, labels: Iterator[tuple[str | None, str | None]]
) -> Iterator[RawImage]:
    """The members of such a tar with their labels, which come in the same order.

    Args:
        tar: The tar.
        uri: What the manifest says as its place.
        labels: Class and split of each member.

    Raises:
        SourceError: there are more or fewer labels than images.
    """
    try:
        for (target, split), member in zip(labels, tars.members(tar), strict=True):
            yield RawImage(member.name, uri, member.offset, member.size_bytes, target, None, split)
    except ValueError:
        where = uri.partition(":")[2]
        raise SourceError(f"{where} does not have as many labels as images") from None

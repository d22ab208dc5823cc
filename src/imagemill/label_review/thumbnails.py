"""Small pictures of images in shards, as data URIs: a page that needs no other file."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imagemill.decoding import decode, encode_png
from imagemill.errors import IntegrityError
from imagemill.records import DATA, SHARD_INDEX

_LARGEST_SIDE = 220
# Up to here PNG is as small as JPEG, and no pixel of a digit is lost.
_TINY_SIDE = 64
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 80]


class Thumbnail(NamedTuple):
    """A picture and its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnails(root: Path, keys: Sequence[str], *, channels: int) -> list[Thumbnail]:
    """Pictures of whole images, uncropped.

    Args:
        root: The project's root.
        keys: Of images in data/shards.
        channels: 1 (grey) or 3.

    Returns:
        One for each key, in order.

    Raises:
        IntegrityError: a shard is missing, or an image cannot be decoded.
    """
    columns = ["key", "shard", "offset", "size_bytes"]
    is_wanted = pc.field("key").isin(pa.array(keys, pa.string()))
    rows = pq.read_table(root / SHARD_INDEX, columns=columns, filters=is_wanted).to_pylist()
    by_key = {row["key"]: row for row in rows}
    made = []
    for key in keys:
        row = by_key[key]
        data = _read(root / DATA / row["shard"], row["offset"], row["size_bytes"])
        try:
            made.append(thumbnail(decode(data, channels=channels)))
        except IntegrityError as error:
            raise IntegrityError(f"image {key!r} {error}") from None
    return made


def thumbnail(image_HWC: NDArray[np.uint8]) -> Thumbnail:
    """One picture, no larger than a card of the page; the same pixels give the same bytes."""
    height, width, channels = image_HWC.shape
    factor = min(1.0, _LARGEST_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(image_HWC, size, interpolation=cv2.INTER_AREA) if factor < 1 else image_HWC
    small_HWC = small.reshape(size[1], size[0], channels).astype(np.uint8, copy=False)
    if max(size) <= _TINY_SIDE:
        return Thumbnail(_uri("image/png", encode_png(small_HWC)), *size)
    bgr = small_HWC if channels == 1 else cv2.cvtColor(small_HWC, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, _JPEG)
    assert done, "encoding uint8 pixels as JPEG cannot fail"
    return Thumbnail(_uri("image/jpeg", bytes(encoded)), *size)


def _read(shard: Path, offset: int, size_bytes: int) -> bytes:
    try:
        with shard.open("rb") as stream:
            stream.seek(offset)
            return stream.read(size_bytes)
    except OSError as error:
        raise IntegrityError(f"cannot read shard {shard}: {error.strerror or error}") from None


def _uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"

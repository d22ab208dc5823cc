"""Whole images, each by the fastest decoder that gives Pillow's pixels.

Measured (docs/loading.md): simplejpeg for JPEG, OpenCV for PNG, Pillow for everything else and for
whatever the other two refuse. Only Pillow's refusal is final, as it is in the audit.
"""

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from imagemill.decoding import pillow
from imagemill.decoding.headers import Header, read_header
from imagemill.decoding.orientation import turned_upright
from imagemill.frames import Buffer

Pixels = NDArray[np.uint8]

_COLOURS = {1: "GRAY", 3: "RGB"}
# OpenCV makes grey of grey PNGs only as Pillow does.
_GREY_PNG = frozenset([0, 4])
_FLAGS = {
    1: cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION,
    3: cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION,
}


def decode(data: Buffer, *, channels: int) -> Pixels:
    """Decode an image at its own size.

    Args:
        data: An encoded image (JPEG, PNG, ...).
        channels: 1 (grey) or 3 (RGB).

    Returns:
        uint8 [H, W, C], upright.

    Raises:
        IntegrityError: not an image that can be decoded.
    """
    header = read_header(data)
    stored_HWC = decode_stored(data, header, channels=channels)
    if stored_HWC is None:
        return pillow.decode(data, channels=channels)
    return turned_upright(stored_HWC, header.orientation)


def decode_stored(
    data: Buffer, header: Header, *, channels: int, buffer: Pixels | None = None, scale: int = 1
) -> Pixels | None:
    """The pixels as they are stored, before the orientation is applied.

    Args:
        data: An encoded image.
        header: What `read_header` said of it.
        channels: 1 or 3.
        buffer: Where a JPEG's pixels may be put, large enough for all of them.
        scale: 1, or for a JPEG 2, 4 or 8: decode at this fraction of its size.

    Returns:
        uint8 [H, W, C], each side divided by `scale` and rounded up; None if Pillow has to decode
        this one.
    """
    height, width = -(-header.height // scale), -(-header.width // scale)
    if header.kind == "jpeg":
        pixels = _jpeg(data, channels, buffer, (height, width, scale))
    elif header.kind == "png":
        pixels = _png(data, channels)
    else:
        return None
    expected = (height, width, channels)
    return pixels if pixels is not None and pixels.shape == expected else None


def decode_jpeg_into(data: Buffer, out_HWC: Pixels) -> bool:
    """Decode an upright JPEG that has exactly the size of the output, if it is one.

    Args:
        data: An encoded image for which `headers.is_plain_jpeg` holds.
        out_HWC: uint8, contiguous; undefined if the answer is no.
    """
    try:
        pixels = simplejpeg.decode_jpeg(data, _COLOURS[out_HWC.shape[2]], buffer=out_HWC)
    except ValueError:
        return False
    return bool(pixels.shape == out_HWC.shape)


def _jpeg(
    data: Buffer, channels: int, buffer: Pixels | None, scaled: tuple[int, int, int]
) -> Pixels | None:
    height, width, scale = scaled
    least = {"min_height": height, "min_width": width, "min_factor": scale} if scale > 1 else {}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, _COLOURS[channels], buffer=buffer, **least)
    except ValueError:  # also what libjpeg only warns of: Pillow is the judge of that
        return None
    return pixels


def _png(data: Buffer, channels: int) -> Pixels | None:
    if channels == 1 and data[25] not in _GREY_PNG:
        return None
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[channels])
    except cv2.error:
        return None
    if pixels is None:
        return None
    return pixels.reshape(pixels.shape[0], pixels.shape[1], channels).astype(np.uint8, copy=False)

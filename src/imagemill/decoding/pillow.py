"""Pillow: decodes what the fast decoders leave, and judges what is damaged.

One policy for each oddity: alpha is dropped, 16 bits become 8 by their upper byte, CMYK, LAB and
palettes become RGB, the first frame stands for an animation, the EXIF (or XMP) orientation is
applied once. Images whose mode has no white (32-bit integers and floats) are refused.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from imagemill.decoding.orientation import turned_upright
from imagemill.errors import IntegrityError
from imagemill.frames import Buffer

Pixels = NDArray[np.uint8]

# The same as in the audit: nothing that starts another program, as EPS does.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA", "AVIF")
_RANGELESS_MODES = frozenset(["I", "F"])
_ORIENTATION = ExifTags.Base.Orientation.value


def decode(data: Buffer, *, channels: int) -> Pixels:
    """Decode an image at its own size.

    Args:
        data: An encoded image.
        channels: 1 (grey) or 3 (RGB).

    Returns:
        uint8 [H, W, C], upright.

    Raises:
        IntegrityError: not an image that can be decoded.
    """
    with _opened(data) as image:
        if image.mode in _RANGELESS_MODES:
            raise ValueError(f"mode {image.mode} has no white; save 8 or 16 bits")
        image.load()
        plain = _eight_bits(image)
        if channels == 3 or plain.mode == "LAB":  # from which Pillow has no direct way to grey
            plain = plain.convert("RGB")
        if channels == 1:
            plain = plain.convert("L")
        pixels = np.asarray(plain, dtype=np.uint8)
        pixels_HWC = pixels.reshape(pixels.shape[0], pixels.shape[1], channels)
        return turned_upright(pixels_HWC, _orientation(image))


def upright_size(data: Buffer) -> tuple[int, int]:
    """Height and width once the orientation is applied; nothing is decoded.

    Raises:
        IntegrityError: not an image of a known format.
    """
    with _opened(data) as image:
        width, height = image.size
        # Pillow turns a TIFF by itself, and says so beforehand.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if turned else (height, width)


def exif_orientation(segment: bytes) -> int:
    """The orientation in an EXIF block; 1 where it says none, or nothing that makes sense."""
    exif = Image.Exif()
    try:
        exif.load(segment)
        return _checked(exif.get(_ORIENTATION))
    except Exception:  # a broken EXIF block makes Pillow raise anything at all
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        return _checked(image.getexif().get(_ORIENTATION))
    except Exception:  # as above
        return 1


def _checked(said: object) -> int:
    return said if isinstance(said, int) and 1 <= said <= 8 else 1


def _eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


@contextmanager
def _opened(data: Buffer) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except UnidentifiedImageError:
        raise IntegrityError("cannot be decoded as an image: no known format") from None
    except Exception as error:  # decoders raise anything at all on damaged bytes
        told = str(error) or type(error).__name__
        raise IntegrityError(f"cannot be decoded as an image: {told}") from None

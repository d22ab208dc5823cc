"""What becomes of an image's bytes where `shard.max_side` or `shard.strip_metadata` ask for more.

Both are pure functions of the bytes: the same image always gives the same file.
"""

import io
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from imagemill.errors import IntegrityError
from imagemill.shard.metadata import stripped

_JPEG_FORMATS = frozenset(["JPEG", "MPO"])
_JPEG_QUALITY = 95
# Decoders of JPEG halve sides at almost no cost; this much is left to the antialiased kernel.
_DRAFT_FACTOR = 2


class Encoded(NamedTuple):
    """An image file and its format, as Pillow names it."""

    content: bytes
    form: str


Transform = Callable[[bytes, str], Encoded]


def transformer(*, max_side: int | None, strip_metadata: bool) -> Transform | None:
    """What the two switches make of an image; None where raw bytes stay as they are."""
    if max_side is None and not strip_metadata:
        return None

    def transform(content: bytes, form: str) -> Encoded:
        image = Encoded(content, form)
        small = None if max_side is None else shrunk(image, max_side)
        if small is not None:
            return small
        if strip_metadata:
            return Encoded(stripped(image.content, image.form), image.form)
        return image

    return transform


def shrunk(image: Encoded, max_side: int) -> Encoded | None:
    """The image brought to `max_side` pixels on its longer side; None if it is not longer.

    It is shrunk with an antialiased kernel (Lanczos), stands upright and keeps nothing but its
    colour profile. JPEG stays JPEG, all else becomes PNG; of an animation the first frame is kept.

    Raises:
        IntegrityError: it cannot be decoded.
    """
    # `audit` has judged the size.
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(image.content), formats=[image.form]) as opened:
            width, height = opened.size
            if max(width, height) <= max_side:
                return None
            factor = max_side / max(width, height)
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            opened.draft(None, (size[0] * _DRAFT_FACTOR, size[1] * _DRAFT_FACTOR))
            profile = opened.info.get("icc_profile") if opened.mode != "CMYK" else None
            small = _with_levels(opened).resize(size, Image.Resampling.LANCZOS)
            upright = ImageOps.exif_transpose(_carrying(opened, small))
    except (OSError, ValueError, SyntaxError) as error:
        raise IntegrityError(f"cannot be shrunk: {error}") from None
    form = "JPEG" if image.form in _JPEG_FORMATS else "PNG"
    return Encoded(_saved(upright, form, profile), form)


def _with_levels(image: Image.Image) -> Image.Image:
    """In a mode that can be averaged and saved; 16 bits become 8."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode in ("L", "LA", "RGB", "RGBA"):
        image.load()
        return image
    return image.convert("RGB")


def _carrying(original: Image.Image, small: Image.Image) -> Image.Image:
    """With the orientation of the original, and nothing else."""
    orientation = original.getexif().get(0x0112, 1)
    small.info = {}
    small.getexif()[0x0112] = orientation
    return small


def _saved(image: Image.Image, form: str, profile: bytes | None) -> bytes:
    image.info = {}
    stream = io.BytesIO()
    if form == "JPEG":
        image.convert("RGB" if image.mode not in ("L", "RGB") else image.mode).save(
            stream, form, quality=_JPEG_QUALITY, icc_profile=profile
        )
    else:
        image.save(stream, form, compress_level=6, icc_profile=profile)
    return stream.getvalue()

"""Images that look like photographs, in any encoding, and a switch for the compiled decoder."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from imagemill.decoding import compiled

Pixels = NDArray[np.uint8]
SUBSAMPLINGS = ("444", "422", "420", "440", "411", "Gray")


def photograph(height: int, width: int, *, seed: int = 0) -> Pixels:
    """Smooth colours with edges, uint8 [H, W, 3]."""
    draws = np.random.default_rng(seed)
    small = draws.integers(0, 256, (max(2, height // 6), max(2, width // 6), 3), np.uint8)
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.uint8)


def noise(height: int, width: int, *, seed: int = 0) -> Pixels:
    """Nothing but detail, uint8 [H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def jpeg(pixels: Pixels, *, subsampling: str = "420", progressive: bool = False) -> bytes:
    """A JPEG of quality 90."""
    if subsampling == "Gray":
        encoded = simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels[:, :, :1]), 90, colorspace="GRAY", colorsubsampling="Gray"
        )
    else:
        encoded = simplejpeg.encode_jpeg(pixels, 90, colorsubsampling=subsampling)
    return saved(encoded, "JPEG", quality="keep", progressive=True) if progressive else encoded


def saved(image: Pixels | bytes | Image.Image, form: str, **options: Any) -> bytes:
    """What Pillow writes."""
    if isinstance(image, bytes):
        image = Image.open(io.BytesIO(image))
    elif not isinstance(image, Image.Image):
        image = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def oriented(pixels: Pixels, orientation: int, **options: Any) -> bytes:
    """A JPEG whose EXIF says that its stored pixels have this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(pixels, "JPEG", quality=95, exif=exif, **options)


@contextmanager
def in_pure_python() -> Iterator[None]:
    """Decode as if the compiled part had not been built."""
    native, compiled.native = compiled.native, None
    try:
        yield
    finally:
        compiled.native = native

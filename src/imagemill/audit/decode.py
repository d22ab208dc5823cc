"""One image, decoded once: is it whole, and what is in it?"""

import io
import struct
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

# What both Pillow and OpenCV read, and nothing that starts another program (EPS would).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA", "AVIF")

_PNG_END = b"IEND\xae\x42\x60\x82"

# One band (beside alpha), and the band is brightness.
GREY_MODES = frozenset(["1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"])
# Numbers of no fixed range: which of them is white, nobody says.
_RANGELESS_MODES = frozenset(["I", "F"])

# A level and its square, in 0..1.
_MOMENTS_L2 = np.stack([np.arange(256) / 255, (np.arange(256) / 255) ** 2], axis=1)


class Verdict(NamedTuple):
    """What became of one image; `check` is None when it is fit, and then the rest is known."""

    check: str | None
    reason: str | None
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    mean_rgb: tuple[float, ...] = (0.0, 0.0, 0.0)
    mean_square_rgb: tuple[float, ...] = (0.0, 0.0, 0.0)


def prepare(max_pixels: int) -> None:
    """Get ready: Pillow refuses larger images, also those inside others, in this whole process."""
    Image.preinit()
    Image.MAX_IMAGE_PIXELS = max_pixels
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def judge(content: bytes) -> Verdict:
    """Decode an image fully; `prepare` comes first.

    Returns:
        Fit, or the check that failed (`corrupt`, `truncated`, `over_large`, `unsupported`).
    """
    try:
        return _decoded(content)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return Verdict("over_large", str(error).partition(", could be")[0])
    except Exception as error:
        # Decoders raise anything at all on hostile bytes; every one of it means the same.
        return _failed(error, content)


def _decoded(content: bytes) -> Verdict:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        width, height = image.size
        if image.mode in _RANGELESS_MODES:
            return Verdict("unsupported", f"mode {image.mode} has no white; save 8 or 16 bits")
        image.load()
        # Pillow stops at the last pixel; without the end mark the file was cut all the same.
        if image.format == "PNG" and _PNG_END not in content:
            return Verdict("truncated", "the end of the PNG is missing")
        try:
            mean, square = _statistics(image)
        except ValueError as error:
            return Verdict("unsupported", str(error))
        return Verdict(None, None, width, height, image.mode, image.format or "", mean, square)


def _failed(error: Exception, content: bytes) -> Verdict:
    told = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return Verdict("corrupt", f"no image of a known format ({len(content)} bytes)")
    check = "truncated" if "truncated" in told.lower() else "corrupt"
    return Verdict(check, told)


def _statistics(image: Image.Image) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and mean square over all pixels of each of R, G, B in 0..1."""
    counts_CL = _histogram(image)
    moments_2C = (counts_CL @ _MOMENTS_L2 / (image.width * image.height)).T.tolist()
    mean, square = (
        tuple(moments) if len(moments) == 3 else tuple(moments * 3) for moments in moments_2C
    )
    return mean, square


def _histogram(image: Image.Image) -> NDArray[np.int64]:
    """Counts of the 256 levels, [1 or 3, 256]; alpha is left out."""
    if image.mode.startswith("I;16"):
        # 16-bit levels, by their upper byte.
        levels_HW = np.asarray(image).astype(np.uint16) >> 8
        return np.bincount(levels_HW.ravel(), minlength=256).reshape(1, 256)
    if image.mode not in ("L", "LA", "RGB", "RGBA", "RGBX"):
        image = image.convert("L" if image.mode in GREY_MODES else "RGB")
    bands = 1 if image.mode in ("L", "LA") else 3
    counts = image.histogram()[: bands * 256]
    # An eighth of the time of np.array(counts), which for tiny images is half of all.
    return np.frombuffer(struct.pack(f"{len(counts)}q", *counts), np.int64).reshape(bands, 256)

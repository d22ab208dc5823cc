"""One image, decoded once and to its end: is it whole?"""

import io
import warnings

from PIL import Image, UnidentifiedImageError

# What both Pillow and OpenCV read, and nothing that starts another program (EPS would).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "TGA", "AVIF")

_PNG_END = b"IEND\xae\x42\x60\x82"

# Decoders of these hold a large image several times over.
_HUNGRY_FORMATS = frozenset(["AVIF", "JPEG2000", "WEBP"])
_MANY_PIXELS = 16_000_000

NO_MEMORY = "decoding needs more memory than a worker may have"

# One band (beside alpha), and the band is brightness.
GREY_MODES = frozenset(["1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"])
# Numbers of no fixed range: which of them is white, nobody says.
_RANGELESS_MODES = frozenset(["I", "F"])


class UnfitError(Exception):
    """This image cannot be used; never leaves the audit.

    Args:
        check: corrupt, truncated, over_large or unsupported.
        reason: One sentence for whoever looks after the images.
        size: Width and height as far as the header tells, else zeros.
    """

    def __init__(self, check: str, reason: str, size: tuple[int, int] = (0, 0)) -> None:
        super().__init__(reason)
        self.check = check
        self.reason = reason
        self.size = size


def prepare() -> None:
    """Get this process ready: what Pillow warns of on strange files is told by `decoded` alone."""
    Image.preinit()
    warnings.simplefilter("ignore")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def decoded(content: bytes, *, max_pixels: int) -> Image.Image:
    """Decode all pixels of an image's first frame; `prepare` comes first.

    Args:
        content: The encoded image.
        max_pixels: Larger images are refused by their header, also those inside others.

    Raises:
        UnfitError: it is no image, or not a whole one, or none we can make sense of.
    """
    try:
        return _decoded(content, max_pixels)
    except UnfitError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnfitError("over_large", str(error).partition(", could be")[0]) from None
    except Exception as error:
        # Decoders raise anything at all on hostile bytes; every one of it means the same.
        raise _failed(error, content) from None


def _decoded(content: bytes, max_pixels: int) -> Image.Image:
    # The outermost size is ours to judge, for we want to know it; then Pillow watches.
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        Image.MAX_IMAGE_PIXELS = max_pixels
        if image.width * image.height > max_pixels:
            told = f"{image.width} x {image.height} pixels, more than audit.max_pixels"
            raise UnfitError("over_large", told, image.size)
        if image.mode in _RANGELESS_MODES:
            told = f"mode {image.mode} has no white; save 8 or 16 bits"
            raise UnfitError("unsupported", told)
        _load(image)
        # Pillow stops at the last pixel; without the end mark the file was cut all the same.
        if image.format == "PNG" and _PNG_END not in content:
            raise UnfitError("truncated", "the end of the PNG is missing")
        return image


def _load(image: Image.Image) -> None:
    try:
        image.load()
    except OSError as error:
        # Some decoders report memory they did not get as a fault of the file.
        if image.width * image.height > _MANY_PIXELS and image.format in _HUNGRY_FORMATS:
            raise UnfitError("over_large", f"{error}, or {NO_MEMORY}", image.size) from None
        raise


def _failed(error: Exception, content: bytes) -> UnfitError:
    told = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        return UnfitError("corrupt", f"no image of a known format ({len(content)} bytes)")
    if isinstance(error, MemoryError):
        return UnfitError("over_large", NO_MEMORY)
    check = "truncated" if "truncated" in told.lower() else "corrupt"
    return UnfitError(check, told)

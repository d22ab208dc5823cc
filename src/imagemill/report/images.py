"""Pictures inside the page, as data URIs."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

# A larger PNG holds photographs: as JPEG it is a fifth of the size.
_LARGE_BYTES = 150_000
_JPEG_QUALITY = 85
_LARGEST_SIDE = 1400


@dataclass(frozen=True)
class Embedded:
    """A picture and its words."""

    uri: str
    caption: str
    width: int
    height: int


def embed(path: Path, caption: str) -> Embedded | None:
    """A PNG as a data URI; None if there is no such picture."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        if len(content) <= _LARGE_BYTES:
            return Embedded(_uri("image/png", content), caption, width, height)
        smaller = image.convert("RGB")
    smaller.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    encoded = io.BytesIO()
    smaller.save(encoded, "JPEG", quality=_JPEG_QUALITY)
    return Embedded(_uri("image/jpeg", encoded.getvalue()), caption, *smaller.size)


def _uri(media_type: str, content: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"

"""Taking out of an image file what identifies people, places and cameras, pixel for pixel.

What stays: pixels, orientation, colour profile, transparency, frames of an animation. What goes:
EXIF but for the orientation, XMP, IPTC, comments, text, times, thumbnails, maker's blocks, and
whatever follows the end of the image (phones append a second picture or a video there).
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

from imagemill.errors import IntegrityError

_ORIENTATION = 0x0112
_EXIF = b"Exif\0\0"
# Pillow's names of formats that have no room for such data, comments of PPM aside.
BARE_FORMATS = frozenset(["BMP", "PPM", "TGA"])


def stripped(content: bytes, form: str) -> bytes:
    """The same image without metadata; the same bytes where it has none.

    Args:
        content: The file.
        form: Its format, as Pillow names it. Formats not in `STRIPPERS` come back unchanged.

    Raises:
        IntegrityError: the file's structure is broken, though it could be decoded.
    """
    strip = STRIPPERS.get(form)
    if strip is None:
        return content
    try:
        return strip(content)
    except (struct.error, IndexError) as error:
        raise IntegrityError(f"is no {form} whose metadata can be found: {error}") from None


# JPEG ----------------------------------------------------------------------------------------

# What ends coded data: a marker that is neither a stuffed zero, a restart nor a filling byte.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SOS, _EOI = 0xDA, 0xD9
_APP = range(0xE0, 0xF0)
_COMMENT = 0xFE


def _jpeg(content: bytes) -> bytes:
    parts = [content[:2]]
    exif_seen = False
    for marker, start, end in _segments(content):
        payload = content[start + 4 : end]
        if marker in _APP or marker == _COMMENT:
            if marker == 0xE1 and payload.startswith(_EXIF) and not exif_seen:
                exif_seen = True
                payload = _orientation_alone(payload) or b""
            else:
                payload = _kept_application_data(marker, payload)
            if payload:
                parts.append(struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload)
        else:
            parts.append(content[start:end])
    return b"".join(parts)


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment behind the first two bytes, coded data included.

    Stray bytes before a marker, over which decoders pass, belong to none.
    """
    found = _NEXT_MARKER.search(content, 2)
    while found:
        start, marker = found.start(), content[found.start() + 1]
        if marker == _EOI:
            yield marker, start, start + 2
            return
        (size,) = struct.unpack_from(">H", content, start + 2)
        end = start + 2 + size
        found = _NEXT_MARKER.search(content, end)
        if marker == _SOS:
            end = found.start() if found else len(content)
        yield marker, start, end


def _kept_application_data(marker: int, payload: bytes) -> bytes:
    """What decides how pixels look; empty for everything else."""
    if marker == 0xE0 and payload.startswith(b"JFIF\0"):
        return payload[:12] + b"\0\0"  # without a thumbnail
    if marker == 0xE2 and payload.startswith(b"ICC_PROFILE\0"):
        return payload
    if marker == 0xEE and payload.startswith(b"Adobe"):
        return payload
    return b""


def _orientation_alone(exif: bytes) -> bytes | None:
    """An EXIF block that says the orientation; None where there is nothing to say."""
    said = Image.Exif()
    try:
        said.load(exif)
        orientation = said.get(_ORIENTATION, 1)
    except Exception:
        # Readers of EXIF raise anything at all on broken blocks; then nobody knows more.
        return None
    if orientation not in range(2, 9):
        return None
    alone = Image.Exif()
    alone[_ORIENTATION] = orientation
    return alone.tobytes()


# PNG -----------------------------------------------------------------------------------------

_PNG_KEPT = frozenset(
    b"tRNS gAMA cHRM sRGB iCCP sBIT bKGD pHYs hIST sPLT cICP mDCV cLLI acTL fcTL fdAT".split()
)


def _png(content: bytes) -> bytes:
    parts = [content[:8]]
    position, kind = 8, b""
    while kind != b"IEND" and position < len(content):
        (size,) = struct.unpack_from(">I", content, position)
        kind = content[position + 4 : position + 8]
        end = position + 12 + size
        if kind == b"eXIf":
            exif = _orientation_alone(_EXIF + content[position + 8 : end - 4])
            parts.append(_png_chunk(kind, exif.removeprefix(_EXIF)) if exif else b"")
        elif not kind[0] & 0x20 or kind in _PNG_KEPT:  # upper case: no image without it
            parts.append(content[position:end])
        position = end
    return b"".join(parts)


def _png_chunk(kind: bytes, payload: bytes) -> bytes:
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)


# WebP ----------------------------------------------------------------------------------------

_WEBP_KEPT = frozenset([b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"ICCP"])
_WEBP_EXIF_FLAG, _WEBP_XMP_FLAG = 0x08, 0x04


def _webp(content: bytes) -> bytes:
    (riff_size,) = struct.unpack_from("<I", content, 4)
    chunks: list[tuple[bytes, bytes]] = []
    position, last = 12, min(len(content), riff_size + 8)
    while position < last:
        (size,) = struct.unpack_from("<I", content, position + 4)
        kind, payload = content[position : position + 4], content[position + 8 :][:size]
        if kind == b"EXIF":
            exif = _orientation_alone(_EXIF + payload.removeprefix(_EXIF))
            if exif:
                chunks.append((kind, exif.removeprefix(_EXIF)))
        elif kind in _WEBP_KEPT:
            chunks.append((kind, payload))
        position += 8 + size + size % 2
    oriented = any(kind == b"EXIF" for kind, _ in chunks)
    body = b"".join(
        kind
        + struct.pack("<I", len(payload))
        + (_webp_flags(payload, oriented=oriented) if kind == b"VP8X" else payload)
        + b"\0" * (len(payload) % 2)
        for kind, payload in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def _webp_flags(payload: bytes, *, oriented: bool) -> bytes:
    flags = payload[0] & ~_WEBP_XMP_FLAG & ~_WEBP_EXIF_FLAG
    return bytes([flags | (_WEBP_EXIF_FLAG if oriented else 0)]) + payload[1:]


STRIPPERS: dict[str, Callable[[bytes], bytes]] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "PNG": _png,
    "WEBP": _webp,
}

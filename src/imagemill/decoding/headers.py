"""What an encoded image says about itself before it is decoded.

Only JPEG and PNG are read here, and only as far as the fast decoders go. About any other file, and
one with something unusual in it, Pillow is asked.
"""

import struct
from collections.abc import Iterator
from typing import Literal, NamedTuple, TypeAlias

from imagemill.decoding import pillow
from imagemill.frames import Buffer

# The most Pillow decodes without calling it a bomb; larger ones are left to it to refuse.
MAX_PIXELS = 2 * 89_478_485

Kind: TypeAlias = Literal["jpeg", "png", "other"]

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
_FRAMES = frozenset([0xC0, 0xC1, 0xC2])  # baseline, extended, progressive; all in Huffman codes
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_EXIF = b"Exif\0\0"
# Chunks that change neither pixels nor which way is up.
_PLAIN_CHUNKS = frozenset(
    [b"PLTE", b"IDAT", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tIME", b"bKGD", b"iCCP"]
)
_TEXT_CHUNKS = frozenset([b"tEXt", b"zTXt", b"iTXt"])
_PROFILES = (b"Raw profile", b"XML:com.adobe")  # EXIF or XMP inside a text chunk
_PNG_COLOURS = frozenset([0, 2, 3, 4, 6])


class Header(NamedTuple):
    """What has to be known before decoding.

    kind: Whose it is; "other" is Pillow's.
    height, width: As stored, in pixels, before the orientation is applied.
    orientation: EXIF's, 1 to 8; 1 is upright.
    """

    kind: Kind
    height: int
    width: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width once the orientation is applied."""
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)


def read_header(data: Buffer) -> Header:
    """Size, orientation and kind of an image.

    Raises:
        IntegrityError: not an image of a known format.
    """
    start = bytes(data[:8])
    header = None
    if start[:3] == _JPEG:
        header = _of_jpeg(data)
    elif start == _PNG:
        header = _of_png(data)
    if header is None or not 0 < header.height * header.width <= MAX_PIXELS:
        return Header("other", *pillow.upright_size(data), 1)
    return header


def is_plain_jpeg(data: Buffer) -> bool:
    """A quick look at a small file: a JPEG that says nothing about its orientation."""
    return data[:3] == _JPEG and b"\xff\xe1" not in bytes(data)


def is_complete_jpeg(data: Buffer) -> bool:
    """Whether the end mark is at the end: what is cut off, or goes on after it, is not."""
    return data[-2:] == b"\xff\xd9"


def _of_jpeg(data: Buffer) -> Header | None:
    """None where the fast decoders would not be sure."""
    frame, orientation = (0, 0, 0, 0), 0
    for kind, start, stop in _segments(data):
        if kind in _FRAMES and stop - start >= 6:
            frame = struct.unpack_from(">BHHB", data, start)
        elif kind in _OTHER_FRAMES:
            return None
        elif kind == _APP1:
            segment = bytes(data[start:stop])
            if segment.startswith(_EXIF) and not orientation:
                orientation = pillow.exif_orientation(segment)
            elif segment.startswith(_EXIF) or b"Orientation" in segment:
                return None  # a second EXIF block, or XMP
        elif kind == _START_OF_SCAN:
            bits, height, width, components = frame
            plain = bits == 8 and components in (1, 3)
            return Header("jpeg", height, width, orientation or 1) if plain else None
    return None


def _segments(data: Buffer) -> Iterator[tuple[int, int, int]]:
    """(kind, start, stop) of what comes before the first scan, that included."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        kind = data[position + 1]
        if kind == 0xFF:  # padding
            position += 1
            continue
        stop = position + 2 + (data[position + 2] << 8 | data[position + 3])
        if stop > len(data):
            return
        yield kind, position + 4, stop
        if kind == _START_OF_SCAN:
            return
        position = stop


def _of_png(data: Buffer) -> Header | None:
    """None where the fast decoder would not be sure, or the end is missing."""
    if len(data) < 33:
        return None
    length, kind, width, height, bits, colours = struct.unpack_from(">I4sIIBB", data, 8)
    if (length, kind, bits) != (13, b"IHDR", 8) or colours not in _PNG_COLOURS:
        return None
    position = 33
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IEND":
            return Header("png", height, width, 1)
        text = kind in _TEXT_CHUNKS and bytes(data[position + 8 : position + 24])
        if not (text and not text.startswith(_PROFILES)) and kind not in _PLAIN_CHUNKS:
            return None
        position += 12 + length
    return None

"""What a file tells beside its pixels: which way up it is, and whom or what it leads to."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import ExifTags, Image, IptcImagePlugin
from PIL.ImageFile import ImageFile

_ORIENTATION = 0x0112
_SERIAL_TAGS = frozenset([0xA431, 0xA435, 0xC62F])  # body, lens, DNG camera
# Artist, host computer, copyright, XP author, owner's name.
_PERSON_TAGS = frozenset([0x013B, 0x013C, 0x8298, 0x9C9D, 0xA430])
_MAKER_NOTE = 0x927C
_POSITION_TAGS = frozenset([2, 4])  # latitude, longitude
_IPTC_PERSON = frozenset([(2, 80), (2, 85), (2, 110), (2, 116), (2, 118)])
_IPTC_PLACE = frozenset([(2, 90), (2, 92), (2, 95), (2, 101)])
_XMP_WORDS = {
    b"GPSLatitude": "gps",
    b"SerialNumber": "serial_number",
    b"OwnerName": "person",
    b"dc:creator": "person",
}
_EXIF_KEYS = ("exif", "Raw profile type exif", "Raw profile type APP1")
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")


class Metadata(NamedTuple):
    """What was found."""

    orientation: int  # EXIF, 1 to 8; 1 is upright
    identifying: set[str]  # of facts.IDENTIFYING


_NOTHING = Metadata(1, set())


def read_metadata(image: Image.Image) -> Metadata:
    """Look through EXIF, XMP and IPTC of a decoded image; damaged metadata tell nothing."""
    info: Mapping[Any, Any] = image.info
    has_exif = image.format == "TIFF" or any(key in info for key in _EXIF_KEYS)
    xmp = next((info[key] for key in _XMP_KEYS if key in info), None)
    if not has_exif and xmp is None and "photoshop" not in info:
        return _NOTHING
    found = _in_xmp(xmp)
    orientation = 1
    try:
        exif = image.getexif()
        orientation = exif.get(_ORIENTATION, 1)
        found |= _in_exif(exif)
        found |= _in_iptc(image)
    except Exception:
        # As with pixels, hostile bytes raise anything; here they take no image away.
        pass
    upright = not (isinstance(orientation, int) and 1 <= orientation <= 8)
    return Metadata(1 if upright else orientation, found)


def _in_exif(exif: Image.Exif) -> set[str]:
    details = exif.get_ifd(ExifTags.IFD.Exif)
    present = {tag for tag, value in [*exif.items(), *details.items()] if _says_something(value)}
    found = set()
    if _POSITION_TAGS & exif.get_ifd(ExifTags.IFD.GPSInfo).keys():
        found.add("gps")
    if present & _SERIAL_TAGS:
        found.add("serial_number")
    if present & _PERSON_TAGS:
        found.add("person")
    if _MAKER_NOTE in present:
        found.add("maker_note")
    return found


def _says_something(value: object) -> bool:
    """Cameras write the fields of a nameless owner as spaces or zeros."""
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    return bool(text.strip(" \0"))


def _in_xmp(packet: object) -> set[str]:
    raw = packet.encode() if isinstance(packet, str) else packet
    if not isinstance(raw, bytes):
        return set()
    return {name for word, name in _XMP_WORDS.items() if word in raw}


def _in_iptc(image: Image.Image) -> set[str]:
    if not isinstance(image, ImageFile) or "photoshop" not in image.info:
        return set()
    present = set(IptcImagePlugin.getiptcinfo(image) or ())
    found = {"person"} if present & _IPTC_PERSON else set()
    return found | ({"gps"} if present & _IPTC_PLACE else set())

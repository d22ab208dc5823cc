"""Everything the audit wants to know of an image, from one decoding of it.

What numpy and OpenCV do faster for many small arrays at once waits until a batch is complete.

N images; B of them were decoded.
"""

from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagemill.audit.decode import GREY_MODES, NO_MEMORY, UnfitError, decoded
from imagemill.audit.facts import (
    FORMS,
    IDENTIFYING,
    LEAST_SIDE,
    MOST_PIXELS,
    Facts,
    Record,
    bits,
    facts_of,
)
from imagemill.audit.metadata import read_metadata

Pixels = NDArray[np.uint8]

# Pixels looked at in one go: 12 MB of colour, however large the image.
_BAND_PIXELS = 1 << 22
# Longer side of what blur, brightness and hash are taken from.
_REDUCED_SIDE = 256
_THUMBNAIL = 8
_HASHED_SIDE = 64

# How to turn what the file holds by its EXIF orientation: flipped left to right first, then so
# many quarter turns to the left.
_TURNS = {
    1: (False, 0),
    2: (True, 0),
    3: (False, 2),
    4: (True, 2),
    5: (True, 1),
    6: (False, 3),
    7: (True, 3),
    8: (False, 1),
}
# Whose first frame is all there is to train on; MPO is a JPEG with a second one inside.
_FORMAT_NAMES = {"MPO": "JPEG"}


class _Sample(NamedTuple):
    """What waits for the batch."""

    thumbnail_883: Pixels
    levels_L: NDArray[np.float32]  # pixels of each brightness
    edges_L: NDArray[np.float32] | None  # pixels of each strength of the Laplacian


def measure(contents: Iterable[bytes], *, max_pixels: int) -> tuple[Facts, list[str | None]]:
    """Decode images and take all facts.

    Args:
        contents: Encoded images, taken one at a time.
        max_pixels: Larger images are not decoded.

    Returns:
        Facts [N], and for each faulty image the reason.
    """
    records: list[Record] = []
    reasons: list[str | None] = []
    samples: list[_Sample] = []
    places: list[int] = []
    for place, content in enumerate(contents):
        try:
            record, sample = _measured(decoded(content, max_pixels=max_pixels))
        except UnfitError as unfit:
            width, height = (min(side, MOST_PIXELS) for side in unfit.size)
            records.append(Record(unfit.check, width=width, height=height))
            reasons.append(unfit.reason)
        except (MemoryError, cv2.error):
            records.append(Record("over_large"))
            reasons.append(NO_MEMORY)
        else:
            records.append(record)
            reasons.append(None)
            samples.append(sample)
            places.append(place)
    facts_N = facts_of(records)
    if samples:
        _complete(facts_N, np.array(places), samples)
    return facts_N, reasons


def _measured(image: Image.Image) -> tuple[Record, _Sample]:
    metadata = read_metadata(image)
    mean_3, square_3, reduced_HWC = _looked_over(image)
    flipped, turns = _TURNS[metadata.orientation]
    if flipped or turns:
        upright = np.rot90(reduced_HWC[:, ::-1] if flipped else reduced_HWC, turns)
        reduced_HWC = np.ascontiguousarray(upright)
    grey_HW = reduced_HWC
    if reduced_HWC.ndim == 3:
        grey_HW = _pixels(cv2.cvtColor(reduced_HWC, cv2.COLOR_RGB2GRAY))
    perceptual_hash, edges_L = 0, None
    if min(image.size) >= LEAST_SIDE:
        perceptual_hash = _perceptual_hash(grey_HW)
        edges_L = _histogram(_pixels(cv2.convertScaleAbs(cv2.Laplacian(grey_HW, cv2.CV_16S))))
    width, height = image.size if turns % 2 == 0 else image.size[::-1]
    record = Record(
        width=width,
        height=height,
        mode=image.mode,
        format=_FORMAT_NAMES.get(image.format or "", image.format or ""),
        orientation=metadata.orientation,
        forms=bits(FORMS, _forms(image)),
        identifying=bits(IDENTIFYING, metadata.identifying),
        detailed=edges_L is not None,
        mean_rgb=mean_3,
        mean_square_rgb=square_3,
        hash=perceptual_hash,
    )
    return record, _Sample(_thumbnail(reduced_HWC), _histogram(grey_HW), edges_L)


def _forms(image: Image.Image) -> set[str]:
    forms = set()
    if image.mode in GREY_MODES:
        forms.add("grey")
    if image.mode in ("P", "PA"):
        forms.add("palette")
    if image.mode == "CMYK":
        forms.add("cmyk")
    if image.mode.startswith("I;16"):
        forms.add("sixteen_bit")
    # An alpha channel that hides nothing is no news.
    if image.has_transparency_data and (
        image.mode not in ("LA", "RGBA") or image.getchannel("A").getextrema()[0] != 255
    ):
        forms.add("alpha")
    if getattr(image, "is_animated", False) and image.format != "MPO":
        forms.add("animated")
    return forms


def _looked_over(image: Image.Image) -> tuple[list[float], list[float], Pixels]:
    """Mean and mean square of R, G, B in 0..1, and the image with its longer side within limits."""
    width, height = image.size
    step = max(1, -(-max(width, height) // _REDUCED_SIDE))
    rows = max(1, _BAND_PIXELS // (width * step)) * step
    mean_3, square_3, parts = [0.0] * 3, [0.0] * 3, []
    for top in range(0, height, rows):
        band_HWC = _eight_bit(image, top, min(top + rows, height))
        share = len(band_HWC) / height
        moments = zip(*(m.ravel().tolist() for m in cv2.meanStdDev(band_HWC)), strict=True)
        for channel, (mean, deviation) in enumerate(moments):
            mean_3[channel] += share * mean / 255
            square_3[channel] += share * (mean**2 + deviation**2) / 255**2
        parts.append(_shrunk(band_HWC, step))
    if parts[0].ndim == 2:
        mean_3, square_3 = mean_3[:1] * 3, square_3[:1] * 3
    return mean_3, square_3, parts[0] if len(parts) == 1 else np.concatenate(parts)


def _shrunk(band_HWC: Pixels, step: int) -> Pixels:
    """One pixel for step x step of them."""
    if step == 1:
        return band_HWC
    height, width = (max(1, side // step) for side in band_HWC.shape[:2])
    # Whole steps only, for which OpenCV has a path three times as fast.
    whole = band_HWC[: height * step, : width * step]
    return _pixels(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))


def _eight_bit(image: Image.Image, top: int, bottom: int) -> Pixels:
    """Rows of an image as grey [H, W] or RGB [H, W, 3]; alpha is left out, 16 bits give 8."""
    if (top, bottom) != (0, image.height):
        image = image.crop((0, top, image.width, bottom))
    if image.mode.startswith("I;16"):
        return (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
    if image.mode not in ("L", "RGB"):
        try:
            image = image.convert("L" if image.mode in GREY_MODES else "RGB")
        except ValueError as error:
            raise UnfitError("unsupported", str(error)) from None
    return np.asarray(image)


def _thumbnail(reduced_HWC: Pixels) -> Pixels:
    side = (_THUMBNAIL, _THUMBNAIL)
    small = _pixels(cv2.resize(reduced_HWC, side, interpolation=cv2.INTER_AREA))
    if small.ndim == 2:
        small = np.repeat(small[:, :, None], 3, axis=2)
    return small


def _histogram(grey_HW: Pixels) -> NDArray[np.float32]:
    counts = cv2.calcHist([grey_HW], [0], None, [256], [0, 256])
    return np.asarray(counts, np.float32).ravel()


def _pixels(array: object) -> Pixels:
    """What OpenCV gives, which is uint8 wherever it was given that."""
    return np.asarray(array, np.uint8)


def _perceptual_hash(grey_HW: Pixels) -> int:
    # Loaded when the first large image comes: with SciPy half a second.
    import imagehash

    # Its own resampling costs most of its time, and less from here.
    small = cv2.resize(grey_HW, (_HASHED_SIDE, _HASHED_SIDE), interpolation=cv2.INTER_AREA)
    found = imagehash.phash(Image.fromarray(small))
    return int.from_bytes(np.packbits(found.hash).tobytes(), "big")


# The batch -----------------------------------------------------------------------------------


def _complete(facts_N: Facts, places_B: NDArray[np.int64], samples: list[_Sample]) -> None:
    """Fill in what is computed for all at once."""
    levels_BL = np.stack([sample.levels_L for sample in samples])
    shares_BL = levels_BL / levels_BL.sum(axis=1, keepdims=True)
    reached_BL = shares_BL.cumsum(axis=1, dtype=np.float64)
    facts_N["shadow"][places_B] = _level_reached(reached_BL, 0.05)
    facts_N["highlight"][places_B] = _level_reached(reached_BL, 0.99)
    logs_BL = np.log2(shares_BL, out=np.zeros_like(shares_BL), where=shares_BL > 0)
    facts_N["entropy"][places_B] = -(shares_BL * logs_BL).sum(axis=1)
    thumbnails = np.stack([sample.thumbnail_883 for sample in samples])
    facts_N["descriptor"][places_B] = _descriptors(thumbnails)
    edges = [(place, s.edges_L) for place, s in zip(places_B, samples, strict=True)]
    sharp = [(place, edges_L) for place, edges_L in edges if edges_L is not None]
    if sharp:
        edges_BL = np.stack([edges_L for _, edges_L in sharp])
        reached_BL = (edges_BL / edges_BL.sum(axis=1, keepdims=True)).cumsum(1, dtype=np.float64)
        facts_N["sharpness"][[place for place, _ in sharp]] = _level_reached(reached_BL, 0.99)


def _level_reached(reached_BL: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """The lowest level, in 0..1, at or below which this share of the pixels lies."""
    levels: NDArray[np.float64] = (reached_BL < share - 1e-6).sum(axis=1).clip(max=255) / 255
    return levels


def _descriptors(thumbnails_B883: Pixels) -> NDArray[np.uint8]:
    """48 numbers for the colours of a 4x4 grid, and 16 for edges of 4 directions in a 2x2 grid."""
    count = len(thumbnails_B883)
    pixels = thumbnails_B883.astype(np.float32)
    colours_B48 = pixels.reshape(count, 4, 2, 4, 2, 3).mean(axis=(2, 4)).reshape(count, 48)
    grey_B88 = pixels.mean(axis=3)
    down = grey_B88[:, 1:, :-1] - grey_B88[:, :-1, :-1]
    right = grey_B88[:, :-1, 1:] - grey_B88[:, :-1, :-1]
    strength = np.hypot(down, right)
    direction = (np.arctan2(down, right) * (4 / np.pi)).astype(np.int64) % 4
    edges_B224 = np.zeros((count, 2, 2, 4), np.float32)
    for row, rows in enumerate((slice(0, 4), slice(4, 7))):
        for column, columns in enumerate((slice(0, 4), slice(4, 7))):
            for angle in range(4):
                chosen = direction[:, rows, columns] == angle
                part = np.where(chosen, strength[:, rows, columns], 0)
                edges_B224[:, row, column, angle] = part.mean(axis=(1, 2))
    everything = np.concatenate([colours_B48, 2 * edges_B224.reshape(count, 16)], axis=1)
    return everything.round().clip(0, 255).astype(np.uint8)

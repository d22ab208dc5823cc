"""What makes one image suspicious: facts against thresholds, for many images at once.

Every check has a section of its name in `audit.checks`. N images of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.audit.facts import FORMS, IDENTIFYING, Facts, named_bits
from imagemill.params import ChecksParams

# What each format's files are called.
_EXTENSIONS = {
    "AVIF": {"avif", "avifs"},
    "BMP": {"bmp", "dib"},
    "GIF": {"gif"},
    "JPEG": {"jpg", "jpeg", "jpe", "jfif"},
    "JPEG2000": {"jp2", "j2k", "jpx", "jpf", "j2c", "jpc"},
    "PNG": {"png", "apng"},
    "PPM": {"ppm", "pgm", "pbm", "pnm", "pfm"},
    "TGA": {"tga", "icb", "vda", "vst"},
    "TIFF": {"tif", "tiff"},
    "WEBP": {"webp"},
}
_ALL_EXTENSIONS = pa.array(sorted(frozenset().union(*_EXTENSIONS.values())), pa.string())

_TELLING = sum(1 << place for place, name in enumerate(IDENTIFYING) if name != "maker_note")


class Found(NamedTuple):
    """What a check found in a batch."""

    mask_N: NDArray[np.bool_]
    severity_N: NDArray[np.floating]  # the higher, the worse; comparable inside a check only
    reason: Callable[[int], str]  # of an image by its place in the batch


@dataclass(frozen=True)
class Batch:
    """Rows of the manifest and the facts of their images; undecoded images have zeros."""

    rows: pa.RecordBatch
    facts_N: Facts


def extension(batch: Batch, limits: ChecksParams) -> Found:  # noqa: ARG001
    """A file, or a member of one, whose name speaks of another format."""
    names = pc.utf8_lower(batch.rows["extension"])
    known = pc.if_else(pc.is_in(names, value_set=_ALL_EXTENSIONS), names, "")
    named_N = np.array(known.to_pylist(), "S8")
    format_N = batch.facts_N["format"]
    mask_N = named_N != b""
    for name, extensions in _EXTENSIONS.items():
        fitting = np.isin(named_N, [text.encode() for text in extensions])
        mask_N &= ~(fitting & (format_N == name.encode()))
    return Found(
        mask_N,
        np.zeros(len(mask_N)),
        lambda row: f"called .{named_N[row].decode()}, but is {format_N[row].decode()}",
    )


def size(batch: Batch, limits: ChecksParams) -> Found:
    """A side below or above what is wanted."""
    least, most = limits.size.min_side, limits.size.max_side
    shorter_N, longer_N = _sides(batch.facts_N)
    severity_N = np.maximum(least / shorter_N, longer_N / most)
    return Found(
        (shorter_N < least) | (longer_N > most),
        severity_N,
        lambda row: f"{_extent(batch.facts_N, row)} pixels, expected {least} to {most} a side",
    )


def aspect(batch: Batch, limits: ChecksParams) -> Found:
    """A very long side beside a short one."""
    shorter_N, longer_N = _sides(batch.facts_N)
    ratio_N = longer_N / shorter_N
    most = limits.aspect.max_ratio
    return Found(
        ratio_N > most,
        ratio_N,
        lambda row: (
            f"{_extent(batch.facts_N, row)} pixels: sides are {ratio_N[row]:.1f} to 1, "
            f"more than {most:g}"
        ),
    )


def _sides(facts_N: Facts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    width_N, height_N = facts_N["width"].clip(1), facts_N["height"].clip(1)
    shorter_N, longer_N = np.minimum(width_N, height_N), np.maximum(width_N, height_N)
    return shorter_N.astype(np.float64), longer_N.astype(np.float64)


def _extent(facts_N: Facts, row: int) -> str:
    return f"{facts_N['width'][row]} x {facts_N['height'][row]}"


def mode(batch: Batch, limits: ChecksParams) -> Found:
    """Pixels stored in a way that is read by a rule one should know of."""
    wanted = sum(1 << FORMS.index(name) for name in limits.mode.unexpected)
    forms_N = batch.facts_N["forms"] & wanted
    return Found(
        forms_N > 0,
        np.bitwise_count(forms_N).astype(np.float64),
        lambda row: (
            f"mode {batch.facts_N['mode'][row].decode()}: "
            + ", ".join(named_bits(FORMS, int(forms_N[row])))
        ),
    )


def blur(batch: Batch, limits: ChecksParams) -> Found:
    """No sharp edge anywhere."""
    return _below(batch, "sharpness", limits.blur.min_sharpness, batch.facts_N["detailed"])


def dark(batch: Batch, limits: ChecksParams) -> Found:
    """No bright spot anywhere."""
    return _below(batch, "highlight", limits.dark.min_highlight)


def bright(batch: Batch, limits: ChecksParams) -> Found:
    """No dark spot anywhere."""
    most, shadow_N = limits.bright.max_shadow, batch.facts_N["shadow"]
    return Found(
        shadow_N > most,
        shadow_N,
        lambda row: f"shadow {shadow_N[row]:.3f}, more than {most:g}",
    )


def low_information(batch: Batch, limits: ChecksParams) -> Found:
    """Next to one brightness all over."""
    return _below(batch, "entropy", limits.low_information.min_entropy)


def _below(
    batch: Batch, field: str, least: float, among_N: NDArray[np.bool_] | None = None
) -> Found:
    value_N = batch.facts_N[field]
    mask_N = value_N < least
    return Found(
        mask_N if among_N is None else mask_N & among_N,
        -value_N,
        lambda row: f"{field} {value_N[row]:.3f}, less than {least:g}",
    )


def identifying(batch: Batch, limits: ChecksParams) -> Found:  # noqa: ARG001
    """Metadata that lead to people or places; a maker's note, as cameras write it, only may."""
    found_N = batch.facts_N["identifying"] & _TELLING
    return Found(
        found_N > 0,
        np.bitwise_count(found_N).astype(np.float64),
        lambda row: "metadata hold " + ", ".join(named_bits(IDENTIFYING, int(found_N[row]))),
    )


CHECKS: dict[str, Callable[[Batch, ChecksParams], Found]] = {
    "extension": extension,
    "size": size,
    "aspect": aspect,
    "mode": mode,
    "blur": blur,
    "dark": dark,
    "bright": bright,
    "low_information": low_information,
    "identifying": identifying,
}

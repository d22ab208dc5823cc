"""What is known of an image once it was decoded: one record of fixed size, whatever the image.

N images, each a `FACTS` record. Records are what workers answer, what the cache keeps and what
checks judge; a threshold changes none of them.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

# Counts up when a figure below gets another meaning or another way to it: kept records are void.
MEASUREMENT = 1
# Below this shorter side sharpness and perceptual hash say nothing, so they are not taken.
LEAST_SIDE = 64
# A header may claim more; a record has no room for it.
MOST_PIXELS = 2**32 - 1
DESCRIPTOR = 64

FACTS = np.dtype(
    [
        ("fault", "S12"),  # check that failed while decoding, or empty: then the rest is known
        ("transient", "?"),  # a fault that may be the machine's: not to be remembered
        ("width", "<u4"),  # pixels, upright
        ("height", "<u4"),
        ("mode", "S8"),  # as Pillow names it
        ("format", "S10"),
        ("orientation", "u1"),  # EXIF, 1 to 8
        ("forms", "u1"),  # bits in order of FORMS
        ("identifying", "u1"),  # bits in order of IDENTIFYING
        ("detailed", "?"),  # sharpness and hash were taken
        ("mean_rgb", "<f4", 3),  # over all pixels, 0..1
        ("mean_square_rgb", "<f4", 3),
        ("shadow", "<f4"),  # brightness that 5 % of the pixels stay below, 0..1
        ("highlight", "<f4"),  # brightness that 99 % of the pixels do not exceed, 0..1
        ("entropy", "<f4"),  # of the brightness, bits
        ("sharpness", "<f4"),  # Laplacian that 99 % of the pixels do not exceed, 0..1
        ("hash", "<u8"),  # perceptual
        ("descriptor", "u1", DESCRIPTOR),  # colours of a 4x4 grid, then gradients of a 2x2 grid
    ]
)
Facts: TypeAlias = NDArray[np.void]  # of FACTS
PLAIN = np.dtype(f"V{FACTS.itemsize}")

FORMS = ("grey", "palette", "alpha", "cmyk", "sixteen_bit", "animated")
IDENTIFYING = ("gps", "serial_number", "person", "maker_note")


class Record(NamedTuple):
    """The first fields of one image's record; those that follow are computed for many at once."""

    fault: str = ""
    transient: bool = False
    width: int = 0
    height: int = 0
    mode: str = ""
    format: str = ""
    orientation: int = 0
    forms: int = 0
    identifying: int = 0
    detailed: bool = False
    mean_rgb: Sequence[float] = (0.0, 0.0, 0.0)
    mean_square_rgb: Sequence[float] = (0.0, 0.0, 0.0)
    hash: int = 0


def facts_of(records: Sequence[Record]) -> Facts:
    """Records side by side, the fields to come being zero."""
    facts_N = np.zeros(len(records), FACTS)
    # No record, no column.
    for name, column in zip(Record._fields, zip(*records, strict=True), strict=False):
        facts_N[name] = column
    return facts_N


def plain(facts_N: Facts) -> Facts:
    """The same memory without fields, of which numpy copies one after the other: 20 times as fast
    to pick rows from and to put rows into.
    """
    return facts_N.view(PLAIN)


def bits(names: tuple[str, ...], present: set[str]) -> int:
    """Names among `names` as a number with one bit each."""
    return sum(1 << place for place, name in enumerate(names) if name in present)


def named_bits(names: tuple[str, ...], number: int) -> list[str]:
    """The names whose bits are set."""
    return [name for place, name in enumerate(names) if number >> place & 1]


def flagged(facts: Facts, field: str, names: tuple[str, ...], name: str) -> NDArray[np.bool_]:
    """Which images have a name's bit in a field."""
    flags: NDArray[np.bool_] = (facts[field] >> names.index(name) & 1).astype(bool)
    return flags

"""The eight EXIF orientations: how stored pixels become an upright picture."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Box(NamedTuple):
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int


def turned_upright(stored_HWC: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation (1 to 8).

    Source: EXIF 2.32, tag 0x0112: where the stored picture's first row and column are.
    """
    if orientation == 1:
        return stored_HWC
    picture = stored_HWC.swapaxes(0, 1) if orientation >= 5 else stored_HWC
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    return np.ascontiguousarray(picture)


def stored_box(box: Box, orientation: int, *, height: int, width: int) -> Box:
    """Where a box of the upright picture lies in the stored one.

    Args:
        box: In the upright picture.
        orientation: 1 to 8.
        height, width: Of the stored picture.
    """
    top, left, tall, wide = box
    upright_height, upright_width = (width, height) if orientation >= 5 else (height, width)
    if orientation in (3, 4, 7, 8):
        top = upright_height - top - tall
    if orientation in (2, 3, 6, 7):
        left = upright_width - left - wide
    return Box(left, top, wide, tall) if orientation >= 5 else Box(top, left, tall, wide)

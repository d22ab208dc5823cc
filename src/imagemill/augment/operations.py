"""OPERATIONS: random changes that keep the label, on uint8 images [B, H, W, C].

Each takes the images, their strengths (float64 [B, S], drawn from the policy's range, in the
operation's unit) and further uniform draws (float64 [B, U] in [0, 1)), and returns changed images
of the same shape. What a
geometric operation moves into the picture is its own mirror image, so that no new edge appears.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]


class Operation(NamedTuple):
    """A row of OPERATIONS.

    apply: (images_BHWC, strengths_BS, units_BU) -> images_BHWC.
    unit: What a strength measures.
    strengths: S, how many strengths an image needs; 0 for operations that are on or off.
    units: U, how many further uniform draws an image needs.
    limits: Strengths that make sense, [low, high].
    """

    apply: Callable[[Images, Floats, Floats], Images]
    unit: str
    strengths: int
    units: int
    limits: tuple[float, float]


def rotate(images_BHWC: Images, degrees_BS: Floats, units_BU: Floats) -> Images:
    """Turn about the centre, counter-clockwise."""
    del units_BU
    height, width = images_BHWC.shape[1:3]
    centre = ((width - 1) / 2, (height - 1) / 2)
    turns = degrees_BS[:, 0].tolist()
    return _warped(images_BHWC, [cv2.getRotationMatrix2D(centre, turn, 1.0) for turn in turns])


def scale(images_BHWC: Images, factors_BS: Floats, units_BU: Floats) -> Images:
    """Enlarge (factor > 1) or shrink about the centre."""
    del units_BU
    height, width = images_BHWC.shape[1:3]
    centre = ((width - 1) / 2, (height - 1) / 2)
    factors = factors_BS[:, 0].tolist()
    return _warped(images_BHWC, [cv2.getRotationMatrix2D(centre, 0.0, by) for by in factors])


def translate(images_BHWC: Images, fractions_BS: Floats, units_BU: Floats) -> Images:
    """Shift by whole pixels: down by the first strength, right by the second."""
    del units_BU
    height, width = images_BHWC.shape[1:3]
    down_B = np.rint(fractions_BS[:, 0] * height).astype(np.intp)
    right_B = np.rint(fractions_BS[:, 1] * width).astype(np.intp)
    rows_BH = _mirrored(np.arange(height) - down_B[:, None], height)
    columns_BW = _mirrored(np.arange(width) - right_B[:, None], width)
    sample_B = np.arange(len(images_BHWC))
    return images_BHWC[sample_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]]


def crop(images_BHWC: Images, shares_BS: Floats, units_BU: Floats) -> Images:
    """Cut out a window of this share of each side, anywhere, and enlarge it to the full size."""
    height, width = images_BHWC.shape[1:3]
    shares_B = shares_BS[:, 0]
    left_B = units_BU[:, 0] * (1 - shares_B) * (width - 1)
    top_B = units_BU[:, 1] * (1 - shares_B) * (height - 1)
    matrices = [
        np.array([[1 / share, 0, -left / share], [0, 1 / share, -top / share]])
        for share, left, top in zip(shares_B, left_B, top_B, strict=True)
    ]
    return _warped(images_BHWC, matrices)


def flip_horizontal(images_BHWC: Images, strengths_BS: Floats, units_BU: Floats) -> Images:
    """Left becomes right."""
    del strengths_BS, units_BU
    return np.ascontiguousarray(images_BHWC[:, :, ::-1])


def flip_vertical(images_BHWC: Images, strengths_BS: Floats, units_BU: Floats) -> Images:
    """Top becomes bottom."""
    del strengths_BS, units_BU
    return np.ascontiguousarray(images_BHWC[:, ::-1])


OPERATIONS: dict[str, Operation] = {
    "rotate": Operation(rotate, "degrees", 1, 0, (-180, 180)),
    "scale": Operation(scale, "factor", 1, 0, (0.1, 10)),
    "translate": Operation(translate, "fraction of the side", 2, 0, (-1, 1)),
    "crop": Operation(crop, "fraction of the side", 1, 2, (0.05, 1)),
    "flip_horizontal": Operation(flip_horizontal, "", 0, 0, (0, 0)),
    "flip_vertical": Operation(flip_vertical, "", 0, 0, (0, 0)),
}


def _warped(images_BHWC: Images, matrices: Sequence[MatLike]) -> Images:
    height, width, channels = images_BHWC.shape[1:]
    changed = np.empty_like(images_BHWC)
    for image, matrix, out in zip(images_BHWC, matrices, changed, strict=True):
        warped = cv2.warpAffine(
            image,
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        out[:] = warped.reshape(height, width, channels)
    return changed


def _mirrored(positions: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Positions outside [0, size) reflected back, the edge pixel not repeated."""
    if size == 1:
        return np.zeros_like(positions)
    period = 2 * (size - 1)
    wrapped = np.abs(positions) % period
    return np.where(wrapped < size, wrapped, period - wrapped)

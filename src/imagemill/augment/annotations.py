"""Masks, boxes, polygons and points that move with their image: what was drawn, done to them.

A mask takes the value of the nearest pixel. A box is [x1, y1, x2, y2], float, in pixels from the
upper left corner of the picture, so that a whole image is [0, 0, width, height]; the moved one is
the smallest that holds the moved corners, cut at the picture's edges. The corners of a polygon are
told in the same way, and it is cut in the same way; where that leaves several parts, edges of the
picture join them. A single point is told by the middle of its pixel: the first one is (0, 0). What
mirrors in over an edge has a mask, but no box, polygon or point.
"""

from collections.abc import Sequence
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from imagemill.augment.geometric import Floats, Size, mirrored
from imagemill.augment.layers import Drawn
from imagemill.augment.operations import OPERATIONS
from imagemill.errors import ParamsError

Value = TypeVar("Value", bound=np.generic)


def moved_mask(mask_HW: NDArray[Value], drawn: Sequence[Drawn]) -> NDArray[Value]:
    """The mask of an image after the operations drawn for it.

    Args:
        mask_HW: Of any type.
        drawn: As `Policy.drawn` tells.

    Raises:
        ParamsError: AugMix is among them: it blends differently moved images.
    """
    for matrix in _maps(drawn, mask_HW.shape):
        mask_HW = _gathered(mask_HW, matrix)
    return mask_HW


def moved_boxes(boxes_N4: Floats, drawn: Sequence[Drawn], size: Size) -> Floats:
    """The boxes of an image after the operations drawn for it, float64 [N, 4].

    Args:
        boxes_N4: [x1, y1, x2, y2] in pixels.
        drawn: As `Policy.drawn` tells.
        size: Height and width of the image.

    Returns:
        As many; one that left the picture has no area.

    Raises:
        ParamsError: AugMix is among them: it blends differently moved images.
    """
    boxes_N4 = np.array(boxes_N4, dtype=np.float64).reshape(-1, 4)
    for matrix in _maps(drawn, size):
        boxes_N4 = _around(boxes_N4, matrix, size)
    return boxes_N4


def moved_polygon(corners_K2: Floats, drawn: Sequence[Drawn], size: Size) -> Floats:
    """A polygon after the operations drawn for its image.

    Args:
        corners_K2: x and y in pixels.
        drawn: As `Policy.drawn` tells.
        size: Height and width of the image.

    Returns:
        The corners of what is in the picture, float64 [K, 2]; none if it left.

    Raises:
        ParamsError: AugMix is among them: it blends differently moved images.
    """
    for matrix in _maps(drawn, size):
        corners_K2 = _at(corners_K2 - 0.5, matrix) + 0.5
        for axis, side in enumerate((size[1], size[0])):
            corners_K2 = _cut(corners_K2, corners_K2[:, axis])
            corners_K2 = _cut(corners_K2, side - corners_K2[:, axis])
    return corners_K2


def moved_points(points_N2: Floats, drawn: Sequence[Drawn], size: Size) -> Floats:
    """Points of an image after the operations drawn for it, float64 [N, 2].

    Args:
        points_N2: x and y, whole numbers at the middles of pixels.
        drawn: As `Policy.drawn` tells.
        size: Height and width of the image.

    Returns:
        As many; one that left the picture stays outside, whatever comes after.

    Raises:
        ParamsError: AugMix is among them: it blends differently moved images.
    """
    points_N2 = np.array(points_N2, dtype=np.float64).reshape(-1, 2)
    for matrix in _maps(drawn, size):
        still_N = inside(points_N2, size)
        points_N2[still_N] = _at(points_N2[still_N], matrix)
    return points_N2


def inside(points_N2: Floats, size: Size) -> NDArray[np.bool_]:
    """Which points are in the picture, bool [N]; each pixel reaches half of its side further."""
    edges_2 = np.array([size[1], size[0]]) - 0.5
    is_within_N2: NDArray[np.bool_] = (points_N2 >= -0.5) & (points_N2 < edges_2)
    return is_within_N2[:, 0] & is_within_N2[:, 1]


def moves(drawn: Sequence[Drawn]) -> bool:
    """Whether any of the operations moves pixels."""
    return any(
        one.operation == "augmix" or OPERATIONS[one.operation].maps is not None for one in drawn
    )


def _maps(drawn: Sequence[Drawn], size: Size) -> list[Floats]:
    """The matrices of those operations that move pixels."""
    maps = []
    for one in drawn:
        if one.operation == "augmix":
            raise ParamsError(
                "augmentation 'augmix' blends differently moved images, so there is no one place "
                "for masks and boxes: leave it out where images have them"
            )
        find = OPERATIONS[one.operation].maps
        if find is not None:
            found = find(np.array([one.strengths]), np.array([one.positions]), size)
            maps.append(np.asarray(found[0], np.float64))
    return maps


def _at(points_N2: Floats, matrix: Floats) -> Floats:
    return points_N2 @ matrix[:, :2].T + matrix[:, 2]


def _cut(corners_K2: Floats, depths_K: Floats) -> Floats:
    """The part of a polygon on one side of a line: where depths are positive, or zero.

    Source: Sutherland and Hodgman 1974, "Reentrant polygon clipping".
    """
    stays_K = depths_K >= 0
    if stays_K.all():
        return corners_K2
    next_K2, next_depths_K = np.roll(corners_K2, -1, axis=0), np.roll(depths_K, -1)
    crosses_K = stays_K != np.roll(stays_K, -1)
    shares_K = np.divide(depths_K, depths_K - next_depths_K, where=crosses_K, out=depths_K * 0)
    crossings_K2 = corners_K2 + shares_K[:, None] * (next_K2 - corners_K2)
    # Each corner is followed by the crossing on the way to the next one.
    both = np.stack([corners_K2, crossings_K2], axis=1)
    found: Floats = both[np.stack([stays_K, crosses_K], axis=1)]
    return found


def _gathered(mask_HW: NDArray[Value], matrix: Floats) -> NDArray[Value]:
    height, width = mask_HW.shape
    back = cv2.invertAffineTransform(matrix)
    y_HW, x_HW = np.mgrid[:height, :width]
    columns, rows = (
        np.rint(row[0] * x_HW + row[1] * y_HW + row[2]).astype(np.intp) for row in back
    )
    return mask_HW[mirrored(rows, height), mirrored(columns, width)]


def _around(boxes_N4: Floats, matrix: Floats, size: Size) -> Floats:
    # Maps speak of the centres of pixels, boxes of their edges: half a pixel lies between.
    x_N4, y_N4 = boxes_N4[:, [0, 2, 2, 0]] - 0.5, boxes_N4[:, [1, 1, 3, 3]] - 0.5
    edges = []
    for (across, along, shift), side in zip(matrix, (size[1], size[0]), strict=True):
        corners_N4 = across * x_N4 + along * y_N4 + shift + 0.5
        edges.append(np.clip([corners_N4.min(1), corners_N4.max(1)], 0, side))
    (left_N, right_N), (top_N, bottom_N) = edges
    return np.stack([left_N, top_N, right_N, bottom_N], axis=1)

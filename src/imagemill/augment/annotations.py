"""Masks and boxes that move with their image: what was drawn for it, done to them.

A mask takes the value of the nearest pixel. A box is [x1, y1, x2, y2], float, in pixels from the
upper left corner of the picture, so that a whole image is [0, 0, width, height]; the moved one is
the smallest that holds the moved corners, cut at the picture's edges. What mirrors in over an edge
has a mask, but no box.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imagemill.augment.geometric import Floats, Size, mirrored
from imagemill.augment.layers import Drawn
from imagemill.augment.operations import OPERATIONS
from imagemill.errors import ParamsError


def moved_mask(mask_HW: NDArray[np.generic], drawn: Sequence[Drawn]) -> NDArray[np.generic]:
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


def _gathered(mask_HW: NDArray[np.generic], matrix: Floats) -> NDArray[np.generic]:
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

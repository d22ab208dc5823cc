"""What the JSON of a copy says of its objects: all that has a place, moved with the pixels.

Its lists are those of `sources.boxes`: boxes and, of the same length, `segmentation` (polygons or
run lengths) and `keypoints` as COCO has them. What has a place that cannot be worked out is left
out, rather than told where it no longer is, and `left_out` names it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from imagemill.augment.annotations import (
    inside,
    moved_boxes,
    moved_mask,
    moved_points,
    moved_polygon,
    moves,
)
from imagemill.augment.geometric import Floats, Size
from imagemill.augment.layers import Drawn
from imagemill.augment.run_lengths import mask_of, run_lengths

_AREA = "area"  # of the outline as it was, in pixels
_DECIMALS = 3
_FEWEST_CORNERS = 3


class _UnknownFormError(Exception):
    """A place that is not told as COCO does; never leaves this module."""


class _GoneError(Exception):
    """An object left the picture; never leaves this module."""


def moved_objects(annotation: dict[str, Any], drawn: Sequence[Drawn], size: Size) -> dict[str, Any]:
    """An annotation whose objects moved with the image; those that left it are gone.

    Lists as long as that of the boxes speak of the same objects, so they lose the same members.

    Args:
        annotation: Of the image as it was.
        drawn: As `Policy.drawn` tells.
        size: Height and width of the image.

    Raises:
        ParamsError: it has objects, and AugMix is among the operations.
    """
    placed = [name for name in (*_MOVES, _AREA) if annotation.get(name)]
    if not placed or not moves(drawn):
        return annotation
    boxes = annotation.get("boxes")
    num_objects = len(boxes) if isinstance(boxes, list) else 0
    lists = {
        name: value
        for name, value in annotation.items()
        if isinstance(value, list) and len(value) == num_objects
    }
    left_out = [name for name in placed if name not in lists or name == _AREA]
    gone = set[int]()
    for name in placed:
        if name not in left_out:
            try:
                lists[name] = _moved_list(_MOVES[name], lists[name], drawn, size, gone)
            except _UnknownFormError:
                left_out.append(name)
    staying = {
        name: [one for place, one in enumerate(value) if place not in gone]
        for name, value in lists.items()
    }
    changed = {**annotation, **staying} | ({"left_out": sorted(left_out)} if left_out else {})
    return {name: value for name, value in changed.items() if name not in left_out}


def _moved_list(
    move: "_Move", values: list[Any], drawn: Sequence[Drawn], size: Size, gone: set[int]
) -> list[Any]:
    """One detail of all objects, None where one has not got it; adds to those that are gone."""
    moved = []
    for place, value in enumerate(values):
        try:
            moved.append(None if value is None else move(value, drawn, size))
        except _GoneError:
            moved.append(None)
            gone.add(place)
    return moved


def _moved_box(box: Any, drawn: Sequence[Drawn], size: Size) -> list[float]:
    (moved_4,) = moved_boxes(_rows(box, 4), drawn, size)
    # Less than a pixel is not seen.
    if np.any(moved_4[2:] - moved_4[:2] < 1):
        raise _GoneError
    return _plain(moved_4)


def _moved_outline(outline: Any, drawn: Sequence[Drawn], size: Size) -> Any:
    if isinstance(outline, dict):
        return _moved_run_lengths(outline, drawn, size)
    if not isinstance(outline, list):
        raise _UnknownFormError
    polygons = [_rows(polygon, 2) for polygon in outline]
    if any(len(polygon_K2) < _FEWEST_CORNERS for polygon_K2 in polygons):
        raise _UnknownFormError
    moved = [moved_polygon(polygon_K2, drawn, size).round(_DECIMALS) for polygon_K2 in polygons]
    # What only touches an edge is a line.
    seen = [_plain(one_K2.ravel()) for one_K2 in moved if len(one_K2) and np.ptp(one_K2, 0).all()]
    if outline and not seen:
        raise _GoneError
    return seen


def _moved_run_lengths(document: dict[str, Any], drawn: Sequence[Drawn], size: Size) -> Any:
    try:
        mask_HW = mask_of(document, size)
    except ValueError:
        raise _UnknownFormError from None
    moved_HW = moved_mask(mask_HW, drawn)
    if not moved_HW.any():
        raise _GoneError
    return run_lengths(moved_HW, as_text=isinstance(document["counts"], str))


def _moved_keypoints(keypoints: Any, drawn: Sequence[Drawn], size: Size) -> list[float]:
    """Triples x, y, visibility; those that are not labelled, or left the picture, are zeros."""
    points_K3 = _rows(keypoints, 3)
    points_K3[:, :2] = moved_points(points_K3[:, :2], drawn, size)
    points_K3[(points_K3[:, 2] == 0) | ~inside(points_K3[:, :2], size)] = 0
    return _plain(points_K3.ravel())


def _rows(value: Any, width: int) -> Floats:
    try:
        rows = np.array(value, np.float64).reshape(-1, width)
    except (TypeError, ValueError):
        raise _UnknownFormError from None
    if not np.isfinite(rows).all():
        raise _UnknownFormError
    return rows


def _plain(numbers: Floats) -> list[float]:
    found: list[float] = numbers.round(_DECIMALS).tolist()
    return found


_Move = Callable[[Any, Sequence[Drawn], Size], Any]
_MOVES: dict[str, _Move] = {
    "boxes": _moved_box,
    "segmentation": _moved_outline,
    "keypoints": _moved_keypoints,
}

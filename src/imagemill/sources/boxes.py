"""What a detection data set says of one image, as the JSON that the manifest carries."""

import json
from typing import Any, NamedTuple


class LabelledBox(NamedTuple):
    """One object in an image."""

    label: str
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
    details: dict[str, Any]  # what else the source says: difficult, truncated, segmentation, ...


def is_degenerate(box: LabelledBox) -> bool:
    """Whether it has no area (nan has none)."""
    x1, y1, x2, y2 = box.corners
    return not (x2 > x1 and y2 > y1)


def largest_label(boxes: list[LabelledBox]) -> str | None:
    """The class of the largest box, the first of them if several are; None without a box."""
    best = max(boxes, key=lambda box: _area(box.corners), default=None)
    return None if best is None else best.label


def as_json(boxes: list[LabelledBox], whole: dict[str, Any]) -> str:
    """The annotation of an image.

    Args:
        boxes: Its objects.
        whole: What the source says of the image as a whole.

    Returns:
        `{"boxes": [[x1, y1, x2, y2], ...], "labels": [...], ...}`: lists of one length, one more
        for each detail that any of the objects has (null where one lacks it).
    """
    names = sorted({name for box in boxes for name in box.details})
    lists: dict[str, Any] = {name: [box.details.get(name) for box in boxes] for name in names}
    lists |= {"boxes": [box.corners for box in boxes], "labels": [box.label for box in boxes]}
    return json.dumps({**whole, **lists}, ensure_ascii=False, sort_keys=True)


def _area(corners: tuple[float, float, float, float]) -> float:
    x1, y1, x2, y2 = corners
    return (x2 - x1) * (y2 - y1)

"""What was drawn for an image, done to torchvision's tv_tensors: images, masks, boxes, key points.

Imports torch; nothing else in this room does.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2

from imagemill.augment.annotations import moved_boxes, moved_mask, moved_points
from imagemill.augment.layers import Drawn
from imagemill.augment.replay import replayed

T = TypeVar("T", tv_tensors.Image, tv_tensors.Mask, tv_tensors.BoundingBoxes, tv_tensors.KeyPoints)


def moved(value: T, drawn: Sequence[Drawn]) -> T:
    """An image, its masks, boxes or key points after the operations drawn for the image.

    Args:
        value: Image uint8 [C, H, W], Mask [H, W] or [N, H, W] of any type, BoundingBoxes [N, 4] of
            any upright format, or KeyPoints [..., 2], whole numbers at the middles of pixels.
        drawn: As `Policy.drawn` tells.

    Returns:
        The same type, shape and dtype; key points that left the picture lie outside.

    Raises:
        ParamsError: AugMix is among the operations, and the value is no image.
    """
    if isinstance(value, tv_tensors.BoundingBoxes):
        changed = _boxes(value, drawn)
    elif isinstance(value, tv_tensors.KeyPoints):
        found = moved_points(value.reshape(-1, 2).numpy(), drawn, value.canvas_size)
        changed = _typed(torch.from_numpy(found).reshape(value.shape), like=value)
    elif isinstance(value, tv_tensors.Mask):
        layers = value.numpy().reshape(-1, *value.shape[-2:])
        changed = torch.from_numpy(np.stack([moved_mask(one, drawn) for one in layers]))
        changed = changed.reshape(value.shape)
    else:
        image_HWC = np.ascontiguousarray(value.numpy().transpose(1, 2, 0))
        changed = torch.from_numpy(replayed(image_HWC, drawn)).permute(2, 0, 1)
    return tv_tensors.wrap(changed, like=value)


def _boxes(boxes: tv_tensors.BoundingBoxes, drawn: Sequence[Drawn]) -> torch.Tensor:
    corners = v2.convert_bounding_box_format(boxes, new_format="XYXY")
    found = moved_boxes(corners.numpy(), drawn, boxes.canvas_size)
    changed = tv_tensors.BoundingBoxes(
        torch.from_numpy(found), format="XYXY", canvas_size=boxes.canvas_size
    )
    back = v2.convert_bounding_box_format(changed, new_format=boxes.format)
    return _typed(back, like=boxes)


def _typed(values: torch.Tensor, *, like: torch.Tensor) -> torch.Tensor:
    return (values if like.is_floating_point() else values.round()).to(like.dtype)

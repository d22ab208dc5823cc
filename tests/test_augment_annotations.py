"""Facts about masks and boxes: they move with the image, and agree with torchvision's."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2

from imagemill.augment import OPERATIONS, Drawn
from imagemill.augment.annotations import moved_boxes, moved_mask
from imagemill.augment.replay import replayed
from imagemill.augment.tensors import moved
from imagemill.errors import ParamsError

HEIGHT, WIDTH = 60, 80
BOX = [30.0, 20.0, 52.0, 37.0]  # x1, y1, x2, y2
GEOMETRIC = [name for name in OPERATIONS if OPERATIONS[name].maps is not None]
OTHERS = [name for name in OPERATIONS if OPERATIONS[name].maps is None]
# Strengths that keep the object in the picture, and further draws.
MILD = {
    "rotate": ([23.0], []),
    "scale": ([1.3], []),
    "shear": ([14.0, -9.0], []),
    "translate": ([0.15, -0.2], []),
    "crop": ([0.8], [0.3, 0.6]),
    "flip_horizontal": ([], []),
    "flip_vertical": ([], []),
}


def drawn(name: str) -> list[Drawn]:
    """An operation with strengths in the middle of what makes sense."""
    if name in MILD:
        return [Drawn(name, *MILD[name])]
    low, high = OPERATIONS[name].limits
    strengths = [low + (min(high, 2) - low) / 2] * OPERATIONS[name].strengths
    return [Drawn(name, strengths, [0.5] * OPERATIONS[name].units)]


def rectangle(dtype: type = np.uint8) -> np.ndarray:
    """1 inside BOX, else 0."""
    mask = np.zeros((HEIGHT, WIDTH), dtype)
    mask[20:37, 30:52] = 1
    return mask


def test_every_operation_that_moves_pixels_is_tried() -> None:
    """A new geometric operation needs a line here."""
    assert set(GEOMETRIC) == set(MILD)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.int32, np.float32])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_masks_move_as_images_do(name: str, dtype: type) -> None:
    """A drawn rectangle and its mask end up in the same place: 99 % of the pixels agree."""
    image = replayed(rectangle()[..., None] * np.uint8(255), drawn(name))[..., 0]
    mask = moved_mask(rectangle(dtype), drawn(name))
    assert mask.dtype == dtype
    assert ((image >= 128) == (mask == 1)).mean() >= 0.99
    assert not np.array_equal(mask, rectangle(dtype))


@pytest.mark.parametrize("name", GEOMETRIC)
def test_boxes_stay_around_their_object(name: str) -> None:
    """The moved box holds the moved mask; turned and leaning ones are no larger than they must."""
    mask = moved_mask(rectangle(), drawn(name))
    (box,) = moved_boxes([BOX], drawn(name), (HEIGHT, WIDTH))
    rows, columns = np.nonzero(mask)
    tight = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    # A pixel for rounding to the nearest one.
    assert (box[:2] <= tight[:2] + 1).all() and (box[2:] >= tight[2:] - 1).all()
    assert abs(box - tight).max() <= 2


@pytest.mark.parametrize("name", OTHERS)
def test_other_operations_leave_both_alone(name: str) -> None:
    """What changes values moves neither mask nor box."""
    assert np.array_equal(moved_mask(rectangle(), drawn(name)), rectangle())
    assert moved_boxes([BOX], drawn(name), (HEIGHT, WIDTH)).tolist() == [BOX]


def test_operations_move_them_one_after_the_other() -> None:
    """Two half turns are none; a flip and a shift end where both have been."""
    around = [Drawn("rotate", [180.0], [])] * 2
    assert np.array_equal(moved_mask(rectangle(), around), rectangle())
    both = [Drawn("flip_horizontal", [], []), Drawn("translate", [0.1, 0.05], [])]
    assert moved_boxes([BOX], both, (HEIGHT, WIDTH)).tolist() == [[32, 26, 54, 43]]


def test_a_box_that_left_has_no_area() -> None:
    """Shifted out of the picture, it lies on the edge."""
    gone = moved_boxes([BOX], [Drawn("translate", [0.0, 0.9], [])], (HEIGHT, WIDTH))
    assert gone.tolist() == [[80, 20, 80, 37]]


def test_no_boxes_stay_no_boxes() -> None:
    """An image without objects is as good as any."""
    assert moved_boxes(np.empty((0, 4)), drawn("rotate"), (HEIGHT, WIDTH)).shape == (0, 4)


def test_mixtures_have_no_one_place() -> None:
    """AugMix blends differently moved images: masks and boxes refuse with a sentence."""
    mixed = [Drawn("augmix", [0.5, 0.5], [], ((Drawn("rotate", [5.0], []),),))]
    with pytest.raises(ParamsError, match="no one place for masks and boxes"):
        moved_mask(rectangle(), mixed)


# torchvision -----------------------------------------------------------------------------------

BILINEAR = v2.InterpolationMode.BILINEAR
CENTRED = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}


def affine(**changes: object) -> Callable[[torch.Tensor], torch.Tensor]:
    def apply(value: torch.Tensor) -> torch.Tensor:
        smooth = {"interpolation": BILINEAR} if isinstance(value, tv_tensors.Image) else {}
        return v2.affine(value, **CENTRED | smooth | changes)

    return apply


# The same change by torchvision; crop is scale and shift at once.
REFERENCE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rotate": affine(angle=-23.0),
    "scale": affine(scale=1.3),
    "shear": affine(shear=[14.0, -9.0]),
    "translate": affine(translate=[-16, 9]),
    "flip_horizontal": v2.horizontal_flip,
    "flip_vertical": v2.vertical_flip,
}


def samples() -> tuple[tv_tensors.Image, tv_tensors.Mask, tv_tensors.BoundingBoxes]:
    """A picture of the rectangle, its mask, its box."""
    mask = torch.from_numpy(rectangle())
    size = (HEIGHT, WIDTH)
    boxes = tv_tensors.BoundingBoxes(torch.tensor([BOX]), format="XYXY", canvas_size=size)
    return tv_tensors.Image((mask * 200).expand(3, -1, -1)), tv_tensors.Mask(mask[None]), boxes


@pytest.mark.parametrize("name", REFERENCE)
def test_torchvision_moves_them_alike(name: str) -> None:
    """Images within 1 level, masks but for 0.2 % of the pixels on edges, boxes within 0.01 px."""
    image, mask, boxes = samples()
    ours = [moved(value, drawn(name)) for value in (image, mask, boxes)]
    theirs = [REFERENCE[name](value) for value in (image, mask, boxes)]
    # Far from the border, where they fill with black and we mirror; nothing but black is there.
    assert (ours[0].int() - theirs[0].int()).abs().max() <= 1
    assert (ours[1] != theirs[1]).float().mean() <= 0.002
    assert (ours[2] - theirs[2]).abs().max() <= 0.01


@pytest.mark.parametrize("name", OPERATIONS)
def test_tv_tensors_stay_what_they_are(name: str) -> None:
    """Type, shape, dtype, format and canvas are those that came in."""
    for value in samples():
        after = moved(value, drawn(name))
        assert type(after) is type(value)
        assert (after.shape, after.dtype) == (value.shape, value.dtype)
    assert moved(samples()[2], drawn(name)).canvas_size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("form", ["XYWH", "CXCYWH"])
def test_boxes_of_any_format_move(form: str) -> None:
    """A box as corner and size, or centre and size, is moved as its corners are."""
    boxes = samples()[2]
    other = v2.convert_bounding_box_format(boxes, new_format=form)
    expected = v2.convert_bounding_box_format(moved(boxes, drawn("rotate")), new_format=form)
    assert torch.allclose(moved(other, drawn("rotate")), expected, atol=1e-3)

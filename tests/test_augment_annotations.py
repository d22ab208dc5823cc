"""Facts about masks, boxes and outlines: they move with the image, and agree with torchvision's."""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as v2

from imagemill.augment import OPERATIONS, Drawn
from imagemill.augment.annotations import moved_boxes, moved_mask, moved_points, moved_polygon
from imagemill.augment.objects import moved_objects
from imagemill.augment.replay import replayed
from imagemill.augment.run_lengths import mask_of, run_lengths
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


# Polygons and points ---------------------------------------------------------------------------

CORNERS = np.array([[30.0, 20.0], [52.0, 20.0], [52.0, 37.0], [30.0, 37.0]])
# A letter L that reaches far enough to be cut.
ANGLE = np.array([[5.0, 5.0], [26.0, 5.0], [26.0, 44.0], [70.0, 44.0], [70.0, 55.0], [5.0, 55.0]])
LEFT, RIGHT = ([Drawn("translate", [0.0, shift], [])] for shift in (-0.25, 0.25))


def filled(corners: np.ndarray) -> np.ndarray:
    """The mask of a polygon told by the edges of pixels, at 16 sub-pixels a pixel."""
    large = np.zeros((16 * HEIGHT, 16 * WIDTH), np.uint8)
    cv2.fillPoly(large, [np.rint(16 * corners - 0.5).astype(np.int32)], 1)
    return large.reshape(HEIGHT, 16, WIDTH, 16).mean((1, 3)) >= 0.5


@pytest.mark.parametrize("shape", [CORNERS, ANGLE], ids=["whole", "cut"])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_polygons_stay_around_their_object(name: str, shape: np.ndarray) -> None:
    """A moved polygon, filled, is the moved mask but for what mirrors in: 99 % of the pixels."""
    large = np.pad(filled(shape), ((HEIGHT, HEIGHT), (WIDTH, WIDTH)))  # nothing to mirror in
    (matrix,) = OPERATIONS[name].maps(*(np.array([of]) for of in MILD[name]), (HEIGHT, WIDTH))
    shift = np.array([[1.0, 0, WIDTH], [0, 1, HEIGHT], [0, 0, 1]])
    whole = shift @ np.vstack([matrix, [0, 0, 1]]) @ np.linalg.inv(shift)
    size = large.shape[::-1]
    expected = cv2.warpAffine(large.astype(np.uint8), whole[:2], size, flags=cv2.INTER_NEAREST)
    expected = expected[HEIGHT : 2 * HEIGHT, WIDTH : 2 * WIDTH]
    found = filled(moved_polygon(shape, drawn(name), (HEIGHT, WIDTH)))
    assert (found == expected).mean() >= 0.99
    assert not np.array_equal(found, filled(shape))


def test_a_polygon_is_cut_exactly() -> None:
    """Shifted over the left edge, the letter keeps what is to the right of it."""
    cut = moved_polygon(ANGLE, LEFT, (HEIGHT, WIDTH))
    assert cut.tolist() == [[0, 5], [6, 5], [6, 44], [50, 44], [50, 55], [0, 55]]


def test_a_polygon_that_left_has_no_corner() -> None:
    """Nothing of it remains, not even on the edge."""
    gone = moved_polygon(CORNERS, [Drawn("translate", [0.0, 0.9], [])], (HEIGHT, WIDTH))
    assert gone.shape == (0, 2)


@pytest.mark.parametrize("name", GEOMETRIC)
def test_points_stay_on_their_pixel(name: str) -> None:
    """A bright dot and its key point end up within a pixel."""
    image = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    image[19:22, 34:37] = 255
    changed = replayed(image, drawn(name))[..., 0].astype(float)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centre = [(changed * of).sum() / changed.sum() for of in (columns, rows)]
    (found,) = moved_points([[35.0, 20.0]], drawn(name), (HEIGHT, WIDTH))
    assert abs(found - centre).max() <= 0.2


def test_a_point_that_left_does_not_come_back() -> None:
    """What moves back into the picture is its mirror image."""
    (left,) = moved_points([[3.0, 7.0]], LEFT, (HEIGHT, WIDTH))
    (back,) = moved_points([[3.0, 7.0]], LEFT + RIGHT, (HEIGHT, WIDTH))
    assert left.tolist() == back.tolist() == [-17, 7]


# Objects in JSON -------------------------------------------------------------------------------

FLIP = [Drawn("flip_horizontal", [], [])]
OBJECT = {"boxes": [BOX], "labels": ["cell"], "caption": "x"}


def after(annotation: dict[str, Any], record: list[Drawn]) -> dict[str, Any]:
    """What remains of an annotation."""
    return moved_objects(annotation, record, (HEIGHT, WIDTH))


def test_all_places_of_an_object_are_mirrored() -> None:
    """Box, polygon and key points; an unlabelled key point stays zeros."""
    outline, points = [[30, 20, 52, 20, 30, 37]], [30, 20, 2, 0, 0, 0]
    told = after({**OBJECT, "segmentation": [outline], "keypoints": [points]}, FLIP)
    assert told == {
        **OBJECT, "boxes": [[28, 20, 50, 37]],
        "segmentation": [[[50, 20, 28, 20, 50, 37]]], "keypoints": [[49, 20, 2, 0, 0, 0]],
    }  # fmt: skip


@pytest.mark.parametrize("as_text", [True, False])
def test_run_lengths_stay_run_lengths(as_text: bool) -> None:
    """A mask in run lengths is moved as a mask, and told in the form it came in."""
    turn = drawn("rotate")
    mask = rectangle(np.bool_)
    told = after({**OBJECT, "segmentation": [run_lengths(mask, as_text=as_text)]}, turn)
    assert told["segmentation"] == [run_lengths(moved_mask(mask, turn), as_text=as_text)]


def test_an_object_goes_with_all_that_is_said_of_it() -> None:
    """One whose box stays but whose outline left is gone; details others lack stay null."""
    corner = [[0, 0, 9, 0, 0, 9]]
    three = {"boxes": [[0, 0, 60, 60], BOX, BOX], "labels": ["far", "cell", "egg"]}
    told = after({**three, "segmentation": [corner, None, []], "iscrowd": [1, None, 0]}, LEFT)
    assert told == {
        "boxes": [[10, 20, 32, 37]] * 2, "labels": ["cell", "egg"],
        "segmentation": [None, []], "iscrowd": [None, 0],
    }  # fmt: skip


def test_a_key_point_that_left_is_unlabelled() -> None:
    """Its triple is zeros, those of the others stay in their places."""
    told = after({**OBJECT, "keypoints": [[3, 30, 2, 40, 30, 1]]}, LEFT)
    assert told["keypoints"] == [[0, 0, 0, 20, 30, 1]]


@pytest.mark.parametrize(
    "outline",
    [
        7, "text", {}, [1, 2, 3, 4, 5, 6], [[1, 2, 3]], [[1, 2, 3, 4]], [[1, 2, 3, 4, "x", 6]],
        [[1, 2, 3, 4, 5, float("nan")]], {"size": [60, 80], "counts": [5, 6]},
        {"size": [80, 60], "counts": [4800]}, {"size": [60, 80], "counts": [-1, 4801]},
        {"size": [60, 80], "counts": "o" * 1000}, {"size": [60, 80], "counts": "\u00e4"},
    ],
)  # fmt: skip
def test_outlines_of_unknown_form_are_left_out_and_named(outline: object) -> None:
    """Boxes move all the same; nothing is told where it no longer is."""
    told = after({**OBJECT, "segmentation": [outline]}, FLIP)
    assert told == {**OBJECT, "boxes": [[28, 20, 50, 37]], "left_out": ["segmentation"]}


@pytest.mark.parametrize("boxes", ["text", {"a": 1}, [[1, 2, 3]], [{"x": 1}], [7, BOX]])
def test_boxes_of_unknown_form_are_left_out_and_named(boxes: object) -> None:
    """The JSON of foreign shards can hold anything; what has no place stays."""
    told = after({"boxes": boxes, "caption": "x"}, FLIP)
    assert told == {"caption": "x", "left_out": ["boxes"]}


def test_places_without_boxes_are_left_out_and_named() -> None:
    """Whose they are, nobody says; areas are not worked out at all."""
    told = after({"keypoints": [1, 2, 2], "area": 7, "caption": "x"}, FLIP)
    assert told == {"caption": "x", "left_out": ["area", "keypoints"]}


def test_colours_leave_every_form_alone() -> None:
    """What does not move pixels need not understand places."""
    strange = {"boxes": "text", "segmentation": 7}
    assert after(strange, [Drawn("brightness", [0.5], [])]) == strange


# What pycocotools 2.0.11 writes for `rings` of these numbers.
COCO_TEXTS = {
    0: "0k0=00000000O1000000O10000O100O1O100O1O1O1O1O1N2O1N2M2M3L50O1O1",
    1: (
        "k0;m00000000O10O1000O1000O0100O0010O01O001O000O2O0O1N2M3L41O1O1O1N2O1N2N2N2M2L4K"
        "51O1O1O1O1N2O1N100O001N2O0O1M4G82N2M3N2L4L4I5M41N2N2N2N1N2O0O1N2M2G"
    ),
}


@pytest.mark.parametrize("number", COCO_TEXTS)
def test_run_lengths_are_those_of_coco(number: int) -> None:
    """Text and mask agree with the reference in both directions."""
    mask = rings(number)
    text = {"size": list(mask.shape), "counts": COCO_TEXTS[number]}
    assert run_lengths(mask, as_text=True) == text
    assert np.array_equal(mask_of(text, mask.shape), mask)


def rings(number: int) -> np.ndarray:
    """A disc in the corner (0), or the ring around it (1); long runs and short ones."""
    y, x = np.mgrid[:40, : (30, 70)[number]]
    return np.asarray((y * y + x * x) // 700 % 3 == number)


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


def key_points() -> tv_tensors.KeyPoints:
    """The corners of the rectangle."""
    return tv_tensors.KeyPoints(
        torch.tensor([[[30.0, 20.0], [51.0, 36.0]]]), canvas_size=(HEIGHT, WIDTH)
    )


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
    for value in (*samples(), key_points(), key_points().to(torch.int32)):
        changed = moved(value, drawn(name))
        assert type(changed) is type(value)
        assert (changed.shape, changed.dtype) == (value.shape, value.dtype)
    assert moved(samples()[2], drawn(name)).canvas_size == (HEIGHT, WIDTH)


@pytest.mark.parametrize("form", ["XYWH", "CXCYWH"])
def test_boxes_of_any_format_move(form: str) -> None:
    """A box as corner and size, or centre and size, is moved as its corners are."""
    boxes = samples()[2]
    other = v2.convert_bounding_box_format(boxes, new_format=form)
    expected = v2.convert_bounding_box_format(moved(boxes, drawn("rotate")), new_format=form)
    assert torch.allclose(moved(other, drawn("rotate")), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["flip_horizontal", "flip_vertical"])
def test_torchvision_mirrors_key_points_alike(name: str) -> None:
    """To the bit; its other operations take points by the edges of pixels, half a pixel off."""
    assert torch.equal(moved(key_points(), drawn(name)), REFERENCE[name](key_points()))

"""OPERATIONS: random changes that keep the label, on M uint8 images [H, W, C] of one shape.

Each takes the images, their strengths (float64 [M, S], drawn from the policy's range, in the
operation's unit), further uniform draws (float64 [M, U] in [0, 1)) and where the changed images go;
what it was given it leaves alone. An image's result depends on nothing but its own pixels and
draws. Images come as views of the batch, one by one, because most policies hit only some of them,
and OpenCV on one image after the other beats numpy on all (docs/decisions/0011).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cv2.typing import MatLike

from imagemill.augment import colour, geometric
from imagemill.augment.geometric import Floats, Images, Size


class Operation(NamedTuple):
    """A row of OPERATIONS.

    apply: (images, strengths_MS, units_MU, outs), writes every one of `outs`.
    unit: What a strength measures.
    strengths: S, how many strengths an image needs; 0 for operations that are on or off.
    units: U, how many further uniform draws an image needs.
    limits: Strengths that make sense, [low, high].
    maps: (strengths_MS, units_MU, size) -> the matrix [2, 3] by which each image's pixels move;
        None: they stay where they are.
    """

    apply: Callable[[Images, Floats, Floats, Images], None]
    unit: str
    strengths: int
    units: int
    limits: tuple[float, float]
    maps: Callable[[Floats, Floats, Size], Sequence[MatLike]] | None = None


_OFF = (0.0, 0.0)

OPERATIONS: dict[str, Operation] = {
    "rotate": Operation(geometric.rotate, "degrees", 1, 0, (-180, 180), geometric.rotations),
    "scale": Operation(geometric.scale, "factor", 1, 0, (0.1, 10), geometric.scalings),
    "shear": Operation(geometric.shear, "degrees", 2, 0, (-60, 60), geometric.shearings),
    "translate": Operation(
        geometric.translate, "fraction of the side", 2, 0, (-1, 1), geometric.translations
    ),
    "crop": Operation(
        geometric.crop, "fraction of the side", 1, 2, (0.05, 1), geometric.enlargements
    ),
    "flip_horizontal": Operation(geometric.flip_horizontal, "", 0, 0, _OFF, geometric.mirrorings),
    "flip_vertical": Operation(geometric.flip_vertical, "", 0, 0, _OFF, geometric.upendings),
    "brightness": Operation(colour.brightness, "factor", 1, 0, (0, 10)),
    "contrast": Operation(colour.contrast, "factor", 1, 0, (0, 10)),
    "saturation": Operation(colour.saturation, "factor", 1, 0, (0, 10)),
    "hue": Operation(colour.hue, "turns of the colour circle", 1, 0, (-0.5, 0.5)),
    "grayscale": Operation(colour.grayscale, "", 0, 0, _OFF),
    "blur": Operation(colour.blur, "standard deviation in pixels", 1, 0, (0.1, 20)),
    "sharpness": Operation(colour.sharpness, "factor", 1, 0, (0, 10)),
    "posterize": Operation(colour.posterize, "bits", 1, 0, (1, 8)),
    "solarize": Operation(colour.solarize, "threshold, 0 to 256", 1, 0, (0, 256)),
    "autocontrast": Operation(colour.autocontrast, "", 0, 0, _OFF),
    "equalize": Operation(colour.equalize, "", 0, 0, _OFF),
    "erasing": Operation(colour.erasing, "fraction of the area", 1, 3, (0.001, 0.9)),
}

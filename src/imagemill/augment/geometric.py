"""Operations that move pixels: what they do to images, and the map behind it.

Images are M arrays uint8 [H, W, C] of one shape, strengths and units float64 [M, S] and [M, U]. A
map is an affine matrix [2, 3] from old to new coordinates (x to the right, y down, whole numbers at
the centres of pixels): `annotations` moves masks and boxes by it. What comes in over an edge is the
picture's own mirror image, so that no new edge appears.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
# A batch [M, H, W, C], or some of the images of one.
Images = Sequence[Pixels] | Pixels
Floats = NDArray[np.float64]
Size = tuple[int, int]  # height, width


def rotate(images: Images, degrees_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Turn about the centre, counter-clockwise."""
    _warp(images, rotations(degrees_MS, units_MU, images[0].shape[:2]), outs)


def rotations(degrees_MS: Floats, units_MU: Floats, size: Size) -> Sequence[MatLike]:
    """Maps of `rotate`."""
    del units_MU
    turns = degrees_MS[:, 0].tolist()
    return [cv2.getRotationMatrix2D(_centre(size), turn, 1.0) for turn in turns]


def scale(images: Images, factors_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Enlarge (factor > 1) or shrink about the centre."""
    _warp(images, scalings(factors_MS, units_MU, images[0].shape[:2]), outs)


def scalings(factors_MS: Floats, units_MU: Floats, size: Size) -> Sequence[MatLike]:
    """Maps of `scale`."""
    del units_MU
    factors = factors_MS[:, 0].tolist()
    return [cv2.getRotationMatrix2D(_centre(size), 0.0, factor) for factor in factors]


def shear(images: Images, degrees_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Lean about the centre: rows slide sideways by the first angle, columns by the second.

    With positive angles what is lower moves to the left, and what is further right moves up. The
    area stays, so no pair of angles folds the picture flat.
    """
    _warp(images, shearings(degrees_MS, units_MU, images[0].shape[:2]), outs)


def shearings(degrees_MS: Floats, units_MU: Floats, size: Size) -> Sequence[MatLike]:
    """Maps of `shear`."""
    del units_MU
    x, y = _centre(size)
    maps = []
    for across, along in np.tan(np.radians(degrees_MS)).tolist():
        linear = np.array([[1.0, -across], [-along, 1.0 + across * along]])
        maps.append(np.column_stack([linear, (x, y) - linear @ (x, y)]))
    return maps


def translate(images: Images, fractions_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Shift by whole pixels: down by the first strength, right by the second."""
    del units_MU
    height, width = size = images[0].shape[:2]
    shifts = _shifts(fractions_MS, size).tolist()
    for (image, out), (down, right) in zip(planes(images, outs), shifts, strict=True):
        top, left = max(down, 0), max(right, 0)
        bottom, after = max(-down, 0), max(-right, 0)
        wide = cv2.copyMakeBorder(image, top, bottom, left, after, cv2.BORDER_REFLECT_101)
        out[:] = wide[bottom : bottom + height, after : after + width]


def translations(fractions_MS: Floats, units_MU: Floats, size: Size) -> Sequence[MatLike]:
    """Maps of `translate`."""
    del units_MU
    shifts = _shifts(fractions_MS, size).tolist()
    return [np.array([[1.0, 0.0, right], [0.0, 1.0, down]]) for down, right in shifts]


def crop(images: Images, shares_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Cut out a window of this share of each side, anywhere, and enlarge it to the full size."""
    _warp(images, enlargements(shares_MS, units_MU, images[0].shape[:2]), outs)


def enlargements(shares_MS: Floats, units_MU: Floats, size: Size) -> Sequence[MatLike]:
    """Maps of `crop`."""
    height, width = size
    shares_M = shares_MS[:, 0]
    left_M = units_MU[:, 0] * (1 - shares_M) * (width - 1)
    top_M = units_MU[:, 1] * (1 - shares_M) * (height - 1)
    return [
        np.array([[1 / share, 0, -left / share], [0, 1 / share, -top / share]])
        for share, left, top in zip(shares_M, left_M, top_M, strict=True)
    ]


def flip_horizontal(images: Images, strengths_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Left becomes right."""
    del strengths_MS, units_MU
    for image, out in planes(images, outs):
        cv2.flip(image, 1, dst=out)


def mirrorings(strengths_MS: Floats, units_MU: Floats, size: Size) -> Sequence[MatLike]:
    """Maps of `flip_horizontal`."""
    del units_MU
    return [np.array([[-1.0, 0.0, size[1] - 1], [0.0, 1.0, 0.0]])] * len(strengths_MS)


def flip_vertical(images: Images, strengths_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Top becomes bottom."""
    del strengths_MS, units_MU
    for image, out in planes(images, outs):
        cv2.flip(image, 0, dst=out)


def upendings(strengths_MS: Floats, units_MU: Floats, size: Size) -> Sequence[MatLike]:
    """Maps of `flip_vertical`."""
    del units_MU
    return [np.array([[1.0, 0.0, 0.0], [0.0, -1.0, size[0] - 1]])] * len(strengths_MS)


def planes(images: Images, outs: Images) -> Iterator[tuple[Pixels, Pixels]]:
    """Images and their outputs as OpenCV likes them: grey ones without their channel axis."""
    pairs = zip(images, outs, strict=True)
    if images[0].shape[2] == 1:
        return ((image[..., 0], out[..., 0]) for image, out in pairs)
    return pairs


def mirrored(positions: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Positions outside [0, size) reflected back, the edge pixel not repeated."""
    if size == 1:
        return np.zeros_like(positions)
    period = 2 * (size - 1)
    wrapped = np.abs(positions) % period
    return np.where(wrapped < size, wrapped, period - wrapped)


def _warp(images: Images, maps: Sequence[MatLike], outs: Images) -> None:
    height, width = images[0].shape[:2]
    for (image, out), matrix in zip(planes(images, outs), maps, strict=True):
        cv2.warpAffine(
            image,
            matrix,
            (width, height),
            dst=out,
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT_101,
        )


def _shifts(fractions_MS: Floats, size: Size) -> NDArray[np.intp]:
    """Whole pixels down and right, int [M, 2]."""
    return np.rint(fractions_MS * size).astype(np.intp)


def _centre(size: Size) -> tuple[float, float]:
    """x, y."""
    return (size[1] - 1) / 2, (size[0] - 1) / 2

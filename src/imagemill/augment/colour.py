"""Operations that change values and leave every pixel where it is.

Images are M arrays uint8 [H, W, C] of one shape with one or three channels; strengths and units
float64 [M, S] and [M, U]. Results are rounded to the nearest value and clipped to 0..255. Grey
images have no colour to change: what works on colour leaves them as they are.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from imagemill.augment.geometric import Floats, Images, Pixels, planes

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_VALUES = np.arange(256)
# Sharpness blends with this blur, as Pillow's and torchvision's do.
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
_IDENTITY = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])
_ERASED_RATIO = (0.3, 1 / 0.3)


def brightness(images: Images, factors_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Every value times the factor: 0 is black, 1 the image."""
    del units_MU
    for (image, out), factor in zip(planes(images, outs), factors_MS[:, 0].tolist(), strict=True):
        cv2.convertScaleAbs(image, dst=out, alpha=factor)


def contrast(images: Images, factors_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Distance from the mean grey times the factor: 0 is an even grey, 1 the image."""
    del units_MU
    for (image, out), factor in zip(planes(images, outs), factors_MS[:, 0].tolist(), strict=True):
        means = cv2.mean(image)
        grey = means[0] if image.ndim == 2 else float(_LUMA @ means[:3])
        cv2.addWeighted(image, factor, image, 0, (1 - factor) * grey, dst=out)


def saturation(images: Images, factors_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Distance of each pixel from its own grey times the factor: 0 is grey, 1 the image."""
    del units_MU
    if _kept_grey(images, outs):
        return
    for image, out, factor in zip(images, outs, factors_MS[:, 0].tolist(), strict=True):
        cv2.transform(image, factor * np.eye(3) + (1 - factor) * _LUMA, dst=out)


def hue(images: Images, turns_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Turn each pixel's hue on the colour circle; value and saturation stay.

    Hues are held in 256 steps, 1.4 degrees each.
    """
    del units_MU
    if _kept_grey(images, outs):
        return
    for image, out, turn in zip(images, outs, turns_MS[:, 0].tolist(), strict=True):
        hsv_HWC = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        # uint8 goes around as the circle does.
        hsv_HWC[..., 0] += np.uint8(round(turn * 256) % 256)
        cv2.cvtColor(hsv_HWC, cv2.COLOR_HSV2RGB_FULL, dst=out)


def grayscale(images: Images, strengths_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Each pixel's grey in all three channels."""
    del strengths_MS, units_MU
    if _kept_grey(images, outs):
        return
    for image, out in zip(images, outs, strict=True):
        cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB, dst=out)


def blur(images: Images, sigmas_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Gaussian blur, its kernel cut off at three standard deviations."""
    del units_MU
    for (image, out), sigma in zip(planes(images, outs), sigmas_MS[:, 0].tolist(), strict=True):
        side = 2 * int(np.ceil(3 * sigma)) + 1
        cv2.GaussianBlur(image, (side, side), sigma, dst=out, borderType=cv2.BORDER_REFLECT_101)


def sharpness(images: Images, factors_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Away from (factor > 1) or towards (< 1) a 3x3 blur; the outermost pixels stay."""
    del units_MU
    for (image, out), factor in zip(planes(images, outs), factors_MS[:, 0].tolist(), strict=True):
        out[:] = image
        if min(image.shape[:2]) > 2:
            kernel = factor * _IDENTITY + (1 - factor) * _SMOOTH
            out[1:-1, 1:-1] = cv2.filter2D(image, -1, kernel)[1:-1, 1:-1]


def posterize(images: Images, bits_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Keep the upper bits of each value; their number is rounded."""
    del units_MU
    dropped_M = 8 - np.rint(bits_MS[:, 0]).astype(np.int64)
    masks_M = ((255 << dropped_M) & 255).astype(np.uint8)
    for image, out, mask in zip(images, outs, masks_M, strict=True):
        np.bitwise_and(image, mask, out=out)


def solarize(images: Images, thresholds_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Invert values that reach the threshold."""
    del units_MU
    tables_MV = np.where(thresholds_MS <= _VALUES, 255 - _VALUES, _VALUES)
    _look_up(images, tables_MV[:, :, None], outs)


def autocontrast(images: Images, strengths_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Stretch each channel to the full range; one with a single value stays."""
    del strengths_MS, units_MU
    low_M1C, high_M1C = (_extremes(images, by) for by in (np.minimum.reduce, np.maximum.reduce))
    spread_M1C = high_M1C - low_M1C
    scale_M1C = np.divide(255, spread_M1C, out=np.ones(spread_M1C.shape), where=spread_M1C > 0)
    low_M1C = np.where(spread_M1C > 0, low_M1C, 0)
    _look_up(images, (_VALUES[:, None] - low_M1C) * scale_M1C, outs)


def equalize(images: Images, strengths_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Give each channel an even histogram.

    Source: Pillow's ImageOps.equalize, whose rounding torchvision shares.
    """
    del strengths_MS, units_MU
    channels = images[0].shape[2]
    counts_MVC = np.empty((len(images), 256, channels), np.int64)
    for (image, _), counts_VC in zip(planes(images, outs), counts_MVC, strict=True):
        for channel in range(channels):
            histogram = cv2.calcHist([image], [channel], None, [256], [0, 256])
            counts_VC[:, channel] = histogram.ravel()
    _look_up(images, _equalising(counts_MVC), outs)


def erasing(images: Images, shares_MS: Floats, units_MU: Floats, outs: Images) -> None:
    """Paint a rectangle of this share of the area, anywhere, in the image's mean colour.

    Height over width is drawn evenly on a logarithmic scale from 0.3 to 3.3; a side that is too
    long is cut.

    Source: Zhong et al. 2020, "Random Erasing Data Augmentation". Theirs draws again when a
    rectangle does not fit, and fills with noise; a mean colour is their second best.
    """
    height, width = images[0].shape[:2]
    low, high = np.log(_ERASED_RATIO)
    ratios_M = np.exp(low + (high - low) * units_MU[:, 0])
    areas_M = shares_MS[:, 0] * height * width
    tall_M = np.minimum(np.rint(np.sqrt(areas_M * ratios_M)), height).astype(np.intp)
    wide_M = np.minimum(np.rint(np.sqrt(areas_M / ratios_M)), width).astype(np.intp)
    top_M = (units_MU[:, 1] * (height - tall_M + 1)).astype(np.intp)
    left_M = (units_MU[:, 2] * (width - wide_M + 1)).astype(np.intp)
    for row, (image, out) in enumerate(zip(images, outs, strict=True)):
        rows = slice(top_M[row], top_M[row] + tall_M[row])
        columns = slice(left_M[row], left_M[row] + wide_M[row])
        out[:] = image
        out[rows, columns] = np.rint(cv2.mean(image)[: image.shape[2]])


def _kept_grey(images: Images, outs: Images) -> bool:
    """Whether the images are grey, and were copied as they are."""
    if images[0].shape[2] > 1:
        return False
    for image, out in zip(images, outs, strict=True):
        out[:] = image
    return True


def _look_up(images: Images, tables_MVC: NDArray[np.number], outs: Images) -> None:
    """Replace each value by that of its image's table, [M, 256, C] or [M, 256, 1]."""
    rounded_M1VC = np.clip(np.rint(tables_MVC), 0, 255).astype(np.uint8)[:, None]
    for (image, out), table_1VC in zip(planes(images, outs), rounded_M1VC, strict=True):
        cv2.LUT(image, table_1VC, dst=out)


def _extremes(images: Images, reduce: Callable[..., Pixels]) -> NDArray[np.int64]:
    """Least or greatest value of each channel, [M, 1, C]."""
    height, width, channels = images[0].shape
    # Rows first, as long ones: reducing over all pixels of short channels is ten times slower.
    rows = [reduce(image.reshape(height, -1), axis=0) for image in images]
    found = [reduce(row.reshape(width, channels), axis=0) for row in rows]
    return np.stack(found)[:, None].astype(np.int64)


def _equalising(counts_MVC: NDArray[np.int64]) -> NDArray[np.int64]:
    """Tables that even out histograms; a channel with fewer than 256 steps to share out stays."""
    total = counts_MVC.sum(1, keepdims=True)
    last = 255 - np.argmax(counts_MVC[:, ::-1] > 0, axis=1, keepdims=True)
    step = (total - np.take_along_axis(counts_MVC, last, 1)) // 255
    before = np.cumsum(counts_MVC, axis=1) - counts_MVC
    tables = (before + step // 2) // np.maximum(step, 1)
    return np.where(step > 0, tables, _VALUES[:, None])

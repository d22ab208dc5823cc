"""RESIZES: kernels that bring a rectangle of pixels to another size. A name means fixed pixels.

Each takes uint8 [H, W, C] and writes into uint8 [h, w, C].
"""

from collections.abc import Callable
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imagemill.decoding import compiled
from imagemill.errors import UnknownNameError

Pixels = NDArray[np.uint8]
Resize: TypeAlias = Callable[[Pixels, Pixels], None]

# Part of the name of whatever is made from decoded pixels and kept: goes up when they change.
PIXELS_VERSION = 2


def antialias(source_HWC: Pixels, out_hwC: Pixels) -> None:
    """Average under a triangle as wide as the shrinking asks for; bilinear when enlarging.

    Source: Pillow's BILINEAR, which differs by 1 level at most; torchvision's `antialias=True` too.
    """
    if compiled.native is not None:
        compiled.native.resize_antialiased(_rows(source_HWC), out_hwC)
        return
    height, width, channels = out_hwC.shape
    image = Image.fromarray(source_HWC[:, :, 0] if channels == 1 else source_HWC)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    out_hwC[:] = np.asarray(resized).reshape(out_hwC.shape)


def linear(source_HWC: Pixels, out_hwC: Pixels) -> None:
    """Look at the four nearest pixels and no others: fast, but aliases when shrinking.

    Source: OpenCV's INTER_LINEAR, pixel centres at halves.
    """
    height, width, channels = out_hwC.shape
    # In place, unless OpenCV drops the axis of a single channel and makes an array of its own.
    resized = cv2.resize(source_HWC, (width, height), dst=out_hwC, interpolation=cv2.INTER_LINEAR)
    if channels == 1:
        out_hwC[:] = resized.reshape(out_hwC.shape)


def reduced(source_HWC: Pixels, out_hwC: Pixels) -> None:
    """Halve both sides while they stay large enough, by averages of squares; then `linear`.

    A JPEG is halved by its decoder up to three times (`reduction`), which costs less than nothing.
    """
    height, width, channels = source_HWC.shape
    scale = reduction((height, width), out_hwC.shape[:2])
    if scale > 1:
        tall, wide = height // scale, width // scale
        whole = source_HWC[: tall * scale, : wide * scale]
        averages = cv2.resize(whole, (wide, tall), interpolation=cv2.INTER_AREA)
        source_HWC = averages.reshape(tall, wide, channels).astype(np.uint8, copy=False)
    linear(source_HWC, out_hwC)


def reduction(size: tuple[int, int], wanted: tuple[int, int]) -> int:
    """The largest power of two by which both sides can be divided and still be as wanted."""
    scale = 1
    while all(side // (2 * scale) >= least for side, least in zip(size, wanted, strict=True)):
        scale *= 2
    return scale


RESIZES: dict[str, Resize] = {"antialias": antialias, "linear": linear, "reduced": reduced}


def find_resize(name: str) -> Resize:
    """A kernel by its name (loading.resize).

    Raises:
        UnknownNameError: there is none of this name.
    """
    if name not in RESIZES:
        raise UnknownNameError("resize kernel", name, RESIZES)
    return RESIZES[name]


def _rows(source_HWC: Pixels) -> Pixels:
    """Pixels side by side, as the compiled kernel wants them; rows may lie apart."""
    channels = source_HWC.shape[2]
    as_wanted = source_HWC.strides[1:] == (channels, 1) and source_HWC.strides[0] >= 0
    return source_HWC if as_wanted else np.ascontiguousarray(source_HWC)

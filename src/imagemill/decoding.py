"""Encoded images to uint8 arrays: one decoder for training, evaluation and prediction.

OpenCV decodes; what it does not know (GIF frames, CMYK, odd TIFFs) goes through Pillow. EXIF
orientation is applied, alpha is dropped, 16 bits become 8.
"""

import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from imagemill.errors import IntegrityError

Pixels = NDArray[np.uint8]


def decode(data: bytes, *, channels: int) -> Pixels:
    """Decode an image at its own size.

    Args:
        data: An encoded image (JPEG, PNG, ...).
        channels: 1 (grey) or 3 (RGB).

    Returns:
        uint8 [H, W, C].

    Raises:
        IntegrityError: not an image that can be decoded.
    """
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flag) if data else None
    except cv2.error:
        image = None
    if image is None:
        image = _decoded_by_pillow(data, channels)
    return image.reshape(image.shape[0], image.shape[1], channels).astype(np.uint8, copy=False)


def decode_image(data: bytes, *, input_shape: Sequence[int], resize: str) -> Pixels:
    """Decode an image and bring it to a model's input.

    Args:
        data: An encoded image.
        input_shape: Channels, height, width.
        resize: "antialias" or "linear" (loading.resize).

    Returns:
        uint8 [H, W, C].

    Raises:
        IntegrityError: not an image that can be decoded.
    """
    channels, height, width = input_shape
    return fitted(decode(data, channels=channels), (height, width), resize=resize)


def fitted(image_HWC: Pixels, size: tuple[int, int], *, resize: str) -> Pixels:
    """Scale until the shorter side fits, then cut out the centre.

    Args:
        image_HWC: uint8.
        size: Height and width wanted, pixels.
        resize: "antialias" averages over areas when shrinking; "linear" does not.
    """
    height, width = size
    tall, wide, channels = image_HWC.shape
    if (tall, wide) == size:
        return image_HWC
    factor = max(height / tall, width / wide)
    scaled = (max(width, round(wide * factor)), max(height, round(tall * factor)))
    shrinking = factor < 1 and resize == "antialias"
    kernel = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    resized = cv2.resize(image_HWC, scaled, interpolation=kernel)
    image = resized.reshape(scaled[1], scaled[0], channels).astype(np.uint8, copy=False)
    top, left = (scaled[1] - height) // 2, (scaled[0] - width) // 2
    return image[top : top + height, left : left + width]


def encode_png(image_HWC: Pixels) -> bytes:
    """Lossless PNG; the same pixels always give the same bytes."""
    colours = image_HWC if image_HWC.shape[2] == 1 else cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", colours, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    assert done, "encoding uint8 pixels as PNG cannot fail"
    return bytes(encoded)


def _decoded_by_pillow(data: bytes, channels: int) -> Pixels:
    try:
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image)
            return np.asarray(upright.convert("L" if channels == 1 else "RGB"), dtype=np.uint8)
    except UnidentifiedImageError:
        raise IntegrityError("cannot be decoded as an image: no known format") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise IntegrityError(f"cannot be decoded as an image: {error}") from None

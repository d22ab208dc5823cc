"""Encoded images to uint8 arrays: one decoder for training, evaluation and prediction.

Each file goes to the fastest decoder that gives its pixels; whichever it is, and with or without
the compiled part, the pixels are those Pillow would give (docs/loading.md tells the exceptions).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from imagemill.decoding.compiled import has_compiled_part
from imagemill.decoding.decoder import Decoder, centre_box, read_headers
from imagemill.decoding.full import decode
from imagemill.decoding.headers import Header, read_header
from imagemill.decoding.orientation import Box
from imagemill.decoding.resizing import PIXELS_VERSION, RESIZES, Pixels, Resize, find_resize
from imagemill.frames import Buffer

__all__ = [
    "PIXELS_VERSION",
    "RESIZES",
    "Box",
    "Buffer",
    "Decoder",
    "Header",
    "Pixels",
    "Resize",
    "centre_box",
    "decode",
    "decode_image",
    "encode_png",
    "find_resize",
    "has_compiled_part",
    "read_header",
    "read_headers",
]


def decode_image(data: Buffer, *, input_shape: Sequence[int], resize: str) -> Pixels:
    """Decode an image and bring it to a model's input.

    Args:
        data: An encoded image.
        input_shape: Channels, height, width.
        resize: A name in RESIZES (loading.resize).

    Returns:
        uint8 [H, W, C].

    Raises:
        IntegrityError: not an image that can be decoded.
    """
    channels, height, width = input_shape
    image_HWC = np.empty((height, width, channels), np.uint8)
    Decoder(input_shape, resize).one(data, image_HWC)
    return image_HWC


def encode_png(image_HWC: Pixels) -> bytes:
    """Lossless PNG; the same pixels always give the same bytes."""
    colours = image_HWC if image_HWC.shape[2] == 1 else cv2.cvtColor(image_HWC, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".png", colours, [cv2.IMWRITE_PNG_COMPRESSION, 4])
    assert done, "encoding uint8 pixels as PNG cannot fail"
    return bytes(encoded)

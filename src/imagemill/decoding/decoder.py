"""From encoded images to a batch at a model's input size.

A box of each image (its centre, or a random one) is decoded, turned upright and resized. With the
compiled part only the rows and columns of the box are decoded; the pixels are the same.
"""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from imagemill.decoding import compiled, full, pillow
from imagemill.decoding.headers import Header, is_complete_jpeg, is_plain_jpeg, read_header
from imagemill.decoding.orientation import Box, stored_box, turned_upright
from imagemill.decoding.resizing import Pixels, Resize, find_resize, reduction
from imagemill.errors import IntegrityError
from imagemill.frames import Buffer, Pieces

# JPEG's blocks are 8 pixels wide, and decode as any power of two up to that.
_JPEG_REDUCTION = 8
# What libjpeg may decode beside a box: a block of 32 pixels and a margin on each side.
_BESIDE = 2 * (32 + 2)
# A larger scratch buffer is not kept: it would stay for good after a single huge image.
_KEPT_BYTES = 1 << 28


class Decoder:
    """Decodes to one size. Threads may share one: each has a scratch buffer of its own.

    Args:
        input_shape: Channels, height, width.
        resize: A name in RESIZES.
        kernel: Another implementation of that kernel.
    """

    def __init__(
        self, input_shape: Sequence[int], resize: str, *, kernel: Resize | None = None
    ) -> None:
        self._channels, self._height, self._width = input_shape
        self._resize = kernel or find_resize(resize)
        self._most_reduction = _JPEG_REDUCTION if resize == "reduced" else 1
        self._scratch = _Scratch()
        compiled.tell_if_missing()

    def batch(
        self,
        datas: Pieces,
        out_BHWC: Pixels,
        *,
        name: Callable[[int], str],
        boxes_B4: NDArray[np.integer] | None = None,
        headers: Sequence[Header] | None = None,
    ) -> None:
        """Decode images into a batch.

        Args:
            datas: B encoded images.
            out_BHWC: uint8, contiguous; undefined after an error.
            name: What to call an image, by its position, if it cannot be decoded.
            boxes_B4: Top, left, height, width of the part of each upright image to take; None:
                the largest centred one of the output's proportions.
            headers: What `read_header` said of each, if it was asked.

        Raises:
            IntegrityError: an image cannot be decoded.
        """
        numbers = range(len(datas)) if boxes_B4 is not None else self._not_as_is(datas, out_BHWC)
        for number in numbers:
            box = None if boxes_B4 is None else Box(*boxes_B4[number].tolist())
            header = headers[number] if headers else None
            try:
                self.one(datas[number], out_BHWC[number], box=box, header=header)
            except IntegrityError as error:
                raise IntegrityError(f"image {name(number)!r} {error}") from None

    def one(
        self, data: Buffer, out_HWC: Pixels, *, box: Box | None = None, header: Header | None = None
    ) -> None:
        """Decode one image; arguments and errors are those of `batch`."""
        header = header or read_header(data)
        box = box or centre_box(header.upright, (self._height, self._width))
        pixels = self._box(data, header, box)
        if pixels.shape == out_HWC.shape:
            out_HWC[:] = pixels
        else:
            self._resize(pixels, out_HWC)

    def _not_as_is(self, datas: Pieces, out_BHWC: Pixels) -> Sequence[int]:
        """Decode upright JPEGs that have the output's size already; return the other images."""
        if compiled.native is not None:
            frames = (datas.buffers, datas.buffer_B, datas.offset_B, datas.size_B)
            shape = (self._height, self._width, self._channels)
            others: list[int] = compiled.native.decode_batch(*frames, out_BHWC, *shape)
            return others
        return [
            number
            for number, data in enumerate(datas)
            if not (is_plain_jpeg(data) and full.decode_jpeg_into(data, out_BHWC[number]))
        ]

    def _box(self, data: Buffer, header: Header, box: Box) -> Pixels:
        """The pixels of a box of the upright image, reduced by what its decoder does better."""
        height, width, orientation = header[1:]
        stored, scale = stored_box(box, orientation, height=height, width=width), 1
        if header.kind == "jpeg":
            scale = min(self._most_reduction, reduction(box[2:], (self._height, self._width)))
            stored = Box(*(side // scale for side in stored))
        if compiled.native is not None and header.kind == "jpeg" and is_complete_jpeg(data):
            pixels = self._region(data, stored, scale)
            if pixels is not None:
                return turned_upright(pixels, orientation)
        buffer = self._scratch.of(height * width * self._channels)
        whole = full.decode_stored(
            data, header, channels=self._channels, buffer=buffer, scale=scale
        )
        if whole is not None:
            return turned_upright(_cut(whole, stored), orientation)
        upright = pillow.decode(data, channels=self._channels)
        if upright.shape[:2] != header.upright:
            found, said = upright.shape[:2], header.upright
            raise IntegrityError(f"is {found} pixels large, its header says {said}")
        return _cut(upright, box)

    def _region(self, data: Buffer, stored: Box, scale: int) -> Pixels | None:
        """A box of the stored pixels, nothing else of which is decoded; None if it went wrong."""
        room = stored.height * (stored.width + _BESIDE) * self._channels
        buffer = self._scratch.of(room)
        decoded = compiled.native.decode_region(data, buffer, *stored, self._channels, scale)
        if decoded is None:
            return None
        row_pixels, skip = decoded
        shape = (stored.height, row_pixels, self._channels)
        rows: Pixels = buffer[: stored.height * row_pixels * self._channels].reshape(shape)
        return rows[:, skip : skip + stored.width]


def read_headers(datas: Sequence[Buffer], *, name: Callable[[int], str]) -> list[Header]:
    """What `read_header` says of each.

    Args:
        datas: Encoded images.
        name: What to call an image, by its position, if it is none.

    Raises:
        IntegrityError: one is not an image of a known format.
    """
    headers = []
    for number, data in enumerate(datas):
        try:
            headers.append(read_header(data))
        except IntegrityError as error:
            raise IntegrityError(f"image {name(number)!r} {error}") from None
    return headers


def centre_box(size: tuple[int, int], wanted: tuple[int, int]) -> Box:
    """The largest box of the wanted proportions in the middle of an image.

    Args:
        size: Height and width of the image.
        wanted: Height and width it is to be resized to; only their ratio matters.
    """
    height, width = size
    factor = min(height / wanted[0], width / wanted[1])
    tall = min(height, max(1, round(wanted[0] * factor)))
    wide = min(width, max(1, round(wanted[1] * factor)))
    return Box((height - tall) // 2, (width - wide) // 2, tall, wide)


def _cut(pixels_HWC: Pixels, box: Box) -> Pixels:
    return pixels_HWC[box.top : box.top + box.height, box.left : box.left + box.width]


class _Scratch(threading.local):
    """Memory used again and again: fresh pages cost as much as half of the decoding."""

    def __init__(self) -> None:
        self._kept = np.empty(0, np.uint8)

    def of(self, size_bytes: int) -> Pixels:
        """At least so many bytes, with whatever was in them."""
        if size_bytes > len(self._kept):
            fresh = np.empty(size_bytes + size_bytes // 4, np.uint8)
            if len(fresh) > _KEPT_BYTES:
                return fresh
            self._kept = fresh
        return self._kept

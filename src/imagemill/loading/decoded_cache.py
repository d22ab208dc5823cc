"""Decoded pixels of a whole split in one file, mapped into memory and shared by all processes.

The first epoch pays for decoding once, in one pass over the shards; the file is written in that
order, and `rows` says where an image of the split went.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from imagemill.decoding import PIXELS_VERSION
from imagemill.frames import Frames
from imagemill.loading.digests import Beat
from imagemill.records import STATE, publishing

Images = NDArray[np.uint8]
Positions = NDArray[np.integer]

_BLOCK_BYTES = 1 << 21


class Source(Protocol):
    """Whatever decodes."""

    def take(self, positions_B: Positions, *, epoch: int | None, out_BHWC: Images) -> None: ...


class DecodedCache:
    """Images of a split, decoded before."""

    def __init__(self, pixels_NHWC: Images, rows_N: NDArray[np.int32]) -> None:
        self._pixels_NHWC, self._rows_N = pixels_NHWC, rows_N

    @classmethod
    def opened(
        cls,
        root: Path,
        split: str,
        frames: Frames,
        *,
        input_shape: Sequence[int],
        resize: str,
        source: Source,
        beat: Beat,
    ) -> Self:
        """The cache of a split; filled if it is not there.

        Args:
            root: The project's root.
            split: For the name of the file.
            frames: What is in the split, and in which order the disk likes to be read.
            input_shape: Channels, height, width.
            resize: loading.resize.
            source: Decodes, the first time.
            beat: Called after each block.

        Raises:
            IntegrityError: a shard is missing or damaged, or an image cannot be decoded.
        """
        # Changes whenever the pixels would: the index holds every image's sha256.
        said = f"{frames.index_sha256} {split} {list(input_shape)} {resize} {PIXELS_VERSION}"
        name = f"{split}-{hashlib.sha256(said.encode()).hexdigest()[:24]}"
        pixels, rows = (
            root / STATE / "decoded" / f"{name}{suffix}" for suffix in (".npy", ".rows.npy")
        )
        if not (pixels.is_file() and rows.is_file()):
            order_N = frames.in_storage_order()
            _write_rows(rows, order_N)
            _write_pixels(pixels, order_N, input_shape, source, beat)
        # As plain arrays: indexing the memmap subclass is several times slower.
        return cls(
            np.load(pixels, mmap_mode="r", allow_pickle=False).view(np.ndarray),
            np.load(rows, mmap_mode="r", allow_pickle=False).view(np.ndarray),
        )

    def take(self, positions_B: Positions, *, epoch: int | None, out_BHWC: Images) -> None:
        """Copy images to `out_BHWC`; they are the same in every epoch."""
        del epoch
        # With mode="raise" numpy would go through a buffer; positions come from the split's order.
        np.take(self._pixels_NHWC, self._rows_N[positions_B], axis=0, out=out_BHWC, mode="clip")


def _write_rows(path: Path, order_N: NDArray[np.intp]) -> None:
    rows_N = np.empty(len(order_N), np.int32)
    rows_N[order_N] = np.arange(len(order_N), dtype=np.int32)
    with publishing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, rows_N, allow_pickle=False)


def _write_pixels(
    path: Path,
    order_N: NDArray[np.intp],
    input_shape: Sequence[int],
    source: Source,
    beat: Beat,
) -> None:
    channels, height, width = input_shape
    block = max(1, _BLOCK_BYTES // (channels * height * width))
    buffer_BHWC = np.empty((min(block, len(order_N)), height, width, channels), np.uint8)
    with publishing(path) as temporary, temporary.open("wb", buffering=0) as stream:
        _write_npy_header(stream, (len(order_N), height, width, channels))
        for start in range(0, len(order_N), block):
            positions_B = order_N[start : start + block]
            pixels_BHWC = buffer_BHWC[: len(positions_B)]
            source.take(positions_B, epoch=None, out_BHWC=pixels_BHWC)
            view = pixels_BHWC.data.cast("B")
            while view:
                view = view[stream.write(view) :]
            beat()


def _write_npy_header(stream: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)

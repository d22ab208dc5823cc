"""Memory that training and its decoding processes share: batches in slots that are used again.

Only numbers of slots and rows travel through pipes; pixels and positions stay where they are.

    pulses: for each worker a count of the pieces it began, and the first row of the last, int64
    for each slot: positions of the rows' images, int64; then their pixels, uint8

The memory has no name in any file system, so nothing is left behind however a process ends.
"""

import mmap
import os
import tempfile
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

_ALIGNMENT = 64


class SlotShape(BaseModel):
    """What both sides must agree on.

    workers: Number of decoding processes.
    slots: Number of batches.
    rows: Images of a batch at most.
    height, width, channels: Of each image.
    """

    workers: int
    slots: int
    rows: int
    height: int
    width: int
    channels: int

    @property
    def positions_bytes(self) -> int:
        return _aligned(self.rows * 8)

    @property
    def slot_bytes(self) -> int:
        pixels = self.rows * self.height * self.width * self.channels
        return self.positions_bytes + _aligned(pixels)

    @property
    def pulses_bytes(self) -> int:
        return _aligned(self.workers * 16)

    @property
    def size_bytes(self) -> int:
        return self.pulses_bytes + self.slots * self.slot_bytes


class Slots:
    """The shared memory as arrays.

    descriptor: To hand to another process.
    pulses_W2: A count and a row for each worker.
    """

    def __init__(self, shape: SlotShape, descriptor: int | None = None) -> None:
        self.shape = shape
        self.descriptor = _anonymous(shape.size_bytes) if descriptor is None else descriptor
        self._memory = mmap.mmap(self.descriptor, shape.size_bytes)
        counts = np.frombuffer(self._memory, np.int64, 2 * shape.workers)
        self.pulses_W2: NDArray[np.int64] = counts.reshape(shape.workers, 2)

    def positions(self, slot: int) -> NDArray[np.int64]:
        """Positions of a slot's images, int64 [rows]."""
        start = self.shape.pulses_bytes + slot * self.shape.slot_bytes
        return np.frombuffer(self._memory, np.int64, self.shape.rows, start)

    def pixels(self, slot: int) -> NDArray[np.uint8]:
        """A slot's images, uint8 [rows, H, W, C]."""
        shape = self.shape
        start = shape.pulses_bytes + slot * shape.slot_bytes + shape.positions_bytes
        size: Sequence[int] = (shape.rows, shape.height, shape.width, shape.channels)
        return np.frombuffer(self._memory, np.uint8, int(np.prod(size)), start).reshape(size)

    def close(self) -> None:
        """Let go; the memory ends with the last array that shows it."""
        os.close(self.descriptor)


def _anonymous(size_bytes: int) -> int:
    """A descriptor of memory without a name."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("imagemill-batches", os.MFD_CLOEXEC)
    else:  # macOS: a file that is removed at once
        with tempfile.TemporaryFile() as stream:
            descriptor = os.dup(stream.fileno())
    os.ftruncate(descriptor, size_bytes)
    return descriptor


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT

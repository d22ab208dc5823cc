"""Encoded images as pieces of larger buffers, without a Python object for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

Buffer: TypeAlias = bytes | memoryview

# Copying a small image costs less than a view of it.
_COPY_BYTES = 16384


@dataclass(frozen=True)
class Pieces(Sequence[Buffer]):
    """B encoded images; large ones are handed out as views.

    buffers: What they are pieces of.
    buffer_B: Position in `buffers`, int32.
    offset_B, size_B: Frame in that buffer, int64; lies inside it.
    """

    buffers: Sequence[Buffer]
    buffer_B: NDArray[np.int32]
    offset_B: NDArray[np.int64]
    size_B: NDArray[np.int64]

    @classmethod
    def of(cls, datas: Sequence[Buffer]) -> "Pieces":
        """Images that have a buffer each."""
        sizes_B = np.array([len(data) for data in datas], np.int64)
        return cls(datas, np.arange(len(datas), dtype=np.int32), np.zeros_like(sizes_B), sizes_B)

    def __len__(self) -> int:
        return len(self.size_B)

    @overload
    def __getitem__(self, number: int) -> Buffer: ...
    @overload
    def __getitem__(self, number: slice) -> list[Buffer]: ...
    def __getitem__(self, number: int | slice) -> Buffer | list[Buffer]:
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        start, size = int(self.offset_B[number]), int(self.size_B[number])
        piece = self.buffers[int(self.buffer_B[number])][start : start + size]
        return bytes(piece) if size < _COPY_BYTES else piece

    def __iter__(self) -> Iterator[Buffer]:
        frames = (self.buffer_B.tolist(), self.offset_B.tolist(), self.size_B.tolist())
        for number, start, size in zip(*frames, strict=True):
            piece = self.buffers[number][start : start + size]
            yield bytes(piece) if size < _COPY_BYTES else piece

"""Millions of keys without a Python string for each."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096


class Keys(Sequence[str]):
    """Strings laid end to end in one buffer; one is made when it is asked for.

    Args:
        blob: UTF-8 of all keys, one after the other.
        ends_N: Where each key ends in the blob, int64.
    """

    def __init__(self, blob: memoryview, ends_N: NDArray[np.int64]) -> None:
        self._blob = blob
        self._ends_N = ends_N

    def __len__(self) -> int:
        return len(self._ends_N)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> list[str]: ...
    def __getitem__(self, position: int | slice) -> str | list[str]:
        if isinstance(position, slice):
            return [self[one] for one in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(f"no key {position} among {len(self)}")
        position %= len(self)
        start = int(self._ends_N[position - 1]) if position else 0
        return str(self._blob[start : int(self._ends_N[position])], "utf-8")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _BLOCK):
            for end in self._ends_N[first : first + _BLOCK].tolist():
                yield str(self._blob[start:end], "utf-8")
                start = end

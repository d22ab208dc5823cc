"""Encoded images out of shards that are mapped into memory."""

import mmap
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import IntegrityError
from imagemill.frames.pieces import Pieces
from imagemill.frames.saved import Frames
from imagemill.records import DATA


class FrameReader:
    """Reads frames from maps that somebody else opens; not for several threads at once.

    Args:
        frames: Where the images are.
        mapped: The map of a shard, given by its path relative to data/. It may be asked for the
            same one many times.
    """

    def __init__(self, frames: Frames, mapped: Callable[[str], mmap.mmap]) -> None:
        self._frames = frames
        self._mapped = mapped
        # Of each shard in the batch at hand, its number there.
        self._number_S = np.zeros(len(frames.shards), np.int32)

    def read(self, position: int) -> bytes:
        """The encoded image at a position of the frames.

        Raises:
            IntegrityError: the shard is missing or too short.
        """
        return bytes(self.pieces([position])[0])

    def pieces(self, positions_B: NDArray[np.integer] | Sequence[int]) -> Pieces:
        """The encoded images at positions of the frames, nothing of which is copied yet.

        Raises:
            IntegrityError: a shard is missing or too short.
        """
        frames = self._frames
        shard_B = frames.shard_N[positions_B]
        shards = list(set(shard_B.tolist()))
        self._number_S[shards] = np.arange(len(shards))
        buffer_B = self._number_S[shard_B]
        views = [memoryview(self._mapped(frames.shards[shard])) for shard in shards]
        offset_B, size_B = frames.offsets_N[positions_B], frames.sizes_N[positions_B]
        length_B = np.array([len(view) for view in views])[buffer_B]
        wrong_B = (offset_B < 0) | (size_B < 0) | (offset_B + size_B > length_B)
        if wrong_B.any():
            raise self._too_short(int(np.asarray(positions_B)[wrong_B.argmax()]))
        return Pieces(views, buffer_B, offset_B, size_B)

    def _too_short(self, position: int) -> IntegrityError:
        shard = self._frames.shards[int(self._frames.shard_N[position])]
        return IntegrityError(
            f"{DATA / shard} ends before {self._frames.keys[position]!r}; "
            "make the shards again with `dvc repro --force shard`"
        )

"""What training and its decoding processes say to one another: fixed frames, nothing unpickled."""

import struct
from pathlib import Path

from pydantic import BaseModel

from imagemill.loading.slots import SlotShape
from imagemill.params import AugmentParams, LoadingParams

REQUEST = struct.Struct("<iiiq")  # slot, first row, row after the last, epoch
ANSWER = struct.Struct("<cii")  # kind, slot, bytes of text that follow
DONE, USER_FAULT, FAULT = b"D", b"U", b"F"

# Images decoded at a time: enough for a batch call, few enough to name when they end a process.
PIECE_ROWS = 16


class Task(BaseModel):
    """What all workers need to know.

    shape: Of the shared memory.
    root, split, input_shape, loading: What `open_split` takes.
    augment: Seed and online policy.
    """

    shape: SlotShape
    root: Path
    split: str
    input_shape: tuple[int, int, int]
    loading: LoadingParams
    augment: AugmentParams

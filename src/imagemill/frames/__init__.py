"""Where the bytes of images are inside shards, and how they are read."""

from imagemill.frames.keys import Keys
from imagemill.frames.mapped import FrameReader
from imagemill.frames.pieces import Buffer, Pieces
from imagemill.frames.saved import Frames, read_frames

__all__ = ["Buffer", "FrameReader", "Frames", "Keys", "Pieces", "read_frames"]

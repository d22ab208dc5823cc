"""The contract between a task and the shards that carry its targets."""

from collections.abc import Callable
from typing import NamedTuple


class Task(NamedTuple):
    """How a target rides along with its image in a WebDataset shard."""

    extension: str  # of the member that holds the target, `cls` for a class id
    pack: Callable[[int], bytes]
    unpack: Callable[[bytes], int]

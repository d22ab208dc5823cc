"""Shards mapped into memory, opened at their first use."""

import mmap
from collections import OrderedDict
from pathlib import Path

from imagemill.errors import IntegrityError
from imagemill.records import DATA

# A map holds a descriptor, and a process may have 1,024 of them on most systems.
_MAX_OPEN = 256


class ShardMaps:
    """Maps of local shards; the least recently used one goes when there are too many.

    Args:
        root: The project's root.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    def opened(self, shard: str) -> mmap.mmap:
        """The map of a shard, given by its path relative to data/.

        Raises:
            IntegrityError: the shard is missing or cannot be read.
        """
        if shard in self._maps:
            self._maps.move_to_end(shard)
            return self._maps[shard]
        path = self._root / DATA / shard
        try:
            with path.open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise IntegrityError(f"cannot read shard {path}: {error}") from None
        self._maps[shard] = mapped
        if len(self._maps) > _MAX_OPEN:
            self._maps.popitem(last=False)
        return mapped

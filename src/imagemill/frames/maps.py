"""Shards mapped into memory, opened at their first use."""

import mmap
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from imagemill.errors import IntegrityError
from imagemill.records import DATA

# A map holds a descriptor, and a process may have 1,024 of them on most systems.
MAX_OPEN = 256


class OpenMaps:
    """Maps of files, the least recently used of which is let go first.

    Args:
        limit: How many are kept.
        opened: Opens a shard that is not among them.
    """

    def __init__(self, limit: int, opened: Callable[[str], mmap.mmap]) -> None:
        self._limit, self._opened = limit, opened
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    def __getitem__(self, path: str) -> mmap.mmap:
        mapped = self._maps.get(path)
        if mapped is None:
            mapped = self._maps[path] = self._opened(path)
            if len(self._maps) > self._limit:
                # Not closed by hand: bytes of it may still be in use; it ends with the last.
                self._maps.popitem(last=False)
        else:
            self._maps.move_to_end(path)
        return mapped


class ShardMaps:
    """Maps of local shards; the least recently used one goes when there are too many.

    Args:
        root: The project's root.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._maps = OpenMaps(MAX_OPEN, self._mapped)

    def opened(self, shard: str) -> mmap.mmap:
        """The map of a shard, given by its path relative to data/.

        Raises:
            IntegrityError: the shard is missing or cannot be read.
        """
        return self._maps[shard]

    def _mapped(self, shard: str) -> mmap.mmap:
        path = self._root / DATA / shard
        try:
            with path.open("rb") as stream:
                return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise IntegrityError(f"cannot read shard {path}: {error}") from None

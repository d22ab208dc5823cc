"""Shards opened for reading: only ever ones that hold the bytes on record.

A shard is opened at its first use. Both layouts hand out maps of whole files and keep a bounded
number of them open; a map that is still being read from lives on until its last reader lets go.
"""

import mmap
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from imagemill.errors import IntegrityError
from imagemill.frames.maps import MAX_OPEN, OpenMaps
from imagemill.loading.digests import Beat, Digests
from imagemill.records import (
    AUGMENTED_MANIFEST,
    DATA,
    SHARD_MANIFEST,
    CopiesManifest,
    ShardEntry,
    ShardManifest,
)

_AGAIN = "make it again with `imagemill verify --repair` or `dvc repro --force shard`"


class Shards(Protocol):
    """Where the bytes of shards come from."""

    beat: Beat

    def mapped(self, path: str) -> mmap.mmap:
        """A shard, given by its path relative to data/.

        Raises:
            IntegrityError: it is missing, or damaged.
        """
        ...

    def prefetch(self, paths: Sequence[str]) -> None:
        """These will be needed soon, in this order."""
        ...

    def rest(self) -> None:
        """Nothing more is needed for now: stop fetching ahead."""
        ...


def map_file(descriptor: int, path: str) -> mmap.mmap:
    """The bytes of an open shard.

    Raises:
        IntegrityError: it is empty, or cannot be mapped.
    """
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"cannot read shard {path}: {error}") from None


class LocalShards:
    """Shards in data/; a digest is checked at a shard's first use."""

    def __init__(self, root: Path, *, beat: Beat = lambda: None) -> None:
        self.beat = beat
        self._root = root
        self._maps = OpenMaps(MAX_OPEN, self._opened)

    def mapped(self, path: str) -> mmap.mmap:
        return self._maps[path]

    def prefetch(self, paths: Sequence[str]) -> None:
        """The kernel reads ahead by itself."""

    def rest(self) -> None:
        """Nothing is under way."""

    @cached_property
    def _entries(self) -> dict[str, ShardEntry]:
        return shard_entries(self._root)

    @cached_property
    def _digests(self) -> Digests:
        return Digests(self._root)

    def _opened(self, path: str) -> mmap.mmap:
        file = self._root / DATA / path
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise IntegrityError(f"shard {file} is missing; {_AGAIN}") from None
        except OSError as error:
            raise IntegrityError(f"cannot read shard {file}: {error.strerror}") from None
        try:
            mapped = map_file(descriptor, path)
            self._check(descriptor, mapped, path)
        finally:
            os.close(descriptor)
        return mapped

    def _check(self, descriptor: int, mapped: mmap.mmap, path: str) -> None:
        entry = self._entries.get(path)
        if entry is None:  # copies of a version that kept no digests of them
            return
        if len(mapped) != entry.size_bytes:
            raise IntegrityError(
                f"shard {DATA / path} is damaged: it has {len(mapped)} bytes, on record are "
                f"{entry.size_bytes}; {_AGAIN}"
            )
        name = str(DATA / path)
        self._digests.check(descriptor, mapped, name=name, sha256=entry.sha256, beat=self.beat)


def shard_entries(root: Path) -> dict[str, ShardEntry]:
    """What is on record of each shard, by path relative to data/: originals' and copies'."""
    entries = list(ShardManifest.read(root / SHARD_MANIFEST).shards)
    if (root / AUGMENTED_MANIFEST).is_file():
        entries += CopiesManifest.read(root / AUGMENTED_MANIFEST).shards
    return {entry.path: entry for entry in entries}

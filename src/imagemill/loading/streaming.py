"""The streaming layout: shards that lie elsewhere, a few of them here at a time."""

import mmap
import os
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from imagemill.errors import IntegrityError, LoaderError, ParamsError, UserError
from imagemill.frames.maps import OpenMaps
from imagemill.loading.digests import Beat, Digests
from imagemill.loading.remote import Remote, StoppedError
from imagemill.loading.schedule import AHEAD
from imagemill.loading.shard_cache import STREAM, ShardCache
from imagemill.loading.shards import map_file, shard_entries
from imagemill.params import LoadingParams
from imagemill.records import ShardEntry

_STALE = 1  # shards that just ran out of the window
_LOOK_SECONDS = 0.05
_END_SECONDS = 2.0


class StreamedShards:
    """Shards of `loading.remote`, through a cache on disk that all processes share.

    Fetching is done by threads, so that whoever waits for a shard can tell that nothing comes.
    """

    def __init__(self, root: Path, loading: LoadingParams, *, beat: Beat = lambda: None) -> None:
        assert loading.remote is not None, "params refuse streaming without a remote"
        self.beat = beat
        self._root, self._loading = root, loading
        self._remote = Remote(loading.remote, root)
        self._cache = ShardCache(root, max_bytes=loading.stream_cache_bytes)
        self._maps = OpenMaps(loading.window_shards + _STALE, self._opened)
        self._ahead: _Ahead | None = None

    def mapped(self, path: str) -> mmap.mmap:
        return self._maps[path]

    def prefetch(self, paths: Sequence[str]) -> None:
        if self._ahead is None:
            self._ahead = _Ahead(self)
        self._ahead.add(paths)

    def rest(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def receive(self, path: str, progress: "_Progress", *, wait: bool) -> None:
        """Fetch a shard unless it is here.

        Args:
            path: Relative to data/.
            progress: Told of each piece, and asked whether to go on.
            wait: Whether somebody waits for it: then another process that is fetching it is
                waited for, and what may pass is tried again.
        """
        entry = self._entry(path)
        while not self._cache.holds(entry.sha256):
            with self._cache.receiving(entry.sha256, entry.size_bytes) as part:
                if part is not None and not self._cache.holds(entry.sha256):
                    self._remote.fetch(entry, part, progress.made, patient=wait)
                    part.publish()
                    self._digests.remember(part.descriptor, entry.sha256)
                    return
            if not wait:
                return
            progress.seen(self._cache.last_written(entry.sha256))
            time.sleep(_LOOK_SECONDS)

    def _opened(self, path: str) -> mmap.mmap:
        while True:
            self._wait_for(path)
            mapped = self._stored(self._entry(path))
            if mapped is not None:
                return mapped

    def _stored(self, entry: ShardEntry) -> mmap.mmap | None:
        """A shard in the cache; None if it is gone again, or went bad and was dropped."""
        descriptor = self._cache.opened(entry.sha256)
        if descriptor is None:
            return None
        name = f"{entry.path} in {STREAM}"
        try:
            # The map keeps the descriptor's lock: while it lives the file is not removed.
            mapped = map_file(descriptor, name)
            self._digests.check(descriptor, mapped, name=name, sha256=entry.sha256, beat=self.beat)
        except IntegrityError:  # it was good when it came: the disk, or a person, changed it
            self._cache.drop(entry.sha256)
            return None
        finally:
            os.close(descriptor)
        return mapped

    def _wait_for(self, path: str) -> None:
        """Fetch a shard that is needed now, unless it is here.

        Raises:
            LoaderError: nothing came for `loading.stall_seconds`.
        """
        if self._cache.holds(self._entry(path).sha256):
            return
        fetch, idle = _Fetch(self, path), 0.0
        while not fetch.done.wait(_LOOK_SECONDS):
            self.beat()
            idle = 0.0 if fetch.progress.changed() else idle + _LOOK_SECONDS
            if idle > self._loading.stall_seconds:
                fetch.progress.stop()
                raise LoaderError(
                    f"no byte of shard {path} came from {self._loading.remote} for "
                    f"{self._loading.stall_seconds:g} s (loading.stall_seconds)"
                )
        if fetch.error is not None:
            raise fetch.error

    def _entry(self, path: str) -> ShardEntry:
        entry = self._entries.get(path)
        if entry is None:
            raise IntegrityError(
                f"no digest of shard {path} is on record, so it cannot be streamed; make it again "
                "with `dvc repro --force augment`"
            )
        return entry

    @cached_property
    def _digests(self) -> Digests:
        return Digests(self._root)

    @cached_property
    def _entries(self) -> dict[str, ShardEntry]:
        entries = shard_entries(self._root)
        at_once = self._loading.window_shards + 1 + _STALE + AHEAD
        largest = sorted((entry.size_bytes for entry in entries.values()), reverse=True)
        needed = sum(largest[:at_once])
        if needed > self._loading.stream_cache_bytes:
            raise ParamsError(
                f"loading.stream_cache_bytes is {self._loading.stream_cache_bytes} but a window of "
                f"{self._loading.window_shards} shards needs {needed}: raise it, lower "
                "loading.window_shards, or make smaller shards (shard.max_bytes)"
            )
        return entries


class _Progress:
    """Whether anything has come since somebody last asked, and whether anybody wants it to."""

    def __init__(self) -> None:
        self._count = self._asked = 0
        self._written: float | None = None
        self._stopped = False

    def made(self) -> None:
        """A piece came.

        Raises:
            StoppedError: nobody wants the rest.
        """
        self._count += 1
        if self._stopped:
            raise StoppedError

    def seen(self, written: float | None) -> None:
        """Another process is fetching, and wrote last at this time."""
        if written != self._written:
            self._written = written
            self.made()

    def changed(self) -> bool:
        before, self._asked = self._asked, self._count
        return before != self._asked

    def stop(self) -> None:
        self._stopped = True


class _Fetch(threading.Thread):
    """One shard on its way; a daemon, since a store that hangs must not keep the process."""

    def __init__(self, shards: StreamedShards, path: str) -> None:
        super().__init__(name=f"fetch {path}", daemon=True)
        self.done = threading.Event()
        self.progress = _Progress()
        self.error: BaseException | None = None
        self._shards, self._path = shards, path
        self.start()

    def run(self) -> None:
        try:
            self._shards.receive(self._path, self.progress, wait=True)
        except BaseException as error:
            self.error = error  # raised again by whoever waits
        finally:
            self.done.set()


class _Ahead(threading.Thread):
    """Fetches what will be needed next, one shard after the other."""

    def __init__(self, shards: StreamedShards) -> None:
        super().__init__(name="fetch ahead", daemon=True)
        self._shards = shards
        self._paths: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._progress = _Progress()
        self.start()

    def add(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._paths.put(path)

    def close(self) -> None:
        """Stop after the next piece; a store that hangs is not waited for."""
        self._progress.stop()
        self._paths.put(None)
        self.join(_END_SECONDS)

    def run(self) -> None:
        while (path := self._paths.get()) is not None:
            # Whoever needs the shard meets the same fault and tells it.
            with suppress(UserError):
                try:
                    self._shards.receive(path, self._progress, wait=False)
                except StoppedError:
                    return

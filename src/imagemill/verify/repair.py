"""Mending: the same bytes from another place, checked before they take the place of bad ones.

Raw images come back from their sources or from shards that hold their bytes; shards from raw
images, or from the DVC cache or its remote; other outputs from the cache or the remote; cached
files from the workspace or the remote.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from imagemill.errors import UserError
from imagemill.records import DATA, SHARD_INDEX, SHARD_MANIFEST, ShardManifest, publishing
from imagemill.verify.dvc_cache import AREA as CACHE
from imagemill.verify.dvc_cache import Cache, cache_folder, file_md5, name_md5
from imagemill.verify.findings import Fault
from imagemill.verify.raw_files import AREA as RAW
from imagemill.verify.rebuild import rebuild_shard
from imagemill.verify.restore import out_of_the_way, restore_raw_images


class Repairer:
    """Mends faults of one project.

    Args:
        root: The project's root.
        say: Takes a line for each file that was mended.
    """

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self._root = root
        self._say = say
        folder = cache_folder(root)
        self._cache = Cache(root, folder) if folder else None

    def repair(self, faults: list[Fault]) -> list[Fault]:
        """Mend what can be mended; returns the faults that are gone."""
        mended = self._mend(faults)
        left = [fault for fault in faults if _place(fault) not in mended]
        if left and self._cache is not None:
            with out_of_the_way(Path(fault.path) for fault in left if fault.area == CACHE):
                self._say("verify: asking DVC's remote for what no other place holds")
                self._cache.fetch()
            mended |= self._mend(left)
        return [fault for fault in faults if _place(fault) in mended]

    def _mend(self, faults: list[Fault]) -> set[tuple[str, str | None]]:
        """What is right again, as `_place` tells it."""
        mended = set[tuple[str, str | None]]()
        # Whatever is good comes first: indexes before shards, raw files before shards.
        if keys := [fault.member for fault in faults if fault.area == RAW and fault.member]:
            mended |= {(RAW, key) for key in self._restored(keys)}
        others = {(fault.area, fault.path) for fault in faults if fault.area != RAW}
        for area, path in sorted(others, key=lambda other: (other[1].endswith(".tar"), other)):
            try:
                place = self._from_elsewhere(area, path)
            except UserError as error:
                self._say(f"verify: {path} could not be mended: {error}")
                continue
            if place:
                self._say(f"verify: {path} is mended from {place}")
                mended.add((area, path))
        return mended

    def _restored(self, keys: list[str]) -> Iterator[str]:
        try:
            for key, place in restore_raw_images(self._root, keys):
                self._say(f"verify: raw image {key} is mended from {place}")
                yield key
        except UserError as error:
            self._say(f"verify: raw images could not be mended: {error}")

    def _from_elsewhere(self, area: str, path: str) -> str | None:
        """Mend a file; where from, or None if no place holds its bytes."""
        if area == CACHE:
            return self._cached_again(Path(path))
        if path.endswith(".tar") and area == "shards" and self._is_rebuilt(path):
            return "raw files"
        return "the DVC cache" if self._is_from_cache(path) else None

    def _is_rebuilt(self, path: str) -> bool:
        manifest = ShardManifest.read(self._root / SHARD_MANIFEST)
        name = Path(path).relative_to(DATA).as_posix()
        for entry in manifest.shards:
            if entry.path == name and (self._root / SHARD_INDEX).exists():
                try:
                    rebuild_shard(self._root, manifest, entry)
                except UserError as error:
                    self._say(f"verify: {path} cannot be made from raw files: {error}")
                    return False
                return True
        return False

    def _is_from_cache(self, path: str) -> bool:
        """Copy the file that DVC has for this path."""
        md5 = self._cache.md5_of(path) if self._cache else None
        if self._cache is None or md5 is None or not _is_good(kept := self._cache.path(md5), md5):
            return False
        with publishing(self._root / path) as temporary:
            shutil.copyfile(kept, temporary)
        return True

    def _cached_again(self, path: Path) -> str | None:
        """Fill a place of the cache from the workspace; or see that it was fetched."""
        assert self._cache is not None
        md5 = name_md5(path)
        if _is_good(path, md5):
            return "DVC's remote"
        in_workspace = self._cache.workspace_files().get(md5)
        if in_workspace is None or not _is_good(self._root / in_workspace, md5):
            return None
        with publishing(path) as temporary:
            shutil.copyfile(self._root / in_workspace, temporary)
            temporary.chmod(0o444)  # as DVC protects it
        return in_workspace


def _place(fault: Fault) -> tuple[str, str | None]:
    """What is mended at once: a file, or a raw image, many of which may share one."""
    return fault.area, fault.member if fault.area == RAW else fault.path


def _is_good(path: Path, md5: str) -> bool:
    return path.is_file() and file_md5(path) == md5.removesuffix(".dir")

"""Which shards on disk are those on record. A digest is taken once, and again if stat changed."""

import json
from collections.abc import Iterable
from pathlib import Path

from imagemill.records import DATA, STATE, ShardEntry, sha256_of_file, write_json

_SEEN = STATE / "shards.json"  # path -> [sha256, size, mtime_ns, inode]

Seen = list[str | int]


def damaged_shards(root: Path, entries: Iterable[ShardEntry]) -> frozenset[str]:
    """Paths (relative to data/) of shards that are missing or are not what they should be."""
    seen = _read(root)
    return frozenset(entry.path for entry in entries if not _is_whole(root, entry, seen))


def remember(root: Path, entries: Iterable[ShardEntry]) -> None:
    """Note shards as they lie there now; their digests are known to be right."""
    write_json(root / _SEEN, {entry.path: _stat(root, entry) for entry in entries})


def _is_whole(root: Path, entry: ShardEntry, seen: dict[str, Seen]) -> bool:
    now = _stat(root, entry)
    if now is None or now[1] != entry.size_bytes:
        return False
    return seen.get(entry.path) == now or sha256_of_file(root / DATA / entry.path) == entry.sha256


def _stat(root: Path, entry: ShardEntry) -> Seen | None:
    try:
        status = (root / DATA / entry.path).stat()
    except FileNotFoundError:
        return None
    return [entry.sha256, status.st_size, status.st_mtime_ns, status.st_ino]


def _read(root: Path) -> dict[str, Seen]:
    """Nothing where there is no such file, or a broken one: it only saves time."""
    try:
        found = json.loads((root / _SEEN).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

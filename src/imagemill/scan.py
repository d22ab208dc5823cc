"""Notice a changed source by its names, sizes and modification times (remote: etags), unread."""

import hashlib
from contextlib import suppress
from pathlib import Path

from pydantic import Field

from imagemill.errors import IntegrityError
from imagemill.params import IngestParams, Params
from imagemill.records import DATA, SOURCE, STATE, Record
from imagemill.sources import kind_of, open_source

# A shard holds two headers and two paddings an image.
_OVERHEAD_BYTES_PER_IMAGE = 2048
# Models, reports, MLflow's and Prefect's stores.
_FIXED_BYTES = 300_000_000


class Scan(Record):
    """data/source.json: `ingest` runs again when its content changes."""

    source: str
    kind: str
    fingerprint: str  # sha256 over names, sizes and modification times (or etags)
    num_files: int
    size_bytes: int
    changed: bool = Field(default=False, exclude=True)  # by this scan; not part of the file


def scan(root: Path, params: IngestParams) -> Scan:
    """Look at the source and write `data/source.json` if anything about it changed.

    Raises:
        SourceError: the source is missing or unreadable.
        DiskError: `data/` cannot be written.
    """
    found = _look(root, params.source)
    path = root / SOURCE
    try:
        known = Scan.read(path)
    except IntegrityError:
        known = None
    if known == found:
        return found
    found.write(path)
    return found.model_copy(update={"changed": True})


def disk_needed(root: Path, params: Params) -> int:
    """Bytes a whole run will add to the disk, estimated from above.

    The sum of: the plain tars of what cannot be read in place; shards (image bytes and tar
    padding) and the offline copies at the size of their originals, both twice because DVC's cache
    keeps a second copy; the loader's cache of decoded images, for which ten times the image bytes
    are assumed, up to `loading.cache_bytes`; and a fixed 300 MB for models, reports and the stores
    of the services. What an earlier run left in `data/` and `.imagemill/` is taken off, since it
    is replaced or used again. The number of files in a tar is estimated from its first ones.

    Args:
        root: The project's root.
        params: All of params.yaml.

    Raises:
        SourceError: the source is missing or unreadable.
    """
    held = open_source(root, params.ingest.source).volume()
    shards = held.content_bytes + _OVERHEAD_BYTES_PER_IMAGE * held.num_files
    copies = shards * params.augment.copies.most
    cache = min(params.loading.cache_bytes, 10 * held.content_bytes)
    present = _bytes_below(root / DATA) + _bytes_below(root / STATE)
    return max(held.unpacked_bytes + 2 * (shards + copies) + cache - present, 0) + _FIXED_BYTES


def _look(root: Path, text: str) -> Scan:
    hasher = hashlib.sha256()
    num_files = size_bytes = 0
    for name, size, mark in open_source(root, text).stats():
        hasher.update(f"{name}\0{size}\0{mark}\n".encode("utf-8", "surrogateescape"))
        num_files += not name.endswith("/")
        size_bytes += size
    return Scan(
        source=text,
        kind=kind_of(root, text),
        fingerprint=hasher.hexdigest(),
        num_files=num_files,
        size_bytes=size_bytes,
    )


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        # Services may be at work in there.
        with suppress(FileNotFoundError):
            total += path.lstat().st_size
    return total

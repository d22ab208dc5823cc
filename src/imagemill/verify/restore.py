"""Raw images made right again: from their source, or from the shards that hold their bytes."""

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.errors import UserError
from imagemill.parquet import as_table, matching, read_batches
from imagemill.records import DATA, MANIFEST, SHARD_INDEX, publishing
from imagemill.sources import Frame, RawReader, archive, plain_tars
from imagemill.verify.raw_files import own_file

_COLUMNS = ["key", "uri", "offset", "size_bytes", "sha256"]


class _Raw(NamedTuple):
    """An image on record."""

    key: str
    frame: Frame
    sha256: str


class _Kept(NamedTuple):
    """An image whose bytes a shard may hold."""

    raw: _Raw
    shard: str
    offset: int

    def content(self, root: Path) -> bytes | None:
        """Its bytes, if they are those on record."""
        try:
            with (root / DATA / self.shard).open("rb") as stream:
                stream.seek(self.offset)
                found = stream.read(self.raw.frame.size_bytes)
        except OSError:
            return None
        return found if hashlib.sha256(found).hexdigest() == self.raw.sha256 else None


def restore_raw_images(root: Path, keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Mend raw images: plain tars of ours are made again, files and members get their bytes back.

    A member is written into a copy of its archive that takes the archive's place, and only where
    the archive still has a member at its bytes. Nothing is written to an address.

    Args:
        root: The project's root.
        keys: Of the images.

    Yields:
        Keys of images that are right again, and from where.

    Raises:
        IntegrityError: manifest and index speak of different images.
        DiskError: a file could not be written.
    """
    wanted = pa.array(sorted(set(keys)), pa.string())
    mended = set()
    for raw in _made_again(root, list(_on_record(root, wanted))):
        mended.add(raw.key)
        yield raw.key, "its source"
    members: dict[str, list[_Kept]] = defaultdict(list)
    for kept in _in_shards(root, wanted):
        if kept.raw.key in mended:
            continue
        file = own_file(root, kept.raw.frame.uri, kept.raw.frame.offset)
        if file is None:
            members[kept.raw.frame.uri].append(kept)
        elif content := kept.content(root):
            with publishing(file) as temporary:
                temporary.write_bytes(content)
            yield kept.raw.key, "its shard"
    for uri, of_archive in members.items():
        yield from ((key, "its shard") for key in _written_into(root, uri, of_archive))


def _on_record(root: Path, wanted: pa.Array) -> Iterator[_Raw]:
    for batch in read_batches(root / MANIFEST, _COLUMNS):
        yield from _raws(as_table(batch.filter(pc.is_in(batch["key"], wanted))))


def _in_shards(root: Path, wanted: pa.Array) -> Iterator[_Kept]:
    """Images whose bytes were not changed on their way into a shard."""
    if not (root / SHARD_INDEX).exists():
        return
    index = (
        as_table(batch).filter(
            pc.and_(pc.is_in(batch["key"], wanted), batch["raw_sha256"].is_null())
        )
        for batch in read_batches(root / SHARD_INDEX)
    )
    for raws, placed in matching(read_batches(root / MANIFEST, _COLUMNS), index):
        places = (placed["shard"].to_pylist(), placed["offset"].to_pylist())
        yield from map(_Kept, _raws(raws), *places)


def _raws(rows: pa.Table) -> Iterator[_Raw]:
    columns = (rows[name].to_pylist() for name in _COLUMNS)
    for key, uri, offset, size_bytes, sha256 in zip(*columns, strict=True):
        yield _Raw(key, Frame(uri, offset, size_bytes), sha256)


def _made_again(root: Path, raws: list[_Raw]) -> Iterator[_Raw]:
    """Images in plain tars of ours, which are made again of their sources."""
    with RawReader(root) as reader:
        files = {uri: _local_file(reader, uri) for uri in {raw.frame.uri for raw in raws}}
    ours = {uri: file for uri, file in files.items() if file and _is_ours(root, file)}
    with out_of_the_way(ours.values()), RawReader(root) as reader:
        yield from (raw for raw in raws if raw.frame.uri in ours and _is_right(reader, raw))


def _local_file(reader: RawReader, uri: str) -> Path | None:
    try:
        return reader.local_file(uri)
    except UserError:  # its source is gone or damaged
        return None


def _is_ours(root: Path, file: Path) -> bool:
    return file.is_relative_to(root / plain_tars.FOLDER)


def _is_right(reader: RawReader, raw: _Raw) -> bool:
    try:
        return reader.sha256(*raw.frame) == raw.sha256
    except UserError:
        return False


def _written_into(root: Path, uri: str, members: list[_Kept]) -> Iterator[str]:
    """Keys of members of an archive that got their bytes back."""
    file = root / uri
    if not archive.is_archive_name(uri) or not file.is_file():
        return
    if archive.readable_file(root, uri).path != file:
        return  # compressed: other bytes would be no gzip stream any more
    framed = {(entry.offset, entry.size_bytes) for entry in archive.entries(root, uri)}
    fitting = [kept for kept in members if kept.raw.frame[1:] in framed and kept.content(root)]
    if not fitting:
        return
    with publishing(file) as temporary:
        shutil.copyfile(file, temporary)
        with temporary.open("r+b") as stream:
            for kept in fitting:
                stream.seek(kept.raw.frame.offset)
                stream.write(kept.content(root) or b"")
    yield from (kept.raw.key for kept in fitting)


@contextmanager
def out_of_the_way(paths: Iterable[Path]) -> Iterator[None]:
    """Files that are to be made again; what does not come back is put where it was."""
    moved = [(path, path.with_name(path.name + ".damaged")) for path in paths if path.exists()]
    for path, aside in moved:
        path.rename(aside)
    try:
        yield
    finally:
        for path, aside in moved:
            if path.exists():
                aside.unlink()
            else:
                aside.rename(path)

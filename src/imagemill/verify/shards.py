"""Shards against their manifest and index: whole digests, and every single member."""

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.errors import UserError
from imagemill.parquet import SortedReader, SortedRuns, as_table, read_batches
from imagemill.records import (
    AUGMENTED_INDEX,
    DATA,
    MANIFEST,
    SHARD_INDEX,
    SHARD_MANIFEST,
    STATE,
    ShardManifest,
    sha256_of_file,
)
from imagemill.tars import members
from imagemill.tasks import TASKS
from imagemill.verify.findings import Fault, Slice, Watch, in_parallel

_TASK = TASKS["classification"]
_ROW_SCHEMA = pa.schema(
    [
        pa.field("order", pa.string()),  # shard, then offset
        pa.field("shard", pa.string()),
        pa.field("key", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("target", pa.int32()),
        pa.field("uri", pa.string()),
    ]
)
_INDEX_COLUMNS = ["shard", "key", "offset", "size_bytes", "sha256", "target"]


class _Row(NamedTuple):
    """An image as the index has it; `uri` is that of its raw file, None where it has none."""

    key: str
    offset: int
    size_bytes: int
    sha256: str
    target: int | None
    uri: str | None


class _Shard(NamedTuple):
    """A shard and all that is on record of it."""

    area: str
    path: str  # relative to data/
    sha256: str | None  # None: its digest is not on record
    rows: list[_Row]


def faults_in_shards(
    root: Path, part: Slice, threads: ThreadPoolExecutor, watch: Watch, *, ahead: int
) -> Iterator[Fault]:
    """Shards of originals and of copies that are not what manifest and indexes say."""
    manifest = None
    if (root / SHARD_MANIFEST).exists():
        try:
            manifest = ShardManifest.read(root / SHARD_MANIFEST)
        except UserError as error:
            yield Fault("shards", str(SHARD_MANIFEST), str(error))
    if manifest is not None and part.takes(str(SHARD_INDEX)):
        yield from _index_faults(root, manifest)
    areas = {"shards": SHARD_INDEX, "augmented": AUGMENTED_INDEX}
    digests = {entry.path: entry.sha256 for entry in manifest.shards} if manifest else {}
    for area, index in areas.items():
        if not (root / index).exists():
            continue
        try:
            for shard, faults in in_parallel(
                partial(_checked, root),
                _shards(root, area, index, digests, part),
                threads,
                ahead=ahead,
            ):
                watch.count(f"members of {area}", len(shard.rows))
                yield from faults
        except UserError as error:
            yield Fault(area, str(index), str(error))


def _index_faults(root: Path, manifest: ShardManifest) -> Iterator[Fault]:
    path = root / SHARD_INDEX
    if not path.exists():
        yield Fault("shards", str(SHARD_INDEX), "it is missing")
    elif sha256_of_file(path) != manifest.index_digest:
        yield Fault("shards", str(SHARD_INDEX), "its sha256 is not that in manifest.json")
    listed = {entry.path for entry in manifest.shards}
    for file in sorted((root / DATA / "shards").rglob("*.tar")):
        if (name := file.relative_to(root / DATA).as_posix()) not in listed:
            yield Fault("shards", f"{DATA}/{name}", "manifest.json does not list it")


def _shards(
    root: Path, area: str, index: Path, digests: dict[str, str], part: Slice
) -> Iterator[_Shard]:
    """The shards of one area that belong to the part, in order of their paths."""
    unseen = {path for path in digests if path.startswith(f"{area}/") and part.takes(path)}
    with SortedRuns(root / STATE / f"verify-{area}", _ROW_SCHEMA, by="order") as runs:
        for rows in _with_uris(root, read_batches(root / index, _INDEX_COLUMNS)):
            # The index of copies holds the originals too.
            ours = rows.filter(pc.starts_with(rows["shard"], f"{area}/"))
            runs.add(ours.filter(_mask(ours["shard"], part)))
        for path, of_shard in _grouped(runs.merged()):
            unseen.discard(path)
            yield _Shard(area, path, digests.get(path), of_shard)
    for path in sorted(unseen):
        yield _Shard(area, path, digests[path], [])


def _mask(shards: pa.ChunkedArray, part: Slice) -> pa.Array:
    paths = pc.unique(shards).to_pylist()
    taken = [path for path, taken in zip(paths, part.mask(paths), strict=True) if taken]
    return pc.is_in(shards, value_set=pa.array(taken, pa.string()))


def _with_uris(root: Path, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows of an index with the uri of the raw file, where the manifest of `ingest` knows it."""
    known = (root / MANIFEST).exists()
    manifest = SortedReader(read_batches(root / MANIFEST, ["key", "uri"]) if known else ())
    for batch in batches:
        rows = as_table(batch)
        shard = rows["shard"].cast(pa.string())
        raw = manifest.up_to(rows["key"][-1].as_py()) if rows.num_rows else None
        uri = pa.nulls(rows.num_rows, pa.string())
        if raw is not None:
            uri = raw["uri"].take(pc.index_in(rows["key"], raw["key"].combine_chunks()))
        # Numbers of the same length sort as text.
        digits = pc.utf8_lpad(rows["offset"].cast(pa.string()), 12, "0")
        columns = {name: rows[name] for name in _INDEX_COLUMNS} | {
            "order": pc.binary_join_element_wise(shard, digits, " "),
            "shard": shard,
            "uri": uri,
        }
        yield pa.table({name: columns[name] for name in _ROW_SCHEMA.names}, schema=_ROW_SCHEMA)


def _grouped(tables: Iterable[pa.Table]) -> Iterator[tuple[str, list[_Row]]]:
    path, held = "", list[_Row]()
    for table in tables:
        columns = (table[name].to_pylist() for name in _Row._fields)
        rows = map(_Row._make, zip(*columns, strict=True))
        for shard, row in zip(table["shard"].to_pylist(), rows, strict=True):
            if shard != path:
                if held:
                    yield path, held
                path, held = shard, []
            held.append(row)
    if held:
        yield path, held


# One shard -----------------------------------------------------------------------------------


def _checked(root: Path, shard: _Shard) -> tuple[_Shard, list[Fault]]:
    file = root / DATA / shard.path
    try:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as tar:
            return shard, list(_faults(shard, file, tar))
    except (OSError, ValueError) as error:
        # An empty file cannot be mapped.
        return shard, [_fault(shard, f"it cannot be read: {error}")]


def _faults(shard: _Shard, file: Path, tar: mmap.mmap) -> Iterator[Fault]:
    if shard.sha256 is not None and hashlib.sha256(tar).hexdigest() != shard.sha256:
        yield _fault(shard, "its sha256 is not that in manifest.json")
    elif shard.sha256 is None and shard.area == "shards":
        yield _fault(shard, "manifest.json does not list it")
    for row in shard.rows:
        found = hashlib.sha256(tar[row.offset : row.offset + row.size_bytes]).hexdigest()
        if found != row.sha256:
            yield _fault(shard, f"its sha256 is {found[:12]}, not that in the index", row)
    try:
        yield from _member_faults(shard, file, tar)
    except UserError as error:
        yield _fault(shard, str(error))


def _member_faults(shard: _Shard, file: Path, tar: mmap.mmap) -> Iterator[Fault]:
    """Names, order and targets: every member is one the index knows of."""
    unseen = {row.offset: row for row in shard.rows}
    unlabelled = {row.key: row for row in shard.rows if row.target is not None}
    image: _Row | None = None
    for member in members(file):
        key, _, extension = member.name.partition(".")
        row = unseen.pop(member.offset, None)
        if row is not None:
            image = row
            if (key, member.size_bytes) != (row.key, row.size_bytes):
                yield _fault(shard, f"its header says {member.name}, {member.size_bytes} B", row)
        elif image is None or key != image.key:
            yield _fault(shard, f"the index does not know its member {member.name}")
        elif extension == _TASK.extension:
            unlabelled.pop(key, None)
            content = tar[member.offset : member.offset + member.size_bytes]
            if image.target is None or content != _TASK.pack(image.target):
                said = content.decode("ascii", "replace")
                yield _fault(shard, f"its class is {said}, {image.target} in the index", image)
    for row in unseen.values():
        yield _fault(shard, f"there is no member at byte {row.offset}", row)
    for row in unlabelled.values():
        yield _fault(shard, f"it has no .{_TASK.extension} member", row)


def _fault(shard: _Shard, reason: str, row: _Row | None = None) -> Fault:
    path = f"{DATA}/{shard.path}"
    if row is None:
        return Fault(shard.area, path, reason)
    return Fault(shard.area, path, reason, member=row.key, raw=row.uri)

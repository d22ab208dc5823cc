"""Makes the saved index of a split from index.parquet, in memory that does not grow with it."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagemill.errors import IntegrityError
from imagemill.frames.layout import ALIGNMENT, READ_BYTES, SECTIONS, VERSION, Origin
from imagemill.randomness import key_hashes
from imagemill.records import publishing

_BATCH_ROWS = 16384
_COLUMNS = ["key", "split", "shard", "offset", "size_bytes", "sha256", "target"]


class _Size(NamedTuple):
    rows: int
    key_bytes: int


def write_saved(path: Path, index: Path, split: str, origin: Origin) -> None:
    """Write the saved index of a split, whole or not at all.

    Args:
        path: Where to.
        index: The index.parquet it is made from.
        split: Whose rows to take.
        origin: What is on record about `index`.

    Raises:
        IntegrityError: the index is damaged, or not sorted by key.
        DiskError: the folder cannot be written, or the disk is full.
    """
    size = _measured(index, split)
    sections = _laid_out(size)
    with publishing(path) as temporary, temporary.open("w+b") as stream:
        shards = _write_sections(stream.fileno(), index, split, sections)
        header = {
            "version": VERSION,
            "origin": list(origin),
            "sections": sections,
            "shards": shards,
        }
        text = json.dumps(header).encode()
        start, count = sections["key_blob"]
        stream.seek(start + count)
        stream.write(text + len(text).to_bytes(8, "little"))
        stream.seek(0)
        hasher = hashlib.sha256()
        while block := stream.read(READ_BYTES):
            hasher.update(block)
        stream.write(hasher.digest())


def _measured(index: Path, split: str) -> _Size:
    rows = key_bytes = 0
    last = ""
    for batch in _batches(index, split, ["key", "split"]):
        keys = batch["key"]
        ascending = pc.all(pc.less(keys[:-1], keys[1:])).as_py() in (True, None)
        if not (ascending and last < keys[0].as_py()):
            raise IntegrityError(f"{index} is not sorted by key; `dvc repro` makes it again")
        last = keys[-1].as_py()
        rows += len(keys)
        key_bytes += pc.sum(pc.binary_length(keys)).as_py()
    return _Size(rows, key_bytes)


def _laid_out(size: _Size) -> dict[str, tuple[int, int]]:
    """Where each section starts in the file, and how many values it has."""
    position, sections = 0, {}
    for name, kind in SECTIONS.items():
        count = size.key_bytes if name == "key_blob" else size.rows
        sections[name] = (position, count)
        position += -(-count * np.dtype(kind).itemsize // ALIGNMENT) * ALIGNMENT
    return sections


def _write_sections(
    file: int, index: Path, split: str, sections: dict[str, tuple[int, int]]
) -> list[str]:
    """Fill the sections a batch at a time and return the shards in order of their numbers."""
    at = {name: start for name, (start, _) in sections.items()}
    numbers: dict[str, int] = {}
    key_end = 0
    for batch in _batches(index, split, _COLUMNS):
        lengths_B = pc.binary_length(batch["key"]).to_numpy()
        values = _values(batch, numbers)
        values["key_ends"] = key_end + np.cumsum(lengths_B, dtype=np.int64)
        key_end = int(values["key_ends"][-1])
        for name, kind in SECTIONS.items():
            content = values[name] if name in ("key_blob", "sha256") else values[name].astype(kind)
            at[name] += os.pwrite(file, content, at[name])
    return list(numbers)


def _values(batch: pa.RecordBatch, numbers: dict[str, int]) -> dict[str, Any]:
    keys = batch["key"].to_pylist()
    shards = batch["shard"].dictionary_encode()
    named = [numbers.setdefault(name, len(numbers)) for name in shards.dictionary.to_pylist()]
    return {
        "hashes": key_hashes(keys),
        "targets": pc.fill_null(batch["target"], -1).to_numpy(),
        "offsets": batch["offset"].to_numpy(),
        "sizes": batch["size_bytes"].to_numpy(),
        "shards": np.array(named, np.int32)[shards.indices.to_numpy()],
        "sha256": bytes.fromhex("".join(batch["sha256"].to_pylist())),
        "key_blob": "".join(keys).encode(),
    }


def _batches(index: Path, split: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows of a split, a batch at a time, none of them empty."""
    try:
        with pq.ParquetFile(index, pre_buffer=False, memory_map=False) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                plain = batch.set_column(
                    batch.schema.get_field_index("split"), "split", batch["split"].cast(pa.string())
                )
                chosen = plain.filter(pc.equal(plain["split"], split))
                if chosen.num_rows:
                    yield chosen
    except pa.ArrowInvalid as error:
        raise IntegrityError(f"{index} is not the Parquet file it should be: {error}") from None

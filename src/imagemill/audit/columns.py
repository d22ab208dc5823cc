"""What of the manifest decides about images beside one another, narrow enough to hold in memory.

N rows of the manifest.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.parquet import num_rows, read_batches

# Of several copies the one in the split that must not lose it stays: a given test image before a
# given val image, both before train (where a copy would leak), an unlabelled one last.
RANKS = {"test": 0, "val": 1, "train": 2, None: 3, "unlabelled": 4}
LAST_EVALUATED_RANK = RANKS["val"]
UNLABELLED_RANK = RANKS["unlabelled"]
NO_LABEL = -1
NO_GROUP = 0


class Columns(NamedTuple):
    """21 bytes a row, and 8 more where there are groups."""

    digest_N2: NDArray[np.uint64]  # 128 bits of the sha256; of a row that is alone, its number
    label_N: NDArray[np.int32]
    rank_N: NDArray[np.int8]
    group_N: NDArray[np.uint64] | None  # hash of the group, or NO_GROUP


def read_columns(manifest: Path) -> Columns:
    """Read data/ingest/manifest.parquet; empty files and images a person dropped are alone."""
    count = num_rows(manifest)
    digest_N2 = np.empty((count, 2), np.uint64)
    label_N, rank_N = np.empty(count, np.int32), np.empty(count, np.int8)
    group_N: NDArray[np.uint64] | None = None
    codes: dict[str | None, int] = {None: NO_LABEL}
    stop = 0
    names = ["sha256", "size_bytes", "target", "split", "group", "review"]
    for batch in read_batches(manifest, names):
        start, stop = stop, stop + batch.num_rows
        digest_N2[start:stop] = prefixes(batch["sha256"])
        label_N[start:stop] = _codes(batch["target"], codes)
        rank_N[start:stop] = _codes(batch["split"], RANKS)
        alone = np.flatnonzero(_is_alone(batch))
        digest_N2[start + alone] = np.stack([np.zeros_like(alone), start + alone], axis=1)
        if batch["group"].null_count < batch.num_rows:
            if group_N is None:
                group_N = np.full(count, NO_GROUP, np.uint64)
            group_N[start:stop] = _group_hashes(batch["group"])
    rank_N[label_N == NO_LABEL] = UNLABELLED_RANK
    return Columns(digest_N2, label_N, rank_N, group_N)


def prefixes(digests: pa.Array) -> NDArray[np.uint64]:
    """The first 128 bits of hex digests, uint64 [N, 2]."""
    raw = bytes.fromhex("".join(digests.to_pylist()))
    return np.frombuffer(raw, ">u8").reshape(-1, 4)[:, :2].astype(np.uint64)


def is_dropped(rows: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which rows a person has decided to leave out."""
    return np.asarray(pc.fill_null(pc.equal(rows["review"], "drop"), False))


def _is_alone(rows: pa.RecordBatch) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(rows["size_bytes"], 0)) | is_dropped(rows)


def _codes(names: pa.Array, codes: dict[str | None, int]) -> NDArray[np.int64]:
    """A number for each name, new names being numbered on."""
    encoded = names.dictionary_encode(null_encoding="encode")
    known = encoded.dictionary.to_pylist()
    for name in known:
        codes.setdefault(name, len(codes))
    numbers: NDArray[np.int64] = np.array([codes[name] for name in known], np.int64)
    places: NDArray[np.int64] = encoded.indices.to_numpy()
    return numbers[places]


def _group_hashes(groups: pa.Array) -> NDArray[np.uint64]:
    encoded = groups.dictionary_encode(null_encoding="encode")
    hashes = [_group_hash(name) for name in encoded.dictionary.to_pylist()]
    found: NDArray[np.uint64] = np.array(hashes, np.uint64)
    places: NDArray[np.int64] = encoded.indices.to_numpy()
    return found[places]


def _group_hash(name: str | None) -> int:
    if name is None:
        return NO_GROUP
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") | 1

"""Same bytes more than once: which copy stays, and why the others go.

N rows of the manifest, M of them copies of another row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.parquet import num_rows, read_batches

# Of several copies the one in the split that must not lose it stays: a given test image before a
# given val image, both before train (where a copy would leak), an unlabelled one last.
_RANKS = {"test": 0, "val": 1, "train": 2, None: 3, "unlabelled": 4}
_LAST_EVALUATED_RANK = _RANKS["val"]
_UNLABELLED_RANK = _RANKS["unlabelled"]
_NO_LABEL = -1

_REASONS = {
    "duplicate": "same bytes as {twin}",
    "leak": "same bytes as {twin}, which belongs to a split that is only evaluated",
    "label_conflict": "same bytes as {twin}, which has another label",
}


class Duplicates(NamedTuple):
    """Rows of the manifest that go because of another one."""

    rows_M: NDArray[np.int64]  # ascending
    checks_M: list[str]  # duplicate, leak or label_conflict
    twin_keys_M: pa.Array

    def within(self, start: int, stop: int) -> Iterator[tuple[int, str, str]]:
        """(row, check, reason) of those among the rows from `start` up to `stop`."""
        first, last = np.searchsorted(self.rows_M, [start, stop])
        for position in range(first, last):
            check = self.checks_M[position]
            reason = _REASONS[check].format(twin=self.twin_keys_M[position].as_py())
            yield int(self.rows_M[position]), check, reason


class _Columns(NamedTuple):
    """What decides, narrow: 21 bytes a row."""

    digest_N2: NDArray[np.uint64]  # 128 bits of the sha256
    label_N: NDArray[np.int32]
    rank_N: NDArray[np.int8]


def find_duplicates(manifest: Path) -> Duplicates:
    """Compare all images by digest; empty files are no copies of one another.

    Args:
        manifest: data/ingest/manifest.parquet.
    """
    columns = _read(manifest)
    rows, checks, twins = [], [], []
    for group in _groups(columns.digest_N2):
        for row, check, twin in _judged(group, columns):
            rows.append(row)
            checks.append(check)
            twins.append(twin)
    order = np.argsort(rows)
    twin_M = np.array(twins, dtype=np.int64)[order]
    return Duplicates(
        np.array(rows, dtype=np.int64)[order],
        [checks[position] for position in order],
        _keys_of(manifest, twin_M),
    )


def _read(manifest: Path) -> _Columns:
    count = num_rows(manifest)
    columns = _Columns(
        np.empty((count, 2), np.uint64), np.empty(count, np.int32), np.empty(count, np.int8)
    )
    codes: dict[str | None, int] = {None: _NO_LABEL}
    stop = 0
    for batch in read_batches(manifest, ["sha256", "size_bytes", "target", "split"]):
        start, stop = stop, stop + batch.num_rows
        columns.digest_N2[start:stop] = _prefixes(batch["sha256"])
        labels = batch["target"].to_pylist()
        for name in set(labels).difference(codes):
            codes[name] = len(codes)
        columns.label_N[start:stop] = [codes[name] for name in labels]
        columns.rank_N[start:stop] = [_RANKS[name] for name in batch["split"].to_pylist()]
        # Each empty file is a group of its own, told by the row.
        empty = np.flatnonzero(pc.equal(batch["size_bytes"], 0).to_numpy(zero_copy_only=False))
        columns.digest_N2[start + empty] = np.stack([np.zeros_like(empty), start + empty], axis=1)
    columns.rank_N[columns.label_N == _NO_LABEL] = _UNLABELLED_RANK
    return columns


def _prefixes(digests: pa.Array) -> NDArray[np.uint64]:
    raw = bytes.fromhex("".join(digests.to_pylist()))
    return np.frombuffer(raw, ">u8").reshape(-1, 4)[:, :2].astype(np.uint64)


def _groups(digest_N2: NDArray[np.uint64]) -> Iterator[NDArray[np.int64]]:
    """Rows of equal digest, ascending, where there are two or more."""
    order_N = np.argsort(digest_N2[:, 0], kind="stable")
    sorted_N = digest_N2[order_N, 0]
    same = np.flatnonzero(sorted_N[1:] == sorted_N[:-1])
    # Now few are left (all those whose first 64 bits agree): sort them by all 128.
    some = np.unique(order_N[np.union1d(same, same + 1)])
    some = some[np.lexsort((some, digest_N2[some, 1], digest_N2[some, 0]))]
    differs = np.any(digest_N2[some[1:]] != digest_N2[some[:-1]], axis=1)
    for group in np.split(some, np.flatnonzero(differs) + 1):
        if len(group) > 1:
            yield group


def _judged(group: NDArray[np.int64], columns: _Columns) -> Iterator[tuple[int, str, int]]:
    """(row, check, row it is a copy of) of those of a group that go."""
    labels, ranks = columns.label_N[group], columns.rank_N[group]
    known = labels[labels != _NO_LABEL]
    if len(known) and known.min() != known.max():
        for row, label in zip(group.tolist(), labels.tolist(), strict=True):
            other = group[(labels != label) & (labels != _NO_LABEL)][0]
            yield row, "label_conflict", int(other)
        return
    keeper = int(np.argmin(ranks))
    for position, row in enumerate(group.tolist()):
        if position != keeper:
            leaks = ranks[keeper] <= _LAST_EVALUATED_RANK and (
                ranks[keeper] < ranks[position] < _UNLABELLED_RANK
            )
            yield row, "leak" if leaks else "duplicate", int(group[keeper])


def _keys_of(manifest: Path, rows_M: NDArray[np.int64]) -> pa.Array:
    """Keys of rows in any order, from one pass."""
    wanted, back = np.unique(rows_M, return_inverse=True)
    parts, stop = [pa.array([], pa.string())], 0
    for batch in read_batches(manifest, ["key"]) if len(wanted) else ():
        start, stop = stop, stop + batch.num_rows
        first, last = np.searchsorted(wanted, [start, stop])
        parts.append(batch["key"].take(pa.array(wanted[first:last] - start)))
    return pa.concat_arrays(parts).take(pa.array(back))

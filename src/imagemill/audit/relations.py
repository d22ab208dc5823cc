"""Images that should not be in one data set together, or not in two splits: which go, and why.

N rows of the manifest, M of them related to another row.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imagemill.audit.columns import (
    LAST_EVALUATED_RANK,
    NO_GROUP,
    NO_LABEL,
    UNLABELLED_RANK,
    Columns,
)
from imagemill.parquet import read_batches

I64 = NDArray[np.int64]
NO_TWIN = -1

_REASONS = {
    "duplicate": "same bytes as {twin}",
    "leak": "same bytes as {twin}, which belongs to a split that is only evaluated",
    "label_conflict": "same bytes as {twin}, which has another label",
    "near_duplicate": "nearly the same image as {twin}",
    "near_leak": "nearly the same image as {twin}, which belongs to a split that is only evaluated",
    "near_label_conflict": "nearly the same image as {twin}, which has another label",
    "group_leak": "its group is also in a split that is only evaluated",
}
CHECKS = tuple(_REASONS)


class Related(NamedTuple):
    """One row and what it has to do with another one."""

    row: int
    check: str
    reason: str
    twin: int  # row of the manifest, or NO_TWIN


class Relations(NamedTuple):
    """Related rows; a row may be there under several checks."""

    rows_M: I64  # ascending
    checks_M: NDArray[np.int8]  # positions in CHECKS
    twins_M: I64
    twin_keys_M: pa.Array

    def within(self, start: int, stop: int) -> Iterator[Related]:
        """Those among the rows from `start` up to `stop`."""
        first, last = np.searchsorted(self.rows_M, [start, stop])
        for position in range(first, last):
            check = CHECKS[self.checks_M[position]]
            reason = _REASONS[check].format(twin=self.twin_keys_M[position].as_py())
            yield Related(int(self.rows_M[position]), check, reason, int(self.twins_M[position]))


def exact_relations(manifest: Path, columns: Columns) -> Relations:
    """What images of equal bytes have to do with one another."""
    return _relations(manifest, columns, equal_rows(columns.digest_N2), prefix="")


def near_relations(manifest: Path, columns: Columns, groups: Iterable[I64]) -> Relations:
    """What near duplicates, and groups in several splits, have to do with one another.

    Args:
        manifest: data/ingest/manifest.parquet.
        columns: Of the same rows.
        groups: Rows of near duplicates, each group ascending.
    """
    near = _relations(manifest, columns, groups, prefix="near_")
    torn = torn_rows(columns)
    rows_M = np.concatenate([near.rows_M, torn])
    order = np.argsort(rows_M, kind="stable")
    codes = np.full(len(torn), CHECKS.index("group_leak"), np.int8)
    return Relations(
        rows_M[order],
        np.concatenate([near.checks_M, codes])[order],
        np.concatenate([near.twins_M, np.full(len(torn), NO_TWIN)])[order],
        pa.concat_arrays([near.twin_keys_M, pa.nulls(len(torn), pa.string())]).take(order),
    )


def torn_rows(columns: Columns) -> I64:
    """Rows whose group is also in a given split that is evaluated and ranks before their own."""
    if columns.group_N is None:
        return np.zeros(0, np.int64)
    torn = np.zeros(len(columns.rank_N), bool)
    grouped = columns.group_N != NO_GROUP
    for rank in range(LAST_EVALUATED_RANK + 1):
        evaluated = np.unique(columns.group_N[(columns.rank_N == rank) & grouped])
        later = (columns.rank_N > rank) & (columns.rank_N < UNLABELLED_RANK)
        torn |= later & grouped & np.isin(columns.group_N, evaluated)
    return np.flatnonzero(torn)


def equal_rows(digest_N2: NDArray[np.uint64]) -> Iterator[I64]:
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


def keys_of(manifest: Path, rows_M: I64) -> pa.Array:
    """Keys of rows in any order, from one pass."""
    wanted, back = np.unique(rows_M, return_inverse=True)
    parts, stop = [pa.array([], pa.string())], 0
    for batch in read_batches(manifest, ["key"]) if len(wanted) else ():
        start, stop = stop, stop + batch.num_rows
        first, last = np.searchsorted(wanted, [start, stop])
        parts.append(batch["key"].take(pa.array(wanted[first:last] - start)))
    return pa.concat_arrays(parts).take(pa.array(back))


def _relations(
    manifest: Path, columns: Columns, groups: Iterable[I64], *, prefix: str
) -> Relations:
    rows, codes, twins = [], [], []
    for group in groups:
        for row, check, twin in _judged(group, columns):
            rows.append(row)
            codes.append(CHECKS.index(prefix + check))
            twins.append(twin)
    order = np.argsort(np.array(rows, np.int64), kind="stable")
    twins_M = np.array(twins, np.int64)[order]
    return Relations(
        np.array(rows, np.int64)[order],
        np.array(codes, np.int8)[order],
        twins_M,
        keys_of(manifest, twins_M),
    )


def _judged(group: I64, columns: Columns) -> Iterator[tuple[int, str, int]]:
    """(row, check, row it is a copy of) of those of a group that go."""
    labels, ranks = columns.label_N[group], columns.rank_N[group]
    known = labels[labels != NO_LABEL]
    if len(known) and known.min() != known.max():
        for row, label in zip(group.tolist(), labels.tolist(), strict=True):
            other = group[(labels != label) & (labels != NO_LABEL)][0]
            yield row, "label_conflict", int(other)
        return
    keeper = int(np.argmin(ranks))
    for position, row in enumerate(group.tolist()):
        if position != keeper:
            leaks = ranks[keeper] <= LAST_EVALUATED_RANK and (
                ranks[keeper] < ranks[position] < UNLABELLED_RANK
            )
            yield row, "leak" if leaks else "duplicate", int(group[keeper])

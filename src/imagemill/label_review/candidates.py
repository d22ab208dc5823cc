"""The labelled images a review looks at, as rows: what is known of each beside its pixels.

P rows of data/augmented/index.parquet in its order, which is that of their keys: originals and
copies of train, and the originals of val and, if wanted, of test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imagemill.errors import IntegrityError
from imagemill.randomness import U64, key_hashes
from imagemill.records import AUGMENTED_INDEX, KEEP, MANIFEST

_COLUMNS = ("key", "split", "sha256", "raw_sha256", "target", "parent_key")


@dataclass(frozen=True)
class Candidates:
    """What is known of each row.

    splits: Names of the splits that are looked at.
    keys, sha256: Text; sha256 is of the raw image, the one a person looks at.
    hashes_P: `randomness.key_hashes` of the keys.
    labels_P: Class ids, int64.
    split_P: Position in `splits`, int8.
    original_P: Row of the original a copy was made from, its own for originals; int64.
    component_P: Equal for images that belong together (a group, near duplicates), int64.
    reviewed_P: A person has decided about these bytes already.
    """

    splits: tuple[str, ...]
    keys: pa.ChunkedArray
    sha256: pa.ChunkedArray
    hashes_P: U64
    labels_P: NDArray[np.int64]
    split_P: NDArray[np.int8]
    original_P: NDArray[np.int64]
    component_P: NDArray[np.int64]
    reviewed_P: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels_P)

    def originals(self) -> NDArray[np.bool_]:
        """Rows that are no copies, bool [P]."""
        originals_P: NDArray[np.bool_] = self.original_P == np.arange(len(self))
        return originals_P

    def of_split(self, name: str) -> NDArray[np.bool_]:
        """Rows of a split, bool [P]; none if it is not looked at."""
        if name not in self.splits:
            return np.zeros(len(self), np.bool_)
        of_split_P: NDArray[np.bool_] = self.split_P == self.splits.index(name)
        return of_split_P


def read_candidates(root: Path, splits: Sequence[str]) -> Candidates:
    """Read the rows of these splits.

    Args:
        root: The project's root.
        splits: Names, train among them.

    Raises:
        IntegrityError: a table of ingest, audit or augment is missing or damaged.
    """
    is_wanted = pc.field("split").isin(list(splits))
    rows = _read(root / AUGMENTED_INDEX, _COLUMNS, is_wanted)
    parents = pc.index_in(rows["parent_key"], value_set=rows["key"])
    own_P = np.arange(len(rows))
    is_copy_P = pc.is_valid(rows["parent_key"]).to_numpy()
    original_P = np.where(is_copy_P, pc.fill_null(parents, -1).to_numpy(), own_P)
    assert (original_P >= 0).all(), "a copy has its original in the same split"
    known = _known(root, rows["key"])
    component_P = joined(_ids(known["group"]), _ids(known["near_group"]))
    names = pc.index_in(rows["split"].cast(pa.string()), value_set=pa.array(splits))
    return Candidates(
        splits=tuple(splits),
        keys=rows["key"],
        sha256=pc.coalesce(rows["raw_sha256"], rows["sha256"]),
        hashes_P=key_hashes(rows["key"].to_pylist()),
        labels_P=rows["target"].to_numpy().astype(np.int64),
        split_P=names.to_numpy().astype(np.int8),
        original_P=original_P,
        component_P=component_P[original_P],
        reviewed_P=pc.is_valid(known["review"]).to_numpy(),
    )


def joined(*memberships_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join whatever shares a group in any of several groupings.

    Args:
        memberships_N: Of each grouping the number of each row's group, -1 for none.

    Returns:
        For each row the first row it is joined with, directly or through others; int64 [N].
    """
    component_N = np.arange(len(memberships_N[0]))
    while True:
        before_N = component_N.copy()
        for group_N in memberships_N:
            rows_M = np.flatnonzero(group_N >= 0)
            first_G = np.full(group_N.max(initial=-1) + 1, len(group_N))
            np.minimum.at(first_G, group_N[rows_M], component_N[rows_M])
            component_N[rows_M] = first_G[group_N[rows_M]]
        if (component_N == before_N).all():
            return component_N


def _known(root: Path, keys: pa.ChunkedArray) -> dict[str, pa.ChunkedArray]:
    """What ingest and audit say of these keys; nothing of copies."""
    found: dict[str, pa.ChunkedArray] = {}
    for path, columns in ((MANIFEST, ("group", "review")), (KEEP, ("near_group",))):
        table = _read(root / path, ("key", *columns))
        places = pc.index_in(keys, value_set=table["key"])
        found |= {name: table[name].take(places) for name in columns}
    return found


def _read(path: Path, columns: Sequence[str], wanted: pc.Expression | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=list(columns), filters=wanted)
    except FileNotFoundError:
        raise IntegrityError(f"{path} does not exist; `dvc repro` makes it") from None
    except pa.ArrowInvalid as error:
        raise IntegrityError(f"{path} is not the table it should be: {error}") from None


def _ids(names: pa.ChunkedArray) -> NDArray[np.int64]:
    """Numbers for names, -1 where there is none."""
    codes = names.combine_chunks().dictionary_encode().indices
    ids_N: NDArray[np.int64] = pc.fill_null(codes, -1).to_numpy().astype(np.int64)
    return ids_N

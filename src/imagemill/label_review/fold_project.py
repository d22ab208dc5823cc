"""A fold as a project of its own: other indexes over the same shards.

So a fold is loaded and trained by what loads and trains every model, whatever the layout, the
number of decoding processes or the size of the cache.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imagemill.label_review.candidates import Candidates
from imagemill.parquet import writing
from imagemill.records import AUGMENTED_INDEX, SHARD_INDEX, STATE
from imagemill.train.subset import share_files

FOLDER = STATE / "label_review"


@contextmanager
def fold_project(
    root: Path, candidates: Candidates, learned_P: NDArray[np.bool_], held_P: NDArray[np.bool_]
) -> Iterator[Path]:
    """A project whose `train` is what a fold learns from and whose `val` is what it judges.

    Args:
        root: The project's root.
        candidates: All rows.
        learned_P: Rows to learn from, bool [P].
        held_P: Rows to judge, bool [P].

    Yields:
        Its root; gone when the block is left.
    """
    folder = root.resolve() / FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
    try:
        share_files(root, folder)
        _write_index(root, candidates.splits, learned_P, folder / AUGMENTED_INDEX, "train")
        _write_index(root, candidates.splits, held_P, folder / SHARD_INDEX, "val")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_index(
    root: Path, splits: tuple[str, ...], chosen_P: NDArray[np.bool_], target: Path, name: str
) -> None:
    """The chosen rows of the index as one split."""
    with (
        pq.ParquetFile(root / AUGMENTED_INDEX) as index,
        writing(target, index.schema_arrow) as table,
    ):
        stop = 0
        for batch in index.iter_batches():
            rows = pa.Table.from_batches([batch])
            rows = rows.filter(pc.is_in(rows["split"].cast(pa.string()), pa.array(splits)))
            start, stop = stop, stop + len(rows)
            rows = rows.filter(pa.array(chosen_P[start:stop]))
            place = rows.schema.get_field_index("split")
            named = pa.array([name] * len(rows)).cast(rows.schema.field(place).type)
            table.write(rows.set_column(place, rows.schema.field(place), named))

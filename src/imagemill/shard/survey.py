"""One pass over what is to be packed: classes, channels, formats and statistics."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.audit.decode import GREY_MODES
from imagemill.errors import IntegrityError
from imagemill.parquet import matching, num_rows, read_batches
from imagemill.records import DROPPED, KEEP, MANIFEST, SPLITS

# A picture of one colour has no spread; dividing by less than one level would only add noise.
_LEAST_STD = 1 / 255
# Columns of the keep list that a survey looks at.
MEASURED = ("mode", "format", "mean_rgb", "mean_square_rgb")


class Survey(NamedTuple):
    """What shards say about the data as a whole."""

    num_images: int
    size_bytes: int
    classes: frozenset[str]
    formats: Counter[str]  # images of each
    all_grey: bool
    pixel_mean: list[float]  # of train, per channel, in 0..1
    pixel_std: list[float]


class Surveyor:
    """Looks at all images of data/split/split.parquet without reading a pixel."""

    def __init__(self) -> None:
        self._num_images = self._size_bytes = 0
        self._classes: set[str] = set()
        self._modes: set[str] = set()
        self._formats: Counter[str] = Counter()
        self._num_train = 0
        self._mean_3, self._square_3 = np.zeros(3), np.zeros(3)

    def add(self, rows: pa.Table) -> None:
        """Take in images with the columns `MEASURED`."""
        self._num_images += rows.num_rows
        self._size_bytes += pc.sum(rows["size_bytes"]).as_py()
        self._classes.update(pc.unique(rows["target"].drop_null()).to_pylist())
        self._modes.update(pc.unique(rows["mode"]).to_pylist())
        for form in pc.value_counts(rows["format"]).to_pylist():
            self._formats[form["values"]] += form["counts"]
        train = rows.filter(pc.equal(rows["split"], "train"))
        self._num_train += train.num_rows
        self._mean_3 += _sums(train["mean_rgb"])
        self._square_3 += _sums(train["mean_square_rgb"])

    def survey(self) -> Survey:
        """What was seen so far."""
        all_grey = self._modes <= GREY_MODES
        channels = slice(1) if all_grey else slice(3)
        mean_3 = self._mean_3 / max(self._num_train, 1)
        variance_3 = self._square_3 / max(self._num_train, 1) - mean_3**2
        std_3 = np.sqrt(np.maximum(variance_3, _LEAST_STD**2))
        return Survey(
            num_images=self._num_images,
            size_bytes=self._size_bytes,
            classes=frozenset(self._classes),
            formats=self._formats,
            all_grey=all_grey,
            pixel_mean=mean_3[channels].tolist(),
            pixel_std=std_3[channels].tolist(),
        )


def images_to_pack(
    root: Path, columns: Sequence[str], measured: Sequence[str]
) -> Iterator[pa.Table]:
    """Rows of manifest, keep list and split side by side, sorted by key.

    Args:
        root: The project's root.
        columns: Of the manifest, `key` among them.
        measured: Columns of the keep list beside `key`.

    Raises:
        IntegrityError: the three do not speak of the same images.
    """
    if num_rows(root / KEEP) != num_rows(root / SPLITS) + num_rows(root / DROPPED):
        raise IntegrityError("audit and split speak of different images; run `dvc repro`")
    manifest = read_batches(root / MANIFEST, list(columns))
    kept = (
        _beside(left, right)
        for left, right in matching(manifest, read_batches(root / KEEP, ["key", *measured]))
    )
    for left, right in matching(kept, read_batches(root / SPLITS)):
        yield _beside(left, right)


def _beside(left: pa.Table, right: pa.Table) -> pa.Table:
    for name in right.schema.names:
        if name != "key":
            left = left.append_column(right.schema.field(name), right[name])
    return left


def _sums(vectors: pa.ChunkedArray) -> NDArray[np.float64]:
    flat = vectors.combine_chunks().flatten().to_numpy()
    sums: NDArray[np.float64] = flat.reshape(-1, 3).sum(axis=0, dtype=np.float64)
    return sums

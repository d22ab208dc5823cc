"""One pass over what is to be packed: classes, channels, statistics and the digest of the data."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from imagemill.audit.decode import GREY_MODES
from imagemill.errors import IntegrityError
from imagemill.parquet import matching, num_rows, read_batches
from imagemill.records import KEEP, MANIFEST, SPLITS

# A picture of one colour has no spread; dividing by less than one level would only add noise.
_LEAST_STD = 1 / 255


class Survey(NamedTuple):
    """What shards say about the data as a whole."""

    digest: str
    classes: frozenset[str]
    all_grey: bool
    pixel_mean: list[float]  # of train, per channel, in 0..1
    pixel_std: list[float]


def survey(root: Path) -> Survey:
    """Look at all images of data/split/split.parquet without reading a pixel."""
    hasher = hashlib.sha256()
    classes: set[str] = set()
    modes: set[str] = set()
    num_train, mean_3, square_3 = 0, np.zeros(3), np.zeros(3)
    for rows in images_to_pack(root):
        hasher.update(_lines(rows))
        classes.update(name for name in pc.unique(rows["target"]).to_pylist() if name is not None)
        modes.update(pc.unique(rows["mode"]).to_pylist())
        train = rows.filter(pc.equal(rows["split"], "train"))
        num_train += train.num_rows
        mean_3 += _sums(train["mean_rgb"])
        square_3 += _sums(train["mean_square_rgb"])
    all_grey = modes <= GREY_MODES
    channels = slice(1) if all_grey else slice(3)
    mean_3 /= max(num_train, 1)
    std_3 = np.sqrt(np.maximum(square_3 / max(num_train, 1) - mean_3**2, _LEAST_STD**2))
    return Survey(
        digest=hasher.hexdigest(),
        classes=frozenset(classes),
        all_grey=all_grey,
        pixel_mean=mean_3[channels].tolist(),
        pixel_std=std_3[channels].tolist(),
    )


def images_to_pack(root: Path) -> Iterator[pa.Table]:
    """Rows of manifest, keep list and split side by side, sorted by key.

    Raises:
        IntegrityError: the three do not speak of the same images.
    """
    if num_rows(root / KEEP) != num_rows(root / SPLITS):
        raise IntegrityError("audit and split speak of different images; run `dvc repro`")
    manifest = read_batches(
        root / MANIFEST, ["key", "uri", "offset", "size_bytes", "sha256", "target"]
    )
    measured = ["key", "mode", "format", "mean_rgb", "mean_square_rgb"]
    kept = (
        _beside(left, right)
        for left, right in matching(manifest, read_batches(root / KEEP, measured))
    )
    for left, right in matching(kept, read_batches(root / SPLITS)):
        yield _beside(left, right)


def _beside(left: pa.Table, right: pa.Table) -> pa.Table:
    for name in right.schema.names:
        if name != "key":
            left = left.append_column(right.schema.field(name), right[name])
    return left


def _lines(rows: pa.Table) -> bytes:
    """One line an image: key, sha256, class name (empty: none) and split, parted by tabs."""
    target = pc.fill_null(rows["target"], "")
    lines = pc.binary_join_element_wise(rows["key"], rows["sha256"], target, rows["split"], "\t")
    return ("\n".join(lines.to_pylist()) + "\n").encode()


def _sums(vectors: pa.ChunkedArray) -> NDArray[np.float64]:
    flat = vectors.combine_chunks().flatten().to_numpy()
    sums: NDArray[np.float64] = flat.reshape(-1, 3).sum(axis=0, dtype=np.float64)
    return sums

"""Accuracy on parts of test: by group, by size, by brightness, by whatever is known of an image.

Shapes: N images of the split, S of them in a slice.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from imagemill.errors import UnknownNameError
from imagemill.evaluate.quality import Answers
from imagemill.metrics import wilson_interval
from imagemill.records import KEEP, MANIFEST

Columns = Mapping[str, NDArray[Any]]

ANNOTATION = "annotation."  # before the name of a key in the annotation's JSON
MOST_NAMES = 12  # of a column of words the commonest; the rest is one slice
_DIGITS = 5  # what float32 holds of a mean: no slices of rounding
_QUARTERS = (0.25, 0.5, 0.75)

_FROM_MANIFEST = ("group", "extension", "size_bytes", "review")
_FROM_KEEP = ("width", "height", "mode", "format")
_DERIVED: dict[str, Callable[[Columns], NDArray[Any]]] = {
    "brightness": lambda known: known["mean_rgb"].mean(1).round(_DIGITS),
    "contrast": lambda known: np.sqrt(
        (known["mean_square_rgb"] - known["mean_rgb"] ** 2).clip(0).mean(1)
    ).round(_DIGITS),
    "pixels": lambda known: known["width"] * known["height"],
    "aspect": lambda known: known["width"] / known["height"],
}
COLUMNS = (*_FROM_MANIFEST, *_FROM_KEEP, *_DERIVED)


class Slice(NamedTuple):
    """Some of the images."""

    name: str
    positions_S: NDArray[np.intp]


def slices_of(root: Path, keys: Sequence[str], columns: Sequence[str]) -> dict[str, list[Slice]]:
    """Cut a split by each column: numbers at their quartiles, words one by one.

    Args:
        root: The project's root.
        keys: N keys of the split.
        columns: In `COLUMNS`, or `annotation.<key>`.

    Returns:
        Column -> slices; of a column that says the same of all images none.

    Raises:
        UnknownNameError: there is no such column.
    """
    for column in columns:
        if column not in COLUMNS and not column.startswith(ANNOTATION):
            raise UnknownNameError("column of evaluate.slices", column, (*COLUMNS, "annotation.*"))
    if not columns:
        return {}
    known = _known(root, keys)
    return {column: _cut(_values(known, column)) for column in columns}


def slice_scores(answers: Answers, slices: Mapping[str, list[Slice]]) -> dict[str, Any]:
    """Top-1 of each slice with its 95 % interval, worst first."""
    right_N = answers.probs_NK.argmax(1) == answers.labels_N
    return {
        column: sorted(
            (_score(part, right_N[part.positions_S]) for part in parts),
            key=lambda score: float(score["top1"]),
        )
        for column, parts in slices.items()
    }


def _score(part: Slice, right_S: NDArray[np.bool_]) -> dict[str, Any]:
    return {
        "name": part.name,
        "num_images": len(right_S),
        "top1": float(right_S.mean()),
        "top1_ci95": list(wilson_interval(int(right_S.sum()), len(right_S))),
    }


def _known(root: Path, keys: Sequence[str]) -> Columns:
    """What manifest and audit say of these images, in the order of `keys`."""
    manifest = _rows(root / MANIFEST, keys, [*_FROM_MANIFEST, "annotation"])
    keep = _rows(root / KEEP, keys, [*_FROM_KEEP, "mean_rgb", "mean_square_rgb"])
    found: dict[str, NDArray[Any]] = {
        name: _array(table.column(name))
        for table in (manifest, keep)
        for name in table.column_names
        if name != "key"
    }
    for name in ("mean_rgb", "mean_square_rgb"):
        found[name] = np.array(list(found[name]), np.float64)
    return found


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """Numbers as such; words and lists as Python's own, with None where nothing is known."""
    if pa.types.is_integer(column.type):
        numbers: NDArray[Any] = column.to_numpy()
        return numbers
    listed = np.empty(len(column), dtype=object)
    listed[:] = column.to_pylist()
    return listed


def _rows(path: Path, keys: Sequence[str], columns: Sequence[str]) -> pa.Table:
    wanted = pa.array(keys)
    filtered = pq.ParquetFile(path).iter_batches(columns=["key", *columns])
    parts = [batch.filter(pc.is_in(batch.column("key"), wanted)) for batch in filtered]
    table = pa.Table.from_batches(parts)
    return table.take(pc.index_in(wanted, table.column("key").combine_chunks()))


def _values(known: Columns, column: str) -> NDArray[Any]:
    if column in _DERIVED:
        return _DERIVED[column](known)
    if column in known:
        return known[column]
    name = column.removeprefix(ANNOTATION)
    return np.array([_annotated(text, name) for text in known["annotation"]], dtype=object)


def _annotated(text: str | None, name: str) -> Any:
    value = json.loads(text).get(name) if text else None
    return value if isinstance(value, str | int | float) else None


def _cut(values_N: NDArray[Any]) -> list[Slice]:
    if values_N.dtype == object:
        there = [value for value in values_N if value is not None]
        if not there or not all(isinstance(value, int | float) for value in there):
            return _by_name(values_N)
        values_N = np.array([np.nan if value is None else value for value in values_N], float)
    return _by_quarter(values_N.astype(np.float64))


def _by_name(values_N: NDArray[Any]) -> list[Slice]:
    words_N = np.array(["none" if value is None else str(value) for value in values_N])
    names, counts = np.unique(words_N, return_counts=True)
    if len(names) < 2:
        return []
    common = names[np.argsort(-counts, kind="stable")[:MOST_NAMES]]
    slices = [Slice(str(name), np.flatnonzero(words_N == name)) for name in common]
    rest = np.flatnonzero(~np.isin(words_N, common))
    return [*slices, Slice(f"{len(names) - MOST_NAMES} others", rest)] if len(rest) else slices


def _by_quarter(values_N: NDArray[np.float64]) -> list[Slice]:
    there_N = np.isfinite(values_N)
    if not there_N.any():
        return []
    edges = np.unique(np.quantile(values_N[there_N], _QUARTERS))
    part_N = np.searchsorted(edges, values_N, side="left")
    slices = [
        Slice(_told(values_N[positions]), positions)
        for part in range(len(edges) + 1)
        if len(positions := np.flatnonzero(there_N & (part_N == part)))
    ]
    if not there_N.all():
        slices.append(Slice("none", np.flatnonzero(~there_N)))
    return slices if len(slices) > 1 else []


def _told(values_S: NDArray[np.float64]) -> str:
    low, high = f"{values_S.min():.4g}", f"{values_S.max():.4g}"
    return low if low == high else f"{low} to {high}"

"""The work cut into jobs: one shard to be written each, whoever writes it and where."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from imagemill.params import ShardParams
from imagemill.parquet import Rows
from imagemill.shard.job import ShardJob
from imagemill.shard.plan import Plan, number_of, shard_path
from imagemill.shard.rows import JOB_SCHEMA, hand_out
from imagemill.sources.entries import IMAGE_EXTENSIONS

# What a job needs to know of images, in the order of packing, and the place each is to go to.
ROW_SCHEMA = pa.schema(
    [
        pa.field("order", pa.string()),
        pa.field("place", pa.string()),
        pa.field("split", pa.string()),
        *JOB_SCHEMA,
    ]
)
# No scheme, and no archive or table that would have to be known to find an image in it.
_FILE_OF_ITS_OWN = rf"(?i)^[^:]*\.({'|'.join(sorted(IMAGE_EXTENSIONS))})$"


class _Piece(NamedTuple):
    """Rows that lie in one shard one after the other."""

    path: str
    rows: pa.Table


@dataclass(frozen=True)
class Packing:
    """What a run of the stage is about."""

    root: Path
    data: Path  # stands for data/ while shards are being written
    plan: Plan  # says which shards are there, and how new ones are numbered
    params: ShardParams  # say when a new shard is full, and what becomes of images


def cut(rows: Iterable[pa.Table], packing: Packing) -> Iterator[ShardJob]:
    """Cut sorted rows into shards and write down each shard's rows.

    Args:
        rows: Of `ROW_SCHEMA`, sorted by `order`.
        packing: Where, and how.

    Yields:
        Jobs in the order of their shards.
    """
    folder = packing.data / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _pieces(rows, packing.plan, packing.params)
    for number, (path, parts) in enumerate(_by_path(pieces)):
        file = folder / f"{number:06d}.rows"
        with file.open("wb") as stream:
            whole_files = True
            for part in parts:
                hand_out(stream, part)
                whole_files = whole_files and _are_whole_files(part)
        target = packing.data / path
        target.parent.mkdir(parents=True, exist_ok=True)
        yield ShardJob(
            root=str(packing.root),
            rows=str(file),
            path=path,
            target=str(target),
            max_side=packing.params.max_side,
            strip_metadata=packing.params.strip_metadata,
            whole_files=whole_files,
        )


def _are_whole_files(rows: Rows) -> bool:
    alone = pc.match_substring_regex(rows["uri"], _FILE_OF_ITS_OWN)
    found: bool = pc.all(pc.and_(alone, pc.equal(rows["offset"], 0))).as_py()
    return found


def _by_path(pieces: Iterator[_Piece]) -> Iterator[tuple[str, Iterator[pa.Table]]]:
    """Pieces of one shard together; each group is used up before the next is asked for."""
    piece = next(pieces, None)

    def of(path: str) -> Iterator[pa.Table]:
        nonlocal piece
        while piece is not None and piece.path == path:
            yield piece.rows
            piece = next(pieces, None)

    while piece is not None:
        yield piece.path, of(piece.path)


def _pieces(tables: Iterable[pa.Table], plan: Plan, params: ShardParams) -> Iterator[_Piece]:
    shard: _Open | None = None
    for table in tables:
        for rows in _runs(table):
            place, split = rows["place"][0].as_py(), rows["split"][0].as_py()
            if shard is None or shard.place != place:
                named = place in plan.surviving
                path = place if named else shard_path(split, plan.next_number(split))
                shard = _Open(place, split, path, params, limited=not named)
            yield from shard.filled(rows)


def _runs(table: Rows) -> Iterator[pa.Table]:
    """Parts of a table whose rows go to the same place."""
    places = table["place"].to_numpy()
    starts = [0, *(np.flatnonzero(places[1:] != places[:-1]) + 1).tolist(), len(places)]
    for start, stop in pairwise(starts):
        if stop > start:
            yield table.slice(start, stop - start)


class _Open:
    """The shard that takes images at the moment; a new one follows when it is full."""

    def __init__(
        self, place: str, split: str, path: str, params: ShardParams, *, limited: bool
    ) -> None:
        self.place = place
        self._split = split
        self._path = path
        self._params = params
        self._limited = limited  # a shard that had a name before is never too full
        self._num_images = 0
        self._image_bytes = 0

    def filled(self, rows: pa.Table) -> Iterator[_Piece]:
        """The rows with the paths of the shards they go to."""
        if not self._limited:
            yield _Piece(self._path, rows)
            return
        ends = np.cumsum(rows["size_bytes"].to_numpy())
        start = 0
        while start < len(ends):
            stop = self._fitting(ends, start)
            if stop > start:
                yield _Piece(self._path, rows.slice(start, stop - start))
                before = int(ends[start - 1]) if start else 0
                self._num_images += stop - start
                self._image_bytes += int(ends[stop - 1]) - before
            if stop < len(ends):
                self._path = shard_path(self._split, number_of(self._path) + 1)
                self._num_images = self._image_bytes = 0
            start = stop

    def _fitting(self, ends: "np.ndarray[tuple[int], np.dtype[np.int64]]", start: int) -> int:
        """Where the rows end that still fit; an image larger than a shard is alone in one."""
        before = int(ends[start - 1]) if start else 0
        room = self._params.max_bytes - self._image_bytes
        by_bytes = int(np.searchsorted(ends, before + room, side="right"))
        by_number = start + self._params.max_images - self._num_images
        stop = min(by_bytes, by_number, len(ends))
        return start + 1 if stop <= start and not self._num_images else max(stop, start)

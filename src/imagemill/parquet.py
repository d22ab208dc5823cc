"""Parquet tables written, sorted and joined in bounded memory.

A data set of millions of images is never held as a list of rows: tables are Parquet files read
batch by batch, and sorting goes over sorted runs on disk that are merged block by block.
"""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from imagemill.errors import DiskError, IntegrityError
from imagemill.records import publishing

BATCH_ROWS = 4096
GROUP_ROWS = 16384
RUN_ROWS = 32768
# Of wide rows (annotations) a run holds fewer.
RUN_BYTES = 1 << 26
# Rows of one run held while merging, and runs merged at once.
BLOCK_ROWS = 2048
MERGED_RUNS = 16

# Columns that repeat; a dictionary of unique strings would only cost memory.
_REPEATING = ["uri", "target", "group", "split", "shard", "check", "mode", "format"]


_OUT_OF_STEP = "two stages speak of different images; run `dvc repro`"

Rows: TypeAlias = pa.RecordBatch | pa.Table

# Reading -------------------------------------------------------------------------------------


def read_batches(
    path: Path, columns: list[str] | None = None, *, batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, a batch at a time.

    Raises:
        IntegrityError: the file is missing or is not Parquet.
    """
    try:
        with pq.ParquetFile(path, pre_buffer=False, memory_map=False) as file:
            yield from file.iter_batches(batch_rows, columns=columns, use_threads=False)
    except FileNotFoundError:
        raise IntegrityError(f"{path} does not exist; `dvc repro` makes it") from None
    except pa.ArrowInvalid as error:
        raise IntegrityError(f"{path} is not the Parquet file it should be: {error}") from None


def num_rows(path: Path) -> int:
    """Rows of a Parquet file, from its footer.

    Raises:
        IntegrityError: the file is missing.
    """
    try:
        return int(pq.read_metadata(path).num_rows)
    except FileNotFoundError:
        raise IntegrityError(f"{path} does not exist; `dvc repro` makes it") from None


def as_table(rows: Rows) -> pa.Table:
    """Rows as a table, without copying them."""
    return rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])


class SortedReader:
    """Hands out the rows of a table sorted by `key`, up to a given key at a time."""

    def __init__(self, batches: Iterable[Rows]) -> None:
        self._batches = iter(batches)
        self._held: list[pa.Table] = []

    def up_to(self, key: str) -> pa.Table | None:
        """All rows not handed out yet whose key is at most `key`; None if there are none."""
        while not self._held or self._held[-1]["key"][-1].as_py() <= key:
            batch = next(self._batches, None)
            if batch is None:
                break
            if batch.num_rows:
                self._held.append(as_table(batch))
        if not self._held:
            return None
        table = pa.concat_tables(self._held)
        count = pc.sum(pc.less_equal(table["key"], key)).as_py()
        self._held = [table.slice(count)] if count < table.num_rows else []
        return table.slice(0, count)

    def rest(self) -> Iterator[pa.Table]:
        """All rows not handed out yet."""
        held, self._held = self._held, []
        yield from held
        yield from map(as_table, self._batches)


def matching(
    batches: Iterable[Rows], subset: Iterable[Rows]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Rows of a table next to the rows of another that holds a subset of its keys.

    Args:
        batches: Sorted by the unique column `key`.
        subset: Sorted the same way; each of its keys is among those of `batches`.

    Yields:
        Pairs of tables of equal length whose rows belong to the same keys.

    Raises:
        IntegrityError: `subset` has a key that `batches` lacks.
    """
    reader = SortedReader(subset)
    for batch in batches:
        if not batch.num_rows:
            continue
        right = reader.up_to(batch["key"][-1].as_py())
        if right is None:
            continue
        chosen = pc.is_in(batch["key"], value_set=right["key"].combine_chunks())
        left = as_table(batch).filter(chosen)
        if left.num_rows != right.num_rows:
            raise IntegrityError(_OUT_OF_STEP)
        if right.num_rows:
            yield left, right
    if any(rest.num_rows for rest in reader.rest()):
        raise IntegrityError(_OUT_OF_STEP)


def interleaved(one: Iterable[Rows], other: Iterable[Rows]) -> Iterator[pa.Table]:
    """Two tables sorted by the column `key` as one."""
    reader = SortedReader(other)
    for batch in one:
        if batch.num_rows:
            between = reader.up_to(batch["key"][-1].as_py())
            parts = [as_table(batch)] if between is None else [as_table(batch), between]
            yield pa.concat_tables(parts).sort_by("key")
    yield from reader.rest()


# Writing -------------------------------------------------------------------------------------


class RowWriter:
    """Collects batches into row groups of a Parquet file."""

    def __init__(self, writer: pq.ParquetWriter, schema: pa.Schema) -> None:
        self._writer = writer
        self._schema = schema
        self._held: list[pa.Table] = []
        self._held_rows = 0
        self.num_rows = 0

    def write(self, rows: Rows) -> None:
        """Append rows; columns the schema does not name are left out."""
        rows = as_table(rows).select(self._schema.names)
        self._held.append(rows)
        self._held_rows += rows.num_rows
        self.num_rows += rows.num_rows
        if self._held_rows >= GROUP_ROWS:
            self._flush(self._held_rows - self._held_rows % GROUP_ROWS)

    def close(self) -> None:
        """Write what is still held."""
        self._flush(self._held_rows)

    def _flush(self, count: int) -> None:
        """Write `count` rows in groups of one size: bytes do not depend on how rows came in."""
        if not count:
            return
        table = pa.concat_tables(self._held)
        for start in range(0, count, GROUP_ROWS):
            group = table.slice(start, min(GROUP_ROWS, count - start))
            self._writer.write_table(_plain(group).cast(self._schema))
        self._held = [table.slice(count)]
        self._held_rows -= count


def _plain(table: pa.Table) -> pa.Table:
    """Without dictionaries, whose order would tell how the rows came in."""
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields)).combine_chunks()


@contextmanager
def writing(path: Path, schema: pa.Schema) -> Iterator[RowWriter]:
    """A Parquet file that appears whole when the block ends, or not at all.

    Raises:
        DiskError: the folder cannot be written, or the disk is full.
    """
    repeating = [name for name in _REPEATING if name in schema.names]
    with (
        publishing(path) as temporary,
        pq.ParquetWriter(
            temporary, schema, compression="zstd", compression_level=1, use_dictionary=repeating
        ) as writer,
    ):
        rows = RowWriter(writer, schema)
        yield rows
        rows.close()


# Sorting -------------------------------------------------------------------------------------


class SortedRuns:
    """Sorts any number of rows by one string column, holding only a few of them.

    Rows are sorted in runs of `RUN_ROWS`, or `RUN_BYTES` if that is less; runs go to `folder`,
    which is emptied at the start and removed at the end. `merged` may be called any number of
    times once all rows are added.
    """

    def __init__(self, folder: Path, schema: pa.Schema, *, by: str) -> None:
        self.folder = folder
        self._schema = schema
        self._by = by
        self._held: list[pa.RecordBatch] = []
        self._held_rows = self._held_bytes = 0
        self._runs: list[Path] = []

    def __enter__(self) -> Self:
        self._clear()
        return self

    def __exit__(self, *exception: object) -> None:
        self._clear()

    def _clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, rows: Rows) -> None:
        """Take rows in any order."""
        for batch in rows.to_batches() if isinstance(rows, pa.Table) else [rows]:
            self._held.append(batch)
            self._held_rows += batch.num_rows
            self._held_bytes += batch.nbytes
        if self._held_rows >= RUN_ROWS or self._held_bytes >= RUN_BYTES:
            self._write_run()

    def add_rows(self, rows: list[tuple[Any, ...]]) -> None:
        """Take rows as tuples in order of the schema."""
        columns = zip(*rows, strict=True) if rows else [()] * len(self._schema)
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        self.add(pa.RecordBatch.from_arrays(arrays, schema=self._schema))

    def merged(self) -> Iterator[pa.Table]:
        """All rows in order of the column."""
        if not self._runs:
            if self._held:
                yield from self._in_batches(self._sorted_held())
            return
        if self._held:
            self._write_run()
        while len(self._runs) > MERGED_RUNS:
            self._runs = [self._joined(group) for group in self._groups()]
        yield from self._merged(self._runs)

    def _groups(self) -> Iterator[list[Path]]:
        for start in range(0, len(self._runs), MERGED_RUNS):
            yield self._runs[start : start + MERGED_RUNS]

    def _joined(self, runs: list[Path]) -> Path:
        """Several runs as one, in place of the first: a block of each is looked at in every step
        of a merge, so the time of merging all at once would grow with the square of their number.
        """
        if len(runs) == 1:
            return runs[0]
        joined = runs[0].with_suffix(".joined")
        self._write(joined, self._merged(runs))
        for path in runs:
            path.unlink()
        return joined.rename(runs[0])

    def _merged(self, paths: list[Path]) -> Iterator[pa.Table]:
        with ExitStack() as stack:
            runs = [_Run(stack.enter_context(pa.OSFile(str(path)))) for path in paths]
            yield from _merge(runs, self._by)

    def _sorted_held(self) -> pa.Table:
        return pa.Table.from_batches(self._held, self._schema).sort_by(self._by)

    @staticmethod
    def _in_batches(table: pa.Table) -> Iterator[pa.Table]:
        for start in range(0, table.num_rows, BATCH_ROWS):
            yield table.slice(start, BATCH_ROWS)

    def _write_run(self) -> None:
        path = self.folder / f"{len(self._runs):06d}.arrow"
        self._write(path, [self._sorted_held()])
        self._runs.append(path)
        self._held, self._held_rows, self._held_bytes = [], 0, 0

    def _write(self, path: Path, tables: Iterable[pa.Table]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, self._schema) as out:
                for table in _gathered(tables, BLOCK_ROWS):
                    out.write_table(table.combine_chunks(), max_chunksize=BLOCK_ROWS)
        except OSError as error:
            raise DiskError(f"cannot write {path}: {error}") from error


def _gathered(tables: Iterable[pa.Table], least_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables that are not too small."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(part.num_rows for part in held) >= least_rows:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


class _Run:
    """One sorted run, read a block at a time."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._stream = pa.ipc.open_stream(file)
        self.block = self._next()

    def _next(self) -> pa.Table | None:
        batch = next(iter(self._stream), None)
        return None if batch is None else pa.Table.from_batches([batch])

    def split_at(self, bound: str, by: str) -> pa.Table:
        """Rows up to `bound`; the next block is loaded when this one is used up."""
        assert self.block is not None
        count = pc.sum(pc.less_equal(self.block[by], bound)).as_py()
        head, rest = self.block.slice(0, count), self.block.slice(count)
        self.block = rest if rest.num_rows else self._next()
        return head


def _merge(runs: list[_Run], by: str) -> Iterator[pa.Table]:
    """Rows that no run can still undercut, sorted, until all runs are used up."""
    while active := [run for run in runs if run.block is not None]:
        # A run's unseen rows come after the last row of its block.
        bound = min(run.block[by][-1].as_py() for run in active if run.block is not None)
        ready = [run.split_at(bound, by) for run in active]
        yield pa.concat_tables(ready).sort_by(by)

"""Sorting, joining and writing tables in bounded memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagemill import parquet
from imagemill.errors import DiskError, IntegrityError
from imagemill.parquet import SortedRuns, interleaved, matching, read_batches, writing

SCHEMA = pa.schema([pa.field("key", pa.string()), pa.field("value", pa.int64())])


def batches(keys: list[str], size: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(keys), size):
        part = keys[start : start + size]
        yield pa.RecordBatch.from_pydict({"key": part, "value": range(len(part))}, schema=SCHEMA)


@pytest.mark.parametrize("count", [0, 1, 100, 3 * parquet.RUN_ROWS + 7])
def test_runs_come_back_sorted(tmp_path: Path, count: int) -> None:
    """Any number of rows, in one run or in several on disk, comes back sorted and complete."""
    numbers = np.random.default_rng(0).permutation(count)
    keys = [f"{number:08d}" for number in numbers]
    with SortedRuns(tmp_path / "runs", SCHEMA, by="key") as runs:
        for batch in batches(keys, 5000):
            runs.add(batch)
        found = [key for table in runs.merged() for key in table["key"].to_pylist()]
    assert found == sorted(keys)


def test_many_runs_are_merged_in_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More runs than are merged at once come back sorted, as often as asked for."""
    monkeypatch.setattr(parquet, "RUN_ROWS", 100)
    monkeypatch.setattr(parquet, "MERGED_RUNS", 3)
    keys = [f"{number:06d}" for number in np.random.default_rng(0).permutation(3000)]
    with SortedRuns(tmp_path / "runs", SCHEMA, by="key") as runs:
        for batch in batches(keys, 100):
            runs.add(batch)
        twice = [[row["key"] for table in runs.merged() for row in table.to_pylist()] for _ in "ab"]
    assert twice == [sorted(keys)] * 2


def test_runs_leave_nothing_on_disk(tmp_path: Path) -> None:
    """The folder of runs is gone at the end."""
    with SortedRuns(tmp_path / "runs", SCHEMA, by="key") as runs:
        for batch in batches([f"{n:06d}" for n in range(2 * parquet.RUN_ROWS)], 9000):
            runs.add(batch)
    assert list(tmp_path.iterdir()) == []


def test_matching_pairs_rows_of_equal_key() -> None:
    """Rows of a table stand beside those of its subset, whatever the batch sizes are."""
    keys = [f"{number:04d}" for number in range(1000)]
    subset = keys[3::7]
    pairs = list(matching(batches(keys, 64), batches(subset, 11)))
    found = [
        (left, right)
        for one, other in pairs
        for left, right in zip(one["key"].to_pylist(), other["key"].to_pylist(), strict=True)
    ]
    assert found == [(key, key) for key in subset]


@pytest.mark.parametrize("foreign", ["b", "0", "d"])
def test_matching_refuses_a_foreign_key(foreign: str) -> None:
    """A key that the whole table lacks means that two stages are out of step."""
    with pytest.raises(IntegrityError, match="dvc repro"):
        list(matching(batches(["a", "c"], 10), batches([foreign], 10)))


def test_interleaved_is_one_sorted_table() -> None:
    """Two sorted tables become one."""
    one, other = ["a", "d", "e", "z"], ["b", "c", "x", "zz"]
    tables = interleaved(batches(one, 2), batches(other, 3))
    found = [key for table in tables for key in table["key"].to_pylist()]
    assert found == sorted(one + other)


def test_bytes_do_not_depend_on_batches(tmp_path: Path) -> None:
    """The same rows give the same file, however they come in."""
    keys = [f"{number:06d}" for number in range(parquet.GROUP_ROWS + 500)]
    values = pa.array(range(len(keys)), pa.int64())
    table = pa.table({"key": keys, "value": values}, schema=SCHEMA)
    for name, size in (("one", 700), ("other", len(keys))):
        with writing(tmp_path / name, SCHEMA) as rows:
            for start in range(0, len(keys), size):
                rows.write(table.slice(start, size))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_failed_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """An error inside the block keeps what was there and nothing else."""
    path = tmp_path / "a.parquet"
    with writing(path, SCHEMA) as rows:
        rows.write(next(batches(["old"], 1)))
    with pytest.raises(ValueError, match="stop"), writing(path, SCHEMA) as rows:
        rows.write(next(batches(["new"], 1)))
        raise ValueError("stop")
    assert pq.read_table(path)["key"].to_pylist() == ["old"]
    assert list(tmp_path.iterdir()) == [path]


def test_leftover_of_a_killed_process_goes(tmp_path: Path) -> None:
    """A temporary file whose process is no more does not stay beside the output."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / f".a.parquet.{ended.pid}.tmp").write_bytes(b"half")
    running = tmp_path / f".a.parquet.{os.getppid()}.tmp"
    running.write_bytes(b"half")
    with writing(tmp_path / "a.parquet", SCHEMA):
        pass
    assert sorted(tmp_path.iterdir()) == [running, tmp_path / "a.parquet"]


def test_missing_table_is_an_integrity_error(tmp_path: Path) -> None:
    """The message says what makes the file."""
    with pytest.raises(IntegrityError, match="dvc repro"):
        list(read_batches(tmp_path / "none.parquet"))


def test_unwritable_folder_is_a_disk_error(tmp_path: Path) -> None:
    """A file where a folder should be is told as what it is."""
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot write"), writing(tmp_path / "data" / "a", SCHEMA):
        pass

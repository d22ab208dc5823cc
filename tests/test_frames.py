"""Facts about the saved index and about reading frames out of shards."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import make_shards, reader_of

from imagemill.errors import IntegrityError
from imagemill.frames import Keys, Pieces, read_frames
from imagemill.randomness import key_hashes
from imagemill.records import DATA, INDEX_SCHEMA, SHARD_INDEX, STATE

SAVED = STATE / "index" / "shards-val.bin"


def keys_of(*keys: str) -> Keys:
    blob = "".join(keys).encode()
    ends = np.cumsum([len(key.encode()) for key in keys]) if keys else np.empty(0, np.int64)
    return Keys(memoryview(blob), ends)


def write_index(path: Path, rows: int, *, shards: int = 3) -> None:
    """An index of made-up images; every other one is in val."""
    keys = [f"train/class_{row % 100:03d}/{row:09d}" for row in range(rows)]
    table = pa.table(
        {
            "key": sorted(keys),
            "split": ["val" if row % 2 else "train" for row in range(rows)],
            "shard": [f"shards/val/val-{row * 7 % shards:06d}.tar" for row in range(rows)],
            "offset": np.arange(rows) * 512,
            "size_bytes": np.full(rows, 100),
            "sha256": [f"{row:064x}" for row in range(rows)],
            "target": pa.array([row % 100 if row % 5 else None for row in range(rows)], pa.int32()),
            "raw_sha256": pa.nulls(rows, pa.string()),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.cast(INDEX_SCHEMA), path, row_group_size=16384)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    write_index(tmp_path / SHARD_INDEX, 1001)
    return tmp_path / SHARD_INDEX


def test_frames_say_what_the_index_says(index: Path) -> None:
    """Keys, hashes, targets, shards, offsets, sizes and digests are those of the split's rows."""
    frames = read_frames(index, "val")
    rows = [row for row in pq.read_table(index).to_pylist() if row["split"] == "val"]
    assert list(frames.keys) == [row["key"] for row in rows]
    assert np.array_equal(frames.hashes_N, key_hashes(row["key"] for row in rows))
    assert frames.targets_N.tolist() == [
        -1 if row["target"] is None else row["target"] for row in rows
    ]
    assert [frames.shards[number] for number in frames.shard_N] == [row["shard"] for row in rows]
    assert frames.offsets_N.tolist() == [row["offset"] for row in rows]
    assert frames.sizes_N.tolist() == [row["size_bytes"] for row in rows]
    assert [digest.tobytes().hex() for digest in frames.sha256_N] == [row["sha256"] for row in rows]


def test_the_second_opening_reads_what_the_first_saved(index: Path) -> None:
    """The saved index is written once."""
    first = read_frames(index, "val")
    saved = index.parents[2] / SAVED
    before = saved.stat().st_mtime_ns
    assert list(read_frames(index, "val").keys) == list(first.keys)
    assert saved.stat().st_mtime_ns == before


def test_another_index_is_saved_anew(index: Path) -> None:
    """What index.parquet says now counts, not what was saved of it."""
    read_frames(index, "val")
    write_index(index, 11)
    assert len(read_frames(index, "val")) == 5


def test_a_touched_index_is_not_saved_anew(index: Path) -> None:
    """A new modification time is no other content."""
    read_frames(index, "val")
    saved = index.parents[2] / SAVED
    before = saved.stat().st_mtime_ns
    os.utime(index, (1, 1))
    read_frames(index, "val")
    assert saved.stat().st_mtime_ns == before


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut off": lambda content: content[:-7],
    "a bit flipped": lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
    "another file": lambda content: b"nonsense" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_saved_index_is_made_again(index: Path, damage: Callable[[bytes], bytes]) -> None:
    """Whatever is not as it was written is not used."""
    expected = list(read_frames(index, "val").keys)
    saved = index.parents[2] / SAVED
    saved.write_bytes(damage(saved.read_bytes()))
    assert list(read_frames(index, "val").keys) == expected


def test_frames_outlive_a_new_saved_index(index: Path) -> None:
    """Who has the old one open keeps it: files are replaced, not written over."""
    frames = read_frames(index, "val")
    expected = list(frames.keys)
    write_index(index, 11)
    read_frames(index, "val")
    assert list(frames.keys) == expected


def test_a_split_without_images_has_no_frames(index: Path) -> None:
    """An empty split is open to be looked at."""
    frames = read_frames(index, "test")
    assert (len(frames), list(frames.keys)) == (0, [])


def test_an_unsorted_index_is_refused(index: Path) -> None:
    """Order of training is order of keys: a file that breaks it is named."""
    pq.write_table(pq.read_table(index).sort_by([("key", "descending")]), index)
    with pytest.raises(IntegrityError, match="not sorted by key"):
        read_frames(index, "val")


def test_a_repeated_key_is_refused(index: Path) -> None:
    """Two images of one name could not be told apart."""
    table = pq.read_table(index)
    pq.write_table(pa.concat_tables([table, table]).sort_by("key"), index)
    with pytest.raises(IntegrityError, match="not sorted by key"):
        read_frames(index, "val")


def test_a_damaged_index_is_named(index: Path) -> None:
    """An index.parquet that is none is an IntegrityError."""
    index.write_bytes(b"nonsense" * 100)
    with pytest.raises(IntegrityError, match=r"index\.parquet is not the Parquet file"):
        read_frames(index, "val")


def test_keys_are_a_sequence() -> None:
    """Positions from both ends, slices, numpy's integers and iteration, beyond ASCII too."""
    keys = keys_of("a", "bär", "c/d")
    assert (keys[0], keys[-1], keys[np.intp(1)], keys[1:]) == ("a", "c/d", "bär", ["bär", "c/d"])
    assert (list(keys), len(keys)) == (["a", "bär", "c/d"], 3)
    with pytest.raises(IndexError):
        keys[3]


def test_keys_go_into_arrow() -> None:
    """A table takes them as a column."""
    assert pa.table({"key": keys_of("a", "b")})["key"].to_pylist() == ["a", "b"]


def test_opening_keeps_no_object_an_image(tmp_path: Path) -> None:
    """The number of Python objects does not grow with the index."""
    for rows in (1000, 20_000):
        write_index(tmp_path / str(rows) / SHARD_INDEX, rows)
        read_frames(tmp_path / str(rows) / SHARD_INDEX, "val")

    def objects(rows: int) -> int:
        gc.collect()
        before = len(gc.get_objects())
        frames = read_frames(tmp_path / str(rows) / SHARD_INDEX, "val")
        after = len(gc.get_objects())
        assert len(frames) == rows // 2
        return after - before

    assert objects(20_000) - objects(1000) < 100


BUILD = """
import sys
from pathlib import Path
from imagemill.frames import read_frames
read_frames(Path(sys.argv[1]), "val")
lines = Path("/proc/self/status").read_text().splitlines()  # rusage would hold the parent's size
print(next(line for line in lines if line.startswith("VmHWM")).split()[1])
"""


def test_building_takes_no_memory_an_image(tmp_path: Path) -> None:
    """400,000 more rows add less than 12 MB: the arrays alone would be 21."""
    peaks = []
    for rows in (100_000, 500_000):
        write_index(tmp_path / str(rows) / SHARD_INDEX, rows)
        command = [sys.executable, "-c", BUILD, str(tmp_path / str(rows) / SHARD_INDEX)]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True).stdout))
    assert (peaks[1] - peaks[0]) * 1024 < 12e6


def test_reading_finds_the_bytes(tmp_path: Path) -> None:
    """Each frame is the PNG that was packed, one at a time or many."""
    make_shards(tmp_path)
    frames = read_frames(tmp_path / SHARD_INDEX, "val")
    shards = reader_of(tmp_path, frames)
    many = list(shards.pieces([5, 3, 5]))
    assert many == [shards.read(5), shards.read(3), shards.read(5)]
    assert all(data.startswith(b"\x89PNG") for data in shards.pieces(range(30)))


def test_large_frames_are_views(tmp_path: Path) -> None:
    """A photograph is not copied; a view of it outlives the reader."""
    make_shards(tmp_path, size=200)
    frames = read_frames(tmp_path / SHARD_INDEX, "val")
    shards = reader_of(tmp_path, frames)
    view = shards.pieces([0])[0]
    assert isinstance(view, memoryview)
    assert bytes(view[:4]) == b"\x89PNG"


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """A shard that is gone is an IntegrityError with its path."""
    make_shards(tmp_path)
    frames = read_frames(tmp_path / SHARD_INDEX, "val")
    (tmp_path / DATA / "shards/val/val-000000.tar").unlink()
    with pytest.raises(IntegrityError, match=r"cannot read shard .*val-000000\.tar"):
        reader_of(tmp_path, frames).read(0)


def test_pieces_are_their_images() -> None:
    """Images that have a buffer each come back as they were."""
    pieces = Pieces.of([b"one", b"", b"three"])
    assert (list(pieces), pieces[2], pieces[:2]) == (
        [b"one", b"", b"three"],
        b"three",
        [b"one", b""],
    )

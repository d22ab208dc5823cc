"""Facts about files between stages: whole or absent, and checked when read."""

from pathlib import Path

import pytest

from imagemill.errors import DiskError, IntegrityError
from imagemill.records import ShardEntry, publishing, sha256_of_file, write_bytes, write_json


class BreakOffError(Exception):
    """Stands for anything that ends a write in the middle."""


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    """What was there stays, and no temporary file is left."""
    target = tmp_path / "file"
    write_bytes(target, b"old")
    with pytest.raises(BreakOffError), publishing(target) as temporary:
        temporary.write_bytes(b"half of the n")
        raise BreakOffError
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_unwritable_folder_is_a_disk_error(tmp_path: Path) -> None:
    """A folder's place taken by a file is told with the path that cannot be written."""
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(DiskError, match="cannot write"):
        write_bytes(tmp_path / "data" / "file", b"")


def test_json_is_the_same_for_the_same_content(tmp_path: Path) -> None:
    """The order of keys does not show."""
    write_json(tmp_path / "a", {"x": 1, "y": 2})
    write_json(tmp_path / "b", {"y": 2, "x": 1})
    assert sha256_of_file(tmp_path / "a") == sha256_of_file(tmp_path / "b")


def test_a_record_survives_writing_and_reading(tmp_path: Path) -> None:
    """Keys a newer writer added are kept."""
    entry = ShardEntry.model_validate(
        {"path": "a.tar", "sha256": "0", "num_samples": 1, "size_bytes": 2, "later": "kept"}
    )
    entry.write(tmp_path / "entry.json")
    assert ShardEntry.read(tmp_path / "entry.json") == entry


def test_a_missing_record_says_what_makes_it(tmp_path: Path) -> None:
    """The error for a file that is not there names the command."""
    with pytest.raises(IntegrityError, match="dvc repro"):
        ShardEntry.read(tmp_path / "entry.json")


def test_a_damaged_record_says_where(tmp_path: Path) -> None:
    """The error names the key that is wrong."""
    write_json(tmp_path / "entry.json", {"path": "a.tar", "sha256": "0", "num_samples": "x"})
    with pytest.raises(IntegrityError, match="num_samples"):
        ShardEntry.read(tmp_path / "entry.json")

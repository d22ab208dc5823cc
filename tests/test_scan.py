"""Scan: a changed source is noticed by names, sizes and times, and the disk a run needs is told."""

import json
import os
from pathlib import Path

import pytest
from raw_images import params_for, picture, pictures, write_files, write_tar

from imagemill import records
from imagemill.errors import SourceError
from imagemill.params import IngestParams
from imagemill.scan import disk_needed, scan

RAW = IngestParams(source="raw")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a folder of images."""
    write_files(tmp_path / "raw", pictures({"cat": 3, "dog": 2}))
    return tmp_path


def test_first_scan_writes_the_fingerprint(root: Path) -> None:
    """data/source.json says what the source is and how much it holds."""
    found = scan(root, RAW)
    written = json.loads((root / records.SOURCE).read_bytes())
    assert found.changed
    assert written == {
        "source": "raw",
        "kind": "folder",
        "fingerprint": found.fingerprint,
        "num_files": 5,
        "size_bytes": sum(path.stat().st_size for path in (root / "raw").rglob("*.png")),
    }


def test_unchanged_source_is_not_rewritten(root: Path) -> None:
    """A second scan leaves the file alone, so that DVC has nothing to do."""
    scan(root, RAW)
    before = (root / records.SOURCE).stat()
    assert not scan(root, RAW).changed
    assert (root / records.SOURCE).stat().st_ino == before.st_ino


def _add(root: Path) -> None:
    write_files(root / "raw", {"cat/new.png": picture(99)})


def _remove(root: Path) -> None:
    (root / "raw/cat/000.png").unlink()


def _touch(root: Path) -> None:
    os.utime(root / "raw/cat/000.png", ns=(1, 1))


def _rename(root: Path) -> None:
    (root / "raw/cat/000.png").rename(root / "raw/cat/zzz.png")


def _add_empty_class(root: Path) -> None:
    (root / "raw/bird").mkdir()


@pytest.mark.parametrize("change", [_add, _remove, _touch, _rename, _add_empty_class])
def test_any_change_is_noticed(root: Path, change: object) -> None:
    """A new, removed, touched or renamed file, and a new folder, change the fingerprint."""
    before = scan(root, RAW).fingerprint
    change(root)  # type: ignore[operator]
    found = scan(root, RAW)
    assert found.changed and found.fingerprint != before


def test_hidden_files_do_not_matter(root: Path) -> None:
    """What a file browser leaves behind does not start a run."""
    scan(root, RAW)
    (root / "raw/cat/.DS_Store").write_bytes(b"x")
    assert not scan(root, RAW).changed


def test_image_behind_a_manifest_file_is_watched(root: Path) -> None:
    """A listed image that changed is noticed although the list is the same."""
    (root / "list.csv").write_text("path,label\nraw/cat/000.png,cat\nraw/dog/003.png,dog\n")
    listed = IngestParams(source="list.csv")
    scan(root, listed)
    os.utime(root / "raw/dog/003.png", ns=(1, 1))
    assert scan(root, listed).changed


def test_missing_source_leaves_nothing(tmp_path: Path) -> None:
    """A source that is not there is an error, and no file is written."""
    with pytest.raises(SourceError, match="photos/none does not exist"):
        scan(tmp_path, IngestParams(source="photos/none"))
    assert list(tmp_path.iterdir()) == []


def test_fingerprint_does_not_depend_on_the_place(tmp_path: Path) -> None:
    """The same built-in data has the same fingerprint in every project."""
    one, other = tmp_path / "one", tmp_path / "other"
    digits = IngestParams(source="digits")
    assert scan(one, digits) == scan(other, digits)


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz"])
def test_disk_needed_is_an_upper_bound(tmp_path: Path, kind: str) -> None:
    """A run of the data stages takes less than was said, beyond the fixed part not even half."""
    from raw_images import run_stages

    files = pictures({"cat": 60, "dog": 60})
    if kind == "folder":
        write_files(tmp_path / "raw", files)
    else:
        write_tar(tmp_path / f"raw.{kind}", files, mode="w:gz" if kind == "tar.gz" else "w")
    params = params_for("raw" if kind == "folder" else f"raw.{kind}")
    needed = disk_needed(tmp_path, params)
    run_stages(tmp_path, params)
    shards = sum(path.stat().st_size for path in (tmp_path / records.SHARDS).rglob("*.tar"))
    state = sum(p.stat().st_size for p in (tmp_path / ".imagemill").rglob("*.tar"))
    assert 2 * shards + state < needed < 300_000_000 + 20 * (shards + state)

"""Ingest: one row an image, sorted by key, with a digest; mistakes leave nothing behind."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from raw_images import params_for, picture, pictures, rows_of, run_stages, write_files, write_tar

from imagemill import records
from imagemill.errors import DiskError, SourceError, UserError
from imagemill.ingest import SUMMARY, ingest
from imagemill.sources import RawReader


def ingested(root: Path, source: str = "raw") -> list[dict[str, object]]:
    """The manifest of a source."""
    run_stages(root, params_for(source), until="ingest")
    return rows_of(root / records.MANIFEST)


def test_rows_are_sorted_by_key(tmp_path: Path) -> None:
    """Rows come in order of their keys, which are paths without extension."""
    write_files(tmp_path / "raw", pictures({"dog": 2, "cat": 3}))
    keys = [row["key"] for row in ingested(tmp_path)]
    assert keys == ["cat/002", "cat/003", "cat/004", "dog/000", "dog/001"]


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    """sha256 is taken over what RawReader reads at (uri, offset, size_bytes)."""
    files = pictures({"dog": 2, "cat": 3})
    write_tar(tmp_path / "raw.tar", files)
    with RawReader(tmp_path) as reader:
        for row in ingested(tmp_path, "raw.tar"):
            content = reader.read(row["uri"], row["offset"], row["size_bytes"])  # type: ignore[arg-type]
            assert content == files[f"{row['key']}.png"]
            assert row["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("source", "uri"), [("raw", "raw/cat/000.png"), ("raw.tar", "raw.tar"), ("digits", "digits")]
)
def test_uri_is_as_the_user_wrote_it(tmp_path: Path, source: str, uri: str) -> None:
    """A folder's rows name files, an archive's rows the archive, built-in ones their name."""
    files = pictures({"cat": 2, "dog": 2})
    write_files(tmp_path / "raw", files)
    write_tar(tmp_path / "raw.tar", files)
    assert ingested(tmp_path, source)[0]["uri"] == uri


def test_same_manifest_whatever_the_order(tmp_path: Path) -> None:
    """An archive packed backwards gives the same keys, digests and targets."""
    files = pictures({"cat": 5, "dog": 5})
    write_tar(tmp_path / "one.tar", files)
    write_tar(tmp_path / "two.tar", dict(reversed(files.items())))
    columns = ("key", "sha256", "target")
    one, two = (
        [tuple(row[name] for name in columns) for row in ingested(tmp_path, source)]
        for source in ("one.tar", "two.tar")
    )
    assert one == two


def test_clashing_keys_get_their_extension(tmp_path: Path) -> None:
    """Of images that differ in the extension only, all but the first get `_<extension>`."""
    files = {"cat/a.png": picture(1), "cat/a.bmp": picture(2), "dog/b.png": picture(3)}
    write_files(tmp_path / "raw", files)
    found = {row["key"]: row["uri"] for row in ingested(tmp_path)}
    assert found == {
        "cat/a": "raw/cat/a.bmp",
        "cat/a_png": "raw/cat/a.png",
        "dog/b": "raw/dog/b.png",
    }


def test_renamed_key_gives_way_again(tmp_path: Path) -> None:
    """A key that got its extension does not take the name of another image."""
    files = {"cat/a.jpg": b"1", "cat/a.png": b"2", "cat/a_png.gif": b"3", "dog/b.png": b"4"}
    write_files(tmp_path / "raw", files)
    found = {row["key"]: row["uri"] for row in ingested(tmp_path)}
    assert found == {
        "cat/a": "raw/cat/a.jpg",
        "cat/a_png": "raw/cat/a_png.gif",
        "cat/a_png_png": "raw/cat/a.png",
        "dog/b": "raw/dog/b.png",
    }


def test_member_listed_twice_is_an_error(tmp_path: Path) -> None:
    """A tar that holds one path twice does not say which one counts."""
    import tarfile

    files = pictures({"cat": 2, "dog": 2})
    write_tar(tmp_path / "raw.tar", files)
    with tarfile.open(tmp_path / "raw.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("cat/001.png"))
    with pytest.raises(SourceError, match=r"raw\.tar holds cat/001\.png twice"):
        ingested(tmp_path, "raw.tar")


def test_summary_counts_the_source(tmp_path: Path) -> None:
    """summary.json holds images, classes and given splits."""
    files = {f"train/{path}": raw for path, raw in pictures({"cat": 3, "dog": 2}).items()}
    files |= {"test/cat/x.png": picture(80), "test/dog/y.png": picture(81)}
    files |= {"unlabelled/z.png": picture(82)}
    write_files(tmp_path / "raw", files)
    ingested(tmp_path)
    summary = json.loads((tmp_path / SUMMARY).read_bytes())
    assert summary == {
        "source": "raw",
        "kind": "folder",
        "num_images": 8,
        "num_unlabelled": 1,
        "size_bytes": sum(map(len, files.values())),
        "classes": {"cat": 4, "dog": 3},
        "given_splits": {"test": 2, "train": 5, "unlabelled": 1},
        "remarks": [],
        "review": {"sha256": None, "num_applied": 0, "num_stale": 0, "num_unknown": 0},
    }


def test_source_shorter_than_on_record(tmp_path: Path) -> None:
    """An archive that lost bytes after ingest is noticed when it is read."""
    from imagemill.errors import IntegrityError

    write_tar(tmp_path / "raw.tar", pictures({"cat": 2, "dog": 2}))
    row = ingested(tmp_path, "raw.tar")[-1]
    (tmp_path / "raw.tar").write_bytes(b"")
    with RawReader(tmp_path) as reader, pytest.raises(IntegrityError, match="shorter"):
        reader.read(row["uri"], row["offset"], row["size_bytes"])  # type: ignore[arg-type]


# Refusals ------------------------------------------------------------------------------------


def assert_refused(root: Path, expected: type[UserError], words: str, source: str = "raw") -> None:
    """Ingest ends with one clear sentence and leaves no file."""
    with pytest.raises(expected, match=words):
        ingested(root, source)
    data = root / "data"
    assert [path for path in data.rglob("*") if path.is_file()] == []
    assert not (root / ".imagemill/ingest").exists()


def test_one_class_only(tmp_path: Path) -> None:
    """There is nothing to tell apart, and the class is named."""
    write_files(tmp_path / "raw", pictures({"cat": 3}))
    assert_refused(tmp_path, SourceError, "one class only .'cat'.")


def test_no_label_at_all(tmp_path: Path) -> None:
    """Images right in the source have no class."""
    write_files(tmp_path / "raw", {"a.png": picture(1), "b.png": picture(2)})
    assert_refused(tmp_path, SourceError, "no labelled image")


def test_empty_manifest_file(tmp_path: Path) -> None:
    """A list without rows is no data set."""
    (tmp_path / "list.csv").write_text("path,label\n")
    assert_refused(tmp_path, SourceError, "lists no images", source="list.csv")


def test_missing_source(tmp_path: Path) -> None:
    """The message names the path."""
    assert_refused(tmp_path, SourceError, "some/where does not exist", source="some/where")


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    """A file name no table can hold is told, not mangled."""
    write_files(tmp_path / "raw", pictures({"cat": 2, "dog": 2}))
    (tmp_path / "raw/cat/\udcff.png").write_bytes(b"x")
    assert_refused(tmp_path, SourceError, "is not UTF-8; rename it")


def test_unwritable_data_folder(tmp_path: Path) -> None:
    """A file where data/ should be is told as such."""
    write_files(tmp_path / "raw", pictures({"cat": 2, "dog": 2}))
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(DiskError, match=r"cannot write .*manifest\.parquet"):
        ingested(tmp_path)


def test_failure_keeps_the_manifest_there_was(tmp_path: Path) -> None:
    """A source that went bad does not take the last good manifest with it."""
    write_files(tmp_path / "raw", pictures({"cat": 2, "dog": 2}))
    before = ingested(tmp_path)
    (tmp_path / "raw/bird").mkdir()
    with pytest.raises(SourceError, match="bird"):
        ingested(tmp_path)
    assert rows_of(tmp_path / records.MANIFEST) == before


# What was seen before -------------------------------------------------------------------------


def log_of(root: Path, source: str = "raw", *, rehash: bool = False) -> str:
    """What ingest says."""
    lines: list[str] = []
    ingest(root, params_for(source).ingest, log=lines.append, rehash=rehash)
    return lines[-1]


@pytest.mark.parametrize("batch_rows", [1, 5, 4096])
def test_only_new_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    """Of a folder that grew, the new files are read, and the manifest is that of a full run."""
    monkeypatch.setattr("imagemill.parquet.BATCH_ROWS", batch_rows)
    write_files(tmp_path / "raw", pictures({"cat": 5, "dog": 5}))
    log_of(tmp_path)
    write_files(tmp_path / "raw", {"aaa/first.png": picture(77), "zzz/last.png": picture(78)})
    assert "; 2 read, 10 unchanged" in log_of(tmp_path)
    grown = (tmp_path / records.MANIFEST).read_bytes()
    log_of(tmp_path, rehash=True)
    assert (tmp_path / records.MANIFEST).read_bytes() == grown


def test_unchanged_bytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known digest comes from the table, not from the file."""
    write_files(tmp_path / "raw", pictures({"cat": 5, "dog": 5}))
    before = ingested(tmp_path)

    def unreadable(*arguments: object) -> bytes:
        raise AssertionError("an unchanged file was read")

    monkeypatch.setattr(RawReader, "read", unreadable)
    assert ingested(tmp_path) == before


@pytest.mark.parametrize("change", ["content", "touch", "replace"])
def test_changed_file_is_read(tmp_path: Path, change: str) -> None:
    """Another mtime or another inode means the file is read again."""
    write_files(tmp_path / "raw", pictures({"cat": 2, "dog": 2}))
    log_of(tmp_path)
    file = tmp_path / "raw/cat/000.png"
    match change:
        case "content":
            file.write_bytes(picture(50))
        case "touch":
            os.utime(file, ns=(1, 1))
        case "replace":
            status = file.stat()
            (tmp_path / "other").write_bytes(picture(50))
            os.utime(tmp_path / "other", ns=(status.st_atime_ns, status.st_mtime_ns))
            (tmp_path / "other").rename(file)
    assert "; 1 read, 3 unchanged" in log_of(tmp_path)
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert rows_of(tmp_path / records.MANIFEST)[0]["sha256"] == expected


def test_rehash_finds_what_stat_cannot(tmp_path: Path) -> None:
    """Other bytes under the same size, mtime and inode are found by reading everything only."""
    write_files(tmp_path / "raw", pictures({"cat": 2, "dog": 2}))
    before = ingested(tmp_path)
    file = tmp_path / "raw/cat/000.png"
    status = file.stat()
    with file.open("r+b") as stream:
        stream.write(picture(50))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert ingested(tmp_path) == before
    assert "; 4 read, 0 unchanged" in log_of(tmp_path, rehash=True)
    assert rows_of(tmp_path / records.MANIFEST)[0]["sha256"] != before[0]["sha256"]


def test_renamed_keys_are_not_taken_for_known(tmp_path: Path) -> None:
    """An image whose key changed since is read; no image gets the digest of another one."""
    write_files(tmp_path / "raw", {"cat/a.png": picture(1), "dog/b.png": picture(2)})
    log_of(tmp_path)
    write_files(tmp_path / "raw", {"cat/a.bmp": picture(3)})
    assert "; 2 read, 1 unchanged" in log_of(tmp_path)
    found = {row["uri"]: row["sha256"] for row in rows_of(tmp_path / records.MANIFEST)}
    assert found["raw/cat/a.png"] == hashlib.sha256(picture(1)).hexdigest()


@pytest.mark.parametrize("content", [b"", b"no table"])
def test_damaged_cache_is_no_fault(tmp_path: Path, content: bytes) -> None:
    """seen.parquet may be lost or damaged: then everything is read."""
    write_files(tmp_path / "raw", pictures({"cat": 2, "dog": 2}))
    before = ingested(tmp_path)
    (tmp_path / records.SEEN).write_bytes(content)
    assert ingested(tmp_path) == before


def test_another_source_shares_nothing(tmp_path: Path) -> None:
    """Digests of one source are not given to images of another with the same keys."""
    write_files(tmp_path / "one", pictures({"cat": 2, "dog": 2}))
    write_files(tmp_path / "two", pictures({"cat": 2, "dog": 2}, start=50))
    log_of(tmp_path, "one")
    assert "; 4 read" in log_of(tmp_path, "two")


def test_rehash_is_a_flag_of_ingest_only(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ingest --rehash` reads unchanged files again; no other stage has the flag."""
    from pipelines.stage import main

    monkeypatch.chdir(project)
    for flags, told in ([], "1,797 read"), ([], "0 read"), (["--rehash"], "1,797 read"):
        assert main(["ingest", *flags]) == 0
        assert told in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["split", "--rehash"])
    assert "--rehash belongs to ingest" in capsys.readouterr().err

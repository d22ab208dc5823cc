"""`verify` names every fault with its shard, member and raw file, and mends what it can."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from raw_images import params_for, pictures, rows_of, run_stages, write_files, write_tar, write_zip

from imagemill import records
from imagemill.cli import main
from imagemill.errors import ParamsError
from imagemill.records import ShardManifest, sha256_of_file
from imagemill.tars import TarWriter
from imagemill.verify import Fault, Findings, Slice, verify

FILES = pictures({"cat": 40, "dog": 40})
PARAMS = params_for(shard={"max_images": 15})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with shards, a model and a checkpoint; to be read only."""
    root = tmp_path_factory.mktemp("verified")
    write_files(root / "raw", FILES)
    run_stages(root, PARAMS)
    model = root / "models/base/model.safetensors"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"weights")
    card = {"files": {model.name: sha256_of_file(model)}}
    (model.parent / "model.json").write_text(json.dumps(card))
    checkpoint = root / ".imagemill/checkpoints/run/step-3"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.safetensors").write_bytes(b"tensors")
    digest = sha256_of_file(checkpoint / "state.safetensors")
    (checkpoint / "state.json").write_text(json.dumps({"sha256": digest}))
    return root


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """The same project, to be harmed."""
    return Path(shutil.copytree(project, tmp_path / "copy"))


def checked(root: Path, part: str = "1/1", *, repair: bool = False) -> Findings:
    """What `verify` finds."""
    return verify(root, part=Slice.parse(part), repair=repair, say=lambda _: None)


def flip(path: Path, place: int = 600) -> None:
    """Change one bit of a file, and neither its size nor its time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def row_of(root: Path, key: str) -> dict[str, object]:
    """An image in the index."""
    [row] = [row for row in rows_of(root / records.SHARD_INDEX) if row["key"] == key]
    return row


# Finding -------------------------------------------------------------------------------------


def test_whole_project_has_no_fault(project: Path) -> None:
    """Everything is counted and nothing is wrong; nothing is written either."""
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    found = checked(project)
    assert not found.faults
    assert found.checked == {
        "raw images": 80,
        "members of shards": 80,
        "files of models": 1,
        "files of checkpoints": 1,
    }
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


@pytest.mark.parametrize("harm", ["flipped", "grown", "cut", "missing"])
def test_raw_file_is_named(copy: Path, harm: str) -> None:
    """A raw file that changed, even with the same size and time, is told with its key."""
    path = copy / "raw/cat/007.png"
    if harm == "missing":
        path.unlink()
    elif harm == "flipped":
        flip(path, 60)
    else:
        content = path.read_bytes()
        path.write_bytes(content + b"x" if harm == "grown" else content[:-1])
    [fault] = checked(copy).faults
    assert (fault.area, fault.path, fault.member) == ("raw", "raw/cat/007.png", "cat/007")


def test_archive_member_is_named(tmp_path: Path) -> None:
    """A raw image inside an archive is told by the archive and its key."""
    write_tar(tmp_path / "raw.tar", FILES)
    run_stages(tmp_path, params_for("raw.tar", shard={"max_images": 15}))
    [row] = [row for row in rows_of(tmp_path / records.MANIFEST) if row["key"] == "dog/050"]
    flip(tmp_path / "raw.tar", row["offset"] + 50)
    [fault] = checked(tmp_path).faults
    assert (fault.path, fault.member) == ("raw.tar", "dog/050")


def test_shard_member_and_raw_file_are_named(copy: Path) -> None:
    """A bit that flipped inside an image is told three times over: shard, key and raw file."""
    row = row_of(copy, "dog/050")
    shard = f"data/{row['shard']}"
    flip(copy / shard, int(str(row["offset"])) + 40)
    whole, member = checked(copy).faults
    assert (whole.path, whole.member) == (shard, None)
    assert (member.path, member.member, member.raw) == (shard, "dog/050", "raw/dog/050.png")


def test_damaged_header_is_told(copy: Path) -> None:
    """A header is checked as well as what it heads."""
    row = row_of(copy, "dog/050")
    flip(copy / "data" / str(row["shard"]), int(str(row["offset"])) - 512 + 3)
    assert any("damaged at byte" in fault.reason for fault in checked(copy).faults)


@pytest.mark.parametrize("harm", ["class", "absent", "extra"])
def test_members_must_be_those_of_the_index(copy: Path, harm: str) -> None:
    """Another class, a missing class and a stranger are told though the shard's digest fits."""
    path = copy / records.DATA / "shards/val/val-000000.tar"
    rows = sorted(
        (row for row in rows_of(copy / records.SHARD_INDEX) if row["shard"].startswith("shards/v")),
        key=lambda row: row["offset"],
    )
    with path.open("wb", buffering=0) as stream:
        tar = TarWriter(stream)
        for number, row in enumerate(rows):
            tar.add(f"{row['key']}.png", FILES[f"{row['key']}.png"])
            if number < len(rows) - 1 or harm != "absent":
                target = 1 - row["target"] if harm == "class" and not number else row["target"]
                tar.add(f"{row['key']}.cls", str(target).encode())
        if harm == "extra":
            tar.add("stranger.png", b"?")
        digest = tar.close()
    manifest = ShardManifest.read(copy / records.SHARD_MANIFEST)
    [entry] = [entry for entry in manifest.shards if entry.path == "shards/val/val-000000.tar"]
    entry.sha256 = digest
    manifest.write(copy / records.SHARD_MANIFEST)
    reasons = [fault.reason for fault in checked(copy).faults]
    expected = {"class": "its class is", "absent": "has no .cls", "extra": "does not know"}[harm]
    assert any(expected in reason for reason in reasons)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [("missing", "cannot be read"), ("unlisted", "does not list it"), ("empty", "cannot be read")],
)
def test_shard_that_is_not_there_or_not_listed(copy: Path, harm: str, reason: str) -> None:
    """A listed shard that is gone, an empty one, and a tar that nobody listed."""
    path = copy / records.DATA / "shards/val/val-000000.tar"
    if harm == "unlisted":
        path = path.with_name("val-000077.tar")
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(b"")
    faults = checked(copy).faults
    assert [fault.path for fault in faults] == [str(path.relative_to(copy))]
    assert reason in faults[0].reason


def test_index_is_checked(copy: Path) -> None:
    """An index with other bytes than manifest.json says is told."""
    table = pq.read_table(copy / records.SHARD_INDEX)
    pq.write_table(table, copy / records.SHARD_INDEX, compression="none")
    [fault] = checked(copy).faults
    assert fault.path == "data/shards/index.parquet"


def test_copies_are_checked(copy: Path) -> None:
    """Tars of augmented copies are checked by their index."""
    path = copy / "data/augmented/train/copies-000000.tar"
    path.parent.mkdir(parents=True)
    with path.open("wb", buffering=0) as stream:
        tar = TarWriter(stream)
        content = FILES["cat/001.png"]
        offset = tar.add("cat/001%copy1.png", content)
        tar.add("cat/001%copy1.cls", b"0")
        tar.close()
    originals = pq.read_table(copy / records.SHARD_INDEX).to_pylist()
    made = originals[0] | {
        "key": "cat/001%copy1",
        "shard": "augmented/train/copies-000000.tar",
        "offset": offset,
        "size_bytes": len(content),
        "sha256": row_of(copy, "cat/001")["sha256"],
        "target": 0,
    }
    rows = sorted([*originals, made], key=lambda row: row["key"])
    table = pq.write_table
    table(pa_table(rows), copy / records.AUGMENTED_INDEX)
    assert not checked(copy).faults
    flip(path, offset + 10)
    [fault] = checked(copy).faults
    assert (fault.area, fault.member) == ("augmented", "cat/001%copy1")


def pa_table(rows: list[dict[str, object]]) -> object:
    """Rows of the index of copies."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=records.AUGMENTED_SCHEMA)


def test_models_and_checkpoints_are_checked(copy: Path) -> None:
    """Files whose digests are recorded beside them."""
    (copy / "models/base/model.safetensors").write_bytes(b"weight!")
    (copy / ".imagemill/checkpoints/run/step-3/state.safetensors").unlink()
    assert [fault.area for fault in checked(copy).faults] == ["models", "checkpoints"]


# Slices --------------------------------------------------------------------------------------


def test_slices_together_are_everything(copy: Path) -> None:
    """Each fault is in exactly one of n slices, and so is everything that is checked."""
    for path in [*(copy / "raw").rglob("*.png")][::7]:
        flip(path, 60)
    for path in (copy / records.SHARDS).rglob("*.tar"):
        flip(path)
    whole = checked(copy)
    parts = [checked(copy, f"{number}/5") for number in range(1, 6)]
    assert sorted(map(str, whole.faults)) == sorted(str(f) for part in parts for f in part.faults)
    for what, count in whole.checked.items():
        assert count == sum(part.checked.get(what, 0) for part in parts)
    assert len([part for part in parts if part.checked["raw images"] < 30]) == 5


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_impossible_slice_is_refused(text: str) -> None:
    """n/t must be a part that exists."""
    with pytest.raises(ParamsError, match="--slice takes n/t"):
        Slice.parse(text)


# Mending -------------------------------------------------------------------------------------


def test_shard_is_mended_from_raw(copy: Path) -> None:
    """A damaged and a missing shard come back byte for byte from the raw files."""
    paths = sorted((copy / records.SHARDS).rglob("*.tar"))
    good = [path.read_bytes() for path in paths]
    flip(paths[0])
    paths[1].unlink()
    found = checked(copy, repair=True)
    assert not found.faults and found.repaired
    assert [path.read_bytes() for path in paths] == good
    assert not checked(copy).faults


def test_shard_with_changed_bytes_is_mended_from_raw(tmp_path: Path) -> None:
    """A shard of shrunk images is made again with the switches it was made with."""
    write_files(tmp_path / "raw", pictures({"cat": 20, "dog": 20}))
    run_stages(tmp_path, params_for(shard={"max_side": 6}))
    path = tmp_path / records.DATA / "shards/train/train-000000.tar"
    good = path.read_bytes()
    flip(path)
    assert not checked(tmp_path, repair=True).faults
    assert path.read_bytes() == good


def test_raw_file_is_mended_from_its_shard(copy: Path) -> None:
    """A raw file that is damaged or gone comes back from the shard that holds its bytes."""
    flip(copy / "raw/cat/007.png", 60)
    (copy / "raw/dog/050.png").unlink()
    found = checked(copy, repair=True)
    assert not found.faults and len(found.repaired) == 2
    for name in ("cat/007.png", "dog/050.png"):
        assert (copy / "raw" / name).read_bytes() == FILES[name]


Pack = Callable[[Path], object]
IN_PLACE: dict[str, Pack] = {
    "raw.tar": lambda path: write_tar(path, FILES),
    "raw.zip": lambda path: write_zip(path, FILES, method=zipfile.ZIP_STORED),
}
PACKED: dict[str, Pack] = {
    "raw.tar.gz": lambda path: write_tar(path, FILES, mode="w:gz"),
    "raw.zip": lambda path: write_zip(path, FILES),
}


def packed(root: Path, name: str, pack: Pack) -> dict[str, dict[str, Any]]:
    """A project made from an archive; its manifest by key."""
    pack(root / name)
    run_stages(root, params_for(name, shard={"max_images": 15}))
    return {row["key"]: row for row in rows_of(root / records.MANIFEST)}


@pytest.mark.parametrize("name", IN_PLACE)
def test_members_of_an_archive_are_mended_from_their_shards(tmp_path: Path, name: str) -> None:
    """Two members get their bytes back, and the archive is what it was, byte for byte."""
    rows = packed(tmp_path, name, IN_PLACE[name])
    good = (tmp_path / name).read_bytes()
    for key in ("cat/007", "dog/050"):
        flip(tmp_path / name, rows[key]["offset"] + 60)
    found = checked(tmp_path, repair=True)
    assert not found.faults and {fault.member for fault in found.repaired} == {"cat/007", "dog/050"}
    assert (tmp_path / name).read_bytes() == good


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_member_no_shard_holds_stays_a_fault(tmp_path: Path, name: str) -> None:
    """Of two harmed members of one archive the one whose shard is harmed too is not mended."""
    rows = packed(tmp_path, name, IN_PLACE[name])
    for key in ("cat/007", "dog/050"):
        flip(tmp_path / name, rows[key]["offset"] + 60)
    row = row_of(tmp_path, "dog/050")
    flip(tmp_path / "data" / str(row["shard"]), int(str(row["offset"])) + 40)
    found = checked(tmp_path, repair=True)
    assert {fault.member for fault in found.repaired if fault.area == "raw"} == {"cat/007"}
    assert {fault.member for fault in found.faults if fault.area == "raw"} == {"dog/050"}


def test_another_archive_is_not_written_into(tmp_path: Path) -> None:
    """Where the archive has no member at the bytes on record, it is another one: left alone."""
    packed(tmp_path, "raw.tar", IN_PLACE["raw.tar"])
    write_tar(tmp_path / "raw.tar", {"a.txt": b"x" * 700, **FILES})
    other = (tmp_path / "raw.tar").read_bytes()
    assert checked(tmp_path, repair=True).faults
    assert (tmp_path / "raw.tar").read_bytes() == other


@pytest.mark.parametrize("name", PACKED)
def test_a_harmed_plain_tar_is_made_again(tmp_path: Path, name: str) -> None:
    """Of a compressed archive only our plain tar is harmed: it comes back from the archive."""
    rows = packed(tmp_path, name, PACKED[name])
    [plain] = (tmp_path / ".imagemill/sources").glob("*.tar")
    good = plain.read_bytes()
    flip(plain, rows["cat/007"]["offset"] + 60)
    found = checked(tmp_path, repair=True)
    assert not found.faults and [fault.member for fault in found.repaired] == ["cat/007"]
    assert plain.read_bytes() == good
    assert [path.name for path in plain.parent.iterdir()] == [plain.name]


def test_a_plain_tar_outlives_its_damaged_archive(tmp_path: Path) -> None:
    """If it cannot be made again, what is left of it stays; a member is mended by nobody."""
    rows = packed(tmp_path, "raw.tar.gz", PACKED["raw.tar.gz"])
    [plain] = (tmp_path / ".imagemill/sources").glob("*.tar")
    flip(plain, rows["cat/007"]["offset"] + 60)
    harmed = plain.read_bytes()
    flip(tmp_path / "raw.tar.gz", 5000)
    found = checked(tmp_path, repair=True)
    assert [fault.member for fault in found.faults] == ["cat/007"]
    assert plain.read_bytes() == harmed


@pytest.mark.parametrize("name", ["raw.tar", "raw.tar.gz"])
def test_shard_is_mended_from_an_archive(tmp_path: Path, name: str) -> None:
    """Members are read where they lie; the shard is what it was, byte for byte."""
    packed(tmp_path, name, (IN_PLACE | PACKED)[name])
    path = tmp_path / records.DATA / "shards/train/train-000000.tar"
    good = path.read_bytes()
    flip(path)
    assert not checked(tmp_path, repair=True).faults
    assert path.read_bytes() == good


def test_nothing_is_touched_without_repair(copy: Path) -> None:
    """To look is not to write."""
    flip(copy / "raw/cat/007.png", 60)
    flip(copy / records.DATA / "shards/train/train-000000.tar")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert len(checked(copy).faults) >= 2
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_what_no_place_holds_stays_a_fault(copy: Path) -> None:
    """Raw file and shard both harmed at the same image: nothing is invented."""
    row = row_of(copy, "dog/050")
    flip(copy / "raw/dog/050.png", 60)
    flip(copy / "data" / str(row["shard"]), int(str(row["offset"])) + 40)
    harmed = (copy / "raw/dog/050.png").read_bytes()
    found = checked(copy, repair=True)
    assert {fault.area for fault in found.faults} == {"raw", "shards"} and not found.repaired
    assert (copy / "raw/dog/050.png").read_bytes() == harmed


# The DVC cache -------------------------------------------------------------------------------


def dvc(root: Path, *arguments: str) -> None:
    """Run dvc in the project."""
    command = [sys.executable, "-m", "dvc", *arguments, "--quiet"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)


@pytest.fixture(scope="module")
def kept_project(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose shards and model are in a DVC cache and on a remote."""
    root = Path(shutil.copytree(project, tmp_path_factory.mktemp("kept") / "project"))
    subprocess.run(["git", "init", "--quiet", "."], cwd=root, check=True)
    outs = "outs: [data/shards]"
    (root / "dvc.yaml").write_text(f"stages:\n  shard:\n    cmd: 'true'\n    {outs}\n")
    dvc(root, "init")
    dvc(root, "remote", "add", "--default", "store", str(root.parent / "remote"))
    dvc(root, "commit", "--force")
    dvc(root, "push")
    return root


@pytest.fixture
def kept(kept_project: Path, tmp_path: Path) -> Path:
    """The same, to be harmed."""
    return Path(shutil.copytree(kept_project, tmp_path / "kept"))


def cached(root: Path) -> list[Path]:
    """All files of the cache, the largest first."""
    files = (path for path in (root / ".dvc/cache/files").rglob("*") if path.is_file())
    return sorted(files, key=lambda path: (-path.stat().st_size, path))


def test_cached_file_is_named_and_mended_from_the_workspace(kept: Path) -> None:
    """A cached file whose md5 is not its name, with the path it stands for."""
    good = cached(kept)[0].read_bytes()
    flip(cached(kept)[0])
    [fault] = checked(kept).faults
    assert fault.area == "cache" and "data/shards/" in fault.reason
    assert not checked(kept, repair=True).faults
    assert cached(kept)[0].read_bytes() == good


def test_shard_is_mended_from_the_cache_when_raw_is_gone(kept: Path) -> None:
    """Without raw files the cache gives the shard back."""
    path = kept / records.DATA / "shards/train/train-000000.tar"
    good = path.read_bytes()
    flip(path)
    shutil.rmtree(kept / "raw")
    found = checked(kept, repair=True)
    assert {fault.area for fault in found.repaired} == {"shards", "raw"}
    assert path.read_bytes() == good


def test_shard_and_cache_are_mended_from_the_remote(kept: Path) -> None:
    """Workspace and cache both harmed, raw files gone: the remote gives both back."""
    path = kept / records.DATA / "shards/train/train-000000.tar"
    good = path.read_bytes()
    [place] = [file for file in cached(kept) if file.read_bytes() == good]
    flip(path)
    flip(place, 900)
    shutil.rmtree(kept / "raw")
    found = checked(kept, repair=True)
    assert path.read_bytes() == good and place.read_bytes() == good
    assert {fault.area for fault in found.faults} <= {"raw"}


def test_index_is_mended_from_the_cache(kept: Path) -> None:
    """The index, and the manifest of shards, come back from the cache."""
    good = (kept / records.SHARD_INDEX).read_bytes()
    (kept / records.SHARD_INDEX).write_bytes(good[:-1] + b"x")
    checked(kept, repair=True)
    assert (kept / records.SHARD_INDEX).read_bytes() == good
    assert not checked(kept).faults


# The verb ------------------------------------------------------------------------------------


def test_verb_says_0_when_all_is_well(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0, and a line that says what was checked."""
    monkeypatch.chdir(project)
    assert main(["verify"]) == 0
    assert "80 raw images, 80 members of shards" in capsys.readouterr().out


def test_verb_says_2_and_lists_faults(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and the faults on standard output, in words or as JSON."""
    flip(copy / "raw/cat/007.png", 60)
    monkeypatch.chdir(copy)
    assert main(["verify"]) == 2
    assert "fault: raw: raw/cat/007.png, member cat/007: its sha256" in capsys.readouterr().out
    assert main(["verify", "--json"]) == 2
    [fault] = json.loads(capsys.readouterr().out)["faults"]
    assert Fault(**fault).path == "raw/cat/007.png"


def test_empty_project_has_nothing_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where no stage has run there is nothing to be wrong."""
    monkeypatch.chdir(tmp_path)
    assert main(["verify"]) == 0
    assert "nothing" in capsys.readouterr().out

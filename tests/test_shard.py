"""Shards: WebDataset tars that others read, written once, whole or not at all."""

import hashlib
import io
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image
from raw_images import (
    encoded,
    params_for,
    picture,
    pictures,
    rows_of,
    run_stages,
    splits_of,
    write_files,
    write_tar,
)

from imagemill import records
from imagemill.errors import DiskError, IntegrityError
from imagemill.records import ShardManifest
from imagemill.shard import publish, shard

FILES = pictures({"cat": 60, "dog": 60}) | {
    f"unlabelled/{number}.png": picture(900 + number) for number in range(5)
}
SMALL = params_for(shard={"max_images": 20})


def sharded(root: Path, files: dict[str, bytes] = FILES, params: Any = SMALL) -> ShardManifest:
    """The shards of a folder of exactly these images."""
    shutil.rmtree(root / "raw", ignore_errors=True)
    write_files(root / "raw", files)
    run_stages(root, params)
    return ShardManifest.read(root / records.SHARD_MANIFEST)


def tars(root: Path) -> dict[str, bytes]:
    """Path relative to data/ -> bytes of every file in the folders of shards."""
    data = root / records.DATA
    return {
        str(path.relative_to(data)): path.read_bytes()
        for path in sorted((root / records.SHARDS).rglob("*"))
        if path.is_file() and path.parent != root / records.SHARDS
    }


def inodes(root: Path) -> dict[str, int]:
    """Path relative to data/ -> inode of every shard."""
    data = root / records.DATA
    return {path: (data / path).stat().st_ino for path in tars(root)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with shards; to be read only."""
    root = tmp_path_factory.mktemp("sharded")
    sharded(root)
    return root


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """The same project, to be changed."""
    return Path(shutil.copytree(project, tmp_path / "copy"))


# What is written -----------------------------------------------------------------------------


def test_webdataset_reads_every_shard(project: Path) -> None:
    """Its stock pipeline gives each image with its class."""
    manifest = ShardManifest.read(project / records.SHARD_MANIFEST)
    files = [str(project / records.DATA / entry.path) for entry in manifest.shards]
    labelled = [path for path in files if "unlabelled" not in path]
    pipeline = webdataset.WebDataset(labelled, shardshuffle=False).decode("pil")
    found = {}
    for image, label, key in pipeline.to_tuple("png", "cls", "__key__"):
        found[key] = (np.asarray(image.convert("L")).tobytes(), manifest.classes[label])
    expected = {}
    for path, content in FILES.items():
        if "unlabelled" not in path:
            with Image.open(io.BytesIO(content)) as image:
                expected[path[:-4]] = (np.asarray(image).tobytes(), path[:3])
    assert found == expected


def test_unlabelled_samples_have_no_class_member(project: Path) -> None:
    """In `unlabelled` there are images and nothing else."""
    with tarfile.open(project / records.SHARDS / "unlabelled/unlabelled-000000.tar") as tar:
        assert {name.rpartition(".")[2] for name in tar.getnames()} == {"png"}


def test_index_frames_each_image(project: Path) -> None:
    """shard, offset and size_bytes lead to exactly the raw bytes, sorted by key."""
    rows = rows_of(project / records.SHARD_INDEX)
    for row in rows:
        with (project / records.DATA / row["shard"]).open("rb") as stream:
            stream.seek(row["offset"])
            content = stream.read(row["size_bytes"])
        assert content == FILES[f"{row['key']}.png"]
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
    assert [row["key"] for row in rows] == sorted(path[:-4] for path in FILES)


def test_index_has_class_ids_and_splits(project: Path) -> None:
    """target is the position in classes, null in `unlabelled`; splits are those of the stage."""
    splits = splits_of(project)
    for row in rows_of(project / records.SHARD_INDEX):
        expected = {"cat": 0, "dog": 1, "unlabelled": None}[row["key"].split("/")[0]]
        assert (row["target"], row["split"]) == (expected, splits[row["key"]])


def test_manifest_counts_its_shards(project: Path) -> None:
    """Digests, sizes and numbers are those of the files, and of the splits."""
    manifest = ShardManifest.read(project / records.SHARD_MANIFEST)
    content = tars(project)
    assert [entry.path for entry in manifest.shards] == sorted(content)
    for entry in manifest.shards:
        assert entry.sha256 == hashlib.sha256(content[entry.path]).hexdigest()
        assert entry.size_bytes == len(content[entry.path])
        assert entry.num_samples <= 20
    for split, size in manifest.splits.items():
        of_split = [entry for entry in manifest.shards if f"/{split}/" in entry.path]
        assert size.num_shards == len(of_split)
        assert size.num_samples == list(splits_of(project).values()).count(split)
    assert manifest.index_digest == records.sha256_of_file(project / records.SHARD_INDEX)


def test_data_digest_is_over_sorted_lines(project: Path) -> None:
    """digest: sha256 over key, sha256, class name and split of each image, in order of keys."""
    rows = rows_of(project / records.MANIFEST)
    splits = splits_of(project)
    lines = [
        f"{row['key']}\t{row['sha256']}\t{row['target'] or ''}\t{splits[row['key']]}\n"
        for row in rows
    ]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert ShardManifest.read(project / records.SHARD_MANIFEST).digest == expected


def test_pixel_statistics_are_those_of_train(project: Path) -> None:
    """Mean and spread are over the pixels of train alone."""
    splits = splits_of(project)
    pixels = []
    for path, content in FILES.items():
        if splits[path[:-4]] == "train":
            with Image.open(io.BytesIO(content)) as image:
                pixels.append(np.asarray(image) / 255)
    manifest = ShardManifest.read(project / records.SHARD_MANIFEST)
    assert manifest.channels == 1
    np.testing.assert_allclose(manifest.pixel_mean, [np.mean(pixels)], rtol=1e-6)
    np.testing.assert_allclose(manifest.pixel_std, [np.std(pixels)], rtol=1e-5)


def test_one_colour_image_makes_three_channels(tmp_path: Path) -> None:
    """Channels are 1 only if every image is grey; statistics then are of R, G and B."""
    manifest = sharded(tmp_path, FILES | {"cat/colour.jpg": encoded(1)})
    assert (manifest.channels, len(manifest.pixel_mean), len(manifest.pixel_std)) == (3, 3, 3)


def test_member_is_named_by_content(tmp_path: Path) -> None:
    """A JPEG called .jpeg, or .png, is a .jpg: WebDataset decodes by the name."""
    files = FILES | {"cat/one.jpeg": encoded(1), "dog/two.png": encoded(2)}
    sharded(tmp_path, files)
    names = []
    for path in tars(tmp_path):
        with tarfile.open(tmp_path / records.DATA / path) as tar:
            names += tar.getnames()
    assert {"cat/one.jpg", "dog/two.jpg"} <= set(names)


def test_shard_closes_at_either_limit(tmp_path: Path) -> None:
    """max_bytes of image data end a shard too; an image larger than that is alone."""
    params = params_for(shard={"max_images": 1000, "max_bytes": 2000})
    files = FILES | {"cat/large.png": picture(7000, size=60)}
    manifest = sharded(tmp_path, files, params)
    sizes: dict[str, list[int]] = {}
    for row in rows_of(tmp_path / records.SHARD_INDEX):
        sizes.setdefault(row["shard"], []).append(row["size_bytes"])
    assert len(manifest.shards) > 5
    assert all(sum(size) <= 2000 or len(size) == 1 for size in sizes.values())


def test_classes_are_mixed_inside_a_shard(tmp_path: Path) -> None:
    """No shard of a large set holds a long run of one class (chance: below 1e-9)."""
    sharded(tmp_path, pictures({"cat": 200, "dog": 200}), params_for())
    rows = rows_of(tmp_path / records.SHARD_INDEX)
    train = sorted((row["offset"], row["target"]) for row in rows if row["split"] == "train")
    labels = "".join(str(target) for _, target in train)
    assert "0" * 40 not in labels and "1" * 40 not in labels


# Again and again -----------------------------------------------------------------------------


def test_same_images_give_the_same_bytes(project: Path, tmp_path: Path) -> None:
    """A second project with the same images has the same shards, index and manifest."""
    sharded(tmp_path)
    assert tars(tmp_path) == tars(project)
    for path in (records.SHARD_INDEX, records.SHARD_MANIFEST):
        assert (tmp_path / path).read_bytes() == (project / path).read_bytes()


def test_archive_and_folder_give_the_same_bytes(project: Path, tmp_path: Path) -> None:
    """How the source is packed leaves no trace in the shards."""
    write_tar(tmp_path / "raw.tar", FILES)
    params = params_for("raw.tar", shard={"max_images": 20})
    run_stages(tmp_path, params)
    assert tars(tmp_path) == tars(project)


def test_unchanged_data_rewrites_nothing(copy: Path) -> None:
    """Nothing to do is done at once, and says so."""
    before = inodes(copy)
    assert run_stages(copy, SMALL)[-1].endswith(f"0 written, {len(before)} left as they were")
    assert inodes(copy) == before


def test_adding_images_writes_new_shards_only(copy: Path) -> None:
    """Every shard that was there stays; the new images are all in new ones."""
    before, old = inodes(copy), tars(copy)
    new = pictures({"cat": 30, "dog": 30}, start=3000)
    new = {path.replace("/", "/new"): content for path, content in new.items()}
    manifest = sharded(copy, FILES | new)
    after = inodes(copy)
    assert {path: after[path] for path in before} == before
    assert {path: tars(copy)[path] for path in old} == old
    added = {row["key"] for row in rows_of(copy / records.SHARD_INDEX) if row["shard"] not in old}
    assert added == {path[:-4] for path in new}
    assert sum(size.num_samples for size in manifest.splits.values()) == len(FILES) + 60


def shard_of(root: Path, key: str) -> str:
    """The shard that holds a key."""
    [found] = [row["shard"] for row in rows_of(root / records.SHARD_INDEX) if row["key"] == key]
    return str(found)


@pytest.mark.parametrize("change", ["deleted", "changed"])
def test_change_rewrites_the_shard_that_holds_it(copy: Path, change: str) -> None:
    """One image deleted or changed: one shard rewritten, all others left alone."""
    touched, before = shard_of(copy, "cat/007"), inodes(copy)
    files = dict(FILES)
    if change == "deleted":
        del files["cat/007.png"]
    else:
        files["cat/007.png"] = picture(4000)
    sharded(copy, files)
    after = inodes(copy)
    assert {path for path in before if after.get(path) != before[path]} == {touched}
    assert after.keys() == before.keys()


def test_result_after_changes_is_whole(copy: Path) -> None:
    """After images came, went and changed, index and shards hold exactly what there is."""
    files = dict(FILES) | pictures({"emu": 12}, start=5000)
    files["cat/007.png"] = picture(4000)
    del files["dog/070.png"]
    manifest = sharded(copy, files)
    found = {row["key"]: row["sha256"] for row in rows_of(copy / records.SHARD_INDEX)}
    assert found == {
        path[:-4]: hashlib.sha256(content).hexdigest() for path, content in files.items()
    }
    assert [entry.path for entry in manifest.shards] == sorted(tars(copy))


def test_label_change_rewrites_the_target(copy: Path) -> None:
    """A moved image is a new key in its new class; the old class loses it."""
    files = dict(FILES)
    files["dog/007.png"] = files.pop("cat/007.png")
    sharded(copy, files)
    found = {row["key"]: row["target"] for row in rows_of(copy / records.SHARD_INDEX)}
    assert found["dog/007"] == 1 and "cat/007" not in found


def test_new_class_goes_last(copy: Path) -> None:
    """Class ids are append-only: `ant` comes behind `cat` and `dog`."""
    manifest = sharded(copy, FILES | pictures({"ant": 10}, start=6000))
    assert manifest.classes == ["cat", "dog", "ant"]


def test_lost_class_keeps_its_id(copy: Path) -> None:
    """A class without images keeps its place as long as the source is the same."""
    files = {path: raw for path, raw in FILES.items() if not path.startswith("cat")}
    manifest = sharded(copy, files | pictures({"emu": 10}, start=6000))
    assert manifest.classes == ["cat", "dog", "emu"]


def test_another_data_set_begins_anew(copy: Path) -> None:
    """Another source without the old classes gets ids of its own and starts at shard 0."""
    write_files(copy / "other", pictures({"x": 30, "y": 30}, start=8000))
    run_stages(copy, params_for("other", shard={"max_images": 20}))
    manifest = ShardManifest.read(copy / records.SHARD_MANIFEST)
    assert manifest.classes == ["x", "y"]
    assert "shards/train/train-000000.tar" in tars(copy)
    assert [entry.path for entry in manifest.shards] == sorted(tars(copy))


def test_full_gives_the_bytes_of_a_new_project(copy: Path, tmp_path: Path) -> None:
    """After any history, `full` packs as if all had come at once."""
    files = FILES | pictures({"dog": 20, "emu": 20}, start=3000)
    sharded(copy, files)
    shard(copy, SMALL.shard, log=lambda _: None, full=True)
    sharded(tmp_path / "new", files)
    assert tars(copy) == tars(tmp_path / "new")


def test_other_limits_pack_anew(copy: Path) -> None:
    """A change of shard.max_images reaches the shards that are there."""
    manifest = sharded(copy, FILES, params_for(shard={"max_images": 50}))
    assert max(entry.num_samples for entry in manifest.shards) > 20
    assert [entry.path for entry in manifest.shards] == sorted(tars(copy))


@pytest.mark.parametrize("fault", ["flipped", "cut", "missing"])
def test_damaged_shard_is_written_again(copy: Path, fault: str) -> None:
    """A shard that is not the one on record is made from the raw images, and only that one."""
    before, good = inodes(copy), tars(copy)
    path = copy / records.DATA / "shards/train/train-000001.tar"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.unlink()
    if fault != "missing":
        path.write_bytes(content if fault == "flipped" else content[:-600])
    shard(copy, SMALL.shard, log=lambda _: None)
    after = inodes(copy)
    assert tars(copy) == good
    others = before.keys() - {"shards/train/train-000001.tar"}
    assert {name: after[name] for name in others} == {name: before[name] for name in others}


def test_leftovers_of_a_killed_run_are_removed(copy: Path) -> None:
    """Unfinished and unlisted tars go; what is listed stays."""
    good = tars(copy)
    folder = copy / records.SHARDS / "train"
    (folder / ".train-000001.tar.tmp").write_bytes(b"half")
    (folder / "train-000099.tar").write_bytes(b"complete but listed nowhere")
    shard(copy, SMALL.shard, log=lambda _: None)
    assert tars(copy) == good


def test_lost_index_is_made_again(copy: Path) -> None:
    """Without its index nothing that is there can be trusted; the result is the same."""
    good, index = tars(copy), (copy / records.SHARD_INDEX).read_bytes()
    (copy / records.SHARD_INDEX).unlink()
    shard(copy, SMALL.shard, log=lambda _: None)
    assert tars(copy) == good and (copy / records.SHARD_INDEX).read_bytes() == index


def test_images_move_when_the_split_does(copy: Path) -> None:
    """Another split seed: every image lies in a shard of its new split."""
    params = params_for(shard={"max_images": 20}, split={"seed": 5})
    sharded(copy, FILES, params)
    splits = splits_of(copy)
    for row in rows_of(copy / records.SHARD_INDEX):
        assert row["split"] == splits[row["key"]] == row["shard"].split("/")[1]


# Refusals and kills --------------------------------------------------------------------------


def test_raw_bytes_that_changed_are_refused(tmp_path: Path) -> None:
    """Bytes are checked against ingest in the same pass; nothing is left behind."""
    write_files(tmp_path / "raw", FILES)
    run_stages(tmp_path, SMALL, until="split")
    (tmp_path / "raw/dog/070.png").write_bytes(picture(70)[:-1] + b"x")
    with pytest.raises(IntegrityError, match=r"dog/070: its bytes in .* changed"):
        shard(tmp_path, SMALL.shard, log=lambda _: None)
    assert not list((tmp_path / records.SHARDS).rglob("*.*"))


def test_failure_keeps_the_shards_there_were(copy: Path) -> None:
    """A run that fails in the middle leaves the old state, byte by byte."""
    good = tars(copy) | {"manifest": (copy / records.SHARD_MANIFEST).read_bytes()}
    files = FILES | pictures({"dog": 40}, start=3000) | {"cat/003.png": picture(3999)}
    write_files(copy / "raw", files)
    run_stages(copy, SMALL, until="split")
    (copy / "raw/cat/003.png").unlink()
    with pytest.raises(Exception, match=r"cannot read raw/cat/003\.png"):
        shard(copy, SMALL.shard, log=lambda _: None)
    assert tars(copy) | {"manifest": (copy / records.SHARD_MANIFEST).read_bytes()} == good


def test_unwritable_folder_is_told(copy: Path) -> None:
    """A file where a split's folder should be is a DiskError."""
    shutil.rmtree(copy / records.SHARDS)
    (copy / records.SHARDS).write_bytes(b"")
    with pytest.raises(DiskError, match="cannot write"):
        shard(copy, SMALL.shard, log=lambda _: None)


KILLED_RUN = """
import os, signal, sys
from pathlib import Path
from imagemill.params import ShardParams
from imagemill.shard import publish, shard

root, fatal = Path(sys.argv[1]), int(sys.argv[2])
params = ShardParams.model_validate_json(sys.argv[3])
seen = 0

def watch(event, arguments):
    global seen
    if event in ("open", "os.rename", "os.link", "os.remove", "os.rmdir", "ctypes.call_function"):
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
shard(root, params, log=lambda _: None)
print(seen)
"""


def killed(root: Path, fatal: int) -> int:
    """Run the stage and kill it right before its `fatal`-th step on the disk; 0: never."""
    command = [sys.executable, "-c", KILLED_RUN, str(root), str(fatal)]
    command.append(SMALL.shard.model_dump_json())
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == (-signal.SIGKILL if fatal else 0)
    return int(done.stdout or 0)


def test_kill_at_any_moment_leaves_the_old_state_or_the_new(copy: Path, tmp_path: Path) -> None:
    """After SIGKILL all is as before or as after, and a second run ends as the first would have.

    The run adds shards, replaces two and removes none; moments are steps on the disk.
    """

    def state(root: Path) -> dict[str, bytes]:
        """Every file of data/shards."""
        above = {path.name: path.read_bytes() for path in (root / records.SHARDS).glob("*.*")}
        return above | tars(root)

    files = FILES | {f"dog/n{n}.png": picture(3000 + n) for n in range(40)}
    write_files(copy / "raw", files | {"cat/003.png": picture(3998)})
    run_stages(copy, SMALL, until="split")
    old = state(copy)
    finished = Path(shutil.copytree(copy, tmp_path / "finished"))
    steps = killed(finished, 0)
    new = state(finished)
    seen = set()
    for fatal in [1, steps // 2, *range(steps - 12, steps, 4)]:
        trial = Path(shutil.copytree(copy, tmp_path / f"trial{fatal}"))
        killed(trial, fatal)
        assert state(trial) in (old, new)
        seen.add(state(trial) == new)
        shard(trial, SMALL.shard, log=lambda _: None)
        assert state(trial) == new
        assert not list((trial / "data").glob(".*"))
    assert seen == {False, True}


def test_folders_that_cannot_be_exchanged(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the filesystem has no exchange and no hard links, the result is the same."""
    files = FILES | {"cat/003.png": picture(3998), "emu/1.png": picture(3999)}
    files |= pictures({"emu": 9}, start=3000)
    other = Path(shutil.copytree(copy, tmp_path / "other"))
    sharded(copy, files)

    def refuse(*_: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(publish, "_exchange", refuse)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    sharded(other, files)
    assert tars(other) == tars(copy)

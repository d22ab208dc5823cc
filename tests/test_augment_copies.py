"""Facts about copies on disk: how many, what they hold, and that the same always comes out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from made_shards import CLASSES, make_shards, picture, reader_of
from raw_images import params_for, pictures, run_stages, write_files

from imagemill.augment import Policy, compile_policy
from imagemill.augment.layers import Drawn
from imagemill.augment.numbers import numbers_of_copies
from imagemill.augment.offline import workplace, write_copies, write_index
from imagemill.augment.replay import replayed
from imagemill.decoding import decode, encode_png
from imagemill.errors import IntegrityError, ParamsError, UnknownNameError
from imagemill.frames import read_frames
from imagemill.params import (
    AugmentParams,
    CopiesParams,
    OperationParams,
    ShardParams,
    parse_params,
    read_yaml,
)
from imagemill.randomness import key_hashes
from imagemill.records import AUGMENTED, AUGMENTED_INDEX, DATA, SHARD_INDEX, STATE
from imagemill.tars import TarWriter, members
from pipelines.augment import augment as run_flow
from pipelines.tracker import Untracked

REPOSITORY = Path(__file__).resolve().parent.parent

SHARD = ShardParams(max_images=50, max_bytes=10**9, max_side=None, strip_metadata=False)
TURN = OperationParams(operation="rotate", probability=1, range=(-20, 20))
CROP = OperationParams(operation="crop", probability=0.5, range=(0.6, 1))
FLIP = OperationParams(operation="flip_horizontal", probability=1)


def policy(*operations: OperationParams) -> Policy:
    return compile_policy(operations, seed=0, online=False)


def augment(
    root: Path, copies: Any, *operations: OperationParams, shard: ShardParams = SHARD, **more: Any
) -> int:
    """What the flow does; returns the number of copies."""
    wanted = CopiesParams.model_validate(copies)
    with workplace(root) as place:
        count = write_copies(place, wanted, policy(*operations), shard, seed=0, **more)
        write_index(place)
    return count


def index_of(root: Path) -> Any:
    return pq.read_table(root / AUGMENTED_INDEX).to_pandas().set_index("key", drop=False)


def contents(root: Path) -> dict[str, bytes]:
    """All files of data/augmented."""
    files = sorted(path for path in (root / AUGMENTED).rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture
def augmented(tmp_path: Path) -> Path:
    """A project whose 60 train images have two copies each."""
    make_shards(tmp_path)
    augment(tmp_path, 2, TURN, CROP)
    return tmp_path


# What is written -------------------------------------------------------------------------------


def test_copies_merge_with_originals(augmented: Path) -> None:
    """The index holds 60 originals, 120 copies, and val and test untouched, sorted by key."""
    index = index_of(augmented)
    counts = index.groupby(["split", index.parent_key.notna()], observed=True).size().to_dict()
    expected = {("train", False): 60, ("train", True): 120, ("val", False): 30, ("test", False): 30}
    assert counts == expected
    assert index.key.is_monotonic_increasing


def test_copies_know_their_parent(augmented: Path) -> None:
    """Each copy has its parent's class, its operations with values, and the seed."""
    index = index_of(augmented)
    copies = index[index.parent_key.notna()]
    assert (index.loc[copies.parent_key].target.to_numpy() == copies.target.to_numpy()).all()
    assert {json.loads(text)[0]["operation"] for text in copies.operations} == {"rotate"}
    assert set(copies.seed) == {0}


def test_copies_are_what_the_record_says(augmented: Path) -> None:
    """Doing the recorded operations to the parent gives the copy, bit for bit."""
    frames = read_frames(augmented / AUGMENTED_INDEX, "train")
    index = index_of(augmented)
    shards = reader_of(augmented, frames)
    pixels = {
        key: decode(shards.read(position), channels=1) for position, key in enumerate(frames.keys)
    }
    for key, row in index[index.parent_key.notna()].iterrows():
        drawn = [Drawn(**one) for one in json.loads(row.operations)]
        assert np.array_equal(pixels[key], replayed(pixels[row.parent_key], drawn))


def test_the_description_says_what_the_index_says(augmented: Path) -> None:
    """The .json beside a copy names parent, operations and seed as the index does."""
    index = index_of(augmented)
    described = jsons(augmented)
    assert len(described) == 120
    for key, told in described.items():
        row = index.loc[key]
        assert told["parent_key"] == row.parent_key
        assert (told["operations"], told["seed"]) == (json.loads(row.operations), row.seed)


def test_webdataset_reads_copies_as_it_reads_originals(tmp_path: Path) -> None:
    """One stock pipeline over the tars of both gives each key of train its pixels and class."""
    write_files(tmp_path / "raw", pictures({"cat": 20, "dog": 20}))
    run_stages(tmp_path, params_for())
    num_copies = augment(tmp_path, 2, TURN, CROP, shard=SHARD.model_copy(update={"max_images": 9}))
    tars = [path for path in (tmp_path / DATA).rglob("*.tar") if path.parent.name == "train"]
    pipeline = webdataset.WebDataset([*map(str, tars)], shardshuffle=False).decode("rgb8")
    found = {
        key: (image[..., 0].tobytes(), target)
        for key, image, target in pipeline.to_tuple("__key__", "png", "cls")
    }
    frames = read_frames(tmp_path / AUGMENTED_INDEX, "train")
    targets = index_of(tmp_path).target
    shards = reader_of(tmp_path, frames)
    expected = {
        key: (decode(shards.read(position), channels=1).tobytes(), targets[key])
        for position, key in enumerate(frames.keys)
    }
    assert len(expected) * 2 == num_copies * 3
    assert found == expected


def test_webdataset_reads_the_descriptions_of_copies(augmented: Path) -> None:
    """The stock pipeline decodes each copy's .json."""
    tars = sorted(str(path) for path in (augmented / AUGMENTED).rglob("*.tar"))
    pipeline = webdataset.WebDataset(tars, shardshuffle=False).decode()
    found = dict(pipeline.to_tuple("__key__", "json"))
    assert found == jsons(augmented)


def test_shards_close_at_their_bytes(tmp_path: Path) -> None:
    """No shard holds more image bytes than it may; a limit below one image gives one a shard."""
    make_shards(tmp_path, train=9, val=3, test=3)
    augment(tmp_path, 1, TURN, shard=SHARD.model_copy(update={"max_bytes": 700}))
    sizes = index_of(tmp_path).query("parent_key.notna()").groupby("shard", observed=True)
    assert 1 < sizes.size_bytes.sum().max() <= 700
    augment(tmp_path, 1, TURN, shard=SHARD.model_copy(update={"max_bytes": 1}))
    assert len(list((tmp_path / AUGMENTED).rglob("*.tar"))) == 9


def test_without_copies_the_index_is_the_originals(tmp_path: Path) -> None:
    """Switched off, augmentation writes the index of the shards and no image."""
    make_shards(tmp_path)
    assert augment(tmp_path, 0) == 0
    expected = pq.read_table(tmp_path / SHARD_INDEX)["key"].to_pylist()
    assert pq.read_table(tmp_path / AUGMENTED_INDEX)["key"].to_pylist() == expected
    assert list((tmp_path / AUGMENTED).rglob("*.tar")) == []


def test_progress_ends_at_one(tmp_path: Path) -> None:
    """Whoever watches sees shares that rise to 1."""
    make_shards(tmp_path)
    shares: list[float] = []
    augment(tmp_path, 1, TURN, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1


# The same always comes out ---------------------------------------------------------------------


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    """One thread and four give the same files, byte for byte."""
    found = []
    for workers in (1, 4):
        make_shards(tmp_path / str(workers), train=300)
        augment(tmp_path / str(workers), 2, TURN, CROP, workers=workers)
        found.append(contents(tmp_path / str(workers)))
    assert found[0] == found[1]


def test_the_layout_of_the_shards_changes_nothing(tmp_path: Path) -> None:
    """The same images in shards of other sizes and another order give the same copies' tars."""
    tars = []
    for name in ("one", "many"):
        make_shards(tmp_path / name)
        if name == "many":
            pack_again(tmp_path / name, per_shard=7)
        augment(tmp_path / name, 2, TURN)
        found = contents(tmp_path / name)
        tars.append({path: found[path] for path in found if path.endswith(".tar")})
    assert tars[0] == tars[1]


def test_a_sample_gets_the_same_copies_among_others(tmp_path: Path) -> None:
    """Copies do not change when images are added."""
    digests = []
    for name, train in (("few", 30), ("many", 60)):
        make_shards(tmp_path / name, train=train)
        augment(tmp_path / name, 1, TURN)
        index = index_of(tmp_path / name)
        digests.append(index[index.parent_key.notna()].sha256)
    assert len(digests[0]) == 30
    assert digests[1][digests[0].index].equals(digests[0])


def test_a_new_run_replaces_the_old_one(augmented: Path) -> None:
    """Fewer copies leave no shard of the run before."""
    augment(augmented, 1, TURN)
    assert len(list((augmented / AUGMENTED).rglob("*.tar"))) == 2


def test_a_failed_run_leaves_the_old_one(augmented: Path) -> None:
    """A damaged original stops the run by name; data/augmented stays as it was, nothing is left."""
    before = contents(augmented)
    index = pq.read_table(augmented / SHARD_INDEX).to_pandas().set_index("key")
    row = index.loc["train/dark/0003"]
    shard = augmented / DATA / row["shard"]
    content = bytearray(shard.read_bytes())
    content[row.offset + row.size_bytes // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"damaged at 'train/dark/0003'"):
        augment(augmented, 3, TURN)
    assert contents(augmented) == before
    assert sorted(path.name for path in (augmented / DATA).iterdir()) == ["augmented", "shards"]
    assert not list((augmented / STATE).glob("augment-*"))


# How many --------------------------------------------------------------------------------------


def copies_of(root: Path) -> dict[str, int]:
    """Copies by class."""
    index = index_of(root)
    copies = index[index.parent_key.notna()]
    return {
        CLASSES[target]: int(count) for target, count in copies.groupby("target").size().items()
    }


def test_classes_can_have_numbers_of_their_own(tmp_path: Path) -> None:
    """20 images a class: one copy each, of `light` four, of `dark` none."""
    make_shards(tmp_path)
    augment(tmp_path, {"default": 1, "classes": {"light": 4, "dark": 0}}, TURN)
    assert copies_of(tmp_path) == {"grey": 20, "light": 80}


def test_an_unknown_class_is_named(tmp_path: Path) -> None:
    """A misspelt class is one sentence with the right one, and nothing is written."""
    make_shards(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'light'"):
        augment(tmp_path, {"default": 1, "classes": {"ligth": 4}}, TURN)


def each(copies: dict[str, Any], counts: list[int]) -> list[float]:
    params = CopiesParams.model_validate(copies)
    found = numbers_of_copies(params, ["a", "b", "c"], counts, seed=0)
    return [round(float(number), 3) for number in found.each_K]


def test_even_out_brings_classes_to_the_largest() -> None:
    """100, 40 and 10 images: originals and copies come to 100 each, up to the cap."""
    assert each({"default": 0, "even_out": 9}, [100, 40, 10]) == [0, 1.5, 9]
    assert each({"default": 0, "even_out": 4}, [100, 40, 10]) == [0, 1.5, 4]


def test_even_out_counts_the_copies_of_the_largest() -> None:
    """With one copy of each, the largest class is 200, so the others go there."""
    assert each({"default": 1, "even_out": 50}, [100, 40, 10]) == [1, 4, 19]


def test_given_classes_are_not_evened_out() -> None:
    """A number for a class is what it gets."""
    wanted = {"default": 0, "classes": {"c": 2}, "even_out": 9}
    assert each(wanted, [100, 40, 10]) == [0, 1.5, 2]


def test_half_a_copy_is_a_copy_of_half_the_images() -> None:
    """1.5 copies of 4,000 images are 6,000, within 5 standard deviations."""
    numbers = numbers_of_copies(
        CopiesParams(default=0, even_out=9), ["a", "b"], [10_000, 4000], seed=0
    )
    hashes = key_hashes([f"k{number}" for number in range(4000)])
    found = numbers.of(np.full(4000, 1), hashes)
    assert set(found) == {1, 2}
    assert abs(found.sum() - 6000) < 5 * (4000 * 0.25) ** 0.5


@pytest.mark.parametrize("copies", [-1, {"default": 1, "classes": {"a": -1}}, {"even_out": 3}, "x"])
def test_senseless_numbers_are_refused(copies: Any) -> None:
    """Negative numbers, a mapping without default, and words are no number of copies."""
    with pytest.raises(ValueError, match="copies"):
        AugmentParams.model_validate({"seed": 0, "copies": copies, "offline": [], "online": []})


# Boxes -----------------------------------------------------------------------------------------


def jsons(root: Path) -> dict[str, Any]:
    """What the .json of each copy says, by its key."""
    found = {}
    for tar in sorted((root / AUGMENTED).rglob("*.tar")):
        content = tar.read_bytes()
        for member in members(tar):
            if member.name.endswith(".json"):
                text = content[member.offset : member.offset + member.size_bytes]
                found[member.name.removesuffix(".json")] = json.loads(text)
    return found


def pack_again(root: Path, *, per_shard: int, annotation: dict[str, Any] | None = None) -> None:
    """Write train's images into other shards, backwards, each with an annotation if wanted."""
    table = pq.read_table(root / SHARD_INDEX)
    rows = table.to_pylist()
    train = [row for row in rows if row["split"] == "train"][::-1]
    for first in range(0, len(train), per_shard):
        path = Path(f"shards/train/again-{first:06d}.tar")
        with (root / DATA / path).open("wb", buffering=0) as stream:
            writer = TarWriter(stream)
            for row in train[first : first + per_shard]:
                data = (root / DATA / row["shard"]).read_bytes()
                data = data[row["offset"] : row["offset"] + row["size_bytes"]]
                row |= {"offset": writer.add(f"{row['key']}.png", data), "shard": path.as_posix()}
                writer.add(f"{row['key']}.cls", b"0")
                if annotation is not None:
                    writer.add(f"{row['key']}.json", json.dumps(annotation).encode())
            writer.close()
    pq.write_table(table.from_pylist(rows, schema=table.schema), root / SHARD_INDEX)


ANNOTATION = {"boxes": [[1, 2, 4, 6], [0, 0, 12, 12]], "labels": ["cell", "all"], "caption": "x"}


def test_boxes_move_with_the_copy(tmp_path: Path) -> None:
    """A mirrored copy has mirrored boxes; labels and what else is known ride along."""
    make_shards(tmp_path)
    pack_again(tmp_path, per_shard=100, annotation=ANNOTATION)
    augment(tmp_path, 1, FLIP)
    told = jsons(tmp_path)["train/dark/0000%copy1"]
    assert told["boxes"] == [[8, 2, 11, 6], [0, 0, 12, 12]]
    assert (told["labels"], told["caption"]) == (["cell", "all"], "x")
    assert told["parent_key"] == "train/dark/0000"


def test_outlines_move_with_the_copy(tmp_path: Path) -> None:
    """Polygons and key points are mirrored as the boxes are."""
    make_shards(tmp_path)
    outlines = {
        "segmentation": [[[1, 2, 4, 6, 1, 6]], [[0, 0, 12, 12, 0, 12]]],
        "keypoints": [[1, 2, 2], None],
    }
    pack_again(tmp_path, per_shard=100, annotation=ANNOTATION | outlines)
    augment(tmp_path, 1, FLIP)
    told = jsons(tmp_path)["train/dark/0000%copy1"]
    assert told["segmentation"] == [[[11, 2, 8, 6, 11, 6]], [[12, 0, 0, 12, 12, 12]]]
    assert told["keypoints"] == [[10, 2, 2], None]


def test_boxes_that_leave_the_copy_are_gone(tmp_path: Path) -> None:
    """An object that was shifted out has neither box nor label; another is cut at the edge."""
    make_shards(tmp_path)
    pack_again(tmp_path, per_shard=100, annotation=ANNOTATION)
    augment(tmp_path, 1, OperationParams(operation="translate", probability=1, range=(-0.5, -0.5)))
    told = jsons(tmp_path)["train/dark/0000%copy1"]
    assert (told["boxes"], told["labels"]) == ([[0, 0, 6, 6]], ["all"])


def test_augmix_and_boxes_do_not_go_together(tmp_path: Path) -> None:
    """A mixture of differently moved images has no one place for an object: one sentence."""
    make_shards(tmp_path)
    pack_again(tmp_path, per_shard=100, annotation=ANNOTATION)
    mix = {"width": 2, "depth": 2, "severity": 3, "alpha": 1}
    with pytest.raises(ParamsError, match="leave it out where images have them"):
        augment(tmp_path, 1, OperationParams(operation="augmix", probability=1, **mix))


def test_long_keys_keep_their_annotations(tmp_path: Path) -> None:
    """Keys that need an extended header in the tar are followed by their .json like others."""
    make_shards(tmp_path, train=3, val=3, test=3)
    table = pq.read_table(tmp_path / SHARD_INDEX)
    rows = table.to_pylist()
    data = encode_png(picture(0, 12))
    path = tmp_path / DATA / "shards/train/long.tar"
    long = next(row for row in rows if row["split"] == "train")
    long["key"] = "long/" + "k" * 180
    with path.open("wb", buffering=0) as stream:
        writer = TarWriter(stream)
        long |= {"offset": writer.add(f"{long['key']}.png", data), "shard": "shards/train/long.tar"}
        writer.add(f"{long['key']}.cls", b"0")
        writer.add(f"{long['key']}.json", json.dumps(ANNOTATION).encode())
        writer.close()
    rows.sort(key=lambda row: row["key"])
    pq.write_table(table.from_pylist(rows, schema=table.schema), tmp_path / SHARD_INDEX)
    augment(tmp_path, 1, FLIP)
    assert jsons(tmp_path)[f"{long['key']}%copy1"]["labels"] == ["cell", "all"]


class Watching(Untracked):
    """Remembers the steps and the progress of a flow."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.shares: list[float] = []
        self.tables: list[Any] = []

    def step(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.steps.append(function.__name__)
        return function(*args, **kwargs)

    def progress(self, fraction: float, description: str) -> None:
        self.shares.append(fraction)

    def table(self, key: str, rows: Any) -> None:
        self.tables.append((key, rows))


def test_the_flow_shows_its_progress(tmp_path: Path) -> None:
    """Three tasks however many files there are, shares that end at 1, and a table of the result."""
    make_shards(tmp_path)
    document = read_yaml(REPOSITORY / "params.yaml")
    document["shard"]["max_images"] = 5
    tracker = Watching()
    run_flow(tmp_path, parse_params(document, where="test"), tracker)
    assert tracker.steps == ["compile_policy", "write_copies", "write_index"]
    assert len(list((tmp_path / AUGMENTED).rglob("*.tar"))) == 12
    assert tracker.shares[-1] == 1
    assert tracker.tables == [("augmentation", [{"originals": 120, "copies": 60}])]


# What it costs ---------------------------------------------------------------------------------


def test_the_offline_flow_does_not_import_torch() -> None:
    """Copies are made without torch, Prefect or scipy."""
    code = (
        "import sys, pipelines.augment; "
        "print([name for name in ('torch', 'prefect', 'scipy') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"

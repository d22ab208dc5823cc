"""Facts about augmentation: every operation, policies, and copies on disk."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_shards import make_shards

from imagemill.augment import OPERATIONS, compile_policy
from imagemill.augment.offline import write_copies, write_index
from imagemill.decoding import decode
from imagemill.errors import ParamsError, UnknownNameError
from imagemill.frames import MappedShards, read_frames
from imagemill.params import OperationParams, ShardParams
from imagemill.randomness import key_hashes
from imagemill.records import AUGMENTED, AUGMENTED_INDEX, SHARD_INDEX

KEYS = [f"k{number}" for number in range(40)]
SHARD = ShardParams(max_images=50, max_bytes=10**9)


def images(count: int = 40, height: int = 9, width: int = 12, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def policy(*operations: OperationParams, seed: int = 0):
    return compile_policy(operations, seed=seed)


def example(name: str, probability: float = 1.0) -> OperationParams:
    """An operation in the upper half of its limits, not above 1.5."""
    operation = OPERATIONS[name]
    if not operation.strengths:
        return OperationParams(operation=name, probability=probability)
    low, high = operation.limits
    return OperationParams(
        operation=name,
        probability=probability,
        range=((low + high) / 2 if high <= 1 else 1.1, min(high, 1.5)),
    )


def applied(
    name: str, strengths: list[float], units: list[float], pixels: np.ndarray
) -> np.ndarray:
    count = len(pixels)
    return OPERATIONS[name].apply(
        pixels,
        np.tile(strengths, (count, 1)).reshape(count, -1),
        np.tile(units, (count, 1)).reshape(count, -1),
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_keep_shape_and_type(name: str, channels: int) -> None:
    """Each operation returns uint8 images of the shape it was given."""
    before = images(channels=channels)
    after = policy(example(name)).apply(before, key_hashes(KEYS), epoch=0)
    assert (after.shape, after.dtype) == (before.shape, np.uint8)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_leave_their_input_alone(name: str) -> None:
    """The images given are not written to."""
    before = images()
    policy(example(name)).apply(before, key_hashes(KEYS), epoch=0)
    assert np.array_equal(before, images())


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_sample_gets_the_same_in_any_batch(name: str) -> None:
    """What happens to a sample depends on its key, not on its neighbours."""
    chosen = policy(example(name, probability=0.5))
    hashes = key_hashes(KEYS)
    together = chosen.apply(images(), hashes, epoch=3)
    alone = [chosen.apply(images()[n : n + 1], hashes[n : n + 1], epoch=3)[0] for n in range(40)]
    assert np.array_equal(together, np.stack(alone))


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_chance_is_kept(name: str) -> None:
    """With probability 0.25, about a quarter of 4,000 samples are hit (5 standard deviations)."""
    hashes = key_hashes([f"k{number}" for number in range(4000)])
    chosen = policy(example(name, probability=0.25))
    hit = sum(bool(chosen.drawn(hashes[n : n + 1], epoch=0)) for n in range(4000))
    assert abs(hit - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5


def test_flips_mirror() -> None:
    """The flips reverse columns and rows."""
    before = images()
    assert np.array_equal(applied("flip_horizontal", [], [], before), before[:, :, ::-1])
    assert np.array_equal(applied("flip_vertical", [], [], before), before[:, ::-1])


def test_translate_moves_by_whole_pixels() -> None:
    """A third of 9 rows down and a quarter of 12 columns left, the rest mirrored in."""
    before = images()
    after = applied("translate", [1 / 3, -1 / 4], [], before)
    assert np.array_equal(after[:, 3:, :9], before[:, :6, 3:])
    assert np.array_equal(after[:, 0, :9], before[:, 3, 3:])


def test_a_quarter_turn_is_exact() -> None:
    """90 degrees on a square is numpy's rot90."""
    before = images(height=9, width=9)
    assert np.array_equal(applied("rotate", [90.0], [], before), np.rot90(before, axes=(1, 2)))


def test_scale_by_two_shows_the_middle() -> None:
    """At factor 2 the centre stays and every second pixel is an original one."""
    before = images(height=9, width=9)
    assert np.array_equal(applied("scale", [2.0], [], before)[:, ::2, ::2], before[:, 2:7, 2:7])


def test_a_full_crop_changes_nothing() -> None:
    """A window of the whole side is the image itself, wherever it is put."""
    assert np.array_equal(applied("crop", [1.0], [0.7, 0.2], images()), images())


def test_epochs_draw_anew() -> None:
    """Another epoch, other draws; the same epoch, the same."""
    chosen = policy(example("rotate"))
    hashes = key_hashes(KEYS)
    first, again, next_one = (chosen.apply(images(), hashes, epoch=epoch) for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_one)


def test_an_unknown_operation_names_the_nearest() -> None:
    """A misspelt operation is answered with the right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'rotate'"):
        policy(OperationParams(operation="rotation", probability=1))


@pytest.mark.parametrize(
    ("operation", "range_"),
    [("rotate", None), ("flip_vertical", (0.0, 1.0)), ("crop", (0.5, 1.5))],
    ids=["missing", "superfluous", "outside the limits"],
)
def test_senseless_ranges_are_refused(operation: str, range_: tuple[float, float] | None) -> None:
    """A missing, superfluous or impossible range is a ParamsError."""
    with pytest.raises(ParamsError, match=operation):
        policy(OperationParams(operation=operation, probability=1, range=range_))


@pytest.fixture
def augmented(tmp_path: Path) -> Path:
    """A project whose 60 train images have two copies each."""
    make_shards(tmp_path)
    copies = write_copies(tmp_path, 2, policy(example("rotate")), SHARD, seed=0)
    write_index(tmp_path, copies)
    return tmp_path


def test_copies_merge_with_originals(augmented: Path) -> None:
    """The index holds 60 originals, 120 copies, and val and test untouched, sorted by key."""
    index = pq.read_table(augmented / AUGMENTED_INDEX).to_pandas()
    counts = index.groupby(["split", index.parent_key.notna()], observed=True).size().to_dict()
    expected = {("train", False): 60, ("train", True): 120, ("val", False): 30, ("test", False): 30}
    assert counts == expected
    assert index.key.is_monotonic_increasing


def test_copies_know_their_parent(augmented: Path) -> None:
    """Each copy has its parent's class, its operations with values, and the seed."""
    index = pq.read_table(augmented / AUGMENTED_INDEX).to_pandas().set_index("key")
    copies = index[index.parent_key.notna()]
    assert (index.loc[copies.parent_key].target.to_numpy() == copies.target.to_numpy()).all()
    assert {json.loads(text)[0]["operation"] for text in copies.operations} == {"rotate"}
    assert set(copies.seed) == {0}


def test_copies_are_what_the_record_says(augmented: Path) -> None:
    """Applying the recorded operations to the parent gives the copy, bit for bit."""
    frames = read_frames(augmented / AUGMENTED_INDEX, "train")
    index = pq.read_table(augmented / AUGMENTED_INDEX).to_pandas().set_index("key")
    with MappedShards(augmented, frames) as shards:
        pixels = {
            frames.keys[position]: decode(data, channels=1) for position, data in shards.read_all()
        }
    for key, row in index[index.parent_key.notna()].iterrows():
        expected = pixels[row.parent_key][np.newaxis]
        for drawn in json.loads(row.operations):
            expected = applied(drawn["operation"], drawn["strengths"], drawn["positions"], expected)
        assert np.array_equal(pixels[key], expected[0])


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    """Two projects with the same shards and policy get identical tars and indexes."""
    contents = []
    for name in ("a", "b"):
        root = tmp_path / name
        make_shards(root)
        write_index(root, write_copies(root, 1, policy(example("crop")), SHARD, seed=0))
        files = sorted((root / AUGMENTED).rglob("*.*"))
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]


def test_without_copies_the_index_is_the_originals(tmp_path: Path) -> None:
    """Switched off, augmentation writes the index of the shards and no image."""
    make_shards(tmp_path)
    write_index(tmp_path, write_copies(tmp_path, 0, policy(), SHARD, seed=0))
    expected = pq.read_table(tmp_path / SHARD_INDEX)["key"].to_pylist()
    assert pq.read_table(tmp_path / AUGMENTED_INDEX)["key"].to_pylist() == expected
    assert list((tmp_path / AUGMENTED).rglob("*.tar")) == []


def test_webdataset_reads_the_copies(augmented: Path) -> None:
    """The stock webdataset pipeline finds image, class and description of each copy."""
    import webdataset

    tars = sorted(str(path) for path in (augmented / AUGMENTED).rglob("*.tar"))
    assert len(tars) == 3  # 120 copies, 50 a shard
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("rgb8"))
    assert len(samples) == 120
    assert {"png", "cls", "json"} <= set(samples[0])

"""Split: by hash inside each class, stable when data is added, given splits kept."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from raw_images import (
    params_for,
    picture,
    pictures,
    rows_of,
    run_stages,
    splits_of,
    write_files,
)

from imagemill import records
from imagemill.errors import SourceError
from imagemill.params import SplitParams
from imagemill.split import SUMMARY, split
from imagemill.split.assign import LEAK, NEAR_LEAK, assign
from imagemill.split.images import (
    ALONE,
    NEW,
    NO_LABEL,
    NOT_GIVEN,
    TEST,
    TRAIN,
    UNLABELLED,
    VAL,
    Images,
)

PARAMS = SplitParams(seed=0, val_ratio=0.15, test_ratio=0.2, drop_near_duplicates=False)


Rows = np.ndarray[tuple[int, ...], np.dtype[np.int8]]


def images(
    labels: list[int],
    *,
    given: list[int] | None = None,
    hashes: list[int] | None = None,
    near: list[int] | None = None,
    earlier: list[int] | None = None,
) -> Images:
    """Images with random hashes unless some are given; groups are hashes that repeat."""
    drawn = np.random.default_rng(0).integers(0, 2**64, len(labels), dtype=np.uint64)
    return Images(
        hash_N=drawn if hashes is None else np.array(hashes, np.uint64),
        label_N=np.array(labels, np.int32),
        given_N=np.array(given or [NOT_GIVEN] * len(labels), np.int8),
        classes=[f"class {label}" for label in range(max(labels) + 1)],
        earlier_N=np.array(earlier or [NEW] * len(labels), np.int8),
        grouped_N=np.full(len(labels), hashes is not None),
        near_N=None if near is None else np.array(near, np.uint64),
    )


def split_pictures(root: Path, files: dict[str, bytes], **split: object) -> dict[str, str]:
    """Key -> split of a folder of images."""
    write_files(root / "raw", files)
    run_stages(root, params_for(split=split), until="split")
    return splits_of(root)


def shares(split_N: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> list[float]:
    """Share of train, val and test."""
    return [float((split_N == code).mean()) for code in (TRAIN, VAL, TEST)]


def test_ratios_are_met() -> None:
    """test is its share of all, val its share of what is left (six sigma of 50,000 draws)."""
    found = shares(assign(images([0] * 25_000 + [1] * 25_000), PARAMS))
    np.testing.assert_allclose(found, [0.8 * 0.85, 0.8 * 0.15, 0.2], atol=6 * 0.5 / 50_000**0.5)


def test_given_test_is_kept_and_val_drawn_from_train() -> None:
    """With a given test nothing joins it, and val is a share of train."""
    given = [TRAIN] * 20_000 + [TEST] * 5_000
    found = assign(images([0, 1] * 12_500, given=given), PARAMS)
    assert (found[20_000:] == TEST).all() and (found[:20_000] != TEST).all()
    np.testing.assert_allclose(shares(found[:20_000])[1], 0.15, atol=6 * 0.36 / 20_000**0.5)


def test_all_given_splits_are_kept() -> None:
    """Where train, val and test are given there is nothing to decide."""
    given = [TRAIN, VAL, TEST] * 50
    assert assign(images([0, 1] * 75, given=given), PARAMS).tolist() == given


def test_unlabelled_images_go_to_their_own_split() -> None:
    """No label, no train, val or test, whatever folder they came from."""
    given = [NOT_GIVEN] * 60 + [TRAIN, TEST]
    found = assign(images([0, 1] * 30 + [NO_LABEL] * 2, given=given), PARAMS)
    assert found[60:].tolist() == [UNLABELLED] * 2


def test_groups_stay_together() -> None:
    """Images of one group, which have one hash, share a split."""
    groups = np.random.default_rng(1).integers(0, 2**64, 500, dtype=np.uint64)
    hashes = np.repeat(groups, 3)
    found = assign(images([0, 1, 1] * 500, hashes=hashes.tolist()), PARAMS).reshape(500, 3)
    assert (found == found[:, :1]).all()


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_each_class_is_in_each_split(count: int) -> None:
    """Even a class of three images has one in train, one in val and one in test."""
    labels = [label for label in range(40) for _ in range(count)]
    found = assign(images(labels), PARAMS).reshape(40, count)
    assert {tuple(sorted(set(row))) for row in found.tolist()} == {(TRAIN, VAL, TEST)}


def test_groups_of_mixed_classes_fill_gaps_whole() -> None:
    """A group that is moved for one class leaves no gap in another."""
    hashes = np.repeat([2**63 + 5 * step for step in range(6)], 2).tolist()
    found = assign(images([0, 1] * 6, hashes=hashes), PARAMS).reshape(6, 2)
    assert (found[:, 0] == found[:, 1]).all()
    assert set(found[:, 0].tolist()) == {TRAIN, VAL, TEST}


def test_class_too_small_is_named() -> None:
    """Two images cannot be in three splits."""
    with pytest.raises(SourceError, match="'class 1' has too few images"):
        assign(images([0] * 50 + [1] * 2), PARAMS)


def test_class_of_one_group_is_named() -> None:
    """A class whose images all belong together cannot be spread."""
    hashes = [*range(0, 2**63, 2**57), *[7] * 9]
    labels = [0] * (len(hashes) - 9) + [1] * 9
    with pytest.raises(SourceError, match="or groups"):
        assign(images(labels, hashes=hashes), PARAMS)


def test_adding_images_moves_none(tmp_path: Path) -> None:
    """An image stays in its split when others join it, new classes too."""
    files = pictures({"cat": 60, "dog": 60})
    before = split_pictures(tmp_path, files)
    after = split_pictures(tmp_path, files | pictures({"cat2": 0, "emu": 20, "dog": 30}, start=500))
    assert {key: after[key] for key in before} == before


def test_another_seed_is_another_split(tmp_path: Path) -> None:
    """The seed is part of the hash."""
    files = pictures({"cat": 60, "dog": 60})
    one, other = (split_pictures(tmp_path, files, seed=seed) for seed in (0, 1))
    assert one != other and one.keys() == other.keys()


def test_group_column_is_read(tmp_path: Path) -> None:
    """Rows of a manifest file that share a group share a split."""
    files = {f"{number}.png": picture(number) for number in range(240)}
    rows = [f"{n}.png,{'ab'[n % 2]},patient{n // 8}" for n in range(240)]
    write_files(tmp_path / "raw", files)
    (tmp_path / "raw/list.csv").write_text("\n".join(["path,label,group", *rows]))
    run_stages(tmp_path, params_for("raw/list.csv"), until="split")
    found = splits_of(tmp_path)
    patients = [{found[str(8 * patient + image)] for image in range(8)} for patient in range(30)]
    assert [len(splits) for splits in patients] == [1] * 30


def test_group_torn_by_given_splits_is_told(tmp_path: Path) -> None:
    """A given split is kept even if it tears a group, but the line says so."""
    write_files(tmp_path / "raw", {f"{number}.png": picture(number) for number in range(60)})
    rows = [f"{n}.png,{'ab'[n % 2]},{'train' if n < 50 else 'test'},g{n % 10}" for n in range(60)]
    (tmp_path / "raw/list.csv").write_text("\n".join(["path,label,split,group", *rows]))
    line = run_stages(tmp_path, params_for("raw/list.csv"), until="split")[-1]
    train = list(splits_of(tmp_path).values()).count("train")
    assert line.endswith(f"; {train} of train share a group with val or test")


def test_stage_keeps_given_splits(tmp_path: Path) -> None:
    """What lies in test/ is test, and val comes out of train."""
    files = {f"train/{path}": raw for path, raw in pictures({"cat": 40, "dog": 40}).items()}
    files |= {f"test/cat/{n}.png": picture(900 + n) for n in range(9)}
    files |= {f"unlabelled/{n}.png": picture(950 + n) for n in range(4)}
    found = split_pictures(tmp_path, files)
    assert {key for key, name in found.items() if name == "test"} == {
        f"test/cat/{n}" for n in range(9)
    }
    counts = Counter((key.split("/")[0], name) for key, name in found.items())
    assert counts["unlabelled", "unlabelled"] == 4
    assert counts["train", "train"] + counts["train", "val"] == 80 and counts["train", "val"] > 2


def test_stage_logs_the_sizes(tmp_path: Path) -> None:
    """One line says how many images each split has."""
    write_files(tmp_path / "raw", pictures({"cat": 60, "dog": 60}))
    line = run_stages(tmp_path, params_for(), until="split")[-1]
    sizes = Counter(splits_of(tmp_path).values())
    expected = f"split: train {sizes['train']}, val {sizes['val']}, test {sizes['test']}"
    assert line == expected


# Near duplicates and memory -------------------------------------------------------------------


def groups_at_random(count: int, size: int, *, seed: int) -> list[int]:
    """Ids of near groups of a few images each among many that are alone."""
    draws = np.random.default_rng(seed).integers(0, count * 2 // size, count) + 1
    sizes = np.bincount(draws)
    return [int(draw) if sizes[draw] > 1 else ALONE for draw in draws]


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_stay_on_one_side(seed: int) -> None:
    """Images of one near group share a split, whatever their keys."""
    near = groups_at_random(3000, 3, seed=seed)
    found = assign(images([0, 1] * 1500, near=near), PARAMS)
    sides = {(group, split) for group, split in zip(near, found.tolist(), strict=True) if group}
    assert len(sides) == len(set(near) - {ALONE})


def test_near_duplicates_join_whole_groups() -> None:
    """If images of two groups nearly equal one another, both groups are on one side."""
    hashes = np.repeat([2**60 + 2**57 * step for step in range(110)], 2).tolist()
    near = [ALONE] * 220
    # Groups 0 and 99, of train and test, through one image each; and 99 and 50 through another.
    near[0] = near[198] = 7
    near[199] = near[100] = 8
    found = assign(images([0, 1] * 110, hashes=hashes, near=near), PARAMS)
    assert len({int(found[row]) for row in (0, 1, 198, 199, 100, 101)}) == 1


def test_near_groups_do_not_fill_test() -> None:
    """Ratios hold for near duplicates as for others (six sigma of 20,000 groups)."""
    near = [row // 3 + 1 for row in range(60_000)]
    found = shares(assign(images([0, 1] * 30_000, near=near), PARAMS))
    np.testing.assert_allclose(found, [0.68, 0.12, 0.2], atol=6 * 0.5 / 20_000**0.5)


@pytest.mark.parametrize("seed", range(8))
def test_earlier_images_never_move(seed: int) -> None:
    """Whatever is added, near duplicates and classes too, no earlier image changes its split."""
    random = np.random.default_rng(seed)
    count, more = 400, 300
    hashes = random.integers(0, 2**64, count + more, dtype=np.uint64).tolist()
    labels = random.integers(0, 6, count + more).tolist()
    near = groups_at_random(count + more, 3, seed=seed)
    first = assign(images(labels[:count], hashes=hashes[:count], near=near[:count]), PARAMS)
    every = images(labels, hashes=hashes, near=near, earlier=[*first.tolist(), *[NEW] * more])
    second = assign(every, PARAMS)
    assert second[:count].tolist() == first.tolist()
    for group in set(near) - {ALONE}:
        sides = {int(second[row]) for row in range(count + more) if near[row] == group}
        known = {int(first[row]) for row in range(count) if near[row] == group}
        assert sides == known or (not known and len(sides) == 1)


def test_new_image_that_links_two_splits_leaks() -> None:
    """It can be in neither, and the images it links stay where they are."""
    earlier = [TRAIN, TEST, NEW, *[TRAIN, VAL, TEST] * 20]
    near = [5, 5, 5, *[ALONE] * 60]
    found = assign(images([*[0, 1] * 31, 0], near=near, earlier=earlier), PARAMS)
    assert found[:3].tolist() == [TRAIN, TEST, LEAK]
    assert found[3:].tolist() == earlier[3:]


def test_new_member_of_a_group_follows_it() -> None:
    """A new image of a group goes where the group is, not where its hash would lead."""
    earlier = [TEST, NEW, NEW, *[TRAIN, VAL, TEST] * 20]
    near = [5, 5, 5, *[ALONE] * 60]
    found = assign(images([*[0, 1] * 31, 0], near=near, earlier=earlier), PARAMS)
    assert found[:3].tolist() == [TEST, TEST, TEST]


def test_images_that_turn_out_alike_leave_train() -> None:
    """If earlier images of two splits are near duplicates now, the evaluated one stays."""
    earlier = [TRAIN, TEST, TRAIN, *[TRAIN, VAL, TEST] * 20]
    near = [5, 5, 5, *[ALONE] * 60]
    found = assign(images([*[0, 1] * 31, 0], near=near, earlier=earlier), PARAMS)
    assert found[:3].tolist() == [LEAK, TEST, LEAK]


@pytest.mark.parametrize(("drop", "expected"), [(True, NEAR_LEAK), (False, TRAIN)])
def test_switch_drops_near_duplicates_of_given_splits(drop: bool, expected: int) -> None:
    """A train image that nearly equals a given test image leaves only if that is wanted."""
    given = [TRAIN, TEST, *[TRAIN, VAL, TEST] * 20]
    near = [5, 5, *[ALONE] * 60]
    params = PARAMS.model_copy(update={"drop_near_duplicates": drop})
    found = assign(images([0, 1] * 31, given=given, near=near), params)
    assert found.tolist() == [expected, *given[1:]]


def test_unlabelled_near_duplicates_leak_nothing() -> None:
    """An image without a label is in no split that is trained on, so it may look like any."""
    given = [NOT_GIVEN, TEST, *[TRAIN, VAL, TEST] * 20]
    params = PARAMS.model_copy(update={"drop_near_duplicates": True})
    labels = [NO_LABEL, *[0, 1] * 30, 0]
    found = assign(images(labels, given=given, near=[5, 5, *[ALONE] * 60]), params)
    assert found[0] == UNLABELLED


def test_class_that_grows_keeps_its_moved_image(tmp_path: Path) -> None:
    """An image that was moved to fill a gap stays when its class gets others."""
    few = pictures({"cat": 60, "dog": 60, "emu": 3})
    before = split_pictures(tmp_path, few)
    after = split_pictures(tmp_path, few | pictures({"emu2": 0, "emu": 30}, start=500))
    assert {key: after[key] for key in before} == before


def test_other_terms_start_anew(tmp_path: Path) -> None:
    """With another ratio nothing is remembered: the split is that of a fresh project."""
    files = pictures({"cat": 60, "dog": 60})
    split_pictures(tmp_path / "one", files)
    again = split_pictures(tmp_path / "one", files, test_ratio=0.4)
    assert again == split_pictures(tmp_path / "two", files, test_ratio=0.4)


def relate(root: Path, near: dict[str, str]) -> None:
    """Write near groups into the keep list as the audit would."""
    table = pq.read_table(root / records.KEEP)
    groups = [near.get(key) for key in table["key"].to_pylist()]
    place = table.schema.get_field_index("near_group")
    field = records.KEEP_SCHEMA.field("near_group")
    pq.write_table(table.set_column(place, field, pa.array(groups)), root / records.KEEP)


def test_stage_lists_what_it_leaves_out(tmp_path: Path) -> None:
    """split.parquet and dropped.parquet hold all kept images, and the summary counts both."""
    files = pictures({"cat": 60, "dog": 60})
    params = params_for()
    before = split_pictures(tmp_path, files)
    one = next(key for key, name in before.items() if name == "train")
    other = next(key for key, name in before.items() if name == "test")
    write_files(tmp_path / "raw", {"dog/link.png": picture(900)})
    run_stages(tmp_path, params, until="split")
    forget(tmp_path, "dog/link")
    relate(tmp_path, {one: "g", other: "g", "dog/link": "g"})
    lines: list[str] = []
    split(tmp_path, params.split, log=lines.append)
    [dropped] = rows_of(tmp_path / records.DROPPED)
    assert (dropped["key"], dropped["check"]) == ("dog/link", "leak")
    assert splits_of(tmp_path) == before
    assert json.loads((tmp_path / SUMMARY).read_bytes())["dropped"] == {"leak": 1, "near_leak": 0}
    assert lines[-1].endswith("; left out: leak 1")


def forget(root: Path, key: str) -> None:
    """Take a key out of the remembered assignment, as if its image were new."""
    table = pq.read_table(root / records.SPLITS)
    kept = [name != key for name in table["key"].to_pylist()]
    pq.write_table(table.filter(pa.array(kept)), root / records.SPLITS)


def test_removed_image_is_forgotten(tmp_path: Path) -> None:
    """Images that are gone leave the assignment of the others as it is."""
    files = pictures({"cat": 60, "dog": 60})
    before = split_pictures(tmp_path, files)
    (tmp_path / "raw/cat/005.png").unlink()
    run_stages(tmp_path, params_for(), until="split")
    before.pop("cat/005")
    assert splits_of(tmp_path) == before

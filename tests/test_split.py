"""Split: by hash inside each class, stable when data is added, given splits kept."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from raw_images import params_for, picture, pictures, run_stages, splits_of, write_files

from imagemill.errors import SourceError
from imagemill.params import SplitParams
from imagemill.split import NO_LABEL, NOT_GIVEN, TEST, TRAIN, UNLABELLED, VAL, Images, assign

PARAMS = SplitParams(seed=0, val_ratio=0.15, test_ratio=0.2)


def images(
    labels: list[int], *, given: list[int] | None = None, hashes: list[int] | None = None
) -> Images:
    """Images with random hashes unless some are given."""
    drawn = np.random.default_rng(0).integers(0, 2**64, len(labels), dtype=np.uint64)
    return Images(
        hash_N=drawn if hashes is None else np.array(hashes, np.uint64),
        label_N=np.array(labels, np.int32),
        given_N=np.array(given or [NOT_GIVEN] * len(labels), np.int8),
        classes=[f"class {label}" for label in range(max(labels) + 1)],
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

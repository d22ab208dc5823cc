"""Facts about cutting test into slices."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from imagemill.errors import UnknownNameError
from imagemill.evaluate.quality import Answers
from imagemill.evaluate.slices import slice_scores, slices_of
from imagemill.records import KEEP, KEEP_SCHEMA, MANIFEST, MANIFEST_SCHEMA

KEYS = [f"k{number:02d}" for number in range(8)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Eight images of test among others: brightness 0, 0.1, ...; groups a, a, b, b, and none."""
    rows = [
        {
            "key": key,
            "uri": "images",
            "offset": 0,
            "size_bytes": 100 * (number + 1),
            "sha256": "0" * 64,
            "group": "ab"[number // 2] if number < 4 else None,
            "annotation": json.dumps({"weather": "rain", "boxes": []}) if number == 7 else None,
        }
        for number, key in enumerate(KEYS)
    ]
    others = [{**rows[0], "key": f"a{number}", "size_bytes": 10**6} for number in range(3)]
    kept = [
        {
            "key": row["key"],
            "width": 20,
            "height": 10,
            "mode": "RGB",
            "format": "PNG",
            "mean_rgb": [number / 10] * 3,
            "mean_square_rgb": [(number / 10) ** 2 + 0.04] * 3,
        }
        for number, row in enumerate([*others, *rows], -3)
    ]
    for path, schema, table in (
        (MANIFEST, MANIFEST_SCHEMA, [*others, *rows]),
        (KEEP, KEEP_SCHEMA, kept),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(table, schema=schema), tmp_path / path)
    return tmp_path


def named(root: Path, column: str) -> dict[str, list[int]]:
    """Slice -> positions."""
    found = slices_of(root, KEYS, [column])[column]
    return {part.name: part.positions_S.tolist() for part in found}


def test_numbers_are_cut_at_their_quartiles(root: Path) -> None:
    """Two images a quarter; other splits do not move the edges."""
    assert named(root, "brightness") == {
        "0 to 0.1": [0, 1],
        "0.2 to 0.3": [2, 3],
        "0.4 to 0.5": [4, 5],
        "0.6 to 0.7": [6, 7],
    }
    assert list(named(root, "size_bytes").values()) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_words_are_slices_of_their_own(root: Path) -> None:
    """What has no word is `none`; keys of the annotation are columns, too."""
    assert named(root, "group") == {"none": [4, 5, 6, 7], "a": [0, 1], "b": [2, 3]}
    assert named(root, "annotation.weather") == {"none": list(range(7)), "rain": [7]}


def test_a_column_that_says_one_thing_has_no_slices(root: Path) -> None:
    """Size, mode, derived contrast, and a list inside an annotation tell no images apart."""
    for column in ("width", "aspect", "mode", "contrast", "annotation.boxes"):
        assert named(root, column) == {}


def test_of_many_words_the_rest_is_one_slice(root: Path) -> None:
    """Twelve by name and one of the others, and no image is lost."""
    rows = pq.read_table(root / MANIFEST).to_pylist()
    many = [{**rows[-1], "key": f"k{number:02d}", "group": str(number)} for number in range(20)]
    pq.write_table(pa.Table.from_pylist(many, schema=MANIFEST_SCHEMA), root / MANIFEST)
    kept = pq.read_table(root / KEEP).to_pylist()
    pq.write_table(
        pa.Table.from_pylist([{**kept[0], "key": row["key"]} for row in many], schema=KEEP_SCHEMA),
        root / KEEP,
    )
    parts = slices_of(root, [row["key"] for row in many], ["group"])["group"]
    assert parts[-1].name == "8 others"
    assert sorted(np.concatenate([part.positions_S for part in parts]).tolist()) == list(range(20))


def test_an_unknown_column_is_named(root: Path) -> None:
    """With those there are."""
    with pytest.raises(UnknownNameError, match="brightness"):
        slices_of(root, KEYS, ["brightnes"])


def test_scores_are_those_of_the_images_in_the_slice(root: Path) -> None:
    """The worst slice comes first, with how many images speak for it."""
    labels = np.zeros(8, np.int64)
    probs = np.tile(np.array([0.9, 0.1], np.float32), (8, 1))
    probs[2:4] = [0.1, 0.9]
    scores = slice_scores(Answers(labels, probs), slices_of(root, KEYS, ["group"]))["group"]
    assert [(score["name"], score["num_images"], score["top1"]) for score in scores] == [
        ("b", 2, 0.0),
        ("none", 4, 1.0),
        ("a", 2, 1.0),
    ]

"""Sources that hold many images in one file: WebDataset shards and Parquet."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_sources import (
    add_member,
    image_table,
    shard_members,
    write_parquet,
    write_shards,
)
from raw_images import (
    encoded,
    params_for,
    picture,
    pictures,
    run_stages,
    splits_of,
    write_files,
    write_tar,
)

from imagemill.errors import UserError
from imagemill.sources import RawImage, RawReader, kind_of, open_source


def images_of(root: Path, source: str = "raw") -> list[RawImage]:
    """All images."""
    return list(open_source(root, source).images())


def bytes_of(root: Path, source: str = "raw") -> dict[str, bytes]:
    """Path -> bytes."""
    with RawReader(root) as reader:
        return {i.path: reader.read(i.uri, i.offset, i.size_bytes) for i in images_of(root, source)}


def refusal(root: Path, source: str = "raw") -> str:
    """The message of the error that reading a source ends with."""
    with pytest.raises(UserError) as caught:
        images_of(root, source)
    return str(caught.value)


# WebDataset ----------------------------------------------------------------------------------


def test_shards_are_read_in_place(tmp_path: Path) -> None:
    """uri is the shard, offset and size frame the image in it; nothing is copied."""
    write_shards(tmp_path / "raw")
    images = images_of(tmp_path)
    shard = (tmp_path / "raw/train-000001.tar").read_bytes()
    image = next(image for image in images if image.path == "000004.png")
    assert image.uri == "raw/train-000001.tar"
    assert shard[image.offset : image.offset + image.size_bytes] == picture(4)
    assert not (tmp_path / ".imagemill").exists()


def test_split_from_the_shards_name(tmp_path: Path) -> None:
    """train-000000.tar is train, test-000000.tar is test; the class is that of .cls."""
    write_shards(tmp_path / "raw")
    found = {i.path: (i.split, i.target) for i in images_of(tmp_path)}
    assert found["000003.png"] == ("train", "1")
    assert found["000008.png"] == ("test", "0")


def test_split_from_the_shards_folder(tmp_path: Path) -> None:
    """A folder named as a split says more than the shard's name."""
    for folder in ("train", "validation"):
        (tmp_path / "raw" / folder).mkdir(parents=True)
    write_tar(tmp_path / "raw/train/part-0.tar", shard_members(range(2), cls=str))
    write_tar(tmp_path / "raw/validation/part-0.tar", shard_members(range(2, 4), cls=str))
    assert [image.split for image in images_of(tmp_path)] == ["train", "train", "val", "val"]


def test_brace_notation(tmp_path: Path) -> None:
    """`{000000..000001}` stands for these shards and no others."""
    write_shards(tmp_path / "raw")
    source = "raw/train-{000000..000001}.tar"
    assert kind_of(tmp_path, source) == "webdataset"
    assert [image.path for image in images_of(tmp_path, source)] == [
        f"{number:06d}.png" for number in range(6)
    ]


def test_nested_braces_take_several_splits(tmp_path: Path) -> None:
    """train and test shards can be named in one text."""
    write_shards(tmp_path / "raw")
    source = "raw/{train-{000000..000001},test-000000}.tar"
    assert {image.split for image in images_of(tmp_path, source)} == {"train", "test"}


def test_single_shard(tmp_path: Path) -> None:
    """A tar that begins with samples is a shard, not an archive of folders."""
    write_tar(tmp_path / "raw.tar", shard_members(range(3), cls=str))
    assert kind_of(tmp_path, "raw.tar") == "webdataset"
    assert [image.target for image in images_of(tmp_path, "raw.tar")] == ["0", "1", "2"]


def test_classes_from_a_list(tmp_path: Path) -> None:
    """classes.txt names the ids of .cls."""
    write_shards(tmp_path / "raw")
    (tmp_path / "raw/classes.txt").write_text("cat\ndog\n")
    assert {image.target for image in images_of(tmp_path)} == {"cat", "dog"}


@pytest.mark.parametrize(
    ("texts", "target"),
    [
        ({"cls": "dog\n"}, "dog"),
        ({"cls": "007"}, "007"),
        ({"cls": "3", "json": '{"label": 5}'}, "3"),
        ({"json": '{"label": 5, "caption": "x"}'}, "5"),
        ({"json": '{"class_name": "dog"}'}, "dog"),
        ({"txt": "dog"}, "dog"),
        ({"txt": "a dog on grass", "json": "{}"}, None),
        ({}, None),
    ],
)
def test_where_a_label_comes_from(
    tmp_path: Path, texts: dict[str, str], target: str | None
) -> None:
    """.cls counts most, then a field of .json, then .txt where there is no .json."""
    members = {f"a.{name}": text.encode() for name, text in texts.items()}
    write_tar(
        tmp_path / "raw.tar", {"b.png": picture(1), "b.cls": b"x", "a.png": picture(0)} | members
    )
    assert {i.path: i.target for i in images_of(tmp_path, "raw.tar")}["a.png"] == target


def test_json_is_kept_as_annotation(tmp_path: Path) -> None:
    """What a sample's .json says goes to the manifest whole."""
    document = {"caption": "ein Hund", "boxes": [[1, 2, 3, 4]]}
    members = {"a.jpg": encoded(1), "a.cls": b"1", "a.json": json.dumps(document).encode()}
    write_tar(tmp_path / "raw.tar", members)
    (image,) = images_of(tmp_path, "raw.tar")
    assert image.annotation is not None and json.loads(image.annotation) == document


def test_keys_that_begin_anew_in_each_shard(tmp_path: Path) -> None:
    """Where two shards begin with the same key, the shard's name is part of the path."""
    (tmp_path / "raw").mkdir()
    for name in ("train-0", "train-1"):
        write_tar(tmp_path / f"raw/{name}.tar", shard_members(range(2), cls=str))
    assert [image.path for image in images_of(tmp_path)] == [
        f"train-{shard}/{number:06d}.png" for shard in range(2) for number in range(2)
    ]


def test_further_images_of_a_sample_are_told(tmp_path: Path) -> None:
    """A mask beside the image is left out, and counted."""
    members = {"a.jpg": encoded(1), "a.png": picture(2), "a.cls": b"1"}
    write_tar(tmp_path / "raw.tar", members)
    source = open_source(tmp_path, "raw.tar")
    assert [image.path for image in source.images()] == ["a.jpg"]
    assert source.remarks() == ["1 further images of samples were left out"]


def test_agrees_with_the_webdataset_library(tmp_path: Path) -> None:
    """The same samples, labels and bytes as the stock pipeline gives, meta files left out too."""
    import webdataset

    members = shard_members(range(3), cls=str, json=lambda n: f'{{"n": {n}}}')
    members |= {"a/b.v1.png": picture(7), "a/b.cls": b"1", "__meta__/x.png": picture(8)}
    write_tar(tmp_path / "raw.tar", members)
    stock = {
        sample["__key__"]: (next(v for k, v in sample.items() if k.endswith("png")), sample["cls"])
        for sample in webdataset.WebDataset(str(tmp_path / "raw.tar"), shardshuffle=False)
        if "png" in sample
    }
    found = bytes_of(tmp_path, "raw.tar")
    ours = {
        i.path.removesuffix(".png"): (found[i.path], (i.target or "").encode())
        for i in images_of(tmp_path, "raw.tar")
    }
    assert ours == stock


def test_own_shards_are_a_source(tmp_path: Path) -> None:
    """What we wrote can be read again: same keys, classes by name, same splits."""
    write_files(tmp_path / "raw", pictures({"cat": 12, "dog": 12}))
    run_stages(tmp_path, params_for())
    images = images_of(tmp_path, "data/shards")
    assert kind_of(tmp_path, "data/shards") == "webdataset"
    assert {i.path.removesuffix(".png"): i.split for i in images} == splits_of(tmp_path)
    assert all(image.target == image.path[:3] for image in images)


def test_missing_shard(tmp_path: Path) -> None:
    """Braces that promise more shards than there are name the first one missing."""
    write_shards(tmp_path / "raw")
    told = refusal(tmp_path, "raw/train-{000000..000009}.tar")
    assert "means 10 shards, but raw/train-000002.tar does not exist (nor do 7 others)" in told


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"a.cls": b"\xff\xfe"}, "a.cls is no UTF-8 text"),
        ({"a.cls": b"one\ntwo"}, "a text of several lines"),
        ({"a.json": b"{", "a.cls": b"1"}, "a.json is no JSON"),
        ({"a.cls": b"1", "../b.png": b"x"}, "points outside the archive"),
    ],
)
def test_odd_members(tmp_path: Path, members: dict[str, bytes], told: str) -> None:
    """A member that cannot be what it should is named."""
    write_tar(tmp_path / "raw.tar", {"a.png": picture(1)} | members)
    assert told in refusal(tmp_path, "raw.tar")


def test_unbalanced_braces(tmp_path: Path) -> None:
    """A forgotten brace is told as such."""
    assert "a brace too many or too few" in refusal(tmp_path, "raw/train-{000..009.tar")


def test_cut_shard(tmp_path: Path) -> None:
    """A shard that broke off is named."""
    write_shards(tmp_path / "raw")
    shard = tmp_path / "raw/train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    assert "train-000001.tar is cut short" in refusal(tmp_path)


def test_label_beyond_the_named_classes(tmp_path: Path) -> None:
    """An id without a name is an error."""
    write_shards(tmp_path / "raw")
    (tmp_path / "raw/classes.txt").write_text("cat\n")
    assert "has the label 1, but only 1 classes are named" in refusal(tmp_path)


def test_archive_of_folders_beside_texts_is_no_shard(tmp_path: Path) -> None:
    """Class folders with other files in them stay an archive."""
    write_tar(tmp_path / "raw.tar", pictures({"cat": 2, "dog": 2}) | {"cat/notes.txt": b"x"})
    assert kind_of(tmp_path, "raw.tar") == "archive"


# Parquet -------------------------------------------------------------------------------------


def test_parquet_rows_keep_their_bytes(tmp_path: Path) -> None:
    """An image is named by file and row, and its bytes are those of the column."""
    write_parquet(tmp_path / "raw")
    found = bytes_of(tmp_path)
    assert found["train-00000-of-00001/00000002.png"] == picture(2)
    assert found["test-00000-of-00001/00000001.png"] == picture(5)


def test_parquet_labels_have_names(tmp_path: Path) -> None:
    """Class names come from the schema's notes, splits from the files' names."""
    write_parquet(tmp_path / "raw")
    assert [(i.split, i.target) for i in images_of(tmp_path)] == [
        ("test", "cat"), ("test", "dog"),
        ("train", "cat"), ("train", "dog"), ("train", "dog"), ("train", "cat"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("labels", "expected"),
    [([2, -1, None], ["2", None, None]), (["cat", "", None], ["cat", None, None])],
)
def test_labels_without_names(tmp_path: Path, labels: list[object], expected: list[object]) -> None:
    """Numbers are told as they are, words as they are; -1 and empty mean no label."""
    table = image_table([picture(n) for n in range(3)], labels, names=None)
    pq.write_table(table, tmp_path / "all.parquet")
    assert [image.target for image in images_of(tmp_path, "all.parquet")] == expected


def test_plain_binary_column(tmp_path: Path) -> None:
    """Bytes need no struct around them; the extension comes from their beginning."""
    images = [picture(1), encoded(2), encoded(3, form="WEBP")]
    table = pa.table({"id": [1, 2, 3], "img": pa.array(images, pa.binary()), "label": [0, 1, 0]})
    pq.write_table(table, tmp_path / "all.parquet")
    assert list(bytes_of(tmp_path, "all.parquet")) == [
        "all/00000000.png", "all/00000001.jpg", "all/00000002.webp",
    ]  # fmt: skip


def test_repository_of_the_hub(tmp_path: Path) -> None:
    """A README and the files in `data/`, as a clone of a data set looks."""
    write_parquet(tmp_path / "raw/data")
    (tmp_path / "raw/README.md").write_text("x")
    assert kind_of(tmp_path, "raw") == "parquet"
    assert len(images_of(tmp_path)) == 6


def test_list_of_paths_stays_a_list(tmp_path: Path) -> None:
    """A table of paths and labels is a manifest file; the columns tell."""
    pq.write_table(pa.table({"path": ["a.png"], "label": ["cat"]}), tmp_path / "list.parquet")
    table = image_table([picture(1)], [0], names=None).append_column("path", pa.array(["x"]))
    pq.write_table(table, tmp_path / "images.parquet")
    assert kind_of(tmp_path, "list.parquet") == "manifest_file"
    assert kind_of(tmp_path, "images.parquet") == "parquet"


def test_only_a_changed_file_is_copied_again(tmp_path: Path) -> None:
    """Each file has a tar of its own; adding one leaves the others alone."""
    write_parquet(tmp_path / "raw")
    images_of(tmp_path)
    tars = {path: path.stat().st_ino for path in tmp_path.glob(".imagemill/sources/*.tar")}
    table = image_table([picture(9)], [1], names=["cat", "dog"])
    pq.write_table(table, tmp_path / "raw/train-00001-of-00002.parquet")
    images_of(tmp_path)
    after = {path: path.stat().st_ino for path in tmp_path.glob(".imagemill/sources/*.tar")}
    assert len(after) == 3 and tars.items() <= after.items()


def _float_labels(root: Path) -> None:
    pq.write_table(image_table([b"x"], [0.5], names=None), root / "x.parquet")


def _unnamed_label(root: Path) -> None:
    pq.write_table(image_table([b"x"], [3], names=["cat"]), root / "x.parquet")


def _path_only(root: Path) -> None:
    kind = pa.struct({"bytes": "binary", "path": "string"})
    image = pa.array([{"bytes": None, "path": "a.png"}], kind)
    pq.write_table(pa.table({"image": image, "label": [0]}), root / "x.parquet")


def _no_columns(root: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), root / "x.parquet")


def _cut(root: Path) -> None:
    pq.write_table(image_table([picture(1)] * 50, [0] * 50, names=None), root / "whole.parquet")
    (root / "x.parquet").write_bytes((root / "whole.parquet").read_bytes()[:-30])


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (_float_labels, "'label' holds double, expected class ids or names"),
        (_unnamed_label, "has the label 3, but only 1 classes are named"),
        (_path_only, "row 1 of x.parquet has no image bytes, only the path a.png"),
        (_no_columns, "x.parquet has no column 'path'"),
        (_cut, "is no Parquet file, or cut short"),
    ],
)
def test_odd_parquet(tmp_path: Path, write: object, told: str) -> None:
    """A file that is not what it should be is named with what was expected."""
    write(tmp_path)  # type: ignore[operator]
    assert told in refusal(tmp_path, "x.parquet")


def test_parquet_without_labels(tmp_path: Path) -> None:
    """Rows without a label column are images without a class."""
    pq.write_table(pa.table({"image": [picture(1), picture(2)]}), tmp_path / "x.parquet")
    assert [image.target for image in images_of(tmp_path, "x.parquet")] == [None, None]


def test_unused_members_do_not_matter(tmp_path: Path) -> None:
    """Sound, vectors and other members of a sample are passed over."""
    write_tar(tmp_path / "raw.tar", shard_members(range(2), cls=str))
    add_member(tmp_path / "raw.tar", "000001.npy", b"x" * 5000)
    assert len(images_of(tmp_path, "raw.tar")) == 2

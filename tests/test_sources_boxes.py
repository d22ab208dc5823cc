"""Sources with boxes: Pascal VOC and COCO, kept whole as annotations."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from foreign_sources import coco_document, coco_files, voc_files, voc_xml
from raw_images import picture, write_files, write_tar, write_zip

from imagemill.errors import SourceError, UserError
from imagemill.sources import RawImage, kind_of, open_source
from imagemill.sources.json_items import items


def images_of(root: Path, source: str = "raw") -> dict[str, RawImage]:
    """Path -> image."""
    return {image.path: image for image in open_source(root, source).images()}


def annotation_of(image: RawImage) -> dict[str, Any]:
    """What the manifest carries of an image."""
    assert image.annotation is not None
    found: dict[str, Any] = json.loads(image.annotation)
    return found


def refusal(root: Path, source: str = "raw") -> str:
    """The message of the error that reading a source ends with."""
    with pytest.raises(UserError) as caught:
        images_of(root, source)
    return str(caught.value)


# Pascal VOC ----------------------------------------------------------------------------------


def test_voc_annotation_is_kept_whole(tmp_path: Path) -> None:
    """Boxes, labels, flags and the image's size, as the XML says them."""
    write_files(tmp_path / "raw", voc_files())
    assert annotation_of(images_of(tmp_path)["JPEGImages/a.png"]) == {
        "boxes": [[1, 1, 9, 9], [2, 2, 5, 5]],
        "labels": ["cat", "dog"],
        "difficult": [False, False],
        "width": 40,
        "height": 30,
    }


def test_voc_class_is_that_of_the_largest_box(tmp_path: Path) -> None:
    """The first box is not the one that counts; without a box there is no class."""
    write_files(tmp_path / "raw", voc_files())
    found = {path: image.target for path, image in images_of(tmp_path).items()}
    names = [f"JPEGImages/{name}.png" for name in "abcd"]
    assert [found[name] for name in names] == ["cat", "dog", "dog", None]


def test_voc_splits_are_those_of_image_sets(tmp_path: Path) -> None:
    """train, val and test lists are given splits; trainval says nothing new."""
    write_files(tmp_path / "raw", voc_files())
    found = {path[11]: image.split for path, image in images_of(tmp_path).items()}
    assert found == {"a": "train", "b": "val", "c": "test", "d": "train"}


def test_degenerate_boxes_are_counted(tmp_path: Path) -> None:
    """A box without an area is left out of the boxes, and told."""
    write_files(tmp_path / "raw", voc_files())
    source = open_source(tmp_path, "raw")
    found = {image.path: image for image in source.images()}
    assert annotation_of(found["JPEGImages/c.png"])["labels"] == ["dog"]
    assert source.remarks() == ["1 boxes without an area were left out"]


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_voc_in_an_archive(tmp_path: Path, kind: str) -> None:
    """The same images and annotations, whatever the packing and the folders around them."""
    write_files(tmp_path / "raw", voc_files())
    packed = {f"VOCdevkit/VOC2012/{path}": raw for path, raw in voc_files().items()}
    if kind == "zip":
        write_zip(tmp_path / "voc.zip", packed)
    else:
        write_tar(tmp_path / f"voc.{kind}", packed, mode="w:gz" if kind == "tar.gz" else "w")
    facts = [
        {path: (i.target, i.split, i.annotation) for path, i in images_of(tmp_path, name).items()}
        for name in ("raw", f"voc.{kind}")
    ]
    assert kind_of(tmp_path, f"voc.{kind}") == "voc"
    assert facts[0] == facts[1]


BOMB = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""
OUTSIDE = b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<annotation><object><name>&a;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("xml", "told"),
    [
        (BOMB, "declares entities"),
        (OUTSIDE, "declares entities"),
        (b"<annotation><object>", "is damaged"),
        (b"", "is damaged"),
        (voc_xml([("", (1, 1, 2, 2))]), "an object without a name"),
        (
            voc_xml([("cat", (1, 1, 2, 2))]).replace(b"<xmin>1", b"<xmin>?"),
            "no box of four numbers",
        ),
    ],
)
def test_odd_voc_annotation(tmp_path: Path, xml: bytes, told: str) -> None:
    """An annotation that cannot be read, or is an attack, is named."""
    write_files(tmp_path / "raw", voc_files() | {"Annotations/a.xml": xml})
    found = refusal(tmp_path)
    assert told in found and "Annotations/a.xml" in found


def test_voc_image_that_is_listed_but_missing(tmp_path: Path) -> None:
    """A list that names an image which is not there."""
    files = voc_files()
    del files["JPEGImages/a.png"]
    write_files(tmp_path / "raw", files)
    assert "lists 1 images that are not in JPEGImages, for example a" in refusal(tmp_path)


def test_voc_image_in_two_splits(tmp_path: Path) -> None:
    """An image cannot be in train and in test."""
    write_files(tmp_path / "raw", voc_files() | {"ImageSets/Main/test.txt": b"a\nc\n"})
    assert "a is in ImageSets/Main/train.txt and in test.txt" in refusal(tmp_path)


def test_two_voc_years_are_not_two_classes(tmp_path: Path) -> None:
    """A folder of several sets is not taken for a folder of classes."""
    for year in ("VOC2007", "VOC2012"):
        write_files(tmp_path / "raw" / year, voc_files())
    assert "several Pascal VOC sets" in refusal(tmp_path)


# COCO ----------------------------------------------------------------------------------------


def test_coco_boxes_are_corners(tmp_path: Path) -> None:
    """[x, y, width, height] becomes [x1, y1, x2, y2]; polygons ride along, null where none."""
    write_files(tmp_path / "raw", coco_files())
    found = annotation_of(images_of(tmp_path)["train2017/a.png"])
    assert found["boxes"] == [[0, 0, 5.5, 4], [1, 1, 3, 3]]
    assert found["labels"] == ["cat", "dog"]
    assert found["segmentation"] == [None, [[1, 1, 3, 1, 3, 3]]]


def test_coco_splits_and_classes(tmp_path: Path) -> None:
    """instances_train2017.json is train; an image without a box has no class."""
    write_files(tmp_path / "raw", coco_files())
    found = {path: (image.split, image.target) for path, image in images_of(tmp_path).items()}
    assert found == {
        "train2017/a.png": ("train", "cat"),
        "train2017/b.png": ("train", "dog"),
        "train2017/c.png": ("train", None),
        "val2017/a.png": ("val", "cat"),
    }


@pytest.mark.parametrize(
    "layout",
    [
        {"annotations/instances_train2017.json": "images/train2017"},
        {"annotations/instances_default.json": "images/default"},
        {"annotations/instances_default.json": "images"},
        {"annotations/train.json": "train"},
        {"instances_train.json": "images"},
        {"train/_annotations.coco.json": "train"},
        {"valid/_annotations.coco.json": "valid"},
    ],
)
def test_places_of_coco_images(tmp_path: Path, layout: dict[str, str]) -> None:
    """Images are found where COCO, CVAT and Roboflow put them."""
    for file, folder in layout.items():
        write_files(tmp_path / "raw", {file: json.dumps(coco_document()).encode()})
        images = {f"{folder}/{name}.png": picture(ord(name)) for name in "abc"}
        write_files(tmp_path / "raw", images)
        assert set(images_of(tmp_path)) == set(images)


def test_coco_in_an_archive(tmp_path: Path) -> None:
    """Annotations in front of the images."""
    packed = dict(sorted(coco_files().items()))
    write_tar(tmp_path / "coco.tar", packed, top="coco/")
    assert images_of(tmp_path, "coco.tar")["train2017/a.png"].target == "cat"


def test_coco_behind_thousands_of_images(tmp_path: Path) -> None:
    """An archive whose annotations come last is refused, not taken for folders of classes."""
    images = {f"train2017/{n}.png": b"x" for n in range(1100)} | {"val2017/a.png": b"x"}
    document = {"annotations/instances_train2017.json": b"{}"}
    write_tar(tmp_path / "coco.tar", images | document)
    assert "COCO annotations" in refusal(tmp_path, "coco.tar")


def _without_image(document: dict[str, Any]) -> None:
    document["images"][0]["file_name"] = "zzz.png"


def _outside(document: dict[str, Any]) -> None:
    document["images"][0]["file_name"] = "../../etc/passwd"


def _unknown_image(document: dict[str, Any]) -> None:
    document["annotations"][0]["image_id"] = 77


def _unknown_category(document: dict[str, Any]) -> None:
    document["annotations"][0]["category_id"] = 8


def _bad_box(document: dict[str, Any]) -> None:
    document["annotations"][0]["bbox"] = [1, 2]


def _image_twice(document: dict[str, Any]) -> None:
    document["images"].append(document["images"][0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_without_image, "lists zzz.png, "),
        (_outside, "file_name is '../../etc/passwd'"),
        (_unknown_image, "annotates the image 77, which it does not list"),
        (_unknown_category, "the category 8, which it does not name"),
        (_bad_box, "the box [1, 2], expected [x, y, width, height]"),
        (_image_twice, "the image id 9 twice"),
    ],
)
def test_odd_coco_document(tmp_path: Path, change: Any, told: str) -> None:
    """What does not fit together is named."""
    document = coco_document()
    change(document)
    file = {"annotations/instances_train2017.json": json.dumps(document).encode()}
    write_files(tmp_path / "raw", coco_files() | file)
    found = refusal(tmp_path)
    assert told in found and "instances_train2017.json" in found


def test_cut_coco_document(tmp_path: Path) -> None:
    """A file that broke off is named, and leaves nothing behind."""
    text = json.dumps(coco_document()).encode()[:-40]
    write_files(tmp_path / "raw", coco_files() | {"annotations/instances_train2017.json": text})
    assert "damaged or cut short" in refusal(tmp_path)
    assert not (tmp_path / ".imagemill/coco").exists()


# Large JSON ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1 << 20])
def test_items_are_those_json_load_finds(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """However the text is cut into chunks, each item is what the json module makes of it."""
    monkeypatch.setattr("imagemill.sources.json_items._CHUNK_BYTES", chunk)
    document = {
        "info": {"é": "ü\\\"[]{}"}, "none": None, "number": -12.5e3, "empty": [],
        "numbers": [1, 12, 123.5, -4e-2, 0], "images": [{"a": [1, {"b": "]"}]}, "x", True, None],
    }  # fmt: skip
    text = json.dumps(document, ensure_ascii=False, indent=1).encode()
    found: dict[str, Any] = {}
    for name, value, written in items(io.BytesIO(text), "x"):
        assert json.loads(written) == value
        if isinstance(document[name], list):
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    assert found == {name: value for name, value in document.items() if value != []}


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": [1, 2', '{"a" 1}', '{"a": [1 2]}', "nix"])
def test_json_that_is_no_object_of_lists(text: str) -> None:
    """Whatever the text, it is a sentence that comes of it."""
    with pytest.raises(SourceError, match="x is"):
        list(items(io.BytesIO(text.encode()), "x"))

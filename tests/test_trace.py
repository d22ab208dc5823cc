"""From a raw file to the models that saw it, and back."""

import json
from pathlib import Path

import pytest
from raw_images import picture, rows_of
from traced_project import make_traced, registered

from imagemill import records
from imagemill.errors import SourceError, UnknownNameError
from imagemill.trace import ImageTrace, ShardTrace, VersionTrace, as_json, trace


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project; tests only look at it."""
    folder = tmp_path_factory.mktemp("traced")
    make_traced(folder)
    return folder


def image(root: Path, name: str) -> ImageTrace:
    found = trace(root, name, registered(root))
    assert isinstance(found, ImageTrace)
    return found


def key_in(root: Path, split: str) -> str:
    """A key of a split."""
    return next(row["key"] for row in rows_of(root / records.SHARD_INDEX) if row["split"] == split)


def test_key_leads_to_the_bytes_in_its_shard(root: Path) -> None:
    """Offset and size frame the very bytes of the raw file, in a member named by its key."""
    key = key_in(root, "train")
    place = image(root, key).place
    assert place is not None
    content = (root / "data" / place.shard).read_bytes()
    raw = (root / "raw" / f"{key}.png").read_bytes()
    assert content[place.offset : place.offset + place.size_bytes] == raw
    assert place.member == f"{key}.png"


@pytest.mark.parametrize("form", ["{root}/raw/{key}.png", "raw/{key}.png", "{key}"])
def test_file_uri_and_key_are_the_same_image(root: Path, form: str) -> None:
    """However it is named, the same image is found."""
    key = key_in(root, "train")
    assert image(root, form.format(root=root, key=key)).key == key


def test_any_copy_of_the_bytes_is_found(root: Path, tmp_path: Path) -> None:
    """A file elsewhere with the bytes of an image stands for it."""
    (tmp_path / "somewhere.png").write_bytes(picture(3))
    assert image(root, str(tmp_path / "somewhere.png")).key.endswith("003")


def test_image_of_train_has_children_and_was_trained_on(root: Path) -> None:
    """Its copies come from it, and every model of this data learned from it."""
    found = image(root, key_in(root, "train"))
    assert len(found.children) == 1
    assert found.role == "trained on"
    assert [model.version for model in found.models] == [2, 1]


def test_image_of_test_was_only_measured_on(root: Path) -> None:
    """No copies, and another role."""
    found = image(root, key_in(root, "test"))
    assert (found.role, found.children) == ("measured on", ())


def test_copy_leads_back_to_its_original(root: Path) -> None:
    """A key of an augmented copy names its parent."""
    key = key_in(root, "train")
    (child,) = image(root, key).children
    assert image(root, child.key).parent == key


def test_quarantined_image_says_why(root: Path) -> None:
    """An image in no shard has a reason, and no model saw it."""
    found = image(root, "top/twice")
    assert found.set_aside is not None
    assert found.set_aside.startswith("duplicate: ")
    assert found.models == ()


def test_shard_leads_to_its_images(root: Path) -> None:
    """A tar names the keys in it and who saw them."""
    key = key_in(root, "val")
    place = image(root, key).place
    assert place is not None
    found = trace(root, f"data/{place.shard}", registered(root))
    assert isinstance(found, ShardTrace)
    assert key in found.keys
    assert len(found.keys) == found.num_samples


@pytest.mark.parametrize("name", ["2", "champion", "int8", "models:/x@champion", "models:/x/2",
                                  "models/int8/model.onnx"])  # fmt: skip
def test_version_leads_back_to_the_shards(root: Path, name: str) -> None:
    """Number, alias, variant, address and file name the same model; its parent is the base."""
    found = trace(root, name, registered(root))
    assert isinstance(found, VersionTrace)
    assert [model.version for model in found.made_from] == [1]
    assert set(found.shards) == {row["shard"] for row in rows_of(root / records.SHARD_INDEX)}


def test_base_names_its_children(root: Path) -> None:
    """And forward: from a version to the variants made from it."""
    found = trace(root, "1", registered(root))
    assert isinstance(found, VersionTrace)
    assert [model.variant for model in found.children] == ["int8"]


def test_version_of_other_data_says_how_to_get_it_back(root: Path) -> None:
    """Its images are not here: the commit is named."""
    (champion, _) = registered(root)
    other = type(champion)(**(champion.__dict__ | {"data_digest": "e" * 64, "version": 9}))
    found = trace(root, "9", [other])
    assert "git checkout cccccccccccc" in "\n".join(found.lines())


def test_models_of_other_data_are_not_passed_over(root: Path) -> None:
    """Whether they saw the image cannot be told from the data that is here: they are named."""
    (champion, _) = registered(root)
    other = type(champion)(**(champion.__dict__ | {"data_digest": "e" * 64, "version": 9}))
    found = trace(root, key_in(root, "train"), [other, *registered(root)])
    assert isinstance(found, ImageTrace)
    assert [model.version for model in found.of_other_data] == [9]
    assert 9 not in [model.version for model in found.models]


def test_models_without_a_registry_are_found(root: Path) -> None:
    """Before `register` the models in models/ are there already."""
    found = trace(root, key_in(root, "train"), [])
    assert isinstance(found, ImageTrace)
    assert [str(model) for model in found.models] == [
        "base (not registered)", "int8 (not registered, made from base)"
    ]  # fmt: skip


def test_json_has_every_level(root: Path) -> None:
    """One document from the raw file to the models."""
    document = json.loads(json.dumps(as_json(image(root, key_in(root, "train")))))
    assert document["raw"]["shard"].startswith("raw/")
    assert document["children"][0]["place"]["member"]
    assert document["models"][0]["aliases"] == ["champion"]


def test_unknown_name_is_answered_with_the_nearest(root: Path) -> None:
    """A slip of the finger."""
    with pytest.raises(UnknownNameError, match="did you mean 'int8'"):
        trace(root, "int9", registered(root))


def test_foreign_file_is_none_of_ours(root: Path, tmp_path: Path) -> None:
    """A file whose bytes are in no row."""
    (tmp_path / "foreign.png").write_bytes(picture(1000))
    with pytest.raises(SourceError, match="is no image of this project"):
        trace(root, str(tmp_path / "foreign.png"), registered(root))

"""Recipes: put in place with a source, and never over somebody's work."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from imagemill import choices
from imagemill.check import check
from imagemill.errors import SourceError, UnknownNameError
from imagemill.params import read_params, read_yaml
from imagemill.recipes import AUTOMATIC, PLACEHOLDER, TRANSFER, place_recipe, recipe_names

REPOSITORY = Path(__file__).resolve().parent.parent
NAMES = recipe_names(REPOSITORY)
STAMP = "2026-01-02-030405"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with our recipes, no params.yaml, and a folder of images to be."""
    shutil.copytree(REPOSITORY / "recipes", tmp_path / "recipes")
    (tmp_path / "my images").mkdir()
    return tmp_path


def test_the_recipes_of_the_readme_exist() -> None:
    """Built-in digits, two known archives, and a folder of one's own."""
    assert {"digits", "mnist", "cifar10", "folder"} <= set(NAMES)
    assert {AUTOMATIC, TRANSFER} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_can_run(root: Path, name: str) -> None:
    """A placed recipe is a complete params file in which every name exists."""
    place_recipe(root, name, "my images", stamp=STAMP)
    check(root, read_params(root))


@pytest.mark.parametrize("name", NAMES)
def test_placing_changes_the_source_alone(root: Path, name: str) -> None:
    """Every other line stays as it was written, comments too."""
    place_recipe(root, name, "my images", stamp=STAMP)
    before = (root / f"recipes/{name}.yaml").read_text().splitlines()
    after = (root / "params.yaml").read_text().splitlines()
    changed = [line for line in before if line not in after]
    assert len(before) == len(after)
    assert [line.split(":")[0].strip() for line in changed] == ["source"]
    assert read_yaml(root / "params.yaml")["ingest"]["source"] == "my images"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_its_command_first(name: str) -> None:
    """The first line of a recipe is the command that runs it."""
    first = (REPOSITORY / f"recipes/{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert f"RECIPE={name}" in first or (name == "digits" and "make run" in first)


def fill(folder: Path, count: int, size: tuple[int, int], mode: str) -> None:
    """Images in two classes, in a split of their own for training, and one that is no image."""
    for number in range(count):
        file = folder / "train" / f"class{number % 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, number % 200).save(file)
    (folder / "train/class0/broken.png").write_bytes(b"no image")
    (folder / "test/class0").mkdir(parents=True)
    Image.new(mode, (500, 500)).save(folder / "test/class0/0.png")


def test_small_grey_pictures_are_learned_as_they_are(root: Path) -> None:
    """Their own size, no mirrored signs, more epochs for few; a broken one is no matter."""
    fill(root / "my images", 40, (30, 28), "L")
    told = place_recipe(root, "folder", "my images", stamp=STAMP)
    assert told[0] == "the source has 41 grey images of about 28 px"
    assert told[1] == "chosen for it: input_size 28, epochs 30, batch_size 16, flip 0"
    params = read_params(root)
    assert (params.train.input_size, params.train.epochs, params.train.batch_size) == (28, 30, 16)
    flips = [entry for entry in params.augment.online if entry.operation == "flip_horizontal"]
    assert [flip.probability for flip in flips] == [0]
    check(root, params)


def test_photographs_start_from_weights_learned_on_photographs(root: Path) -> None:
    """Where the package with the weights is installed, as it is for development."""
    fill(root / "my images", 6, (120, 200), "RGB")
    told = place_recipe(root, "folder", "my images", stamp=STAMP)
    assert told[-1] == "params.yaml is now the recipe folder-transfer with the source my images"
    params = read_params(root)
    assert (params.train.model, params.train.epochs) == ("efficientnet_lite0", 12)
    check(root, params)


def test_without_the_package_photographs_are_learned_from_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe stays the one that was asked for, and the better way is named."""
    monkeypatch.setattr(choices, "has_lite_weights", lambda: False)
    fill(root / "my images", 6, (120, 200), "RGB")
    told = place_recipe(root, "folder", "my images", stamp=STAMP)
    assert told[1] == "photographs gain by RECIPE=folder-transfer: pip install 'imagemill[lite]'"
    assert (read_params(root).train.model, read_params(root).train.input_size) == ("fast_cifar", 64)


@pytest.mark.parametrize(
    ("images", "epochs", "batch"), [(3068, 15, 64), (6000, 8, 128), (60000, 3, 256)]
)
def test_more_images_need_fewer_epochs(images: int, epochs: int, batch: int) -> None:
    """About as many are shown in all; a step takes more where there are enough for many steps."""
    values = choices.chosen_for(choices.Survey(images=images, side=64, grey=False))
    assert (values["epochs"], values["batch_size"]) == (epochs, batch)


def test_choices_are_made_again_without_a_copy(root: Path) -> None:
    """The same text put in place twice is nobody's loss."""
    fill(root / "my images", 6, (40, 40), "RGB")
    place_recipe(root, "folder", "my images", stamp=STAMP)
    place_recipe(root, "folder", "my images", stamp=STAMP)
    assert sorted(path.name for path in root.glob("params.yaml*")) == ["params.yaml"]


def test_shipped_params_are_the_digits_recipe() -> None:
    """Bare `make run` does the same as the recipe `digits`."""
    shipped = read_yaml(REPOSITORY / "params.yaml")
    assert shipped == read_yaml(REPOSITORY / "recipes/digits.yaml")


@pytest.mark.parametrize("source", ["my images", "a: b #c", "it's", "1e3", "no", "C:\\images"])
def test_any_path_survives_as_it_is(root: Path, source: str) -> None:
    """Names that mean something in YAML are quoted."""
    (root / source).mkdir(exist_ok=True)
    place_recipe(root, "folder", source, stamp=STAMP)
    assert read_params(root).ingest.source == source


def test_a_placed_recipe_is_replaced_without_a_copy(root: Path) -> None:
    """A params.yaml that says a recipe plus a source is nobody's work."""
    place_recipe(root, "folder", "my images", stamp=STAMP)
    told = place_recipe(root, "digits", None, stamp=STAMP)
    assert told == ["params.yaml is now the recipe digits with the source digits"]
    assert sorted(path.name for path in root.glob("params.yaml*")) == ["params.yaml"]


def test_somebodys_params_are_saved_first(root: Path) -> None:
    """One changed value makes it theirs: it is kept beside, and that is said."""
    place_recipe(root, "digits", None, stamp=STAMP)
    theirs = (root / "params.yaml").read_text().replace("epochs: 12", "epochs: 13", 1)
    (root / "params.yaml").write_text(theirs)
    told = place_recipe(root, "folder", "my images", stamp=STAMP)
    assert (root / f"params.yaml.{STAMP}").read_text() == theirs
    assert told[0] == f"your params.yaml was saved as params.yaml.{STAMP}"


def test_a_damaged_params_file_is_saved_too(root: Path) -> None:
    """What cannot be read is somebody's, too."""
    (root / "params.yaml").write_text("train: [")
    place_recipe(root, "digits", None, stamp=STAMP)
    assert (root / f"params.yaml.{STAMP}").read_text() == "train: ["


def test_an_unknown_recipe_gets_the_nearest_name(root: Path) -> None:
    """A slip of the finger is answered with the name that was meant."""
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        place_recipe(root, "cifar", "my images", stamp=STAMP)


def test_a_recipe_that_needs_a_source_asks_for_it(root: Path) -> None:
    """The message is the command to type."""
    assert read_yaml(root / "recipes/folder.yaml")["ingest"]["source"] == PLACEHOLDER
    with pytest.raises(SourceError, match=r"make run RECIPE=folder DATA="):
        place_recipe(root, "folder", None, stamp=STAMP)


def test_a_source_that_does_not_exist_changes_nothing(root: Path) -> None:
    """Neither a new params.yaml nor a half-written one is left."""
    with pytest.raises(SourceError, match="no/where"):
        place_recipe(root, "folder", "no/where", stamp=STAMP)
    assert not (root / "params.yaml").exists()

"""Recipes: put in place with a source, and never over somebody's work."""

import shutil
from pathlib import Path

import pytest

from imagemill.check import check
from imagemill.errors import SourceError, UnknownNameError
from imagemill.params import read_params, read_yaml
from imagemill.recipes import PLACEHOLDER, place_recipe, recipe_names

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

"""Recipes: complete params files in recipes/, put in place as params.yaml with the source set."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from imagemill import records
from imagemill.errors import ParamsError, SourceError, UnknownNameError
from imagemill.params import PARAMS_FILE, parse_params, read_yaml

FOLDER = Path("recipes")
AUTOMATIC, TRANSFER = "folder", "folder-transfer"  # the first may be put in place as the second
PLACEHOLDER = "DATA"  # a recipe whose source is this word needs one given

_SOURCE_LINE = re.compile(
    r"^(?P<head>ingest:[^\n]*\n(?:[ \t]+[^\n]*\n|[ \t]*#[^\n]*\n|\n)*?[ \t]+source:[ \t]*)"
    r"[^#\n]*?(?P<tail>[ \t]*(?:#[^\n]*)?)$",
    re.MULTILINE,
)


def place_recipe(root: Path, name: str, data: str | None, *, stamp: str) -> list[str]:
    """Put a recipe in place as params.yaml.

    A params.yaml that says the same as a recipe plus a source is replaced; any other is somebody's
    work and is first saved as `params.yaml.<stamp>`.

    Args:
        root: The project's root.
        name: A file in recipes/, without its ending.
        data: The source: a path (relative ones start at `root`) or a built-in name; None keeps
            the recipe's own.
        stamp: Ending of the saved file's name, such as the time.

    Returns:
        What was done, one line each.

    Raises:
        UnknownNameError: no such recipe.
        SourceError: the recipe needs a source and none is given, or it does not exist.
        ParamsError: the recipe itself is damaged.
        DiskError: params.yaml cannot be written.
    """
    source = _checked_source(root, name, data)
    name, text, told = _chosen(root, name, _read_recipe(root, name), source)
    text = _with_source(text, name, source)
    target = root / PARAMS_FILE
    if target.exists() and not _is_placed_recipe(root, target) and not _says(target, text):
        saved = target.with_name(f"{PARAMS_FILE}.{stamp}")
        records.write_bytes(saved, target.read_bytes())
        told.append(f"your {PARAMS_FILE} was saved as {saved.name}")
    records.write_bytes(target, text.encode())
    placed = read_yaml(target)["ingest"]["source"]
    told.append(f"{PARAMS_FILE} is now the recipe {name} with the source {placed}")
    return told


def recipe_names(root: Path) -> list[str]:
    """Names of the recipes there are."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def _chosen(root: Path, name: str, text: str, source: str | None) -> tuple[str, str, list[str]]:
    """The recipe that is put in place, its text with what it leaves to be chosen, and why."""
    from imagemill import choices

    seen = choices.survey(root, source) if source and choices.has_choices(text) else None
    if seen is None:
        return name, text, []
    told = [f"the source has {seen}"]
    if name == AUTOMATIC and seen.photographs:
        if choices.has_lite_weights():
            name, text = TRANSFER, _read_recipe(root, TRANSFER)
        else:
            told.append(f"photographs gain by RECIPE={TRANSFER}: pip install 'imagemill[lite]'")
    choose = choices.chosen_for_transfer if name == TRANSFER else choices.chosen_for
    values = choose(seen)
    told.append("chosen for it: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    return name, choices.filled(text, values), told


def _says(target: Path, text: str) -> bool:
    return target.read_bytes() == text.encode()


def _read_recipe(root: Path, name: str) -> str:
    names = recipe_names(root)
    if name not in names:
        raise UnknownNameError("recipe", name, names)
    path = root / FOLDER / f"{name}.yaml"
    parse_params(read_yaml(path), where=f"{FOLDER}/{path.name}")
    return path.read_text(encoding="utf-8")


def _checked_source(root: Path, name: str, data: str | None) -> str | None:
    """The given source if it can be one.

    Raises:
        SourceError: it is missing, does not exist or is no source.
    """
    if not data:
        own = read_yaml(root / FOLDER / f"{name}.yaml")["ingest"]["source"]
        if own == PLACEHOLDER:
            raise SourceError(
                f"the recipe {name} needs images: make run RECIPE={name} DATA=path/to/images"
            )
        return None
    from imagemill.sources import kind_of

    kind_of(root, data)
    return data


def _with_source(text: str, name: str, source: str | None) -> str:
    """The recipe's text with another source; comments and layout stay."""
    if source is None:
        return text
    quoted = "'" + source.replace("'", "''") + "'" if _needs_quotes(source) else source
    replaced, count = _SOURCE_LINE.subn(
        lambda found: f"{found['head']}{quoted}{found['tail']}", text, count=1
    )
    if count != 1:
        raise ParamsError(f"{FOLDER}/{name}.yaml has no line `source:` under `ingest:`")
    return replaced


def _needs_quotes(source: str) -> bool:
    return re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", source) is None


def _is_placed_recipe(root: Path, target: Path) -> bool:
    """Whether params.yaml says what a recipe says, its source apart."""
    try:
        placed = _without_source(read_yaml(target))
    except ParamsError:
        return False
    return any(placed == recipe for recipe in _recipes_without_source(root))


def _recipes_without_source(root: Path) -> Iterator[dict[str, Any]]:
    for name in recipe_names(root):
        yield _without_source(read_yaml(root / FOLDER / f"{name}.yaml"))


def _without_source(document: dict[str, Any]) -> dict[str, Any]:
    ingest = document.get("ingest")
    if isinstance(ingest, dict):
        ingest = {key: value for key, value in ingest.items() if key != "source"}
    return {**document, "ingest": ingest}

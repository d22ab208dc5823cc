"""dvc.yaml says what each stage runs, and .gitignore what DVC keeps for git."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest

from imagemill.params import read_params, read_yaml
from pipelines.stage import FLOWS, PLAIN

REPOSITORY = Path(__file__).resolve().parent.parent
STAGES = (*PLAIN, *FLOWS)

# docs/decisions/0001-stage-dependencies.md says why these are no dependencies.
UNLISTED = {
    "imagemill",
    "imagemill.errors",
    "imagemill.params",
    "imagemill.records",
    "pipelines",
    "pipelines.environment",
    "pipelines.prefect_tracker",
    "pipelines.stage",
    "pipelines.tracker",
}
WATCHERS = {"train": "imagemill.tracking", "compress": "imagemill.tracking"}


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_all_code_it_runs(stage: str) -> None:
    """Every module a stage's code imports or starts is among its deps in dvc.yaml."""
    listed = _code_deps(stage)
    unlisted = {
        str(file) for file in _code_run_by(stage) if not any(_covers(dep, file) for dep in listed)
    }
    assert unlisted == set()


@pytest.mark.parametrize("stage", STAGES)
def test_stage_lists_no_code_it_does_not_run(stage: str) -> None:
    """Every code dep of a stage holds a module the stage runs: nothing re-runs it for nothing."""
    run = _code_run_by(stage)
    idle = {str(dep) for dep in _code_deps(stage) if not any(_covers(dep, file) for file in run)}
    assert idle == set()


def test_each_stage_is_called_by_its_name() -> None:
    """The DVC stages are the stages of the CLI, each run by `python -m pipelines.stage`."""
    commands = {name: _body(stage)["cmd"] for name, stage in _stages().items()}
    suffix = {"compress": " ${key}"}
    expected = {name: f"python -m pipelines.stage {name}{suffix.get(name, '')}" for name in STAGES}
    assert commands == expected


def test_each_params_section_is_watched_by_a_stage() -> None:
    """A change to any section of params.yaml makes some stage run again."""
    watched = {
        entry.split(".")[0] for stage in _stages().values() for entry in _body(stage)["params"]
    }
    assert watched == set(read_yaml(REPOSITORY / "params.yaml"))


def test_every_output_is_ignored_by_git() -> None:
    """Outputs are in our own .gitignore, since DVC adds them only after a stage went well."""
    # A path below each: git tells a folder by its trailing slash, and these may not exist yet.
    outputs = [f"{output}/x" for output in _outputs()]
    answer = subprocess.run(
        ["git", "check-ignore", "--no-index", *outputs],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert sorted(answer.stdout.split()) == sorted(outputs)


def test_variants_are_one_stage_instance_each() -> None:
    """`compress` loops over the mapping of variants, so that only a changed one runs again."""
    compress = _stages()["compress"]
    assert compress["foreach"] == "${compress.variants}"
    assert "compress.variants.${key}" in compress["do"]["params"]


def _stages() -> dict[str, Any]:
    stages: dict[str, Any] = read_yaml(REPOSITORY / "dvc.yaml")["stages"]
    return stages


def _body(stage: dict[str, Any]) -> dict[str, Any]:
    body: dict[str, Any] = stage.get("do", stage)
    return body


def _outputs() -> Iterator[str]:
    for stage in _stages().values():
        for out in _body(stage)["outs"]:
            text = out if isinstance(out, str) else next(iter(out))
            for variant in read_params(REPOSITORY).compress.variants:
                yield text.replace("${key}", variant)
                if "${key}" not in text:
                    break


def _code_deps(stage: str) -> list[Path]:
    deps = _body(_stages()[stage])["deps"]
    return [Path(dep) for dep in deps if dep.startswith(("src/", "pipelines/"))]


def _covers(dep: Path, file: Path) -> bool:
    return dep == file or dep in file.parents


def _code_run_by(stage: str) -> set[Path]:
    """Files of the modules a stage reaches, those left out that watch a run."""
    start = f"pipelines.{stage}" if stage in FLOWS else f"imagemill.{stage}"
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        watched = WATCHERS.get(stage)
        if module in reached | UNLISTED or (watched and module.startswith(watched)):
            continue
        reached.add(module)
        waiting += _reached_from(module)
    return {_file_of(module) for module in reached}


@cache
def _reached_from(module: str) -> list[str]:
    """Modules a module imports, and those it names in a string to start them as a process."""
    graph = _graph()
    tree = ast.parse((REPOSITORY / _file_of(module)).read_text(encoding="utf-8"))
    named = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return [*graph.find_modules_directly_imported_by(module), *(named & graph.modules)]


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("imagemill", "pipelines", exclude_type_checking_imports=True)


@cache
def _file_of(module: str) -> Path:
    path = Path(*module.split("."))
    base = Path() if module.startswith("pipelines") else Path("src")
    package = base / path / "__init__.py"
    return package if (REPOSITORY / package).exists() else base / path.with_suffix(".py")

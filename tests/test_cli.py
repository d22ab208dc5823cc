"""The command `imagemill`: verbs, helps, exit statuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from finished_project import make_project, write_all_reports

from imagemill import __version__
from imagemill.check import check
from imagemill.cli import main
from imagemill.errors import UserError
from imagemill.params import read_params
from imagemill.table import readable_size, result_table
from pipelines.stage import FLOWS, PLAIN

STAGE_VERBS = tuple(stage.replace("_", "-") for stage in (*PLAIN, *FLOWS))
OTHER_VERBS = (
    *("check", "compare", "down", "forget", "gc", "predict", "promote", "recipe", "rollback"),
    *("run", "scan", "serve", "table", "trace", "up"),
)


def _imagemill(root: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "imagemill", *words],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version and ends with status 0."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"imagemill {__version__}\n")


@pytest.mark.parametrize("verb", [*STAGE_VERBS, *OTHER_VERBS])
def test_every_verb_has_a_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`imagemill VERB --help` says what the verb does and ends with status 0."""
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"usage: imagemill {verb}" in capsys.readouterr().out


def test_every_stage_has_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """The stages of dvc.yaml and the verbs have the same names, dashes for underscores."""
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = {
        line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:4] == "    "
    }
    assert set(STAGE_VERBS) <= listed


def test_the_command_line_imports_nothing_heavy(tmp_path: Path) -> None:
    """`--help` answers at once: each verb imports what it needs itself."""
    heavy = "torch", "mlflow", "prefect", "pandas", "pyarrow", "numpy", "pydantic"
    seen = f"import sys, imagemill.cli; print(sorted(set({heavy!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", seen], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_no_verb_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2 and the usage."""
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


def test_an_unknown_key_is_one_sentence(project: Path) -> None:
    """A mistake in params.yaml: status 2, the nearest key, no traceback."""
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 12", "epoch: 12", 1))
    done = _imagemill(project, "scan")
    assert done.returncode == 2
    assert "did you mean 'epochs'?" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_project_verb_outside_a_project_says_where_it_is(tmp_path: Path) -> None:
    """`run` needs the project's root, and tells so."""
    done = _imagemill(tmp_path, "run")
    assert done.returncode == 2
    assert f"{tmp_path} is not an imagemill project" in done.stderr


def test_scan_notes_the_source(project: Path) -> None:
    """`scan` writes data/source.json and says whether anything changed."""
    assert "changed" in _imagemill(project, "scan").stdout
    assert "unchanged" in _imagemill(project, "scan").stdout
    assert (project / "data/source.json").exists()


def test_check_accepts_what_we_ship(project: Path) -> None:
    """Every name in params.yaml exists."""
    assert _imagemill(project, "check").returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("model: fast_mnist", "model: fastmnist", "did you mean 'fast_mnist'?"),
        ("student: fast_mnist", "student: fast_mnits", "did you mean 'fast_mnist'?"),
        ("operation: rotate", "operation: rotat", "did you mean 'rotate'?"),
        ("runtime: onnxruntime", "runtime: onnx_runtime", "did you mean 'onnxruntime'?"),
        ("input_size: 28", "input_size: 2", "train.model: fast_mnist needs images of at least 8"),
        ("model: fast_mnist", "model: vit_b_16", "train.input_size to a multiple of 16"),
        ("model: fast_mnist", "model: swin_t", "compress.variants.pruned: swin_t cannot be pruned"),
        ("student: fast_mnist", "student: alexnet", "at least 63 px"),
        ("init_from: null", "init_from: gone.safetensors", "gone.safetensors does not exist"),
    ],
)
def test_check_names_what_is_wrong(project: Path, old: str, new: str, told: str) -> None:
    """A name in none of our tables, or images too small for a model, is told before any work."""
    path = project / "params.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=re.escape(told)):
        check(project, read_params(project))


# The table -----------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A project after a run."""
    write_all_reports(tmp_path, make_project(tmp_path))
    return tmp_path


def test_table_has_a_line_a_variant_and_marks_the_champion(finished: Path) -> None:
    """The base comes first; one line carries the mark."""
    _heading, *rows = result_table(finished).splitlines()
    assert rows[0].startswith("base")
    assert len(rows) == 4
    assert [row.split()[0] for row in rows if row.endswith("champion")] == ["int8"]


def test_table_names_a_champion_of_an_earlier_run(finished: Path) -> None:
    """A new model of the same name does not pass for the champion."""
    path = finished / "reports/register.json"
    document = json.loads(path.read_text()) | {"champion_version": 17}
    for version in document["versions"]:
        version["aliases"] = []
    path.write_text(json.dumps(document))
    told = result_table(finished).splitlines()[-1]
    assert told == "champion is still version 17 (int8), of an earlier run"


def test_table_shows_percent_interval_size_latency_and_speed_up(finished: Path) -> None:
    """The figures of the evaluation, in the units a person reads."""
    base = result_table(finished).splitlines()[1]
    assert base.split()[1:] == [
        "97.50",
        "95.00",
        "to",
        "99.00",
        "249.0",
        "kB",
        "1.000",
        "1.00",
        "x",
    ]


def test_table_shows_energy_only_where_it_was_measured(finished: Path) -> None:
    """No column of blanks on a machine without a counter."""
    assert "J/1000" not in result_table(finished)
    path = finished / "reports/evaluate/int8.json"
    path.write_text(
        path.read_text().replace('"energy_joules_per_1000": null', '"energy_joules_per_1000": 1.5')
    )
    assert "J/1000" in result_table(finished)


def test_table_without_a_run_says_what_makes_it(tmp_path: Path) -> None:
    """A mistake of the user's: status 2 and what to do."""
    done = _imagemill(tmp_path, "table")
    assert done.returncode == 2
    assert "dvc repro" in done.stderr


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(999, "999 B"), (70_500, "70.5 kB"), (3_200_000_000, "3.2 GB")]
)
def test_sizes_are_readable(size_bytes: int, text: str) -> None:
    """Powers of 1000, one decimal."""
    assert readable_size(size_bytes) == text

"""Registered versions side by side."""

import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from registered_project import Registered

from imagemill.compare import compare, plot_metric
from imagemill.errors import UnknownNameError


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Registered:
    """Four versions; tests only look at them."""
    return Registered(tmp_path_factory.mktemp("compared"), empty_store)


def test_table_has_a_line_a_version(project: Registered) -> None:
    """All there are, oldest first, each with its aliases."""
    _, *lines = compare(project.root, project.params, ()).table.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["1", "base"], ["2", "pruned"], ["3", "distilled"], ["4", "int8"]
    ]  # fmt: skip
    assert lines[3].endswith("champion, fastest-within-1pt, smallest-within-1pt")


def test_named_versions_alone(project: Registered) -> None:
    """By number, alias or variant."""
    _, *lines = compare(project.root, project.params, ["champion", "2", "base"]).table.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "4"]


def test_picture_is_drawn(project: Registered) -> None:
    """A PNG below reports/."""
    shown = compare(project.root, project.params, ())
    assert cv2.imread(str(project.root / shown.picture)) is not None


def test_link_names_the_runs(project: Registered) -> None:
    """MLflow's own comparison of the same versions."""
    link = compare(project.root, project.params, ["4"]).link
    run_id = project.client.get_model_version("imagemill-digits", "4").run_id
    assert link.startswith("http://127.0.0.1:5000/#/compare-model-versions?name=%22imagemill-")
    assert run_id in link


def test_metric_over_all_versions(project: Registered) -> None:
    """Any metric of the runs, drawn over the version numbers."""
    picture = plot_metric(project.root, project.params, "recall/top")
    assert picture == Path("reports/compare-recall-top.png")
    assert cv2.imread(str(project.root / picture)) is not None


def test_unknown_metric_names_the_nearest(project: Registered) -> None:
    """A slip of the finger."""
    with pytest.raises(UnknownNameError, match="did you mean 'val_top1'"):
        plot_metric(project.root, project.params, "val_top")


def test_command_prints_table_picture_and_link(project: Registered) -> None:
    """The last lines say where to look."""
    done = subprocess.run(
        [sys.executable, "-m", "imagemill", "compare", "1", "4", "--metric", "val_top1"],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[3:]] == ["picture", "MLflow", "val_top1"]
